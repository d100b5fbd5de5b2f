//! Every kind of stream and listener: opened elsewhere, handed over, upgraded by another HTTP stack, in memory.

mod support;
mod tls_support;

use std::net::SocketAddr;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use stormsocket::handshake::Request;
use stormsocket::{
    Accept, Agreed, ConfigError, ConnectError, DisconnectReason, ReconnectOptions, ServeError, ServerHandle,
    StartError, TcpClient, TcpServer, WsClient, WsServer,
};
use support::*;
use tls_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};

async fn echo(server: TcpServer) -> (ServerHandle, Log) {
    let (recorder, log) = recorder();
    let server =
        server.on_data(|session, data| async move { session.send(data).await }).handler(recorder).start();
    (server.await.unwrap(), log)
}

async fn ws_echo(server: WsServer) -> ServerHandle {
    server.on_message(|session, message| async move { session.send(message).await }).start().await.unwrap()
}

/// Sends and receives once, and closes.
async fn converse(client: WsClient, connect: impl AsyncFnOnce(WsClientWithLog) -> stormsocket::ClientHandle) {
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let client = client.handler(Heard(said));
    let client = connect(client).await;
    client.send_text("over whatever it is").await.unwrap();
    assert_eq!(soon(heard.recv()).await.unwrap().text(), Some("over whatever it is"));
    soon(client.disconnect()).await;
}

type WsClientWithLog =
    WsClient<storm_core::events::Chain<storm_core::events::NoEvents, storm_core::events::Adapter<Heard>>>;

/// Passes messages on.
struct Heard(tokio::sync::mpsc::UnboundedSender<stormsocket::Message>);

impl stormsocket::WsHandler for Heard {
    async fn on_message(
        &self,
        _: &stormsocket::WsSession,
        message: stormsocket::Message,
    ) -> Result<(), stormsocket::BoxError> {
        self.0.send(message)?;
        Ok(())
    }
}

#[tokio::test]
async fn listeners_that_are_open_already() {
    let standard = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tokios = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addrs = [standard.local_addr().unwrap(), tokios.local_addr().unwrap()];
    // The backlog holds who came before the server did.
    let mut early = Peer::connect(addrs[0]).await;
    early.send(b"early").await;
    let (server, mut log) = echo(TcpServer::bind(standard).also_bind(tokios).no_delay(true)).await;
    assert_eq!(server.local_addrs(), addrs);
    early.expect(b"early").await;
    log.connected().await;
    log.data().await;
    let mut peer = Peer::connect(addrs[1]).await;
    peer.send(b"x").await;
    peer.expect(b"x").await;
    let session = log.connected().await;
    assert_eq!(session.remote_addr().unwrap(), peer.0.local_addr().unwrap());
    session.abort();
    peer.expect_reset().await;
    drop(early);
    stop(&server).await;
    for addr in addrs {
        assert!(TcpStream::connect(addr).await.is_err(), "nobody listens any more");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn unix_listeners_that_are_open_already_keep_their_file() {
    let place = Place::new("handed");
    let (first, second) = (place.0.join("first"), place.0.join("second"));
    let standard = std::os::unix::net::UnixListener::bind(&first).unwrap();
    let tokios = tokio::net::UnixListener::bind(&second).unwrap();
    let server = ws_echo(WsServer::bind(standard).also_bind(tokios)).await;
    for path in [&first, &second] {
        let client = WsClient::new("ws://localhost/x").address(path.as_path());
        converse(client, async |client| soon(client.connect()).await.unwrap()).await;
    }
    stop(&server).await;
    assert!(first.exists() && second.exists(), "they are somebody else's");
}

#[tokio::test]
async fn a_listener_serves_one_server() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = stormsocket::BindAddr::from(listener);
    assert_eq!(addr, addr.clone());
    let server = TcpServer::bind(addr.clone()).start().await.unwrap();
    assert!(matches!(TcpServer::bind(addr).start().await, Err(StartError::Bind { .. })));
    stop(&server).await;
}

#[tokio::test]
async fn both_families_on_one_address_or_on_two() {
    let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else { return };
    drop(probe);
    // One listener for both.
    let (server, mut log) = echo(TcpServer::bind("[::]:0")).await;
    let port = addr_of(&server).port();
    for ip in ["127.0.0.1", "::1"] {
        let mut peer = Peer::connect(SocketAddr::new(ip.parse().unwrap(), port)).await;
        peer.send(b"x").await;
        peer.expect(b"x").await;
        let remote = log.connected().await.remote_addr().unwrap();
        assert_eq!(remote.ip().to_string(), ip, "an IPv4 peer has its own address");
        log.data().await;
        peer.half_close().await;
        log.disconnected().await;
    }
    stop(&server).await;
    // One for each, on the same port, in either order.
    for [first, second] in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"]] {
        let server = TcpServer::bind(format!("{first}:{port}")).also_bind(format!("{second}:{port}"));
        let (server, _log) =
            match server.on_data(|session, data| async move { session.send(data).await }).start().await {
                Ok(server) => (server, ()),
                // Somebody else has taken it since.
                Err(StartError::Bind { source, .. }) if source.kind() == std::io::ErrorKind::AddrInUse => {
                    return;
                }
                Err(error) => panic!("{error:?}"),
            };
        assert_eq!(server.local_addrs().len(), 2);
        for ip in ["127.0.0.1", "::1"] {
            let mut peer = Peer::connect(SocketAddr::new(ip.parse().unwrap(), port)).await;
            peer.send(b"x").await;
            peer.expect(b"x").await;
        }
        stop(&server).await;
    }
}

