//! The upgrade as a client meets it: answers that are none, requests that must not be sent, the budget, reconnecting.
#![cfg(all(feature = "client", feature = "server", feature = "ws"))]

mod ws_support;

use std::io::ErrorKind::BrokenPipe;
use std::time::Duration;

use stormsocket::{
    ConnectError, ConnectionState, DisconnectReason, ErrorKind, HeadLimits, ReconnectOptions, RequestError,
    ResponseError, StatusCode, WsClient, WsServer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use ws_support::*;

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("ws://{}/chat", listener.local_addr().unwrap());
    (listener, uri)
}

/// What a client makes of `answer`, which may hold the right accept key as `{accept}`.
async fn answered(client: impl FnOnce(String) -> WsClient, answer: &str) -> Result<(), ConnectError> {
    let (listener, uri) = listen().await;
    let (handler, observed) = observer();
    let client = client(uri).handler(handler);
    let connecting = tokio::spawn(async move { client.connect().await.map(drop) });
    let mut peer = Peer::accept_raw(&listener).await;
    let upgrade = peer.upgrade_request().await;
    let accepted = upgrade.accept(&stormsocket::Accept::new()).unwrap();
    let right = String::from_utf8(accepted.response.to_vec()).unwrap();
    let accept = right.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Accept: ")).unwrap();
    peer.write(answer.replace("{accept}", accept)).await;
    let result = soon(connecting).await.unwrap();
    if result.is_err() {
        peer.gone().await;
        observed.finished().await;
    }
    result
}

fn refusal(result: Result<(), ConnectError>) -> (ResponseError, String) {
    match result {
        Err(ConnectError::Refused { error, body }) => (*error, String::from_utf8(body.to_vec()).unwrap()),
        other => panic!("a refusal expected, not {other:?}"),
    }
}

#[tokio::test]
async fn answers_other_than_the_right_101_are_typed_errors() {
    const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\n";
    const UP: &str = "Upgrade: websocket\r\n";
    const CONNECTION: &str = "Connection: Upgrade\r\n";
    const ACCEPT: &str = "Sec-WebSocket-Accept: {accept}\r\n";
    let good = format!("{HEAD}{UP}{CONNECTION}{ACCEPT}");
    answered(WsClient::new, &format!("{good}\r\n")).await.unwrap();
    let narrow = |uri| WsClient::new(uri).head_limits(HeadLimits::default().max_bytes(100));
    let (error, _) = refusal(answered(narrow, &format!("{good}\r\n")).await);
    assert!(matches!(error, ResponseError::HeadTooLarge { max: 100 }), "{error:?}");
    let wrong = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    for (answer, accepts) in [
        (format!("{HEAD}{UP}{CONNECTION}{wrong}X-Why: no\r\n\r\n"), "a wrong key"),
        (format!("{HEAD}{UP}{CONNECTION}X-Why: no\r\n\r\n"), "no key"),
        (format!("{good}{ACCEPT}X-Why: no\r\n\r\n"), "two keys"),
    ] {
        let (error, _) = refusal(answered(WsClient::new, &answer).await);
        assert!(matches!(error, ResponseError::AcceptMismatch { .. }), "{accepts}: {error:?}");
        assert_eq!(error.status(), Some(StatusCode::SWITCHING_PROTOCOLS));
        assert_eq!(error.headers().unwrap()["x-why"], "no");
    }
    let (error, _) = refusal(answered(WsClient::new, &format!("{HEAD}{CONNECTION}{ACCEPT}\r\n")).await);
    assert!(matches!(error, ResponseError::UpgradeMissing { .. }), "{error:?}");
    let (error, _) = refusal(answered(WsClient::new, &format!("{HEAD}{UP}{ACCEPT}\r\n")).await);
    assert!(matches!(error, ResponseError::ConnectionMissing { .. }), "{error:?}");
    let unasked = format!("{good}Sec-WebSocket-Protocol: chat\r\n\r\n");
    let (error, _) = refusal(answered(WsClient::new, &unasked).await);
    assert!(matches!(error, ResponseError::InvalidProtocol { .. }), "{error:?}");
    let (error, _) = refusal(answered(|uri| WsClient::new(uri).subprotocols(["talk"]), &unasked).await);
    assert!(matches!(error, ResponseError::InvalidProtocol { .. }), "{error:?}");
    answered(|uri| WsClient::new(uri).subprotocols(["talk", "chat"]), &unasked).await.unwrap();
    let extension = format!("{good}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
    let (error, _) = refusal(answered(WsClient::new, &extension).await);
    assert!(matches!(error, ResponseError::InvalidExtensions { .. }), "{error:?}");
    for garbage in ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.0 101 x\r\n\r\n", "HTTP/1.1 9 x\r\n\r\n", "\0\0\0\0"] {
        let (error, _) = refusal(answered(WsClient::new, garbage).await);
        assert_eq!(error, ResponseError::Malformed, "{garbage}");
    }
    let long = format!("{HEAD}X-Long: {}\r\n\r\n", "x".repeat(16 << 10));
    let (error, _) = refusal(answered(WsClient::new, &long).await);
    assert!(matches!(error, ResponseError::HeadTooLarge { .. }), "{error:?}");
    let many = format!("{HEAD}{}\r\n", "X-A: b\r\n".repeat(101));
    let (error, _) = refusal(answered(WsClient::new, &many).await);
    assert!(matches!(error, ResponseError::TooManyHeaders { .. }), "{error:?}");
}

