//! What a server's own code makes of a request: answers of its upgrade hook and of its hook for plain HTTP, their mistakes,
//! panics and delays.
#![cfg(all(feature = "server", feature = "ws"))]

mod ws_support;

use std::sync::Arc;
use std::time::Duration;

use stormsocket::metrics::HandshakeFailure;
use stormsocket::{
    Accept, AnswerError, DisconnectReason, ErrorKind, HttpResponse, Reject, SessionKey, StatusCode, WsServer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use ws_support::*;

static USER: SessionKey<String> = SessionKey::new("user");

#[tokio::test]
async fn a_hook_accepts_with_headers_and_rejects_with_status_headers_and_body() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .on_upgrade(|request| async move {
            assert!(request.remote_addr().is_some());
            assert_eq!((request.path(), request.query()), ("/chat", Some("room=1")));
            match request.headers().get("authorization") {
                Some(token) if token == "Bearer sesame" => {
                    let protocol = request.protocols()[1].clone();
                    request.set(&USER, "Ali".to_owned());
                    Ok(Accept::new().protocol(protocol).header("X-Room", "1").unwrap())
                }
                _ => Err(Reject::new(StatusCode::UNAUTHORIZED)
                    .header("WWW-Authenticate", "Bearer")
                    .unwrap()
                    .reason("Who Are You")
                    .unwrap()
                    .text("go away")),
            }
        })
        .handler(handler)
        .start()
        .await
        .unwrap();
    let refused = Peer::refused(&server, plus("Authorization: Basic x")).await;
    assert_eq!((refused.line.as_str(), refused.body.as_str()), ("HTTP/1.1 401 Who Are You", "go away"));
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    let headers = "Authorization: Bearer sesame\r\nSec-WebSocket-Protocol: a, b\r\n";
    let (_peer, accepted) = Peer::connect_with(&server, headers).await;
    assert_eq!(accepted.header("x-room"), Some("1"));
    assert_eq!(accepted.header("sec-websocket-protocol"), Some("b"));
    let session = observed.connected().await;
    assert_eq!((session.protocol(), session.get(&USER).as_deref()), (Some("b"), Some("Ali")));
    stop_all(server).await;
}

/// Stops a server whose peers do not answer.
async fn stop_all(server: stormsocket::ServerHandle) {
    for session in server.sessions().iter() {
        session.abort();
    }
    stop(server).await;
}

#[test]
fn answers_cannot_be_made_to_carry_more_lines() {
    let evil = "x\r\nSet-Cookie: a=b";
    assert_eq!(Reject::new(StatusCode::UNAUTHORIZED).reason(evil), Err(AnswerError::InvalidReason));
    assert!(Reject::new(StatusCode::UNAUTHORIZED).reason("x\ny").is_err());
    for bad in [evil, "x\ny", "x\ry", "x\0y"] {
        assert!(Reject::new(StatusCode::OK).header("X-A", bad).is_err(), "{bad:?}");
        assert!(Accept::new().header("X-A", bad).is_err(), "{bad:?}");
        assert!(Accept::new().header(bad, "x").is_err(), "{bad:?}");
    }
    for reserved in ["Sec-WebSocket-Accept", "Upgrade", "Connection", "Content-Length", "Transfer-Encoding"] {
        assert!(
            matches!(Accept::new().header(reserved, "x"), Err(AnswerError::ReservedHeader { .. })),
            "{reserved}"
        );
    }
}

