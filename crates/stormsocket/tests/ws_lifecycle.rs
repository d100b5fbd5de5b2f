//! Handlers and ends of WebSocket sessions: close, abort, errors and panics in each handler, middleware, slow peers,
//! shutdown, counters.
#![cfg(all(feature = "server", feature = "client", feature = "ws"))]

mod ws_support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use stormsocket::{
    BoxError, CloseCode, ConnectionState, DisconnectReason, Error, ErrorKind, HeartbeatOptions, Message,
    Middleware, ReconnectOptions, SendError, SendOutcome, Session, SlowConsumerPolicy, SocketOptions,
    WsClient, WsServer, WsSession,
};
use tokio::net::TcpListener;
use ws_support::*;

type Log = Arc<Mutex<Vec<String>>>;

fn log(log: &Log, line: impl Into<String>) {
    log.lock().unwrap().push(line.into());
}

/// A handler's future that has done nothing but [`log`].
fn logged(to: &Log, line: impl Into<String>) -> std::future::Ready<()> {
    log(to, line);
    std::future::ready(())
}

fn taken(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.lock().unwrap())
}

#[tokio::test]
async fn closes_carry_their_code_and_reason_from_inside_and_outside() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .on_message(|session: WsSession, message: Message| async move {
            match message.text().unwrap() {
                "close" => session.close().await,
                "close with" => session.close_with(CloseCode::POLICY_VIOLATION, "x".repeat(200)).await,
                "abort" => session.abort(),
                _ => {
                    session.close_with(CloseCode::new(4000).unwrap(), "first").await;
                    session.close_with(CloseCode::NORMAL, "second").await;
                    session.close().await;
                    session.abort();
                }
            }
        })
        .handler(handler)
        .start()
        .await
        .unwrap();
    for (command, code, reason) in
        [("close", 1000, 0), ("close with", 1008, 123), ("all of them", 4000, "first".len())]
    {
        let mut peer = Peer::connect(&server).await;
        observed.connected().await;
        // Handlers run one at a time: the one that awaits its own close is told when it is done.
        peer.send(0x81, command).await;
        let frame = peer.frame().await;
        assert_eq!((frame.code(), frame.payload.len() - 2), (Some(code), reason), "{command}");
        peer.send(0x88, &frame.payload).await;
        peer.end().await;
        drop(peer);
        observed.message().await;
        assert_eq!(observed.disconnected().await, DisconnectReason::ClosedByServer, "{command}");
    }
    let mut peer = Peer::connect(&server).await;
    observed.connected().await;
    peer.send(0x81, "abort").await;
    peer.is_reset().await;
    observed.message().await;
    assert_eq!(observed.disconnected().await, DisconnectReason::Aborted);

    // From outside.
    let mut peer = Peer::connect(&server).await;
    let session = observed.connected().await;
    let closing = tokio::spawn({
        let session = session.clone();
        async move { session.close_with(CloseCode::GOING_AWAY, "later").await }
    });
    assert_eq!(peer.frame().await.payload, goodbye(1001, "later"));
    assert!(matches!(
        session.send("x").await,
        Err(SendError::Closed(Some(DisconnectReason::ClosedByServer)))
    ));
    assert_eq!(session.state(), ConnectionState::Closing);
    peer.send(0x88, goodbye(1001, "")).await;
    peer.end().await;
    drop(peer);
    soon(closing).await.unwrap();
    assert_eq!(session.state(), ConnectionState::Closed);
    assert_eq!(observed.disconnected().await, DisconnectReason::ClosedByServer);
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn a_clients_ends_have_their_reasons() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("ws://{}", listener.local_addr().unwrap());
    for (code, reason) in [
        (Some(1000), DisconnectReason::ClosedByServer),
        (Some(1001), DisconnectReason::GoingAway),
        (Some(4999), DisconnectReason::ClosedByServer),
        (None, DisconnectReason::TransportError),
    ] {
        let (handler, mut observed) = observer();
        let connecting = WsClient::new(&uri).handler(handler).connect();
        let (client, mut peer) = tokio::join!(soon(connecting), Peer::accept(&listener));
        let client = client.unwrap();
        observed.connected().await;
        if let Some(code) = code {
            peer.send(0x88, goodbye(code, "")).await;
            let echoed = peer.frame().await;
            assert_eq!((echoed.code(), echoed.masked), (Some(code), true));
        }
        drop(peer);
        assert_eq!(observed.disconnected().await, reason);
        soon(client.closed()).await;
        assert!(matches!(client.send("x").await, Err(SendError::Closed(_))));
        drop(client);
        observed.finished().await;
    }
}

