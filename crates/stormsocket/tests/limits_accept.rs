//! How many connections a server takes, and addresses it cannot listen on.

mod support;

use stormsocket::metrics::Limit;
use stormsocket::{ConfigError, DisconnectReason, StartError, TcpServer};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_connects_at_once_with_a_limit_of_ten() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .max_connections(10)
        .backlog(256)
        .on_connected(|session| async move { session.send("in").await })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut connecting = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let addr = addr_of(&server);
        connecting.spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let mut read = [0; 2];
            // The excess are closed before anything is said.
            let served = matches!(stream.read(&mut read).await, Ok(2));
            (served, stream)
        });
    }
    let (mut served, refused): (Vec<_>, Vec<_>) =
        soon(connecting.join_all()).await.into_iter().partition(|(served, _)| *served);
    assert_eq!((served.len(), refused.len()), (10, 190));
    assert_eq!((server.sessions().len(), server.connections()), (10, 10));
    assert_eq!(server.metrics().total_connections, 10);
    for _ in 0..10 {
        log.connected().await;
    }
    // Those that are in are not disturbed.
    for (_, stream) in &mut served {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(log.data().await, "x");
    }
    // A place that comes free is given again, once.
    drop(served.pop());
    log.disconnected().await;
    until(|| server.connections() == 9).await;
    let mut next = Peer::connect(addr_of(&server)).await;
    next.expect(b"in").await;
    log.connected().await;
    let mut excess = Peer::connect(addr_of(&server)).await;
    excess.expect_end().await;
    drop((served, next));
    stop(&server).await;
    assert_eq!(server.metrics().total_connections, 11);
}

#[tokio::test]
async fn a_place_is_taken_until_the_handlers_of_its_session_are_done() {
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let server = local_server()
        .max_connections(1)
        .on_disconnected({
            let gate = gate.clone();
            move |_, _| {
                let gate = gate.clone();
                async move { gate.notified().await }
            }
        })
        .start()
        .await
        .unwrap();
    let first = Peer::connect(addr_of(&server)).await;
    until(|| server.sessions().len() == 1).await;
    let session = server.sessions().iter().next().unwrap();
    drop(first);
    soon(session.closed()).await;
    Peer::connect(addr_of(&server)).await.expect_end().await;
    gate.notify_one();
    until(|| server.connections() == 0).await;
    let mut next = Peer::connect(addr_of(&server)).await;
    next.send(b"x").await;
    until(|| server.sessions().len() == 1).await;
    gate.notify_one();
    drop(next);
    stop(&server).await;
}

#[tokio::test]
async fn a_port_in_use_is_an_error_and_leaves_nothing_behind() {
    let (recorder, mut log) = recorder();
    let first = local_server().handler(recorder).start().await.unwrap();
    let taken = addr_of(&first);
    // The other address was bound before the one that failed; it is free again.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    match TcpServer::bind(free).also_bind(taken).start().await {
        Err(StartError::Bind { addr, source }) => {
            assert_eq!(addr, taken.into());
            assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
        }
        other => panic!("{other:?}"),
    }
    let again = TcpServer::bind(free).start().await.unwrap();
    stop(&again).await;
    drop(Peer::connect(taken).await);
    log.connected().await;
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&first).await;
}

#[tokio::test]
async fn addresses_that_are_none_are_errors() {
    for addr in ["no port", "256.0.0.1:1", "", "127.0.0.1:99999"] {
        let started = soon(TcpServer::bind(addr).start()).await;
        assert!(matches!(started, Err(StartError::Bind { .. })), "{addr}: {started:?}");
    }
    // An address of no interface of this machine (RFC 5737).
    assert!(matches!(TcpServer::bind("192.0.2.1:0").start().await, Err(StartError::Bind { .. })));
}

