//! A server with threads of its own is one server: what its sessions share, whichever thread each of them lives in.

mod support;
mod tls_support;
mod ws_support;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use stormsocket::{
    Accept, DisconnectReason, ErrorKind, Handled, LengthPrefixFramer, MessageRef, RateLimit, ServerHandle,
    TcpServer, TlsConfigError, WsServer,
};
use support::*;
use tls_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ws_support::Peer as WsPeer;

/// The threads handlers ran in.
#[derive(Debug, Clone, Default)]
struct Threads(Arc<Mutex<HashSet<ThreadId>>>);

impl Threads {
    fn note(&self) {
        self.0.lock().unwrap().insert(std::thread::current().id());
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Both ways by which connections come to their thread.
const WAYS: [bool; 2] = [false, true];

#[tokio::test]
async fn broadcasts_and_groups_reach_the_sessions_of_all_threads() {
    for reuse_port in WAYS {
        let threads = Threads::default();
        let server = WsServer::bind("127.0.0.1:0")
            .worker_threads(3)
            .reuse_port(reuse_port)
            .on_connected({
                let threads = threads.clone();
                move |session| {
                    threads.note();
                    session.join("room");
                    async {}
                }
            })
            .on_message_ref(|session, message| match message {
                MessageRef::Text("me") => {
                    session.try_send_ref(message).unwrap();
                    Handled::Done
                }
                _ => Handled::Pass,
            })
            .on_message(|session, message| async move {
                let report = match message.text() {
                    Some("all") => session.server().broadcast(message).await,
                    _ => session.server().groups().broadcast("room", message).except(session.id()).await,
                };
                session.send_text(format!("{} sent", report.sent)).await
            })
            .start()
            .await
            .unwrap();
        let mut peers = Vec::new();
        // With a hash of the kernel's it takes some more until they are in two threads.
        while peers.len() < 6 || threads.len() < 2 {
            assert!(peers.len() < 300, "{threads:?}");
            peers.push(WsPeer::connect(&server).await);
            // The answer to the upgrade leaves before there is a session.
            until(|| server.groups().member_count("room") == peers.len()).await;
        }
        if !reuse_port {
            assert_eq!(threads.len(), 3);
        }
        for sender in 0..peers.len() {
            peers[sender].send(0x81, "me").await;
            assert_eq!(peers[sender].frame().await.text(), "me");
            peers[sender].send(0x81, "all").await;
            for peer in &mut peers {
                assert_eq!(peer.frame().await.text(), "all");
            }
            assert_eq!(peers[sender].frame().await.text(), format!("{} sent", peers.len()));
            peers[sender].send(0x81, "others").await;
            assert_eq!(peers[sender].frame().await.text(), format!("{} sent", peers.len() - 1));
            for (n, peer) in peers.iter_mut().enumerate().filter(|(n, _)| *n != sender) {
                assert_eq!(peer.frame().await.text(), "others", "peer {n}");
            }
        }
        // From outside of all of them.
        let report = soon(server.broadcast_text("from outside").into_future()).await;
        assert_eq!(report.sent, peers.len());
        for peer in &mut peers {
            assert_eq!(peer.frame().await.text(), "from outside");
        }
        let stopping = tokio::spawn({
            let server = server.clone();
            async move { server.shutdown(DEADLINE).await }
        });
        let there_were = peers.len();
        for mut peer in peers {
            assert_eq!(peer.closes().await, Some(1001));
            peer.send(0x88, ws_support::goodbye(1001, "")).await;
            peer.end().await;
        }
        let report = soon(stopping).await.unwrap();
        assert_eq!((report.closed, report.aborted, report.unfinished), (there_were, 0, 0));
        assert_eq!(server.metrics().total_connections, there_were as u64);
    }
}

#[tokio::test]
async fn handshakes_and_their_hooks_run_in_the_threads_too() {
    let (hooks, sessions) = (Threads::default(), Threads::default());
    let server = WsServer::bind("127.0.0.1:0")
        .worker_threads(2)
        .on_upgrade({
            let hooks = hooks.clone();
            move |request| {
                hooks.note();
                assert_ne!(request.path(), "/panic");
                async { Ok(Accept::new()) }
            }
        })
        .on_connected({
            let sessions = sessions.clone();
            move |_| {
                sessions.note();
                async {}
            }
        })
        .start()
        .await
        .unwrap();
    let peers = [WsPeer::connect(&server).await, WsPeer::connect(&server).await];
    until(|| sessions.len() == 2).await;
    assert_eq!(*hooks.0.lock().unwrap(), *sessions.0.lock().unwrap());
    let request = ws_support::request().replace("/chat?room=1", "/panic") + "\r\n";
    assert_eq!(WsPeer::refused(&server, request).await.status, 500);
    assert_eq!(server.metrics().error_count, 1);
    drop(peers);
    stop(&server).await;
}

/// A server that echoes frames, in three threads.
fn frames(
    reuse_port: bool,
) -> TcpServer<impl storm_core::Events<stormsocket::Session, bytes::Bytes>, LengthPrefixFramer> {
    local_server()
        .worker_threads(3)
        .reuse_port(reuse_port)
        .framer(LengthPrefixFramer::new())
        .on_data(|session, data| async move { session.send(data).await })
}

async fn echoes(peer: &mut Peer, payload: &[u8]) {
    peer.send(&frame(payload)).await;
    assert_eq!(peer.frame().await, payload);
}

#[tokio::test]
async fn broadcasts_and_answers_keep_their_orders_while_others_come_and_go() {
    const MEMBERS: usize = 200;
    const BROADCASTS: usize = 50;
    const ECHOES: usize = 20;
    for reuse_port in WAYS {
        let server = frames(reuse_port).backlog(256).start().await.unwrap();
        let mut staying = tokio::task::JoinSet::new();
        for _ in 0..MEMBERS {
            let mut peer = Peer::connect(addr_of(&server)).await;
            echoes(&mut peer, b"here").await;
            staying.spawn(async move {
                for n in 0..ECHOES {
                    peer.send(&frame(format!("echo {n}").as_bytes())).await;
                }
                let (mut echoed, mut heard) = (0, 0);
                while echoed < ECHOES || heard < BROADCASTS {
                    let got = String::from_utf8(peer.frame().await).unwrap();
                    match got.strip_prefix("echo ") {
                        Some(n) => {
                            assert_eq!(n, echoed.to_string());
                            echoed += 1;
                        }
                        None => {
                            assert_eq!(got, format!("to all {heard}"));
                            heard += 1;
                        }
                    }
                }
                peer
            });
        }
        let addr = addr_of(&server);
        let coming_and_going = tokio::spawn(async move {
            for n in 0..100 {
                let peer = Peer::connect(addr).await;
                if n % 2 == 0 {
                    peer.reset();
                }
            }
        });
        for n in 0..BROADCASTS {
            let report = soon(server.broadcast(format!("to all {n}")).into_future()).await;
            assert!(report.sent >= MEMBERS, "{report:?}");
            tokio::task::yield_now().await;
        }
        soon(coming_and_going).await.unwrap();
        let peers = soon(staying.join_all()).await;
        assert_eq!(peers.len(), MEMBERS);
        assert!(server.metrics().total_connections >= MEMBERS as u64);
        drop(peers);
        stop(&server).await;
    }
}

#[tokio::test]
async fn limits_count_the_connections_of_all_threads() {
    for reuse_port in WAYS {
        let server = frames(reuse_port).max_connections(5).start().await.unwrap();
        limited_to_five(&server).await;
        let server = frames(reuse_port).max_connections_per_ip(5).start().await.unwrap();
        limited_to_five(&server).await;
    }
}

async fn limited_to_five(server: &ServerHandle) {
    let mut peers = Vec::new();
    for _ in 0..5 {
        let mut peer = Peer::connect(addr_of(server)).await;
        echoes(&mut peer, b"in").await;
        peers.push(peer);
    }
    for n in 1..=20 {
        Peer::connect(addr_of(server)).await.expect_end().await;
        until(|| server.metrics().refused.total() == n).await;
    }
    peers.pop();
    until(|| server.connections() == 4).await;
    let mut next = Peer::connect(addr_of(server)).await;
    echoes(&mut next, b"in").await;
    drop((peers, next));
    stop(server).await;
}

#[tokio::test]
async fn a_rate_limit_counts_the_messages_of_an_address_in_all_threads() {
    let limit = RateLimit::per_ip(6, Duration::from_secs(3600)).unwrap();
    let server = frames(false).middleware(limit).start().await.unwrap();
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = Peer::connect(addr_of(&server)).await;
        echoes(&mut peer, b"one").await;
        echoes(&mut peer, b"two").await;
        peers.push(peer);
    }
    for peer in &mut peers {
        peer.send(&frame(b"too many")).await;
        peer.expect_reset().await;
    }
    stop(&server).await;
    assert_eq!(server.metrics().disconnects.get(DisconnectReason::RateLimited), 3);
}

#[tokio::test]
async fn a_panic_ends_its_session_and_neither_thread_nor_neighbours() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .worker_threads(1)
        .handler(recorder)
        .on_data(|session, data| async move {
            assert_ne!(data, "panic");
            session.send(data).await
        })
        .on_error(|_, error| async move {
            if error.kind() == ErrorKind::Panic {
                panic!("once more");
            }
        })
        .start()
        .await
        .unwrap();
    let mut neighbour = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    for _ in 0..3 {
        let mut peer = Peer::connect(addr_of(&server)).await;
        log.connected().await;
        peer.send(b"panic").await;
        peer.expect_reset().await;
        assert_eq!(log.data().await, "panic");
        assert_eq!(log.error().await, ErrorKind::Panic);
        assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
    }
    neighbour.send(b"unmoved").await;
    neighbour.expect(b"unmoved").await;
    drop(neighbour);
    stop(&server).await;
}

