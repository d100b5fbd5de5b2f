//! Servers behind proxies that speak the PROXY protocol: whose address a session has, and who is believed.
#![cfg(all(feature = "server", feature = "ws"))]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use stormsocket::{Agreed, DisconnectReason, ServerHandle, StartError, TcpServer, WsServer};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const ADDRESSES: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0xDC, 0x04, 0x01, 0xBB];

/// A binary header.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[0x20 | command, family], &len, rest].concat()
}

fn client() -> SocketAddr {
    "192.0.2.1:56324".parse().expect("an address")
}

/// A server that expects headers from loopback.
fn behind_proxy() -> TcpServer {
    local_server().proxy_protocol_from(["10.0.0.0/8", "127.0.0.0/8"])
}

/// Strangers have come, and left no trace but in the counters.
async fn no_session(server: &ServerHandle, failures: u64, timeouts: u64) {
    until(|| server.connections() == 0).await;
    let metrics = server.metrics();
    assert_eq!((metrics.handshake_failures, metrics.handshake_timeouts), (failures, timeouts));
    assert_eq!((metrics.total_connections, metrics.error_count), (0, 0));
}

#[tokio::test]
async fn the_clients_address_is_the_sessions_and_what_follows_is_data() {
    let (recorder, mut log) = recorder();
    let server = behind_proxy().handler(recorder).start().await.expect("it starts");
    let tlvs = [ADDRESSES, &[0x04, 0x0F, 0x00], &[7; 3840]].concat();
    for header in [V1.to_vec(), v2(1, 0x11, ADDRESSES), v2(1, 0x11, &tlvs)] {
        let mut peer = Peer::connect(addr_of(&server)).await;
        // In one piece with the first data.
        peer.send(&[&header[..], b"PROXY is data now"].concat()).await;
        let session = log.connected().await;
        assert_eq!(session.remote_addr(), Some(client()));
        let mut data = log.data().await.to_vec();
        while data.len() < 17 {
            data.extend(log.data().await);
        }
        assert_eq!(data, b"PROXY is data now");
        drop(peer);
        log.disconnected().await;
    }
    // A byte at a time; nothing runs before the last one.
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.0.set_nodelay(true).expect("connected");
    for byte in V1.chunks(1) {
        log.assert_quiet();
        peer.send(byte).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(log.connected().await.remote_addr(), Some(client()));
    drop(peer);
    log.disconnected().await;
    stop(&server).await;
}

#[tokio::test]
async fn streams_from_elsewhere_have_headers_too_if_their_peer_is_listed() {
    let (recorder, mut log) = recorder();
    let server = behind_proxy().handler(recorder).start().await.expect("it starts");
    let proxy: SocketAddr = "10.0.0.1:1".parse().expect("an address");
    let tlvs = [ADDRESSES, &[0x04, 0x0F, 0x00], &[7; 3840]].concat();
    for header in [V1.to_vec(), v2(1, 0x11, &tlvs)] {
        let (mut here, there) = tokio::io::duplex(8 * 1024);
        server.serve_from(there, Some(proxy)).expect("there is room");
        here.write_all(&[&header[..], b"PROXY is data now"].concat()).await.expect("it is read");
        assert_eq!(log.connected().await.remote_addr(), Some(client()));
        assert_eq!(log.data().await, "PROXY is data now");
        drop(here);
        log.disconnected().await;
    }
    // Without one there is no session.
    let (mut here, there) = tokio::io::duplex(8 * 1024);
    server.serve_from(there, Some(proxy)).expect("there is room");
    here.write_all(b"hello\r\n").await.expect("it is read");
    assert_eq!(soon(here.read(&mut [0])).await.expect("an orderly end"), 0);
    until(|| server.connections() == 0).await;
    assert_eq!(server.metrics().handshake_failures, 1);
    log.assert_quiet();
    stop(&server).await;
}

#[tokio::test]
async fn a_proxys_own_connections_keep_its_address() {
    let (recorder, mut log) = recorder();
    let server = behind_proxy().handler(recorder).start().await.expect("it starts");
    let unix = [b'/'; 216];
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0, 0x00, b""),
        v2(0, 0x11, ADDRESSES),
        v2(1, 0x00, b"\x01\x00\x00"),
        v2(1, 0x12, ADDRESSES),
        v2(1, 0x31, &unix),
    ] {
        let mut peer = Peer::connect(addr_of(&server)).await;
        peer.send(&header).await;
        let session = log.connected().await;
        assert_eq!(session.remote_addr(), Some(peer.0.local_addr().expect("connected")));
        drop(peer);
        assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    }
    stop(&server).await;
}

#[tokio::test]
async fn peers_that_are_not_listed_are_not_believed() {
    let (recorder, mut log) = recorder();
    let server = local_server().proxy_protocol_from(["10.0.0.0/8", "::1"]).handler(recorder);
    let server = server.start().await.expect("it starts");
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    assert_eq!(session.remote_addr(), Some(peer.0.local_addr().expect("connected")));
    peer.send(V1).await;
    assert_eq!(log.data().await, V1, "bytes like any others");
    drop(peer);
    log.disconnected().await;
    stop(&server).await;

    let server = WsServer::bind("127.0.0.1:0").proxy_protocol_from(["192.0.2.0/24"]).start().await;
    let server = server.expect("it starts");
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(&[V1, UPGRADE.as_bytes()].concat()).await;
    let answer = String::from_utf8(peer.rest().await).expect("text");
    // Not a version of HTTP, whatever it is.
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    drop(peer);
    stop(&server).await;
}