#[tokio::test]
async fn a_stream_from_elsewhere_is_served_like_any_other() {
    let (server, mut log) = echo(TcpServer::unbound().max_connections(1)).await;
    assert_eq!(server.local_addr(), None);
    let (mut here, there) = duplex(64);
    server.serve(there).unwrap();
    let session = log.connected().await;
    assert_eq!(session.remote_addr(), None);
    here.write_all(b"hello").await.unwrap();
    let mut read = [0; 5];
    soon(here.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"hello");
    assert_eq!(log.data().await, "hello");
    // It counts as a connection.
    assert_eq!(server.serve(duplex(64).0), Err(ServeError::Full));
    assert_eq!(server.serve_upgraded(duplex(64).0, None, Agreed::default()), Err(ServeError::Full));
    drop(here);
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    until(|| server.connections() == 0).await;
    assert_eq!(server.serve_upgraded(duplex(64).0, None, Agreed::default()), Err(ServeError::NotWebSocket));
    assert_eq!(server.connections(), 0);

    // A socket is recognized: it has an address, and an abort is a reset.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = Peer::connect(listener.local_addr().unwrap()).await;
    server.serve(listener.accept().await.unwrap().0).unwrap();
    let session = log.connected().await;
    assert_eq!(session.remote_addr().unwrap(), peer.0.local_addr().unwrap());
    session.abort();
    peer.expect_reset().await;
    log.disconnected().await;
    until(|| server.connections() == 0).await;

    let (_here, there) = duplex(64);
    let known: SocketAddr = "192.0.2.7:9".parse().unwrap();
    server.serve_from(there, Some(known)).unwrap();
    assert_eq!(log.connected().await.remote_addr(), Some(known));
    stop(&server).await;
    assert_eq!(server.serve(duplex(64).0), Err(ServeError::Stopping));
}

#[tokio::test]
async fn an_ipv4_peer_has_its_own_address_though_somebody_elses_listener_says_it_in_ipv6_form() {
    // A host without IPv6 has no such listener.
    let Ok(listener) = TcpListener::bind("[::]:0").await else { return };
    let (server, mut log) = echo(TcpServer::unbound()).await;
    let to: SocketAddr = ([127, 0, 0, 1], listener.local_addr().unwrap().port()).into();
    let peer = Peer::connect(to).await;
    let (stream, _) = soon(listener.accept()).await.unwrap();
    server.serve(stream).unwrap();
    assert_eq!(log.connected().await.remote_addr(), Some(peer.0.local_addr().unwrap()));
}

