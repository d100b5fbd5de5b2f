//! WebSocket clients that lose their server.

mod ws_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use stormsocket::{
    ClientHandle, ConnectError, ConnectionState, DisconnectReason, ErrorKind, ReconnectOptions, SendError,
    SendOutcome, WsClient,
};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;
use ws_support::*;

const SHORT: Duration = Duration::from_millis(1);

async fn client(
    listener: &TcpListener,
    options: ReconnectOptions,
) -> (ClientHandle, Observed, Arc<AtomicU32>, Peer) {
    let (handler, observed) = observer();
    let attempts = Arc::new(AtomicU32::new(0));
    let connecting = WsClient::new(format!("ws://{}", listener.local_addr().unwrap()))
        .reconnect(options)
        .on_reconnecting({
            let attempts = attempts.clone();
            move |attempt, _| {
                attempts.store(attempt, Ordering::SeqCst);
                async {}
            }
        })
        .handler(handler)
        .connect();
    let (client, peer) = soon(async { tokio::join!(connecting, Peer::accept(listener)) }).await;
    (client.unwrap(), observed, attempts, peer)
}

async fn refuse(listener: &TcpListener, answer: &str) {
    let mut peer = Peer::accept_raw(listener).await;
    peer.upgrade_request().await;
    peer.write(answer).await;
    drop(peer);
}

#[tokio::test]
async fn a_hundred_refused_attempts_then_a_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (client, mut observed, attempts, peer) =
        client(&listener, ReconnectOptions::exponential(SHORT, SHORT)).await;
    let first = observed.connected().await;
    drop((peer, listener));
    assert_eq!(observed.disconnected().await, DisconnectReason::TransportError);
    until(|| attempts.load(Ordering::SeqCst) >= 100).await;
    assert_eq!(client.state(), ConnectionState::Connecting);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    let listener = socket.listen(8).unwrap();
    let _peer = Peer::accept(&listener).await;
    assert!(observed.connected().await.id() > first.id());
    assert_eq!(client.hub().metrics().error_count, 0);
    client.abort();
    soon(client.closed()).await;
    assert_eq!(observed.disconnected().await, DisconnectReason::Aborted);
}

#[tokio::test]
async fn servers_that_reset_before_or_after_the_upgrade_are_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, mut observed, attempts, peer) =
        client(&listener, ReconnectOptions::default().delay(SHORT)).await;
    observed.connected().await;
    let reset = |peer: Peer| socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
    reset(peer);
    assert_eq!(observed.disconnected().await, DisconnectReason::TransportError);
    for expected in 1..=3 {
        let mut peer = Peer::accept_raw(&listener).await;
        peer.upgrade_request().await;
        assert_eq!(attempts.load(Ordering::SeqCst), expected);
        reset(peer);
    }
    let peer = Peer::accept(&listener).await;
    observed.connected().await;
    assert_eq!(attempts.load(Ordering::SeqCst), 4);
    reset(peer);
    observed.disconnected().await;
    let _peer = Peer::accept(&listener).await;
    observed.connected().await;
    assert_eq!(attempts.load(Ordering::SeqCst), 1, "a success starts the count anew");
    client.abort();
}

#[tokio::test]
async fn a_4xx_ends_the_client_and_says_so_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, mut observed, _, peer) = client(&listener, ReconnectOptions::default().delay(SHORT)).await;
    observed.connected().await;
    drop(peer);
    observed.disconnected().await;
    refuse(&listener, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await;
    soon(client.closed()).await;
    assert_eq!(observed.error().await.0, ErrorKind::Connect);
    assert_eq!(client.state(), ConnectionState::Closed);
    assert_eq!(client.hub().metrics().error_count, 1);
    let error = client.last_error().expect("it gave up");
    assert_eq!(
        format!("{error:#}"),
        "connecting failed: the server did not upgrade the connection: server answered 401 Unauthorized"
    );
    drop(client);
    observed.finished().await;
}