#[tokio::test]
async fn what_is_no_header_is_closed_without_a_session() {
    let (recorder, mut log) = recorder();
    let server = behind_proxy().handler(recorder).start().await.expect("it starts");
    let mut failures = 0;
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 70000\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n".to_vec(),
        [&b"PROXY UNKNOWN "[..], &[b'x'; 107]].concat(),
        v2(2, 0x11, ADDRESSES),
        v2(1, 0x11, &ADDRESSES[..11]),
        v2(1, 0x11, &[0; 4097])[..16].to_vec(),
    ] {
        let mut peer = Peer::connect(addr_of(&server)).await;
        peer.send(&garbage).await;
        // An end or a reset, as the kernel has it; nothing is answered.
        let mut answer = Vec::new();
        let _ = soon(tokio::io::AsyncReadExt::read_to_end(&mut peer.0, &mut answer)).await;
        assert!(answer.is_empty());
        failures += 1;
        no_session(&server, failures, 0).await;
    }
    // And one that leaves in the middle of it.
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(&V1[..20]).await;
    drop(peer);
    until(|| server.metrics().handshake_failures == failures + 1).await;
    no_session(&server, failures + 1, 0).await;
    log.assert_quiet();
    stop(&server).await;
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test]
async fn hooks_and_sessions_of_a_websocket_server_see_the_client() {
    let (told, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let also = told.clone();
    let server = WsServer::bind("127.0.0.1:0")
        .proxy_protocol_from(["127.0.0.1"])
        .on_upgrade(move |request| {
            told.send(request.remote_addr()).expect("the test reads");
            async { Ok(stormsocket::Accept::new()) }
        })
        .on_connected(move |session| std::future::ready(also.send(session.remote_addr())))
        .start()
        .await
        .expect("it starts");
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(&[V1, UPGRADE.as_bytes()].concat()).await;
    peer.expect(b"HTTP/1.1 101 ").await;
    assert_eq!(soon(seen.recv()).await, Some(Some(client())));
    assert_eq!(soon(seen.recv()).await, Some(Some(client())));
    for session in server.sessions().iter() {
        session.abort();
    }
    stop(&server).await;
}

#[tokio::test]
async fn what_is_passed_on_is_never_half_open() {
    let server = WsServer::bind("127.0.0.1:0")
        .proxy_protocol_from(["127.0.0.1"])
        .max_handshakes_per_ip(1)
        .start()
        .await
        .expect("it starts");
    // The client's own half-open connection, past the proxy.
    let (silent, direct) = tokio::io::duplex(64);
    server.serve_from(direct, Some(client())).expect("one may be half-open");
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(&[V1, UPGRADE.as_bytes()].concat()).await;
    peer.expect(b"HTTP/1.1 101 ").await;
    // Nor is what another stack has upgraded, for the client or for a proxy itself.
    let mut upgraded = Vec::new();
    for remote in [client(), "127.0.0.1:1".parse().expect("an address")] {
        let (here, there) = tokio::io::duplex(64);
        server.serve_upgraded(there, Some(remote), Agreed::default()).expect("it is through");
        upgraded.push(here);
    }
    until(|| server.sessions().len() == 3).await;
    assert_eq!(server.metrics().refused.total(), 0);
    drop((silent, peer, upgraded));
    stop(&server).await;
}

#[tokio::test]
async fn header_and_upgrade_share_one_budget() {
    let budget = Duration::from_millis(300);
    let server = WsServer::bind("127.0.0.1:0")
        .proxy_protocol_from(["127.0.0.1"])
        .handshake_timeout(budget)
        .max_connections(1)
        .start()
        .await
        .expect("it starts");
    let began = tokio::time::Instant::now();
    let mut peer = Peer::connect(addr_of(&server)).await;
    // Slow in both: a budget of its own for each would never be used up.
    for byte in V1.iter().chain(UPGRADE.as_bytes()) {
        let sent = tokio::io::AsyncWriteExt::write_all(&mut peer.0, &[*byte]).await;
        if sent.is_err() || server.metrics().handshake_timeouts == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    assert!(began.elapsed() >= budget, "{:?}", began.elapsed());
    no_session(&server, 1, 1).await;
    stop(&server).await;

    let server =
        behind_proxy().handshake_timeout(Duration::from_millis(50)).start().await.expect("it starts");
    let mut silent = Peer::connect(addr_of(&server)).await;
    silent.expect_end().await;
    no_session(&server, 1, 1).await;
    stop(&server).await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_headers() {
    let hour = Duration::from_secs(3600);
    let server =
        behind_proxy().handshake_timeout(hour).close_deadline(hour).start().await.expect("it starts");
    let mut silent = Peer::connect(addr_of(&server)).await;
    until(|| server.connections() == 1).await;
    let report = soon(server.shutdown(hour)).await;
    assert_eq!((report.closed, report.aborted, report.unfinished), (0, 0, 0));
    silent.expect_end().await;
}

#[tokio::test]
async fn a_list_that_is_none_is_refused_at_the_start() {
    for wrong in ["10.0.0.0/33", "proxy.test", "127.0.0.1:80", ""] {
        let error = local_server().proxy_protocol_from([wrong]).start().await.expect_err(wrong);
        assert!(matches!(error, StartError::Config(_)), "{wrong}: {error:?}");
    }
}

#[tokio::test]
async fn an_ipv4_client_in_ipv6_form_has_its_own_address() {
    let (recorder, mut log) = recorder();
    let server = behind_proxy().handler(recorder).start().await.expect("it starts");
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.7 56324 443\r\n").await;
    assert_eq!(log.connected().await.remote_addr(), Some(client()));
    drop(peer);
    stop(&server).await;
}