#[tokio::test]
async fn a_server_listens_on_several_addresses() {
    let (recorder, mut log) = recorder();
    let server = local_server().also_bind("127.0.0.1:0").handler(recorder).start().await.unwrap();
    assert_eq!(server.local_addrs().len(), 2);
    for addr in server.local_addrs() {
        drop(Peer::connect(*addr).await);
        log.connected().await;
        log.disconnected().await;
    }
    stop(&server).await;
    for addr in server.local_addrs() {
        assert!(TcpStream::connect(addr).await.is_err());
    }
}

#[tokio::test]
async fn bad_options_are_refused_by_name() {
    for (server, name) in [
        (local_server().backlog(0), "backlog"),
        (local_server().max_connections(0), "max_connections"),
        (local_server().max_pending_send_bytes(0), "max_pending_send_bytes"),
        (local_server().max_pending_receive_bytes(0), "max_pending_receive_bytes"),
        (local_server().idle_timeout(std::time::Duration::ZERO), "idle_timeout"),
    ] {
        match server.start().await {
            Err(StartError::Config(ConfigError::Invalid { option, .. })) => assert_eq!(option, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_connects_at_once_of_an_address_with_a_limit_of_ten() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .max_connections_per_ip(10)
        .max_handshakes_per_ip(1)
        .backlog(256)
        .on_connected(|session| async move { session.send("in").await })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut connecting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let addr = addr_of(&server);
        connecting.spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let served = matches!(stream.read(&mut [0; 2]).await, Ok(2));
            (served, stream)
        });
    }
    let (mut served, refused): (Vec<_>, Vec<_>) =
        soon(connecting.join_all()).await.into_iter().partition(|(served, _)| *served);
    // Plain TCP has no handshake, so that limit stops nobody.
    assert_eq!((served.len(), refused.len()), (10, 90));
    let refusals = server.metrics().refused;
    assert_eq!((refusals.get(Limit::ConnectionsPerIp), refusals.total()), (90, 90));
    for _ in 0..10 {
        log.connected().await;
    }
    drop(served.pop());
    log.disconnected().await;
    until(|| server.connections() == 9).await;
    let mut next = Peer::connect(addr_of(&server)).await;
    next.expect(b"in").await;
    stop(&server).await;
}

#[tokio::test]
async fn limits_for_addresses_that_make_no_sense_are_refused() {
    for (server, name) in [
        (local_server().max_connections_per_ip(0), "max_connections_per_ip"),
        (local_server().max_handshakes_per_ip(0), "max_handshakes_per_ip"),
        (local_server().ipv6_prefix(0), "ipv6_prefix"),
        (local_server().ipv6_prefix(129), "ipv6_prefix"),
    ] {
        match server.start().await {
            Err(StartError::Config(ConfigError::Invalid { option, .. })) => assert_eq!(option, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_a_listed_proxy_passes_on_counts_for_its_client() {
    let server = local_server()
        .proxy_protocol_from(["127.0.0.1"])
        .max_connections_per_ip(2)
        .on_connected(|session| async move { session.send("in").await })
        .start()
        .await
        .unwrap();
    let mut inside = Vec::new();
    for client in ["192.0.2.1", "192.0.2.1", "192.0.2.2"] {
        let mut peer = Peer::connect(addr_of(&server)).await;
        peer.send(format!("PROXY TCP4 {client} 192.0.2.9 1000 2000\r\n").as_bytes()).await;
        peer.expect(b"in").await;
        inside.push(peer);
    }
    let mut excess = Peer::connect(addr_of(&server)).await;
    excess.send(b"PROXY TCP4 192.0.2.1 192.0.2.9 1000 2000\r\n").await;
    excess.expect_end().await;
    assert_eq!(server.metrics().refused.get(Limit::ConnectionsPerIp), 1);
    inside.remove(0);
    until(|| server.connections() == 2).await;
    let mut next = Peer::connect(addr_of(&server)).await;
    next.send(b"PROXY TCP4 192.0.2.1 192.0.2.9 1000 2000\r\n").await;
    next.expect(b"in").await;
    stop(&server).await;
}