#[tokio::test]
async fn a_peer_that_stays_after_its_answer_counts_as_what_was_answered() {
    let server = WsServer::bind("127.0.0.1:0")
        .handshake_timeout(Duration::from_millis(200))
        .on_http(|_| async { HttpResponse::new(StatusCode::OK).text("fine") })
        .on_upgrade(|_| async { Err(Reject::new(StatusCode::FORBIDDEN)) })
        .start()
        .await
        .unwrap();
    let mut asked = Peer::dial(&server).await;
    asked.write("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(asked.response().await.status, 200);
    let mut refused = Peer::dial(&server).await;
    refused.write(plus("X-A: b")).await;
    assert_eq!(refused.response().await.status, 403);
    // Neither ends its side: they are cut when the budget is used up.
    until(|| server.connections() == 0).await;
    let metrics = server.metrics();
    assert_eq!((metrics.handshake_failures, metrics.handshake_timeouts), (1, 0));
    assert_eq!(metrics.handshake_failures_by.get(HandshakeFailure::Rejected), 1);
    stop(server).await;
}

#[tokio::test]
async fn a_hook_that_never_answers_is_cut_at_the_budget() {
    let server = WsServer::bind("127.0.0.1:0")
        .handshake_timeout(Duration::from_millis(200))
        .on_upgrade(|_| std::future::pending())
        .start()
        .await
        .unwrap();
    let mut peer = Peer::dial(&server).await;
    peer.write(plus("X-A: b")).await;
    peer.gone().await;
    until(|| server.connections() == 0).await;
    assert_eq!(server.metrics().handshake_timeouts, 1);
    stop(server).await;
}

#[tokio::test]
async fn a_mistake_in_an_answer_is_answered_with_500_and_reported() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .on_upgrade(|_| async move {
            Err::<Accept, _>(Reject::new(StatusCode::FORBIDDEN).header("Content-Length", "3")?)
        })
        .on_http(|request| async move {
            let answer = HttpResponse::new(StatusCode::OK);
            Ok(if request.path() == "/good" { answer } else { answer.header("no name", "")? })
        })
        .handler(handler)
        .start()
        .await
        .unwrap();
    for (refused, names) in
        [(plus(""), "content-length"), ("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "no name")]
    {
        let response = Peer::refused(&server, refused).await;
        assert_eq!(response.status, 500);
        let (kind, text) = observed.error().await;
        assert_eq!(kind, ErrorKind::Handshake);
        assert!(text.contains(names), "{text}");
    }
    assert_eq!(Peer::refused(&server, "GET /good HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    let metrics = server.metrics();
    assert_eq!(
        (metrics.error_count, metrics.handshake_failures_by.get(HandshakeFailure::HookFailed)),
        (2, 2)
    );
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn a_hook_that_panics_is_answered_with_500_and_reported() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .on_upgrade(|request| async move {
            assert!(request.headers().contains_key("x-good"), "boom");
            Ok(Accept::new())
        })
        .on_http(|request| async move {
            assert_ne!(request.path(), "/boom", "bang");
            HttpResponse::new(StatusCode::OK)
        })
        .handler(handler)
        .start()
        .await
        .unwrap();
    assert_eq!(Peer::refused(&server, plus("X-Bad: 1")).await.status, 500);
    let (kind, text) = observed.error().await;
    assert_eq!(kind, ErrorKind::Panic);
    assert!(text.contains("boom"), "{text}");
    assert_eq!(Peer::refused(&server, "GET /boom HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 500);
    assert_eq!(observed.error().await.0, ErrorKind::Panic);
    // And the server goes on.
    let (peer, _) = Peer::connect_with(&server, "X-Good: 1\r\n").await;
    observed.connected().await;
    drop(peer);
    observed.disconnected().await;
    assert_eq!(server.metrics().error_count, 2);
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn a_panic_over_the_report_of_a_hooks_panic_changes_nothing() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .on_upgrade(|request| async move {
            assert!(request.headers().contains_key("x-good"), "boom");
            Ok(Accept::new())
        })
        .handler(handler)
        .on_error(|session, _| async move { assert!(session.is_some(), "no session") })
        .start()
        .await
        .unwrap();
    assert_eq!(Peer::refused(&server, plus("X-Bad: 1")).await.status, 500);
    assert_eq!(observed.error().await.0, ErrorKind::Panic);
    let (peer, _) = Peer::connect_with(&server, "X-Good: 1\r\n").await;
    observed.connected().await;
    assert_eq!(server.metrics().error_count, 1);
    drop(peer);
    observed.disconnected().await;
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_the_hook_runs_leaves_nothing_behind() {
    let (entered, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (enter, pass) = (entered.clone(), gate.clone());
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .on_upgrade(move |_| {
            let (enter, pass) = (enter.clone(), pass.clone());
            async move {
                enter.notify_one();
                pass.acquire().await.unwrap().forget();
                Ok(Accept::new())
            }
        })
        .handler(handler)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::dial(&server).await;
    peer.write(plus("X-A: b")).await;
    soon(entered.notified()).await;
    drop(peer);
    gate.add_permits(1);
    until(|| server.connections() == 0).await;
    // The 101 may have found a closed socket, or been taken by the kernel before the end was seen.
    match server.metrics().total_connections {
        0 => observed.quiet(),
        _ => {
            observed.connected().await;
            assert_eq!(observed.disconnected().await, DisconnectReason::TransportError);
        }
    }
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn plain_http_is_answered_by_its_hook_and_by_426_without_one() {
    let server = WsServer::bind("127.0.0.1:0")
        .on_http(|request| async move {
            assert!(request.remote_addr().is_some());
            match request.path() {
                "/health" => HttpResponse::new(StatusCode::OK).text(request.query().unwrap_or("fine")),
                _ => HttpResponse::new(StatusCode::NOT_FOUND),
            }
        })
        .start()
        .await
        .unwrap();
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let healthy = Peer::refused(&server, get("/health")).await;
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "fine"));
    assert_eq!(Peer::refused(&server, get("/health?really")).await.body, "really");
    assert_eq!(Peer::refused(&server, get("/")).await.status, 404);
    assert_eq!(Peer::refused(&server, with("GET", "POST")).await.status, 405);
    assert_eq!(Peer::refused(&server, "GET /health HTTP/1.1\r\n\r\n").await.status, 400, "no host");
    let old = Peer::refused(&server, "GET /health HTTP/1.0\r\n\r\n").await;
    assert_eq!((old.status, old.body.as_str()), (200, "fine"), "which needs no host");
    assert_eq!(Peer::refused(&server, "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n").await.status, 400);
    assert_eq!(Peer::refused(&server, with("HTTP/1.1", "HTTP/1.0")).await.status, 505, "an upgrade");
    let upgrade_to_other = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    assert_eq!(Peer::refused(&server, upgrade_to_other).await.status, 200);
    drop(Peer::connect(&server).await);
    stop(server).await;

    let server = WsServer::bind("127.0.0.1:0").start().await.unwrap();
    assert_eq!(Peer::refused(&server, get("/")).await.status, 426);
    assert_eq!(Peer::refused(&server, "GET / HTTP/1.0\r\n\r\n").await.status, 505);
    stop(server).await;
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_body() {
    let server = WsServer::bind("127.0.0.1:0")
        .on_http(|_| async { HttpResponse::new(StatusCode::OK).text("fine") })
        .start()
        .await
        .unwrap();
    for (request, status, len) in [
        ("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "200 OK", Some("4")),
        (with("GET", "HEAD"), "405 Method Not Allowed", None),
    ] {
        let mut stream = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert!(len.is_none_or(|len| answer.contains(&format!("content-length: {len}\r\n"))), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
    stop(server).await;
}