#[tokio::test]
async fn other_statuses_are_kept_with_their_headers_and_body() {
    for (status, line) in [(200, "200 OK"), (302, "302 Found"), (401, "401 Unauthorized"), (503, "503 Busy")]
    {
        let answer =
            format!("HTTP/1.1 {line}\r\nLocation: ws://elsewhere/\r\nContent-Length: 6\r\n\r\nsorry!ignored");
        let (error, body) = refusal(answered(WsClient::new, &answer).await);
        assert_eq!(error.status().unwrap(), status);
        assert_eq!(error.headers().unwrap()["location"], "ws://elsewhere/");
        assert_eq!(body, "sorry!");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusals_body_is_what_its_head_says_it_is() {
    let chunks = "Transfer-Encoding: Chunked\r\n\r\n3;x=\"y\"\r\nsor\r\n3\r\nry!\r\n0\r\n\r\n";
    let trailer = chunks.replace("0\r\n\r\n", "00\r\nX-Trailer: 1\r\n\r\n");
    for (rest, body) in [
        (chunks, "sorry!"),
        (&trailer, "sorry!"),
        ("Transfer-Encoding: gzip\r\n\r\n\x1F", ""),
        ("Content-Length: 6\r\n\r\nsorry!HTTP/1.1", "sorry!"),
        ("Content-Length: none\r\n\r\nsorry!", ""),
    ] {
        let (near, mut far) = duplex(1024);
        far.write_all(format!("HTTP/1.1 403 Forbidden\r\n{rest}").as_bytes()).await.unwrap();
        let began = tokio::time::Instant::now();
        let result = soon(WsClient::default().connect_over(near)).await.map(drop);
        assert_eq!(refusal(result).1, body, "{rest}");
        assert!(began.elapsed().is_zero(), "the stream goes on, and nobody waits for its end: {rest}");
    }
    // What has no other end ends with the stream, and so does what breaks off.
    for (rest, body) in [
        ("\r\nsorry!", "sorry!"),
        ("Transfer-Encoding: chunked\r\n\r\n6\r\nsor", "sor"),
        ("Transfer-Encoding: chunked\r\n\r\n6\r\nsorry!\r\nFFFFFFFFFFFFFFFF\r\n!", "sorry!!"),
        ("Transfer-Encoding: chunked\r\n\r\n6\r\nsorry!\r\nwhat\r\n!", "sorry!"),
    ] {
        let (near, mut far) = duplex(1024);
        far.write_all(format!("HTTP/1.1 403 Forbidden\r\n{rest}").as_bytes()).await.unwrap();
        far.shutdown().await.unwrap();
        let result = soon(WsClient::default().connect_over(near)).await.map(drop);
        assert_eq!(refusal(result).1, body, "{rest}");
    }
}

#[tokio::test]
async fn what_is_no_refusal_has_no_body() {
    for answer in ["HTTP/1.1 101 Switching Protocols\r\n\r\nframes", "SSH-2.0-OpenSSH\r\n"] {
        assert_eq!(refusal(answered(WsClient::new, answer).await).1, "", "{answer}");
    }
}

#[tokio::test]
async fn an_end_instead_of_an_answer_is_an_io_error() {
    for answer in ["", "HTTP/1.1 101 Sw"] {
        let (listener, uri) = listen().await;
        let connecting = tokio::spawn(WsClient::new(uri).connect());
        let mut peer = Peer::accept_raw(&listener).await;
        peer.upgrade_request().await;
        peer.write(answer).await;
        drop(peer);
        let error = soon(connecting).await.unwrap().unwrap_err();
        assert!(matches!(error, ConnectError::Io(_)), "{error:?}");
    }
}

#[tokio::test]
async fn requests_that_must_not_be_sent_are_refused_before_anything_is_opened() {
    let (listener, uri) = listen().await;
    for value in ["x\r\nSet-Cookie: a=b", "x\ny", "x\ry", "x\0y"] {
        let error = WsClient::new(&uri).header("X-A", value).connect().await.unwrap_err();
        assert!(matches!(error, ConnectError::Request(RequestError::InvalidHeader { .. })), "{error:?}");
    }
    let error = WsClient::new(&uri).header("X-A\r\nX-B", "c").connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Request(RequestError::InvalidHeader { .. })), "{error:?}");
    for name in [
        "Sec-WebSocket-Key",
        "sec-websocket-version",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Extensions",
        "Upgrade",
        "Connection",
        "Host",
        "Content-Length",
        "Transfer-Encoding",
    ] {
        let error = WsClient::new(&uri).header(name, "x").connect().await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Request(RequestError::ReservedHeader { .. })),
            "{name}: {error:?}"
        );
    }
    for protocols in [&["a b"][..], &["a\r\nX: y"], &[""], &["a", "a"]] {
        let error = WsClient::new(&uri).subprotocols(protocols.iter().copied()).connect().await.unwrap_err();
        assert!(matches!(error, ConnectError::Request(RequestError::InvalidProtocol { .. })), "{error:?}");
    }
    for uri in ["http://a/", "ws://", "/chat", "", "ws://a b/", "ws:///x"] {
        let error = WsClient::new(uri).connect().await.unwrap_err();
        assert!(matches!(error, ConnectError::Config(_) | ConnectError::Request(_)), "{uri}: {error:?}");
    }
    let hooked =
        WsClient::new(&uri).before_connect(|_, request| async move { Ok(request.header("Upgrade", "x")?) });
    let error = hooked.connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Request(RequestError::ReservedHeader { .. })), "{error:?}");
    // Nobody has come.
    let accepted = tokio::select! {
        biased;
        accepted = listener.accept() => Some(accepted),
        () = tokio::task::yield_now() => None,
    };
    assert!(accepted.is_none(), "{accepted:?}");
}

