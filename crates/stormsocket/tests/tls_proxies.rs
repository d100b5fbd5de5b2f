//! TLS and proxies: a client's tunnel and a server's PROXY header come before the handshake, and TLS knows of neither.
#![cfg(all(feature = "server", feature = "client", feature = "ws"))]

mod support;
mod tls_support;

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use stormsocket::{ConnectError, Proxy, TcpClient, TlsErrorKind, WsClient, WsServer};
use support::*;
use tls_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// An HTTP proxy that leads everyone to `target`, whatever name they ask for, if they ask for `expected`.
async fn http_proxy(target: SocketAddr, expected: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let answer: &[u8] = match head.starts_with(format!("CONNECT {expected} ").as_bytes()) {
                    true => b"HTTP/1.1 200 OK\r\n\r\n",
                    false => b"HTTP/1.1 403 Forbidden\r\n\r\n",
                };
                stream.write_all(answer).await?;
                copy_bidirectional(&mut stream, &mut TcpStream::connect(target).await?).await
            });
        }
    });
    addr
}

#[tokio::test]
async fn tls_goes_through_the_tunnel_and_verifies_the_target() {
    let ca = Ca::new();
    let server = WsServer::bind("127.0.0.1:0")
        .tls(ca.issue(&["server.test"]).options())
        .on_message(|session, message| async move { session.send(message).await })
        .start()
        .await
        .unwrap();
    let proxy = http_proxy(addr_of(&server), "server.test:443").await;
    let (told, mut messages) = tokio::sync::mpsc::unbounded_channel();
    // The name is in no DNS: the proxy has it, and the certificate.
    let client = WsClient::new("wss://server.test/chat")
        .tls(ca.client_options())
        .proxy(Proxy::new(format!("http://{proxy}")).unwrap())
        .on_message(move |_, message| std::future::ready(told.send(message)))
        .connect();
    let client = soon(client).await.unwrap();
    client.send_text("secret").await.unwrap();
    assert_eq!(soon(messages.recv()).await.unwrap().text(), Some("secret"));
    assert!(client.session().tls().is_some());
    soon(client.disconnect()).await;

    // A proxy that leads somewhere else is found out.
    let proxy = http_proxy(addr_of(&server), "other.test:7").await;
    let client = TcpClient::new("other.test:7").tls(ca.client_options());
    let client = client.proxy(Proxy::new(format!("http://{proxy}")).unwrap()).connect();
    match soon(client).await.unwrap_err() {
        ConnectError::Tls(error) => assert_eq!(error.kind(), TlsErrorKind::WrongHost),
        other => panic!("{other:?}"),
    }
    stop(&server).await;
}

#[tokio::test]
async fn a_proxy_header_comes_before_tls() {
    let ca = Ca::new();
    let (recorder, mut log) = recorder();
    let server = local_server()
        .tls(ca.issue(&["localhost"]).options())
        .proxy_protocol_from(["127.0.0.1"])
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut stream = soon(TcpStream::connect(addr_of(&server))).await.unwrap();
    stream.write_all(b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n").await.unwrap();
    let connector = TlsConnector::from(Arc::new(client_config(&ca, rustls::ALL_VERSIONS)));
    let mut peer = soon(connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await.unwrap();
    peer.write_all(b"hello").await.unwrap();
    let session = log.connected().await;
    assert_eq!(session.remote_addr(), Some("[2001:db8::1]:4711".parse().unwrap()));
    assert!(session.tls().is_some());
    assert_eq!(log.data().await, &b"hello"[..]);
    session.abort();
    log.disconnected().await;
    // Without the header, the handshake's bytes are none.
    let stream = soon(TcpStream::connect(addr_of(&server))).await.unwrap();
    assert!(soon(connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await.is_err());
    until(|| server.metrics().handshake_failures == 1).await;
    log.assert_quiet();
    stop(&server).await;
}