#[tokio::test]
async fn a_stopped_server_lets_go_of_its_handlers_though_a_handle_is_kept() {
    let held = std::sync::Arc::new(());
    let inside = held.clone();
    let server = TcpServer::unbound().on_connected(move |_| {
        let _ = &inside;
        async {}
    });
    let server = server.start().await.unwrap();
    assert_eq!(std::sync::Arc::strong_count(&held), 2);
    stop(&server).await;
    assert_eq!(std::sync::Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn tls_and_the_upgrade_happen_on_streams_from_elsewhere_too() {
    let ca = Ca::new();
    let server = ws_echo(WsServer::unbound().tls(ca.issue(&["localhost"]).options())).await;
    // Through a pipe that holds no session ticket and no request, too.
    for room in [16, 4096] {
        let (here, there) = duplex(room);
        server.serve(there).unwrap();
        let client = WsClient::new("wss://localhost/x").tls(ca.client_options());
        converse(client, async |client| soon(client.connect_over(here)).await.unwrap()).await;
    }
    stop(&server).await;
}

#[tokio::test]
async fn clients_over_a_given_stream() {
    let (server, _log) = echo(TcpServer::unbound()).await;
    let (here, there) = duplex(64);
    server.serve(there).unwrap();
    let (recorder, mut log) = recorder();
    let client = soon(TcpClient::default().handler(recorder).connect_over(here)).await.unwrap();
    log.connected().await;
    client.send("given").await.unwrap();
    assert_eq!(log.data().await, "given");
    soon(client.disconnect()).await;
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);

    let again = TcpClient::default().reconnect(ReconnectOptions::default()).connect_over(duplex(64).0).await;
    assert!(
        matches!(again, Err(ConnectError::Config(ConfigError::Invalid { option: "reconnect", .. }))),
        "{again:?}"
    );
    // One that is over already.
    let (here, there) = duplex(64);
    drop(there);
    let gone = soon(WsClient::default().connect_over(here)).await;
    assert!(matches!(gone, Err(ConnectError::Io(_))), "{gone:?}");
    stop(&server).await;
}

#[tokio::test]
async fn a_connection_that_hyper_has_upgraded() {
    let server = ws_echo(WsServer::unbound().subprotocols(["ignored"])).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let http = tokio::spawn({
        let server = server.clone();
        async move {
            let (stream, remote) = listener.accept().await.unwrap();
            let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                let server = server.clone();
                async move {
                    let upgrade = Request::from_http(&request).unwrap().upgrade().unwrap();
                    let accepted = upgrade.accept(&Accept::new().protocol("chat")).unwrap();
                    let agreed = Agreed::new(&upgrade, &accepted);
                    tokio::spawn(async move {
                        let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
                        server.serve_upgraded(TokioIo::new(upgraded), Some(remote), agreed).unwrap();
                    });
                    Ok::<_, std::convert::Infallible>(accepted.to_http().map(|()| String::new()))
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            connection.await.unwrap();
        }
    });
    let client = WsClient::new(format!("ws://{addr}/room?a=b")).subprotocols(["other", "chat"]);
    converse(client, async |client| {
        let client = soon(client.connect()).await.unwrap();
        until(|| server.sessions().len() == 1).await;
        let session = stormsocket::WsSession::of(&server.sessions().iter().next().unwrap()).unwrap();
        assert_eq!(
            (session.path(), session.query(), session.protocol()),
            ("/room", Some("a=b"), Some("chat"))
        );
        assert!(session.remote_addr().is_some());
        client
    })
    .await;
    soon(http).await.unwrap();
    stop(&server).await;
}

#[cfg(unix)]
#[tokio::test]
async fn websocket_and_tls_on_unix_sockets() {
    let place = Place::new("unix");
    let path = place.0.join("socket");
    let ca = Ca::new();
    let server = ws_echo(WsServer::bind(path.as_path()).tls(ca.issue(&["localhost"]).options())).await;
    let client = WsClient::new("wss://localhost/x").address(path.as_path()).tls(ca.client_options());
    converse(client, async |client| soon(client.connect()).await.unwrap()).await;
    stop(&server).await;
    assert!(!path.exists());

    let (server, mut log) = echo(TcpServer::bind(path.as_path()).tls(ca.issue(&["name"]).options())).await;
    let client = TcpClient::new(path.as_path()).tls(ca.client_options().server_name("name"));
    let client = soon(client.connect()).await.unwrap();
    assert!(log.connected().await.tls().is_some());
    soon(client.disconnect()).await;
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    let report = soon(server.shutdown(Duration::from_secs(1))).await;
    assert_eq!(report.unfinished, 0);
}