#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn wss_without_tls_is_said_clearly() {
    let error = WsClient::new("wss://127.0.0.1:1/").connect().await.unwrap_err();
    let ConnectError::Config(config) = &error else { panic!("{error:?}") };
    assert!(config.to_string().contains("TLS"), "{config}");
}

#[tokio::test]
async fn the_request_says_what_the_client_was_told() {
    let (listener, uri) = listen().await;
    let client = WsClient::new(format!("{uri}/room?a=b#fragment"))
        .header("Authorization", "Bearer x")
        .header("X-Twice", "1")
        .header("X-Twice", "2")
        .subprotocols(["one", "two"]);
    let connecting = tokio::spawn(client.connect());
    let mut peer = Peer::accept_raw(&listener).await;
    let upgrade = peer.upgrade_request().await;
    assert_eq!((upgrade.path(), upgrade.query()), ("/chat/room", Some("a=b")));
    assert_eq!(upgrade.protocols(), ["one", "two"]);
    assert_eq!(upgrade.headers()["authorization"], "Bearer x");
    assert_eq!(upgrade.headers().get_all("x-twice").iter().count(), 2);
    assert_eq!(upgrade.headers()["host"], listener.local_addr().unwrap().to_string().as_str());
    let accept = stormsocket::Accept::new().protocol("two");
    peer.write(&upgrade.accept(&accept).unwrap().response).await;
    let client = soon(connecting).await.unwrap().unwrap();
    assert_eq!(client.state(), ConnectionState::Connected);
    client.session().abort();
    soon(client.closed()).await;
}