#[tokio::test]
async fn a_503_is_tried_again_no_sooner_than_it_asks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let longest = Duration::from_millis(120);
    let options = ReconnectOptions::default().delay(SHORT).max_retry_after(longest).max_attempts(2);
    let (client, mut observed, _, peer) = client(&listener, options).await;
    observed.connected().await;
    drop(peer);
    observed.disconnected().await;
    let busy = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n";
    refuse(&listener, busy).await;
    let began = Instant::now();
    let mut peer = Peer::accept(&listener).await;
    assert!(began.elapsed() >= longest / 2, "{:?}", began.elapsed());
    observed.error().await;
    observed.connected().await;
    peer.send(0x81, "back").await;
    assert_eq!(observed.message().await.text(), Some("back"));
    client.abort();
}

#[tokio::test]
async fn what_a_refusal_says_is_there_to_decide_by() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = WsClient::new(format!("ws://{}", listener.local_addr().unwrap())).connect();
    let busy = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
    let (failed, ()) = soon(async { tokio::join!(connecting, refuse(&listener, busy)) }).await;
    let failed = failed.unwrap_err();
    assert!(matches!(failed, ConnectError::Refused { .. }));
    assert_eq!((failed.is_retryable(), failed.retry_after()), (true, Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn queued_messages_reach_the_next_server_in_order() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ReconnectOptions::default().delay(SHORT).max_queued_bytes(1024);
    let (client, mut observed, _, peer) = client(&listener, options).await;
    observed.connected().await;
    drop(peer);
    observed.disconnected().await;
    let sending: Vec<_> = (0..10)
        .map(|number| {
            let client = client.clone();
            let mut send = Box::pin(async move { client.send_text(format!("{number}")).await });
            let first = send.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
            assert!(first.is_pending());
            tokio::spawn(send)
        })
        .collect();
    let mut peer = Peer::accept(&listener).await;
    for number in 0..10 {
        assert_eq!(peer.frame().await.text(), number.to_string());
    }
    for sent in sending {
        assert_eq!(soon(sent).await.unwrap().unwrap(), SendOutcome::Sent);
    }
    client.abort();
}

#[tokio::test]
async fn an_end_that_is_final_ends_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (handler, mut observed) = observer();
    let connecting = WsClient::new(format!("ws://{}", listener.local_addr().unwrap()))
        .reconnect(ReconnectOptions::default().delay(SHORT))
        .reconnect_if(|session, reason| {
            assert_eq!(
                (reason, session.state()),
                (DisconnectReason::ClosedByServer, ConnectionState::Closed)
            );
            let code = session.close_frame().map(|frame| u16::from(frame.code));
            assert_ne!(code, Some(4000), "a panic decides nothing");
            code != Some(4001)
        })
        .handler(handler)
        .connect();
    let connecting = tokio::spawn(connecting);
    for code in [1000, 4000, 4001] {
        let mut peer = Peer::accept(&listener).await;
        observed.connected().await;
        peer.send(0x88, goodbye(code, "")).await;
        assert_eq!(peer.closes().await, Some(code));
        drop(peer);
        observed.disconnected().await;
    }
    let client = soon(connecting).await.unwrap().unwrap();
    soon(client.closed()).await;
    assert_eq!(client.state(), ConnectionState::Closed);
    observed.finished().await;
}

#[tokio::test]
async fn a_queued_text_may_be_bytes_and_others_are_refused_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ReconnectOptions::default().delay(SHORT).max_queued_bytes(1024);
    let (client, mut observed, _, peer) = client(&listener, options).await;
    observed.connected().await;
    drop(peer);
    observed.disconnected().await;
    let (waits, ()) = tokio::join!(biased; client.send_text(Bytes::from_static("ü".as_bytes())), async {
        // Nobody accepts before this is over: what is refused does not wait.
        let refused = client.send_text(Bytes::from_static(b"\xC3")).await;
        assert!(matches!(refused, Err(SendError::InvalidUtf8)), "{refused:?}");
        let mut peer = Peer::accept(&listener).await;
        assert_eq!(peer.frame().await.text(), "ü");
    });
    assert_eq!(waits.unwrap(), SendOutcome::Sent);
    client.abort();
}