#[tokio::test]
async fn several_handlers_run_in_order_and_failures_are_reported_one_by_one() {
    let lines = Log::default();
    let [a, b, c, d, e, f] = std::array::from_fn(|_| lines.clone());
    let server = WsServer::bind("127.0.0.1:0")
        .on_connected(move |_| logged(&a, "connected 1"))
        .on_message(move |_, message: Message| {
            log(&b, format!("message 1 {}", message.text().unwrap()));
            async { Err::<(), _>("first failure") }
        })
        .on_connected(move |_| logged(&c, "connected 2"))
        .on_message(move |session: WsSession, message: Message| {
            log(&d, format!("message 2 {}", message.text().unwrap()));
            async move {
                session.send(message).await.unwrap();
                Err::<(), _>("second failure")
            }
        })
        .on_error(move |session, error: Error| {
            log(&e, format!("{:?} {} {}", error.kind(), session.is_some(), error.cause()));
            async {}
        })
        .on_disconnected(move |_, reason| logged(&f, format!("gone {reason}")))
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(&server).await;
    for text in ["one", "two"] {
        peer.send(0x81, text).await;
        assert_eq!(peer.frame().await.text(), text, "an error ends nothing");
    }
    peer.send(0x88, goodbye(1000, "")).await;
    assert_eq!(peer.closes().await, Some(1000));
    drop(peer);
    assert_eq!(server.metrics().error_count, 4);
    stop(server).await;
    assert_eq!(
        taken(&lines),
        [
            "connected 1",
            "connected 2",
            "message 1 one",
            "message 2 one",
            "Handler true first failure",
            "Handler true second failure",
            "message 1 two",
            "message 2 two",
            "Handler true first failure",
            "Handler true second failure",
            "gone closed_by_client",
        ]
    );
}

#[tokio::test]
async fn a_panic_in_any_handler_ends_its_session_with_1011_and_no_other() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .handler(handler)
        .on_connected(|session: WsSession| async move { assert_ne!(session.path(), "/connected", "boom") })
        .on_message(|session: WsSession, _| async move { assert_ne!(session.path(), "/message", "boom") })
        .on_disconnected(|session: WsSession, _| async move {
            assert_ne!(session.path(), "/disconnected", "boom");
        })
        .on_error(|session: Option<WsSession>, _| async move {
            assert_ne!(session.map(|session| session.path().to_owned()).as_deref(), Some("/message"), "bang");
        })
        .start()
        .await
        .unwrap();
    let mut bystander = Peer::connect(&server).await;
    observed.connected().await;
    for path in ["/connected", "/message", "/disconnected"] {
        let mut peer = Peer::dial(&server).await;
        peer.write(format!("{}\r\n", request().replace("/chat?room=1", path))).await;
        assert_eq!(peer.response().await.status, 101);
        observed.connected().await;
        match path {
            "/connected" => {}
            "/message" => {
                peer.send(0x81, "x").await;
                observed.message().await;
            }
            _ => {
                peer.send(0x88, goodbye(1000, "")).await;
                assert_eq!(peer.closes().await, Some(1000));
                peer.end().await;
                drop(peer);
                assert_eq!(observed.disconnected().await, DisconnectReason::ClosedByClient);
                assert_eq!(observed.error().await.0, ErrorKind::Panic);
                continue;
            }
        }
        assert_eq!(peer.closes().await, Some(1011), "{path}");
        let (kind, text) = observed.error().await;
        assert_eq!(kind, ErrorKind::Panic);
        assert!(text.contains("boom"), "{text}");
        peer.send(0x88, goodbye(1011, "")).await;
        peer.end().await;
        drop(peer);
        assert_eq!(observed.disconnected().await, DisconnectReason::Aborted, "{path}");
    }
    bystander.settle().await;
    drop(bystander);
    assert_eq!(observed.disconnected().await, DisconnectReason::TransportError);
    stop(server).await;
    observed.finished().await;
}

/// Rewrites, suppresses and spoils, by what the text says.
struct Rewriting(Log);

impl Middleware for Rewriting {
    async fn on_connected(&self, _: &Session) -> Result<(), BoxError> {
        log(&self.0, "connected");
        Ok(())
    }

    async fn on_data_received(&self, _: &Session, data: Bytes) -> Result<Option<Bytes>, BoxError> {
        Ok(match &data[..] {
            b"drop" => None,
            b"empty" => Some(Bytes::new()),
            b"fail" => return Err("no".into()),
            b"spoil" => Some(Bytes::from_static(b"\xFF")),
            b"panic" => panic!("boom"),
            _ => Some([&b"in "[..], &data].concat().into()),
        })
    }