#[tokio::test]
async fn keys_and_masks_are_never_the_same_twice() {
    let (listener, uri) = listen().await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5 {
        let connecting = tokio::spawn(WsClient::new(&uri).connect());
        let mut peer = Peer::accept_raw(&listener).await;
        let upgrade = peer.upgrade_request().await;
        assert!(seen.insert(upgrade.headers()["sec-websocket-key"].as_bytes().to_vec()));
        peer.write(&upgrade.accept(&stormsocket::Accept::new()).unwrap().response).await;
        let client = soon(connecting).await.unwrap().unwrap();
        for _ in 0..20 {
            client.send(vec![0; 4]).await.unwrap();
        }
        let mut masks = Vec::new();
        while masks.len() < 20 * 10 {
            use tokio::io::AsyncReadExt;
            soon(peer.stream.read_buf(&mut masks)).await.unwrap();
        }
        for frame in masks.chunks(10) {
            assert_eq!(frame[..2], [0x82, 0x84]);
            assert!(seen.insert(frame[2..6].to_vec()), "a mask was used twice");
        }
        client.session().abort();
        soon(client.closed()).await;
    }
}

#[tokio::test]
async fn one_budget_covers_the_whole_attempt() {
    let (listener, uri) = listen().await;
    let budget = Duration::from_millis(200);
    // Takes the connection, and drips an answer for ever.
    let dripping = tokio::spawn(async move {
        let mut peer = Peer::accept_raw(&listener).await;
        peer.upgrade_request().await;
        peer.write("HTTP/1.1 101 Switching Protocols\r\nX-Long: ").await;
        while peer.try_write("x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let error = soon(WsClient::new(uri).connect_timeout(budget).connect()).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut(after) if after == budget), "{error:?}");
    soon(dripping).await.unwrap();

    // The hook's time is part of it.
    let (_listener, uri) = listen().await;
    let client = WsClient::new(uri).connect_timeout(budget).before_connect(|_, _| std::future::pending());
    assert!(matches!(soon(client.connect()).await.unwrap_err(), ConnectError::TimedOut(_)));
}

#[tokio::test]
async fn a_hook_changes_the_headers_of_every_attempt() {
    let (listener, uri) = listen().await;
    let (told, mut attempts) = mpsc::unbounded_channel();
    let (handler, mut observed) = observer();
    let client = WsClient::new(uri)
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
        .before_connect(
            |attempt, request| async move { Ok(request.header("X-Attempt", attempt.to_string())?) },
        )
        .on_reconnecting(move |attempt, delay| {
            told.send((attempt, delay)).unwrap();
            std::future::ready(())
        })
        .handler(handler);
    let connecting = tokio::spawn(client.connect());
    let mut peer = Peer::accept_raw(&listener).await;
    let upgrade = peer.upgrade_request().await;
    assert_eq!(upgrade.headers()["x-attempt"], "0");
    peer.write(&upgrade.accept(&stormsocket::Accept::new()).unwrap().response).await;
    let client = soon(connecting).await.unwrap().unwrap();
    let first = observed.connected().await;
    drop(peer);
    assert_eq!(observed.disconnected().await, DisconnectReason::TransportError);
    assert_eq!(soon(attempts.recv()).await, Some((1, Duration::from_millis(1))));
    // Refused, once: an error that needs a person, and another attempt.
    let mut peer = Peer::accept_raw(&listener).await;
    assert_eq!(peer.upgrade_request().await.headers()["x-attempt"], "1");
    peer.write("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(observed.error().await.0, ErrorKind::Connect);
    assert_eq!(soon(attempts.recv()).await.unwrap().0, 2);
    let mut peer = Peer::accept_raw(&listener).await;
    let upgrade = peer.upgrade_request().await;
    assert_eq!(upgrade.headers()["x-attempt"], "2");
    peer.write(&upgrade.accept(&stormsocket::Accept::new()).unwrap().response).await;
    let second = observed.connected().await;
    assert_ne!(first.id(), second.id());
    // A success starts the count anew; a server that goes away is replaced, too.
    peer.send(0x88, goodbye(1001, "")).await;
    assert_eq!(peer.closes().await, Some(1001));
    drop(peer);
    assert_eq!(observed.disconnected().await, DisconnectReason::GoingAway);
    assert_eq!(soon(attempts.recv()).await.unwrap().0, 1);
    let mut peer = Peer::accept_raw(&listener).await;
    let upgrade = peer.upgrade_request().await;
    assert_eq!(upgrade.headers()["x-attempt"], "1");
    peer.write(&upgrade.accept(&stormsocket::Accept::new()).unwrap().response).await;
    observed.connected().await;
    let ((), code) = tokio::join!(soon(client.disconnect()), async {
        let code = peer.closes().await;
        peer.send(0x88, goodbye(1000, "")).await;
        drop(peer);
        code
    });
    assert_eq!(code, Some(1000));
    assert_eq!(observed.disconnected().await, DisconnectReason::ClosedByClient);
    assert_eq!(client.state(), ConnectionState::Closed);
    let metrics = client.hub().metrics();
    assert_eq!((metrics.total_connections, metrics.active_connections, metrics.error_count), (3, 0, 1));
    drop(client);
    observed.finished().await;
}

#[tokio::test]
async fn a_hook_may_fail_an_attempt_and_replaces_what_it_set_before() {
    let (listener, uri) = listen().await;
    let (handler, mut observed) = observer();
    let client = WsClient::new(uri)
        .header("Authorization", "old")
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)).max_first_attempts(2))
        .before_connect(|attempt, request| async move {
            let token = if attempt == 0 { Err(std::io::Error::other("no token")) } else { Ok("new") };
            Ok(request.set_header("authorization", token?)?)
        })
        .handler(handler);
    let connecting = tokio::spawn(client.connect());
    let mut peer = Peer::accept_raw(&listener).await;
    let upgrade = peer.upgrade_request().await;
    let sent: Vec<_> = upgrade.headers().get_all("authorization").iter().collect();
    assert_eq!(sent, ["new"]);
    let (kind, text) = observed.error().await;
    assert_eq!(kind, ErrorKind::Connect, "{text}");
    peer.write(&upgrade.accept(&stormsocket::Accept::new()).unwrap().response).await;
    let client = soon(connecting).await.unwrap().unwrap();
    observed.connected().await;
    client.abort();

    let (_listener, uri) = listen().await;
    let failing = WsClient::new(uri).before_connect(|_, _| async { Err("no token".into()) }).connect();
    let error = soon(failing).await.expect_err("the hook fails");
    assert!(matches!(&error, ConnectError::Hook(why) if why.to_string() == "no token"), "{error:?}");
}

#[tokio::test]
async fn a_hook_that_panics_fails_its_attempt_and_no_more() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0").start().await.unwrap();
    let client = WsClient::new(format!("ws://{}", server.local_addr().unwrap()))
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
        .before_connect(|attempt, request| async move {
            assert_ne!(attempt, 1, "boom");
            Ok(request)
        })
        .handler(handler)
        .connect();
    let client = soon(client).await.unwrap();
    observed.connected().await.abort();
    assert_eq!(observed.disconnected().await, DisconnectReason::Aborted);
    let (kind, text) = observed.error().await;
    assert_eq!(kind, ErrorKind::Connect, "{text}");
    observed.connected().await;
    soon(client.disconnect()).await;
    observed.disconnected().await;
    drop(client);
    observed.finished().await;
    stop(server).await;
}

