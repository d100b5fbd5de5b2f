//! Clients with TLS: whom they trust, what they show, and that a server which is not trusted is told nothing.

mod support;
mod tls_support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stormsocket::{
    ClientCertificates, ClientHandle, ClientTlsOptions, ConfigError, ConnectError, DisconnectReason,
    ErrorKind, Identity, ReconnectOptions, Roots, TcpClient, TlsConfigError, TlsErrorKind, TlsVersion,
    WsClient, WsServer,
};
use support::*;
use tls_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Takes one connection with `issued` and returns the plaintext the client sent, or the failure of the handshake.
async fn scripted_server(issued: &Issued) -> (SocketAddr, JoinHandle<std::io::Result<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server_config(issued)));
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = acceptor.accept(stream).await?;
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await?;
        Ok(read)
    });
    (addr, task)
}

fn tls_failure(result: Result<ClientHandle, ConnectError>) -> TlsErrorKind {
    match result {
        Err(ConnectError::Tls(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_is_not_to_be_trusted_gets_no_byte_of_the_request() {
    let (ca, others) = (Ca::new(), Ca::new());
    let day = |year| rcgen::date_time_ymd(year, 1, 1);
    let cases = [
        (ca.issue(&["other.example"]), TlsErrorKind::WrongHost),
        (ca.issue_with(&["localhost"], |params| params.not_after = day(2001)), TlsErrorKind::Expired),
        (ca.issue_with(&["localhost"], |params| params.not_before = day(4000)), TlsErrorKind::NotValidYet),
        (others.issue(&["localhost"]), TlsErrorKind::UnknownIssuer),
        (self_signed(&["localhost"]), TlsErrorKind::UnknownIssuer),
    ];
    for (issued, expected) in cases {
        let (addr, server) = scripted_server(&issued).await;
        let (recorder, mut log) = recorder();
        let client = TcpClient::new(format!("localhost:{}", addr.port())).tls(ca.client_options());
        assert_eq!(tls_failure(soon(client.handler(recorder).connect()).await), expected);
        log.assert_quiet();
        let seen = soon(server).await.unwrap().expect_err("no handshake");
        assert!(seen.to_string().contains("alert"), "{seen}");

        let (addr, server) = scripted_server(&issued).await;
        let client =
            WsClient::new(format!("wss://localhost:{}/secret", addr.port())).tls(ca.client_options());
        let connecting = client.header("authorization", "secret").connect();
        assert_eq!(tls_failure(soon(connecting).await), expected);
        soon(server).await.unwrap().expect_err("no handshake");
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_or_ends_or_says_nothing() {
    let ca = Ca::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connect = || {
        let options = ca.client_options().server_name("localhost");
        TcpClient::new(addr).tls(options).connect_timeout(Duration::from_millis(300)).connect()
    };
    let answer = async |answer: Option<&'static [u8]>| {
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        if let Some(bytes) = answer {
            stream.write_all(bytes).await.unwrap();
        }
        stream
    };
    let (connected, _stream) = tokio::join!(connect(), answer(Some(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    assert_eq!(tls_failure(connected), TlsErrorKind::Protocol);
    let (connected, ()) = tokio::join!(connect(), async { drop(answer(None).await) });
    assert!(matches!(connected, Err(ConnectError::Io(_))), "{connected:?}");
    let (connected, _stream) = tokio::join!(connect(), answer(None));
    assert!(matches!(connected, Err(ConnectError::TimedOut(_))), "{connected:?}");
}

#[tokio::test]
async fn the_host_is_that_of_the_address_or_the_one_given() {
    let ca = Ca::new();
    let issued = ca.issue(&["localhost", "127.0.0.1", "given.example"]);
    let server = local_server().tls(issued.options()).start().await.unwrap();
    let addr = addr_of(&server);
    let connect = async |client: TcpClient, options: ClientTlsOptions| {
        let client = soon(client.tls(options).connect()).await?;
        let name = client.session().tls().unwrap().server_name.clone();
        soon(client.disconnect()).await;
        Ok::<_, ConnectError>(name)
    };
    let by_name = || TcpClient::new(format!("localhost:{}", addr.port()));
    assert_eq!(connect(by_name(), ca.client_options()).await.unwrap().as_deref(), Some("localhost"));
    assert_eq!(
        connect(TcpClient::new(addr), ca.client_options()).await.unwrap(),
        None,
        "an address is not sent"
    );
    let given = ca.client_options().server_name("given.example");
    assert_eq!(connect(TcpClient::new(addr), given).await.unwrap().as_deref(), Some("given.example"));
    let wrong = ca.client_options().server_name("other.example");
    assert!(
        matches!(connect(by_name(), wrong).await, Err(ConnectError::Tls(error)) if error.kind() == TlsErrorKind::WrongHost)
    );
    let impossible = ca.client_options().server_name("no host\n");
    assert!(matches!(
        connect(by_name(), impossible).await,
        Err(ConnectError::Config(ConfigError::Invalid { option: "server_name", .. }))
    ));
    stop(&server).await;
}

#[tokio::test]
async fn verification_is_off_for_those_who_say_so() {
    let server = local_server().tls(self_signed(&["elsewhere"]).options()).start().await.unwrap();
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let options = ClientTlsOptions::default().danger_accept_any_certificate(true).versions([version]);
        let client = soon(TcpClient::new(addr_of(&server)).tls(options).connect()).await.unwrap();
        assert_eq!(client.session().tls().unwrap().version, version);
        soon(client.disconnect()).await;
    }
    stop(&server).await;
}

#[tokio::test]
async fn what_cannot_be_used_is_an_error_before_anything_is_opened() {
    let ca = Ca::new();
    let issued = ca.issue(&["client"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connect =
        async |options: ClientTlsOptions| match soon(TcpClient::new(addr).tls(options).connect()).await {
            Err(ConnectError::TlsConfig(error)) => error,
            other => panic!("{other:?}"),
        };
    let options = ClientTlsOptions::default();
    assert!(matches!(connect(options.clone().roots(Roots::from_pem("none"))).await, TlsConfigError::NoRoots));
    let missing = connect(options.clone().roots(Roots::from_file("/nowhere/ca"))).await;
    assert!(matches!(missing, TlsConfigError::File { .. }));
    let mixed = Identity::from_pem(&issued.chain, &ca.issue(&["client"]).key);
    let mixed = connect(ca.client_options().identity(mixed)).await;
    assert!(matches!(mixed, TlsConfigError::Rejected(_)), "{mixed:?}");
    let plain = WsClient::new("ws://localhost:1/").tls(options.clone()).connect().await;
    assert!(
        matches!(plain, Err(ConnectError::Config(ConfigError::Invalid { option: "tls", .. }))),
        "{plain:?}"
    );
    let none = TcpClient::new(addr).tls(options.versions([])).connect().await;
    assert!(
        matches!(none, Err(ConnectError::Config(ConfigError::Invalid { option: "versions", .. }))),
        "{none:?}"
    );
    #[cfg(unix)]
    {
        let nameless =
            TcpClient::new(std::path::Path::new("/nowhere")).tls(ca.client_options()).connect().await;
        assert!(
            matches!(nameless, Err(ConnectError::Config(ConfigError::Invalid { option: "server_name", .. }))),
            "{nameless:?}"
        );
    }
    let accepted = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(accepted.is_err(), "nobody has connected");
}

#[tokio::test]
async fn protocols_are_offered_and_a_certificate_shown() {
    let ca = Ca::new();
    let issued = ca.issue(&["client"]);
    let (recorder, mut log) = recorder();
    let options = ca
        .issue(&["localhost"])
        .options()
        .alpn(["storm"])
        .client_certificates(ClientCertificates::Required(ca.roots()));
    let server = local_server().tls(options).handler(recorder).start().await.unwrap();
    let place = Place::new("client");
    let identity = Identity::from_files(place.write("chain", &issued.chain), place.write("key", &issued.key));
    let client = TcpClient::new(format!("localhost:{}", addr_of(&server).port()))
        .tls(ca.client_options().alpn(["other", "storm"]).identity(identity))
        .connect();
    let client = soon(client).await.unwrap();
    let session = log.connected().await;
    let tls = session.tls().unwrap();
    assert_eq!(tls.alpn.as_deref(), Some(&b"storm"[..]));
    assert_eq!(tls.peer_certificates, [issued.der.to_vec()]);
    assert_eq!(client.session().tls().unwrap().alpn.as_deref(), Some(&b"storm"[..]));
    soon(client.disconnect()).await;
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;
}

#[tokio::test]
async fn a_server_that_refuses_our_certificate_is_a_typed_error() {
    let ca = Ca::new();
    let options =
        ca.issue(&["localhost"]).options().client_certificates(ClientCertificates::Required(ca.roots()));
    let server = WsServer::bind("127.0.0.1:0").tls(options).start().await.unwrap();
    let port = addr_of(&server).port();
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let client =
            WsClient::new(format!("wss://localhost:{port}")).tls(ca.client_options().versions([version]));
        assert_eq!(tls_failure(soon(client.connect()).await), TlsErrorKind::Alert, "{version:?}");
    }
    assert!(server.sessions().is_empty());
    stop(&server).await;
}

#[tokio::test]
async fn each_reconnect_is_encrypted_and_may_resume() {
    let ca = Ca::new();
    let (recorder, mut log) = recorder();
    let server = local_server()
        .tls(ca.issue(&["localhost"]).options())
        .on_connected(|session| async move { session.send("hello").await })
        .start()
        .await
        .unwrap();
    let client = TcpClient::new(format!("localhost:{}", addr_of(&server).port()))
        .tls(ca.client_options())
        .reconnect(ReconnectOptions::default().delay(Duration::ZERO))
        .handler(recorder)
        .connect();
    let client = soon(client).await.unwrap();
    for resumed in [false, true] {
        let session = log.connected().await;
        assert_eq!(session.tls().unwrap().resumed, resumed);
        assert_eq!(log.data().await, "hello");
        server.sessions().iter().for_each(|session| session.abort());
        assert_eq!(log.disconnected().await, DisconnectReason::TransportError);
    }
    soon(client.disconnect()).await;
    stop(&server).await;
}

#[tokio::test]
async fn a_reconnect_to_a_server_no_longer_to_be_trusted_is_reported() {
    let (ca, others) = (Ca::new(), Ca::new());
    let server = local_server().tls(ca.issue(&["localhost"]).options()).start().await.unwrap();
    let (recorder, mut log) = recorder();
    let client = TcpClient::new(format!("localhost:{}", addr_of(&server).port()))
        .tls(ca.client_options().resumption(false))
        .reconnect(ReconnectOptions::default().delay(Duration::ZERO).max_attempts(1))
        .handler(recorder)
        .connect();
    let client = soon(client).await.unwrap();
    log.connected().await;
    server.replace_tls(others.issue(&["localhost"]).options()).await.unwrap();
    until(|| server.sessions().len() == 1).await;
    server.sessions().iter().for_each(|session| session.abort());
    log.disconnected().await;
    assert_eq!(log.next().await, Event::Error(None, ErrorKind::Connect));
    soon(client.closed()).await;
    stop(&server).await;
}

/// The half of the next test that runs in a process of its own, with other roots.
const CHILD: &str = "STORMSOCKET_TEST_SYSTEM_ROOTS";

#[tokio::test]
async fn the_systems_roots_by_default() {
    if let Ok(uri) = std::env::var(CHILD) {
        let client = soon(WsClient::new(uri.clone()).connect()).await.unwrap();
        soon(client.disconnect()).await;
        let given = WsClient::new(uri).tls(ClientTlsOptions::default().roots(Ca::new().roots())).connect();
        assert_eq!(tls_failure(soon(given).await), TlsErrorKind::UnknownIssuer);
        return;
    }
    let ca = Ca::new();
    let server = WsServer::bind("127.0.0.1:0").tls(ca.issue(&["localhost"]).options()).start().await.unwrap();
    let uri = format!("wss://localhost:{}/", addr_of(&server).port());
    // Here the system knows nothing of this authority.
    assert_eq!(
        tls_failure(
            soon(
                WsClient::new(uri.clone())
                    .tls(ClientTlsOptions::default().roots(Roots::system().and(Ca::new().roots())))
                    .connect()
            )
            .await
        ),
        TlsErrorKind::UnknownIssuer
    );
    let place = Place::new("system");
    let roots = place.write("roots.pem", ca.pem());
    let child = tokio::task::spawn_blocking(move || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_systems_roots_by_default", "--nocapture"])
            .env("SSL_CERT_FILE", roots)
            .env(CHILD, uri)
            .output()
            .unwrap()
    });
    let output = soon(child).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    stop(&server).await;
}
