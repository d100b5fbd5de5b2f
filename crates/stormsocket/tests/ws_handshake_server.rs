//! The upgrade as a server meets it: every rule a request can break, origins, hooks, subprotocols, budgets and slots.
#![cfg(all(feature = "server", feature = "ws"))]

mod ws_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stormsocket::metrics::Limit;
use stormsocket::{Accept, DisconnectReason, ErrorKind, HeadLimits, HttpResponse, StatusCode, WsServer};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use ws_support::*;

#[tokio::test]
async fn requests_that_break_a_rule_get_its_status_and_no_session() {
    let hooked = Arc::new(AtomicUsize::new(0));
    let calls = hooked.clone();
    let (handler, observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .on_upgrade(move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            async { Ok(Accept::new()) }
        })
        .handler(handler)
        .start()
        .await
        .unwrap();
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let key_of = |value: &str| with(&key, &format!("Sec-WebSocket-Key: {value}\r\n"));
    let rows = [
        ("POST", with("GET", "POST"), 405),
        ("CONNECT", with("GET /chat?room=1", "CONNECT server.example.com:80"), 405),
        ("HTTP/1.0", with("HTTP/1.1", "HTTP/1.0"), 505),
        ("HTTP/2.0", with("HTTP/1.1", "HTTP/2.0"), 505),
        ("a garbage version", with("HTTP/1.1", "HTTQ/1.1"), 505),
        ("no Host", with("Host: server.example.com\r\n", ""), 400),
        ("two Hosts", plus("Host: server.example.com"), 400),
        ("Connection: Upgraded", with("Connection: Upgrade", "Connection: Upgraded"), 400),
        ("Connection: X-Upgrade", with("Connection: Upgrade", "Connection: X-Upgrade"), 400),
        ("no Connection", with("Connection: Upgrade\r\n", ""), 400),
        ("Upgrade: h2c", with("Upgrade: websocket", "Upgrade: h2c"), 426),
        ("no Upgrade", with("Upgrade: websocket\r\n", ""), 426),
        ("version 8", with("Version: 13", "Version: 8"), 426),
        ("no version", with("Sec-WebSocket-Version: 13\r\n", ""), 426),
        ("two versions", plus("Sec-WebSocket-Version: 13"), 400),
        ("no key", with(&key, ""), 400),
        ("two keys", plus(key.trim_end()), 400),
        ("an empty key", key_of(""), 400),
        ("a key of 15 bytes", key_of("AAAAAAAAAAAAAAAAAAAA"), 400),
        ("a key of 17 bytes", key_of("AAAAAAAAAAAAAAAAAAAAAAA="), 400),
        ("a key that is not base64", key_of("!!!!!!!!!!!!!!!!!!!!!!=="), 400),
        ("a body of known length", plus("Content-Length: 5"), 400),
        ("a body in chunks", plus("Transfer-Encoding: chunked"), 400),
        ("bare line feeds", request().replace("\r\n", "\n") + "\n", 400),
        ("a folded header", plus("X-A: b\r\n c"), 400),
        ("a space before a colon", plus("X-A : b"), 400),
        ("TLS", "\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03\r\n\r\n".to_owned(), 400),
    ];
    let count = rows.len() as u64;
    for (name, request, status) in rows {
        let response = Peer::refused(&server, &request).await;
        assert_eq!(response.status, status, "{name}: {response:?}");
        assert!(response.header("connection").unwrap().contains("close"), "{name}");
        match status {
            405 => assert_eq!(response.header("allow"), Some("GET"), "{name}"),
            426 => {
                assert_eq!(response.header("upgrade"), Some("websocket"), "{name}");
                assert_eq!(response.header("sec-websocket-version"), Some("13"), "{name}");
            }
            _ => {}
        }
    }
    until(|| server.connections() == 0).await;
    assert_eq!(hooked.load(Ordering::Relaxed), 0, "no hook for what is no request");
    let metrics = server.metrics();
    assert_eq!((metrics.total_connections, metrics.handshake_failures), (0, count));
    assert_eq!((metrics.handshake_timeouts, metrics.error_count), (0, 0));
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn requests_that_look_odd_but_follow_the_rules_are_accepted() {
    let (handler, mut observed) = echo();
    let server = WsServer::bind("127.0.0.1:0").handler(handler).start().await.unwrap();
    for request in [
        with("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        with("Connection: Upgrade", "cOnNeCtIoN: uPgRaDe"),
        with("Connection: Upgrade", "Connection: close\r\nConnection: x, upgrade ,y"),
        with("Upgrade: websocket", "UPGRADE: h2c, WebSocket"),
        with("/chat?room=1", "http://server.example.com/chat?room=1"),
        plus("Content-Length: 0"),
        plus("Sec-WebSocket-Extensions: x-unknown; a=\"b\", permessage-deflate"),
        format!("\r\n{}\r\n", crate::ws_support::request()),
    ] {
        let mut peer = Peer::dial(&server).await;
        // Frames may follow the request in the same segment.
        peer.write([request.as_bytes(), &masked(0x81, b"early")].concat()).await;
        let response = peer.response().await;
        assert_eq!(
            (response.status, response.header("sec-websocket-accept")),
            (101, Some(ACCEPT)),
            "{request}"
        );
        assert_eq!(response.header("sec-websocket-extensions"), None, "nothing is agreed that is not on");
        let session = observed.connected().await;
        assert_eq!((session.path(), session.query(), session.protocol()), ("/chat", Some("room=1"), None));
        assert_eq!(observed.message().await.text(), Some("early"));
        assert_eq!(peer.frame().await.text(), "early");
        drop(peer);
        assert_eq!(observed.disconnected().await, DisconnectReason::TransportError);
    }
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn a_head_above_its_limits_gets_431_at_once_or_byte_by_byte() {
    let limits = HeadLimits::default().max_bytes(2000).max_headers(20);
    let server = WsServer::bind("127.0.0.1:0").head_limits(limits).start().await.unwrap();
    let long = plus(&format!("X-Long: {}", "x".repeat(2000)));
    assert_eq!(Peer::refused(&server, &long).await.status, 431);
    assert_eq!(Peer::refused(&server, plus(&"X-A: b\r\n".repeat(20))).await.status, 431);
    // Without an end: refused as soon as the limit is reached, not before.
    let mut peer = Peer::dial(&server).await;
    for piece in long.as_bytes()[..1999].chunks(37) {
        peer.write(piece).await;
    }
    assert!(peer.wire.is_empty());
    peer.write("y").await;
    assert_eq!(peer.response().await.status, 431);
    peer.end().await;
    // As many as are allowed.
    let lines = request().lines().count() - 1;
    let (_peer, _) = Peer::connect_with(&server, &"X-A: b\r\n".repeat(20 - lines)).await;
    drop((peer, _peer));
    stop(server).await;

    let server = WsServer::bind("127.0.0.1:0").start().await.unwrap();
    assert_eq!(Peer::refused(&server, plus(&format!("X: {}", "x".repeat(16 << 10)))).await.status, 431);
    assert_eq!(Peer::refused(&server, plus(&"X-A: b\r\n".repeat(100))).await.status, 431);
    stop(server).await;
}

#[tokio::test]
async fn a_slow_loris_is_cut_at_the_budget_and_gives_its_slot_back() {
    let budget = Duration::from_millis(300);
    let server =
        WsServer::bind("127.0.0.1:0").handshake_timeout(budget).max_connections(1).start().await.unwrap();
    let began = Instant::now();
    let mut peer = Peer::dial(&server).await;
    let drip = async {
        for byte in request().as_bytes().chunks(1).cycle() {
            if peer.try_write(byte).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = drip => {}
        () = until(|| server.metrics().handshake_timeouts == 1) => {}
    }
    assert!(began.elapsed() >= budget, "{:?}", began.elapsed());
    peer.gone().await;
    until(|| server.connections() == 0).await;
    let metrics = server.metrics();
    assert_eq!((metrics.handshake_failures, metrics.handshake_timeouts), (1, 1));
    assert_eq!((metrics.total_connections, metrics.error_count), (0, 0));
    // The slot is free again.
    let peer = Peer::connect(&server).await;
    drop(peer);
    stop(server).await;
}

#[tokio::test]
async fn only_origins_on_the_list_get_in() {
    let server = WsServer::bind("127.0.0.1:0")
        .allow_origins(["https://good.com", "http://localhost:3000"])
        .start()
        .await
        .unwrap();
    for origin in [
        "https://good.com.evil.com",
        "https://evil.com",
        "http://good.com",
        "https://good.com:444",
        "https://sub.good.com",
        "https://good.com@evil.com",
        "http://localhost",
        "null",
        "",
    ] {
        assert_eq!(Peer::refused(&server, plus(&format!("Origin: {origin}"))).await.status, 403, "{origin}");
    }
    assert_eq!(Peer::refused(&server, plus("X-No: origin")).await.status, 403, "no origin");
    let two = plus("Origin: https://good.com\r\nOrigin: https://good.com");
    assert_eq!(Peer::refused(&server, two).await.status, 400, "two origins");
    for origin in [
        "https://good.com",
        "https://GOOD.com",
        "HTTPS://good.com",
        "https://good.com:443",
        "http://localhost:3000",
    ] {
        Peer::connect_with(&server, &format!("Origin: {origin}\r\n")).await;
    }
    stop(server).await;
    let wrong = WsServer::bind("127.0.0.1:0").allow_origins(["good.com"]).start().await;
    assert!(wrong.is_err(), "an origin has a scheme");
}

#[tokio::test]
async fn a_subprotocol_that_was_not_offered_never_reaches_the_wire() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .on_upgrade(|_| async { Ok(Accept::new().protocol("c")) })
        .handler(handler)
        .start()
        .await
        .unwrap();
    for offer in ["Sec-WebSocket-Protocol: a, b", "X-No: offer"] {
        let response = Peer::refused(&server, plus(offer)).await;
        assert_eq!(response.status, 500);
        assert!(!response.head.to_lowercase().contains("sec-websocket-protocol"));
        let (kind, text) = observed.error().await;
        assert_eq!(kind, ErrorKind::Handshake);
        assert!(text.contains("`c` was not offered"), "{text}");
    }
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn the_servers_favourite_of_the_offered_subprotocols_is_chosen() {
    let (handler, mut observed) = observer();
    let server =
        WsServer::bind("127.0.0.1:0").subprotocols(["v2", "v1"]).handler(handler).start().await.unwrap();
    for (offer, chosen) in [("v1, v2", Some("v2")), ("v0, v1", Some("v1")), ("v0", None), ("V2", None)] {
        let headers = format!("Sec-WebSocket-Protocol: {offer}\r\n");
        let (peer, response) = Peer::connect_with(&server, &headers).await;
        assert_eq!(response.header("sec-websocket-protocol"), chosen, "{offer}");
        assert_eq!(observed.connected().await.protocol(), chosen, "{offer}");
        drop(peer);
        observed.disconnected().await;
    }
    assert_eq!(Peer::refused(&server, plus("Sec-WebSocket-Protocol: a, a")).await.status, 400);
    stop(server).await;
    assert!(WsServer::bind("127.0.0.1:0").subprotocols(["a b"]).start().await.is_err());
}

#[tokio::test]
async fn the_list_of_subprotocols_holds_where_the_hook_chooses_none() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .subprotocols(["v2", "v1"])
        .on_upgrade(|request| async move {
            Ok(match request.headers().get("x-choose") {
                Some(wanted) => Accept::new().protocol(wanted.to_str().unwrap()),
                None => Accept::new().header("X-Hook", "silent").unwrap(),
            })
        })
        .handler(handler)
        .start()
        .await
        .unwrap();
    let hooked = [
        ("Sec-WebSocket-Protocol: v1, v2\r\n", Some("v2"), Some("silent")),
        ("Sec-WebSocket-Protocol: v1, v2\r\nX-Choose: v1\r\n", Some("v1"), None),
        ("Sec-WebSocket-Protocol: v0\r\n", None, Some("silent")),
        ("", None, Some("silent")),
    ];
    for (headers, chosen, hook) in hooked {
        let (peer, response) = Peer::connect_with(&server, headers).await;
        assert_eq!(response.header("sec-websocket-protocol"), chosen, "{headers}");
        assert_eq!(response.header("x-hook"), hook, "{headers}");
        assert_eq!(observed.connected().await.protocol(), chosen, "{headers}");
        drop(peer);
        observed.disconnected().await;
    }
    stop(server).await;
}

#[tokio::test]
async fn two_hundred_at_once_and_ten_slots_make_ten_sessions() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .max_connections(10)
        .backlog(256)
        .handler(handler)
        .start()
        .await
        .unwrap();
    let attempts: Vec<_> = (0..200)
        .map(|_| {
            let addr = server.local_addr().unwrap();
            tokio::spawn(async move {
                let mut peer = Peer::over(tokio::net::TcpStream::connect(addr).await.ok()?);
                peer.try_write(plus("X-A: b")).await.ok()?;
                let mut seen = [0; 12];
                peer.stream.read_exact(&mut seen).await.ok()?;
                assert_eq!(&seen, b"HTTP/1.1 101");
                Some(peer)
            })
        })
        .collect();
    let mut upgraded = Vec::new();
    for attempt in attempts {
        upgraded.extend(soon(attempt).await.unwrap());
    }
    assert_eq!(upgraded.len(), 10);
    for _ in 0..10 {
        observed.connected().await;
    }
    assert_eq!((server.connections(), server.sessions().len()), (10, 10));
    observed.quiet();
    // One leaves, one gets in.
    upgraded.pop();
    observed.disconnected().await;
    until(|| server.connections() == 9).await;
    let peer = Peer::connect(&server).await;
    observed.connected().await;
    drop((upgraded, peer));
    stop(server).await;
    assert_eq!(observed_ends(observed).await, 10);
}

/// Only ends are left: how many.
async fn observed_ends(mut observed: Observed) -> usize {
    let mut ends = 0;
    while let Some(event) = soon(observed.next()).await {
        assert!(matches!(event, Event::Disconnected(_)), "{event:?}");
        ends += 1;
    }
    ends
}

#[tokio::test]
async fn half_open_handshakes_count_towards_the_limit() {
    let server = WsServer::bind("127.0.0.1:0").max_connections(2).start().await.unwrap();
    let (one, two) = (Peer::dial(&server).await, Peer::dial(&server).await);
    until(|| server.connections() == 2).await;
    let mut three = Peer::dial(&server).await;
    three.end().await;
    drop((one, two));
    until(|| server.connections() == 0).await;
    stop(server).await;
}

#[tokio::test]
async fn a_peer_that_sends_nothing_and_leaves_is_no_error() {
    let (handler, observed) = observer();
    let server = WsServer::bind("127.0.0.1:0").handler(handler).start().await.unwrap();
    drop(Peer::dial(&server).await);
    let mut peer = Peer::dial(&server).await;
    peer.write("GET /ch").await;
    drop(peer);
    until(|| server.metrics().handshake_failures == 2).await;
    assert_eq!(server.metrics().error_count, 0);
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn half_open_handshakes_of_an_address_are_limited_and_open_sessions_are_not() {
    let server = WsServer::bind("127.0.0.1:0")
        .max_handshakes_per_ip(2)
        .on_http(|_| async { HttpResponse::new(StatusCode::OK).text("ok") })
        .start()
        .await
        .unwrap();
    let mut upgraded = Vec::new();
    for _ in 0..5 {
        upgraded.push(Peer::connect(&server).await);
    }
    until(|| server.sessions().len() == 5).await;
    let mut silent = Peer::dial(&server).await;
    let half = Peer::dial(&server).await;
    until(|| server.connections() == 7).await;
    let mut excess = Peer::dial(&server).await;
    excess.end().await;
    let refused = server.metrics().refused;
    assert_eq!((refused.get(Limit::HandshakesPerIp), refused.total()), (1, 1));
    // One that is through makes room, as does one that leaves, or has been answered.
    silent.write(format!("{}\r\n", request())).await;
    assert_eq!(silent.response().await.status, 101);
    upgraded.push(silent);
    drop(half);
    until(|| server.connections() == 6).await;
    for _ in 0..3 {
        let answer = Peer::refused(&server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.body, "ok");
        until(|| server.connections() == 6).await;
    }
    upgraded.push(Peer::connect(&server).await);
    drop(upgraded);
    stop(server).await;
}