    fn on_data_sending(&self, _: &Session, data: Bytes) -> Option<Bytes> {
        match &data[..] {
            b"in hide" => None,
            b"in spoil later" => Some(Bytes::from_static(b"\xFF")),
            _ => Some([&data[..], b" out"].concat().into()),
        }
    }

    async fn on_disconnected(&self, _: &Session, reason: DisconnectReason) -> Result<(), BoxError> {
        log(&self.0, format!("gone {reason}"));
        Ok(())
    }

    async fn on_error(&self, _: Option<&Session>, error: &Error) {
        log(&self.0, format!("{:?}", error.kind()));
    }
}

#[tokio::test]
async fn middleware_sees_and_rewrites_both_ways() {
    let lines = Log::default();
    let (handler, mut observed) = echo();
    let server = WsServer::bind("127.0.0.1:0")
        .middleware(Rewriting(lines.clone()))
        .handler(handler)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(&server).await;
    let session = observed.connected().await;
    for text in ["drop", "empty", "fail", "spoil"] {
        peer.send(0x81, text).await;
    }
    assert_eq!(observed.error().await, (ErrorKind::Handler, "no".to_owned()));
    let (kind, text) = observed.error().await;
    assert_eq!(kind, ErrorKind::Handler);
    assert!(text.contains("utf-8"), "{text}");
    peer.send(0x81, "hide").await;
    assert_eq!(observed.message().await.text(), Some("in hide"));
    peer.send(0x81, "spoil later").await;
    assert_eq!(observed.message().await.text(), Some("in spoil later"));
    assert_eq!(observed.error().await.0, ErrorKind::Handler, "what a hook made of the answer is no text");
    peer.send(0x82, "spoil").await;
    assert_eq!(observed.message().await, Message::binary(vec![0xFF]), "any bytes will do for binary");
    let frame = peer.frame().await;
    assert_eq!((frame.first, &frame.payload[..]), (0x82, &b"\xFF out"[..]));
    peer.send(0x81, "text").await;
    assert_eq!(observed.message().await.text(), Some("in text"));
    assert_eq!(peer.frame().await.text(), "in text out");
    assert_eq!(session.send("in hide").await.unwrap(), SendOutcome::Suppressed);
    let report = server.broadcast_text("in hide").await;
    assert_eq!((report.sent, report.suppressed), (0, 1));
    assert_eq!(server.broadcast_text("to all").await.sent, 1);
    assert_eq!(peer.frame().await.text(), "to all out");
    peer.send(0x81, "panic").await;
    assert_eq!(peer.closes().await, Some(1011));
    assert_eq!(observed.error().await.0, ErrorKind::Panic);
    drop(peer);
    assert_eq!(observed.disconnected().await, DisconnectReason::Aborted);
    stop(server).await;
    observed.finished().await;
    assert_eq!(taken(&lines), ["connected", "Handler", "Handler", "Handler", "Panic", "gone aborted"]);
}

/// Small buffers in the kernel, so that little is needed to fill them.
fn tight() -> SocketOptions {
    SocketOptions::default().send_buffer_size(4096).recv_buffer_size(4096)
}