#[tokio::test]
async fn a_refusal_whose_body_never_comes_is_still_a_refusal() {
    let (listener, uri) = listen().await;
    let connecting = tokio::spawn(WsClient::new(uri).connect());
    let mut peer = Peer::accept_raw(&listener).await;
    peer.upgrade_request().await;
    peer.write("HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\nbeginning").await;
    let error = soon(connecting).await.unwrap().unwrap_err();
    let ConnectError::Refused { error, body } = error else { panic!("{error:?}") };
    assert_eq!((error.status(), &body[..]), (Some(StatusCode::UNAUTHORIZED), &b"beginning"[..]));
}

#[tokio::test]
async fn a_refusal_counts_though_the_request_was_not_read_to_its_end() {
    let client = || WsClient::default().header("x-long", "0123456789".repeat(100));
    // The server is gone before the request is written, or stays and reads no more of it.
    for stays in [false, true] {
        let (near, mut far) = duplex(64);
        let connecting = tokio::spawn(client().connect_over(near));
        assert_eq!(far.read_u8().await.unwrap(), b'G');
        far.write_all(b"HTTP/1.1 431 Too long\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let kept = stays.then_some(far);
        let error = soon(connecting).await.unwrap().unwrap_err();
        let ConnectError::Refused { error, .. } = error else { panic!("{error:?}") };
        assert_eq!(error.status(), Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), "stays: {stays}");
        drop(kept);
    }
    // Without an answer the request is what failed.
    let (near, mut far) = duplex(64);
    let connecting = tokio::spawn(client().connect_over(near));
    far.read_u8().await.unwrap();
    drop(far);
    let error = soon(connecting).await.unwrap().unwrap_err();
    assert!(matches!(&error, ConnectError::Io(error) if error.kind() == BrokenPipe), "{error:?}");
}

