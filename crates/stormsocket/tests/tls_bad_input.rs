//! What must not become a session, or must end one: no TLS, half of it, too slowly, broken, or too much of it.

mod support;
mod tls_support;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::pki_types::ServerName;
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, ConnectionTrafficSecrets};
use stormsocket::{DisconnectReason, ErrorKind, ServerHandle, TcpServer, WsServer};
use support::*;
use tls_support::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// RFC 8446 §6: type, version, length, level, description.
const FATAL_ALERT: [u8; 6] = [21, 3, 3, 0, 2, 2];

/// An echo server whose log has seen nothing yet.
async fn echo(ca: &Ca, change: impl FnOnce(TcpServer) -> TcpServer) -> (ServerHandle, Log) {
    let (recorder, log) = recorder();
    let server = change(local_server())
        .tls(ca.issue(&["localhost"]).options())
        .on_data(|session, data| async move { session.send(data).await })
        .handler(recorder);
    (server.start().await.unwrap(), log)
}

/// The bytes a client of this authority begins with.
fn client_hello(ca: &Ca) -> Vec<u8> {
    let config = Arc::new(client_config(ca, rustls::ALL_VERSIONS));
    let mut client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

async fn all_places_are_free(server: &ServerHandle) {
    until(|| server.connections() == 0).await;
    assert_eq!(server.metrics().total_connections, 0);
}

#[tokio::test]
async fn what_is_no_tls_gets_an_alert_and_no_session() {
    let ca = Ca::new();
    let (server, mut log) = echo(&ca, |server| server).await;
    let too_long = [22, 3, 1, 0xFF, 0xFF];
    let not_a_hello = [22, 3, 1, 0, 4, 2, 0, 0, 0];
    let attempts: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[0; 64], &too_long, &not_a_hello];
    for (at, bytes) in attempts.iter().enumerate() {
        let mut peer = Peer::connect(addr_of(&server)).await;
        peer.send(bytes).await;
        peer.half_close().await;
        let answer = peer.rest().await;
        assert_eq!(answer.len(), 7, "{bytes:?}: {answer:?}");
        assert_eq!(answer[..6], FATAL_ALERT, "{bytes:?}");
        assert_eq!(log.next().await, Event::Error(None, ErrorKind::Handshake));
        all_places_are_free(&server).await;
        let metrics = server.metrics();
        assert_eq!((metrics.handshake_failures, metrics.error_count), (at as u64 + 1, at as u64 + 1));
    }
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn a_panic_over_an_error_without_a_session_goes_no_further() {
    let ca = Ca::new();
    let (recorder, mut log) = recorder();
    let server = local_server()
        .tls(ca.issue(&["localhost"]).options())
        .handler(recorder)
        .on_error(|session, _| async move { assert!(session.is_some(), "no session") })
        .start()
        .await
        .unwrap();
    for _ in 0..3 {
        let mut peer = Peer::connect(addr_of(&server)).await;
        peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        peer.half_close().await;
        assert_eq!(peer.rest().await[..6], FATAL_ALERT);
        assert_eq!(log.next().await, Event::Error(None, ErrorKind::Handshake));
    }
    all_places_are_free(&server).await;
    let mut good = tls_peer(addr_of(&server), &ca).await;
    log.connected().await;
    good.write_all(b"fine").await.unwrap();
    assert_eq!(log.data().await, "fine");
    drop(good);
    stop(&server).await;
    // Each attempt went to its end, with its handler.
    let metrics = server.metrics();
    assert_eq!((metrics.handshake_failures, metrics.error_count), (3, 3));
}

#[tokio::test]
async fn plain_http_on_a_websocket_servers_tls_port() {
    let ca = Ca::new();
    let (errors, mut reported) = tokio::sync::mpsc::unbounded_channel();
    let server = WsServer::bind("127.0.0.1:0")
        .tls(ca.issue(&["localhost"]).options())
        .on_http(|_| async { stormsocket::HttpResponse::new(stormsocket::StatusCode::OK) })
        .on_error(move |session, error| {
            let errors = errors.clone();
            async move { errors.send((session.is_some(), error.kind())).unwrap() }
        })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    peer.half_close().await;
    assert_eq!(peer.rest().await[..6], FATAL_ALERT);
    assert_eq!(soon(reported.recv()).await, Some((false, ErrorKind::Handshake)));
    all_places_are_free(&server).await;
    stop(&server).await;
}

#[tokio::test]
async fn half_a_hello_holds_its_place_until_the_budget_is_used_up_and_not_longer() {
    let ca = Ca::new();
    let budget = Duration::from_millis(300);
    let (server, mut log) = echo(&ca, |server| server.handshake_timeout(budget).max_connections(2)).await;
    let hello = client_hello(&ca);
    let began = std::time::Instant::now();
    let mut half = Peer::connect(addr_of(&server)).await;
    half.send(&hello[..hello.len() / 2]).await;
    let mut silent = Peer::connect(addr_of(&server)).await;
    until(|| server.connections() == 2).await;
    // Both places are taken: whoever comes now is turned away unheard.
    let mut excess = Peer::connect(addr_of(&server)).await;
    excess.expect_end().await;
    let (mut rest, mut nothing) = (Vec::new(), Vec::new());
    // Cut off; a reset if the kernel finds bytes unread.
    let _ = soon(half.0.read_to_end(&mut rest)).await;
    let _ = soon(silent.0.read_to_end(&mut nothing)).await;
    assert_eq!((rest.len(), nothing.len()), (0, 0));
    assert!(began.elapsed() >= budget);
    all_places_are_free(&server).await;
    let metrics = server.metrics();
    assert_eq!((metrics.handshake_failures, metrics.handshake_timeouts), (2, 2));
    // A stranger's slowness is counted, not reported.
    log.assert_quiet();
    let peer = tls_peer(addr_of(&server), &ca).await;
    log.connected().await;
    drop(peer);
    stop(&server).await;
}

#[tokio::test]
async fn a_byte_now_and_then_for_ever_does_not_hold_a_place() {
    let ca = Ca::new();
    let (server, mut log) = echo(&ca, |server| server.handshake_timeout(Duration::from_millis(200))).await;
    let mut peer = Peer::connect(addr_of(&server)).await;
    // A record that is announced and comes so slowly that it is never whole.
    soon(peer.0.write_all(&[22, 3, 1, 0x40, 0])).await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    soon(async {
        while peer.0.write_all(&[1]).await.is_ok() {
            ticks.tick().await;
        }
    })
    .await;
    all_places_are_free(&server).await;
    assert_eq!(server.metrics().handshake_timeouts, 1);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn one_byte_at_a_time_is_slow_and_fine() {
    let ca = Ca::new();
    let (server, mut log) = echo(&ca, |server| server).await;
    for version in rustls::ALL_VERSIONS {
        let stream = TcpStream::connect(addr_of(&server)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let connector = TlsConnector::from(Arc::new(client_config(&ca, &[version])));
        let connecting = connector.connect(ServerName::try_from("localhost").unwrap(), Dribble(stream));
        let mut peer = soon(connecting).await.unwrap();
        log.connected().await;
        peer.write_all(b"slowly").await.unwrap();
        let mut read = [0; 6];
        soon(peer.read_exact(&mut read)).await.unwrap();
        assert_eq!(&read, b"slowly");
        assert_eq!(log.data().await, "slowly");
        soon(peer.shutdown()).await.unwrap();
        assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    }
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_is_counted_and_not_reported() {
    let ca = Ca::new();
    let (server, mut log) = echo(&ca, |server| server).await;
    let hello = client_hello(&ca);
    for (at, len) in [0, 1, 5, hello.len() / 2, hello.len()].into_iter().enumerate() {
        let mut peer = Peer::connect(addr_of(&server)).await;
        peer.send(&hello[..len]).await;
        if at % 2 == 0 {
            drop(peer);
        } else {
            peer.reset();
        }
        until(|| server.metrics().handshake_failures == at as u64 + 1).await;
        all_places_are_free(&server).await;
    }
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn a_record_that_does_not_decrypt_ends_its_session_and_no_other() {
    let ca = Ca::new();
    let (server, mut log) = echo(&ca, |server| server).await;
    let mut other = tls_peer(addr_of(&server), &ca).await;
    log.connected().await;
    let mut peer = tls_peer(addr_of(&server), &ca).await;
    log.connected().await;
    soon(peer.get_mut().0.write_all(&[[23, 3, 3, 0, 32].as_slice(), &[0; 32]].concat())).await.unwrap();
    assert_eq!(log.error().await, ErrorKind::Transport);
    assert_eq!(log.disconnected().await, DisconnectReason::TransportError);
    other.write_all(b"fine").await.unwrap();
    assert_eq!(log.data().await, "fine");
    drop((peer, other));
    stop(&server).await;
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_record_is_a_transport_error() {
    let ca = Ca::new();
    let (server, mut log) = echo(&ca, |server| server).await;
    let mut peer = tls_peer(addr_of(&server), &ca).await;
    log.connected().await;
    soon(peer.get_mut().0.write_all(&[23, 3, 3, 0, 32, 1, 2, 3])).await.unwrap();
    soon(peer.get_mut().0.shutdown()).await.unwrap();
    assert_eq!(log.disconnected().await, DisconnectReason::TransportError);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn renegotiation_is_refused_and_the_session_goes_on() {
    const NO_RENEGOTIATION: [u8; 2] = [1, 100];
    let ca = Ca::new();
    let (server, mut log) = echo(&ca, |server| server).await;
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| format!("{suite:?}").contains("CHACHA20"));
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(ca.store())
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    let (stream, client) = tls_peer_with(addr_of(&server), config, "localhost").await.unwrap().into_inner();
    log.connected().await;
    let secrets = client.dangerous_extract_secrets().unwrap();
    let mut peer = Records { stream, sending: Half::new(secrets.tx), receiving: Half::new(secrets.rx) };
    // A second handshake begins as the first one did, but encrypted.
    peer.send(22, &client_hello(&ca)[5..]).await;
    assert_eq!(peer.receive().await, (21, NO_RENEGOTIATION.to_vec()));
    peer.send(23, b"and on").await;
    assert_eq!(peer.receive().await, (23, b"and on".to_vec()));
    assert_eq!(log.data().await, "and on");
    // Whoever insists is cut off.
    peer.send(22, &client_hello(&ca)[5..]).await;
    assert_eq!(log.error().await, ErrorKind::Transport);
    assert_eq!(log.disconnected().await, DisconnectReason::TransportError);
    stop(&server).await;
}

/// TLS 1.2's records by hand, for what no client library sends (RFC 5246 §6.2, RFC 7905 §2).
struct Records {
    stream: TcpStream,
    sending: Half,
    receiving: Half,
}

struct Half {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else { panic!("another suite") };
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).unwrap());
        Self { key, iv: iv.as_ref().try_into().unwrap(), sequence }
    }

    /// What goes with the next record of `len` bytes.
    fn next(&mut self, kind: u8, len: usize) -> (Nonce, Aad<Vec<u8>>) {
        let sequence = self.sequence.to_be_bytes();
        self.sequence += 1;
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(sequence).for_each(|(byte, sequence)| *byte ^= sequence);
        let len = u16::try_from(len).unwrap().to_be_bytes();
        let aad = [&sequence[..], &[kind, 3, 3], &len].concat();
        (Nonce::assume_unique_for_key(nonce), Aad::from(aad))
    }
}

impl Records {
    async fn send(&mut self, kind: u8, payload: &[u8]) {
        let (nonce, aad) = self.sending.next(kind, payload.len());
        let mut sealed = payload.to_vec();
        self.sending.key.seal_in_place_append_tag(nonce, aad, &mut sealed).unwrap();
        let len = u16::try_from(sealed.len()).unwrap().to_be_bytes();
        let record = [&[kind, 3, 3][..], &len, &sealed].concat();
        soon(self.stream.write_all(&record)).await.unwrap();
    }

    async fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        soon(self.stream.read_exact(&mut head)).await.unwrap();
        let mut sealed = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        soon(self.stream.read_exact(&mut sealed)).await.unwrap();
        let (nonce, aad) = self.receiving.next(head[0], sealed.len() - CHACHA20_POLY1305.tag_len());
        let payload = self.receiving.key.open_in_place(nonce, aad, &mut sealed).unwrap().to_vec();
        (head[0], payload)
    }
}

/// Writes one byte at a time.
struct Dribble(TcpStream);

impl AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