#[tokio::test]
async fn certificates_change_in_all_threads() {
    let ca = Ca::new();
    let (old, new) = (ca.issue(&["localhost"]), ca.issue(&["localhost"]));
    for reuse_port in WAYS {
        let threads = Threads::default();
        let noting = threads.clone();
        let server = local_server()
            .worker_threads(2)
            .reuse_port(reuse_port)
            .tls(old.options())
            .on_data(move |session, data| {
                noting.note();
                async move { session.send(data).await }
            })
            .start()
            .await
            .unwrap();
        for issued in [&old, &new] {
            threads.0.lock().unwrap().clear();
            soon(server.replace_tls(issued.options())).await.unwrap();
            let mut peers = Vec::new();
            while threads.len() < 2 {
                assert!(peers.len() < 200);
                let mut peer = tls_peer(addr_of(&server), &ca).await;
                assert_eq!(shown(&peer), issued.der);
                peer.write_all(b"hello").await.unwrap();
                soon(peer.read_exact(&mut [0; 5])).await.unwrap();
                peers.push(peer);
            }
        }
        stop(&server).await;
    }
    let plain = local_server().worker_threads(2).start().await.unwrap();
    assert!(matches!(plain.reload_tls().await, Err(TlsConfigError::Disabled)));
    stop(&plain).await;
}