#[tokio::test]
async fn attempts_run_out() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0").start().await.unwrap();
    let uri = format!("ws://{}", server.local_addr().unwrap());
    let client = WsClient::new(uri)
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)).max_attempts(3))
        .handler(handler);
    let client = soon(client.connect()).await.unwrap();
    observed.connected().await;
    stop(server).await;
    assert_eq!(observed.disconnected().await, DisconnectReason::GoingAway);
    soon(client.closed()).await;
    assert_eq!(client.state(), ConnectionState::Closed);
    drop(client);
    // Connections that are refused are to be expected while a server is down.
    observed.finished().await;
}

#[tokio::test]
async fn a_disconnect_during_a_delay_ends_it_at_once() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0").start().await.unwrap();
    let client = WsClient::new(format!("ws://{}", server.local_addr().unwrap()))
        .reconnect(ReconnectOptions::default().delay(Duration::from_secs(3600)))
        .handler(handler);
    let client = soon(client.connect()).await.unwrap();
    observed.connected().await;
    stop(server).await;
    observed.disconnected().await;
    soon(client.disconnect()).await;
    assert_eq!(client.state(), ConnectionState::Closed);
}

#[tokio::test]
async fn the_headers_of_the_servers_answer_are_the_clients_sessions() {
    let served = std::sync::atomic::AtomicUsize::new(1);
    let server = WsServer::bind("127.0.0.1:0")
        .on_upgrade(move |_| {
            let number = served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move { Ok(stormsocket::Accept::new().header("Set-Cookie", format!("node={number}"))?) }
        })
        .start()
        .await
        .unwrap();
    let (connected, mut cookies) = mpsc::unbounded_channel();
    let client = WsClient::new(format!("ws://{}", server.local_addr().unwrap()))
        .reconnect(ReconnectOptions::default().delay(Duration::ZERO))
        .on_connected(move |session| {
            let headers = session.response_headers().expect("of a client");
            connected.send(headers["set-cookie"].clone()).unwrap();
            async {}
        })
        .connect();
    let client = soon(client).await.unwrap();
    for number in 1..=3 {
        assert_eq!(soon(cookies.recv()).await.unwrap(), format!("node={number}"));
        let theirs = server.sessions().iter().next().and_then(|session| stormsocket::WsSession::of(&session));
        assert!(theirs.is_none_or(|session| session.response_headers().is_none()));
        client.session().abort();
    }
    client.abort();
    soon(client.closed()).await;
}

#[test]
fn what_may_be_secret_is_not_shown() {
    for (uri, shown) in [
        ("ws://me:secret@h.test:1/chat?token=secret#secret", "\"ws://h.test:1/chat\""),
        ("wss://h.test?secret", "\"wss://h.test/\""),
        ("ws://me:pa?secret@h.test", "\""),
        ("ws://me@[::1]/a@b", "\"ws://[::1]/a@b\""),
        ("no URI at all, but a secret", "\"\""),
    ] {
        let client = WsClient::new(uri).header("Authorization", "secret");
        let text = format!("{client:?}");
        assert!(text.contains(shown) && !text.contains("secret"), "{text}");
    }
}