#[tokio::test]
async fn a_slow_consumer_gets_what_the_policy_says() {
    for policy in [SlowConsumerPolicy::Wait, SlowConsumerPolicy::Drop, SlowConsumerPolicy::Disconnect] {
        let (handler, mut observed) = observer();
        let server = WsServer::bind("127.0.0.1:0")
            .socket(tight())
            .max_pending_send_bytes(64 * 1024)
            .slow_consumer_policy(policy)
            .handler(handler)
            .start()
            .await
            .unwrap();
        let mut stalled = Peer::connect(&server).await;
        let slow = observed.connected().await;
        let mut reading = Peer::connect(&server).await;
        observed.connected().await;
        let filling = tokio::spawn({
            let slow = slow.clone();
            async move {
                let mut sent = 0_u32;
                loop {
                    let mut message = sent.to_be_bytes().to_vec();
                    message.resize(16 * 1024, 0);
                    match slow.send(message).await {
                        Ok(SendOutcome::Sent) if sent < 2000 => sent += 1,
                        other => break (sent, other),
                    }
                }
            }
        });
        match policy {
            SlowConsumerPolicy::Wait => {
                until(|| slow.is_backpressured() && slow.pending_send_bytes() >= 64 * 1024).await;
                assert!(slow.pending_send_bytes() < 64 * 1024 + 17 * 1024, "one message above at most");
                // Broadcasts reach the others at once.
                let report = {
                    let mut broadcast = Box::pin(async { server.broadcast_text("hello").await });
                    tokio::select! {
                        biased;
                        _ = &mut broadcast => panic!("it waits for the slow one"),
                        frame = reading.frame() => assert_eq!(frame.text(), "hello"),
                    }
                    filling.abort();
                    let draining = async {
                        let mut count = 0;
                        loop {
                            let frame = stalled.frame().await;
                            if frame.first == 0x81 {
                                break count;
                            }
                            assert_eq!(frame.payload[..4], u32::to_be_bytes(count), "in order, none missing");
                            count += 1;
                        }
                    };
                    let (report, count) = tokio::join!(broadcast, draining);
                    assert!(count > 4, "{count}");
                    report
                };
                assert_eq!(report.sent, 2);
                assert!(!slow.is_backpressured());
            }
            SlowConsumerPolicy::Drop => {
                let (sent, last) = soon(filling).await.unwrap();
                assert_eq!(last.unwrap(), SendOutcome::Dropped);
                let report = server.broadcast_text("hello").await;
                assert_eq!((report.sent, report.dropped), (1, 1));
                assert_eq!(slow.metrics().messages_dropped, 2);
                for number in 0..sent {
                    assert_eq!(stalled.frame().await.payload[..4], number.to_be_bytes());
                }
                stalled.settle().await;
                assert_eq!(slow.send("room again").await.unwrap(), SendOutcome::Sent);
                assert_eq!(stalled.frame().await.text(), "room again");
            }
            _ => {
                let (_, last) = soon(filling).await.unwrap();
                assert!(
                    matches!(last, Err(SendError::Closed(Some(DisconnectReason::SlowConsumer)))),
                    "{last:?}"
                );
                assert_eq!(observed.disconnected().await, DisconnectReason::SlowConsumer);
                stalled.is_reset().await;
                reading.settle().await;
            }
        }
        for session in server.sessions().iter() {
            session.abort();
        }
        stop(server).await;
    }
}

#[tokio::test]
async fn pings_of_ours_count_as_pending() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .socket(tight())
        .max_pending_send_bytes(10_000)
        .handler(handler)
        .start()
        .await
        .unwrap();
    let _peer = Peer::connect(&server).await;
    let session = observed.connected().await;
    // Nothing is awaited in between, so nothing leaves.
    let refused = (0..100).find_map(|_| session.ping(vec![0; 125]).err());
    assert!(matches!(refused, Some(SendError::Full)), "{refused:?}");
    assert!(
        (10_000..10_000 + 127).contains(&session.pending_send_bytes()),
        "{}",
        session.pending_send_bytes()
    );
    assert!(session.is_backpressured());
    session.abort();
    observed.disconnected().await;
    stop(server).await;
}

#[tokio::test]
async fn a_session_found_by_its_id_has_the_websocket_verbs() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0").handler(handler).start().await.unwrap();
    let _peer = Peer::connect(&server).await;
    let session = observed.connected().await;
    let found = server.sessions().get(session.id()).expect("it is connected");
    let found = stormsocket::WsSession::of(&found).expect("it is a websocket session");
    assert_eq!((found.id(), found.path()), (session.id(), session.path()));
    found.abort();
    observed.disconnected().await;

    let uri = format!("ws://{}/chat", server.local_addr().unwrap());
    let client = stormsocket::WsClient::new(uri).connect().await.unwrap();
    let accepted = observed.connected().await;
    let session = client.ws_session().expect("it is a websocket client");
    assert_eq!((session.id(), session.path()), (client.session().id(), "/chat"));
    soon(session.close_with(CloseCode::new(4001).unwrap(), "enough")).await;
    observed.disconnected().await;
    assert_eq!(accepted.close_frame().map(|frame| u16::from(frame.code)), Some(4001));
    stop(server).await;

    let tcp = stormsocket::TcpServer::bind("127.0.0.1:0")
        .on_connected(|session| async move {
            assert!(stormsocket::WsSession::of(&session).is_none());
            session.send("plain").await
        })
        .start()
        .await
        .unwrap();
    let mut peer = tokio::net::TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap();
    let mut said = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut peer, &mut said).await.unwrap();
    assert_eq!(&said, b"plain");
    let client = stormsocket::TcpClient::new(tcp.local_addr().unwrap()).connect().await.unwrap();
    assert!(client.ws_session().is_none());
    tcp.shutdown(std::time::Duration::from_secs(1)).await;
}