#[tokio::test]
async fn listeners_and_streams_of_others_are_served_in_the_threads() {
    let here = std::thread::current().id();
    let threads = Threads::default();
    let noting = threads.clone();
    let handed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = TcpServer::bind(handed).worker_threads(2).reuse_port(true).on_data(move |session, data| {
        noting.note();
        async move { session.send(data).await }
    });
    #[cfg(unix)]
    let place = Place::new("workers");
    #[cfg(unix)]
    let server = server.also_bind(place.0.join("socket"));
    let server = server.start().await.unwrap();

    let mut tcp = Peer::connect(addr_of(&server)).await;
    tcp.send(b"by a listener").await;
    tcp.expect(b"by a listener").await;
    #[cfg(unix)]
    {
        let stream = soon(tokio::net::UnixStream::connect(place.0.join("socket"))).await.unwrap();
        let mut unix = storm_testing::Peer(stream);
        unix.send(b"by a path").await;
        unix.expect(b"by a path").await;
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        server.serve(theirs).unwrap();
        let mut ours = storm_testing::Peer(ours);
        ours.send(b"as a pair").await;
        ours.expect(b"as a pair").await;
    }
    // Accepted in this runtime, and watched by another from then on.
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut ours = Peer::connect(elsewhere.local_addr().unwrap()).await;
    server.serve(soon(elsewhere.accept()).await.unwrap().0).unwrap();
    let (memory, theirs) = tokio::io::duplex(64);
    server.serve(theirs).unwrap();
    let mut memory = storm_testing::Peer(memory);
    for n in 0..50 {
        let payload = format!("message {n}");
        ours.send(payload.as_bytes()).await;
        ours.expect(payload.as_bytes()).await;
        memory.send(payload.as_bytes()).await;
        memory.expect(payload.as_bytes()).await;
    }
    // From a thread that has no runtime at all.
    let (outside, theirs) = tokio::io::duplex(64);
    let handle = server.clone();
    std::thread::spawn(move || handle.serve(theirs)).join().unwrap().unwrap();
    let mut outside = storm_testing::Peer(outside);
    outside.send(b"hello").await;
    outside.expect(b"hello").await;
    assert_eq!(threads.len(), 2);
    assert!(!threads.0.lock().unwrap().contains(&here));
    drop((tcp, ours, memory, outside));
    stop(&server).await;
    #[cfg(unix)]
    assert!(!place.0.join("socket").exists());
}