#[tokio::test]
async fn pings_come_back_identical_and_only_if_wanted() {
    for auto_pong in [true, false] {
        let (handler, mut observed) = echo();
        let server = WsServer::bind("127.0.0.1:0")
            .heartbeat(HeartbeatOptions::default().auto_pong(auto_pong))
            .handler(handler)
            .start()
            .await
            .unwrap();
        let mut peer = Peer::connect(&server).await;
        observed.connected().await;
        for payload in [&[][..], &[0xFF; 125], b"ping"] {
            peer.send(0x89, payload).await;
            if auto_pong {
                assert_eq!(
                    peer.frame().await,
                    Frame { first: 0x8A, masked: false, payload: payload.to_vec() }
                );
            }
        }
        // A pong nobody asked for is ignored.
        peer.send(0x8A, b"unasked").await;
        peer.send(0x81, "text").await;
        assert_eq!(peer.frame().await.text(), "text");
        drop(peer);
        stop(server).await;
    }
}

#[tokio::test]
async fn a_shutdown_says_1001_to_everyone_waits_cuts_and_counts() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0").handler(handler).start().await.unwrap();
    let mut polite = Peer::connect(&server).await;
    observed.connected().await.send("last words").await.unwrap();
    let mut rude = Peer::connect(&server).await;
    observed.connected().await;
    let stopping = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(Duration::from_millis(300)).await }
    });
    assert_eq!(polite.frame().await.text(), "last words");
    assert_eq!(polite.closes().await, Some(1001));
    polite.send(0x88, goodbye(1001, "")).await;
    polite.end().await;
    drop(polite);
    assert_eq!(rude.closes().await, Some(1001));
    let report = soon(stopping).await.unwrap();
    assert_eq!((report.closed, report.aborted, report.unfinished), (1, 1, 0));
    rude.gone().await;
    for _ in 0..2 {
        assert_eq!(observed.disconnected().await, DisconnectReason::GoingAway);
    }
    soon(server.stopped()).await;
    observed.finished().await;
}

#[tokio::test]
async fn a_client_comes_back_to_a_server_that_comes_back() {
    let first = WsServer::bind("127.0.0.1:0").start().await.unwrap();
    let addr = first.local_addr().unwrap();
    let (handler, mut at_client) = observer();
    let client = WsClient::new(format!("ws://{addr}"))
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(5)))
        .handler(handler);
    let client = soon(client.connect()).await.unwrap();
    let one = at_client.connected().await;
    stop(first).await;
    assert_eq!(at_client.disconnected().await, DisconnectReason::GoingAway);
    assert!(client.send("into the void").await.is_err());
    assert_eq!(client.state(), ConnectionState::Connecting);
    let (handler, mut at_server) = echo();
    let second = WsServer::bind(addr).handler(handler).start().await.unwrap();
    let two = at_client.connected().await;
    assert!(two.id() > one.id());
    at_server.connected().await;
    client.send_text("hello again").await.unwrap();
    assert_eq!(at_client.message().await.text(), Some("hello again"));
    soon(client.disconnect()).await;
    assert_eq!(at_client.disconnected().await, DisconnectReason::ClosedByClient);
    stop(second).await;
    drop(client);
    at_client.finished().await;
}

#[tokio::test]
async fn counters_count() {
    let (handler, mut observed) = echo();
    let server = WsServer::bind("127.0.0.1:0").handler(handler).start().await.unwrap();
    let mut peer = Peer::connect(&server).await;
    let session = observed.connected().await;
    for _ in 0..10 {
        peer.send(0x81, "hello").await;
        peer.frame().await;
    }
    peer.settle().await;
    peer.send(0x88, goodbye(1000, "")).await;
    peer.closes().await;
    peer.end().await;
    drop(peer);
    Peer::refused(&server, "POST / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    stop(server.clone()).await;
    let metrics = server.metrics();
    assert_eq!((metrics.messages_received, metrics.messages_sent), (10, 10));
    // Eleven-byte frames and a ping of 6 and a close of 2 with masks; without them the other way.
    assert_eq!(metrics.bytes_received_total, 10 * 11 + 12 + 8);
    assert_eq!(metrics.bytes_sent_total, 10 * 7 + 8 + 4);
    assert_eq!((metrics.total_connections, metrics.active_connections), (1, 0));
    assert_eq!((metrics.handshake_failures, metrics.handshake_timeouts, metrics.error_count), (1, 0, 0));
    let of_session = session.metrics();
    assert_eq!((of_session.bytes_received, of_session.bytes_sent), (130, 82));
}
