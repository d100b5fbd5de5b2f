//! Clients that connect, fail to, and come back.

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use stormsocket::{
    ClientHandle, ConfigError, ConnectError, ConnectionState, DisconnectReason, ErrorKind, ReconnectOptions,
    SendError, TcpClient,
};
use support::*;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

const DELAY: Duration = Duration::from_millis(20);

/// A port that refuses until [`listen`] is called on it.
async fn unused_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn listen(addr: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    socket.listen(16).unwrap()
}

async fn accept(listener: &TcpListener) -> TcpStream {
    soon(listener.accept()).await.unwrap().0
}

type Attempts = mpsc::UnboundedReceiver<(u32, Duration)>;

async fn client(addr: SocketAddr, options: ReconnectOptions) -> (ClientHandle, Log, Attempts) {
    let (recorder, log) = recorder();
    let (attempts, tried) = mpsc::unbounded_channel();
    let client = TcpClient::new(addr)
        .reconnect(options)
        .on_reconnecting(move |attempt, delay| {
            let _ = attempts.send((attempt, delay));
            async {}
        })
        .handler(recorder)
        .connect()
        .await
        .unwrap();
    (client, log, tried)
}

#[tokio::test]
async fn the_error_of_the_first_attempt_is_returned_and_not_retried() {
    let addr = unused_port().await;
    let (recorder, mut log) = recorder();
    let connecting =
        TcpClient::new(addr).reconnect(ReconnectOptions::default().delay(DELAY)).handler(recorder).connect();
    let refused = soon(connecting).await.expect_err("nobody listens");
    assert!(
        matches!(&refused, ConnectError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
    );
    log.assert_quiet();
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_an_error() {
    let failed = soon(TcpClient::new("no port here").connect()).await.expect_err("not an address");
    assert!(matches!(failed, ConnectError::Io(_)));
}

#[tokio::test]
async fn connecting_has_a_deadline() {
    // A full accept queue that nobody empties: connects neither succeed nor fail.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await
    {
        queued.push(connected.unwrap());
    }
    let budget = Duration::from_millis(100);
    let began = Instant::now();
    let failed =
        soon(TcpClient::new(addr).connect_timeout(budget).connect()).await.expect_err("nobody accepts");
    assert!(matches!(failed, ConnectError::TimedOut(given) if given == budget), "{failed:?}");
    assert!(began.elapsed() >= budget);
}

#[tokio::test]
async fn bad_combinations_are_refused_before_anything_is_opened() {
    let addr = unused_port().await;
    for (client, name) in [
        (TcpClient::new(addr).connect_timeout(Duration::ZERO), "connect_timeout"),
        (TcpClient::new(addr).reconnect(ReconnectOptions::default().max_attempts(0)), "max_attempts"),
        (TcpClient::new(addr).max_pending_send_bytes(0), "max_pending_send_bytes"),
        (TcpClient::new(addr).close_deadline(Duration::ZERO), "close_deadline"),
    ] {
        match client.connect().await {
            Err(ConnectError::Config(ConfigError::Invalid { option, .. })) => assert_eq!(option, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_down_for_several_attempts_is_found_when_it_is_back() {
    let addr = unused_port().await;
    let listener = listen(addr);
    let (client, mut log, mut tried) = client(addr, ReconnectOptions::default().delay(DELAY)).await;
    let mut stream = accept(&listener).await;
    let first = log.connected().await;
    let mut listener = listener;
    for _ in 0..2 {
        drop((stream, listener));
        assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
        // Each loss starts the count anew.
        for attempt in 1..=5 {
            assert_eq!(soon(tried.recv()).await, Some((attempt, DELAY)));
            assert_eq!(client.state(), ConnectionState::Connecting);
            assert!(matches!(client.send("x").await, Err(SendError::Closed(_))));
        }
        listener = listen(addr);
        stream = accept(&listener).await;
        let again = log.connected().await;
        assert_ne!(again.id(), first.id());
        assert_eq!(client.session(), again);
        assert_eq!(client.state(), ConnectionState::Connected);
        while tried.try_recv().is_ok() {}
    }
    assert_eq!(client.hub().metrics().total_connections, 3);
    assert_eq!(client.hub().metrics().error_count, 0, "a refused attempt is no error");
    drop(stream);
    soon(client.disconnect()).await;
    assert!(matches!(log.next().await, Event::Disconnected(..)));
    log.assert_quiet();
}

#[tokio::test]
async fn a_server_that_resets_each_connection_is_tried_as_attempt_one_each_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ReconnectOptions::default().delay(DELAY).max_attempts(2);
    let (client, mut log, mut tried) = client(listener.local_addr().unwrap(), options).await;
    for _ in 0..5 {
        let stream = accept(&listener).await;
        log.connected().await;
        Peer(stream).reset();
        assert_eq!(log.disconnected().await, DisconnectReason::TransportError);
        assert_eq!(soon(tried.recv()).await, Some((1, DELAY)));
    }
    soon(client.disconnect()).await;
}

#[tokio::test]
async fn it_gives_up_after_as_many_attempts_as_told() {
    let addr = unused_port().await;
    let listener = listen(addr);
    let options = ReconnectOptions::default().delay(Duration::from_millis(1)).max_attempts(3);
    let (client, mut log, mut tried) = client(addr, options).await;
    let stream = accept(&listener).await;
    log.connected().await;
    drop((stream, listener));
    soon(client.closed()).await;
    assert_eq!(client.state(), ConnectionState::Closed);
    let mut attempts = Vec::new();
    while let Ok((attempt, _)) = tried.try_recv() {
        attempts.push(attempt);
    }
    assert_eq!(attempts, [1, 2, 3]);
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    log.assert_quiet();
}

#[tokio::test]
async fn on_reconnecting_comes_after_the_delay_right_before_the_attempt() {
    let addr = unused_port().await;
    let listener = listen(addr);
    let delay = Duration::from_millis(150);
    let (client, mut log, mut tried) = client(addr, ReconnectOptions::default().delay(delay)).await;
    let stream = accept(&listener).await;
    log.connected().await;
    drop(stream);
    log.disconnected().await;
    let lost = Instant::now();
    assert_eq!(soon(tried.recv()).await, Some((1, delay)));
    assert!(lost.elapsed() + Duration::from_millis(20) >= delay, "{:?}", lost.elapsed());
    let _stream = accept(&listener).await;
    log.connected().await;
    soon(client.disconnect()).await;
}

#[tokio::test]
async fn disconnect_during_a_delay_returns_at_once() {
    let addr = unused_port().await;
    let listener = listen(addr);
    let (client, mut log, mut tried) =
        client(addr, ReconnectOptions::default().delay(Duration::from_secs(3600))).await;
    let stream = accept(&listener).await;
    log.connected().await;
    drop(stream);
    log.disconnected().await;
    until(|| client.state() == ConnectionState::Connecting).await;
    soon(client.disconnect()).await;
    assert_eq!(client.state(), ConnectionState::Closed);
    assert!(tried.try_recv().is_err());
    log.assert_quiet();
}

#[tokio::test]
async fn a_client_that_closes_does_not_come_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ReconnectOptions::default().delay(Duration::from_millis(1));
    let (client, mut log, mut tried) = client(listener.local_addr().unwrap(), options).await;
    let mut stream = accept(&listener).await;
    let session = log.connected().await;
    let peer = async {
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "the client ends its stream");
        drop(stream);
    };
    soon(async { tokio::join!(session.close(), peer) }).await;
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    // The client is through with it by itself, after no attempt.
    soon(client.closed()).await;
    assert_eq!(client.state(), ConnectionState::Closed);
    assert!(tried.try_recv().is_err());
    log.assert_quiet();
}

#[tokio::test]
async fn handlers_of_a_reconnect_run_in_order_before_the_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (calls, mut called) = mpsc::unbounded_channel();
    let calls = [calls.clone(), calls];
    let [first, second] = calls.map(|calls| {
        move |name: &'static str| {
            let _ = calls.send(name);
        }
    });
    let client = TcpClient::new(listener.local_addr().unwrap())
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
        .on_reconnecting(move |_, _| {
            first("first begins");
            let first = first.clone();
            async move {
                tokio::task::yield_now().await;
                first("first ends");
            }
        })
        .on_reconnecting(move |_, _| {
            second("second");
            async {}
        })
        .connect()
        .await
        .unwrap();
    drop(accept(&listener).await);
    let _again = accept(&listener).await;
    for expected in ["first begins", "first ends", "second"] {
        assert_eq!(soon(called.recv()).await, Some(expected));
    }
    soon(client.disconnect()).await;
}

#[tokio::test]
async fn a_panic_of_on_reconnecting_is_reported_and_stops_neither_the_other_handlers_nor_the_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (recorder, mut log) = recorder();
    let (attempts, mut tried) = mpsc::unbounded_channel();
    let client = TcpClient::new(listener.local_addr().unwrap())
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
        .handler(recorder)
        .on_reconnecting(|_, _| -> std::future::Ready<()> { panic!("before there is a future") })
        .on_reconnecting(|attempt, _| async move { assert_eq!(attempt, 0, "in the future") })
        .on_reconnecting(move |attempt, _| {
            let _ = attempts.send(attempt);
            async {}
        })
        // One without a session; a panic over that is the end of it.
        .on_error(|session, _| async move { assert!(session.is_some(), "no session") })
        .connect()
        .await
        .unwrap();
    let mut stream = accept(&listener).await;
    log.connected().await;
    for _ in 0..2 {
        drop(stream);
        assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
        for _ in 0..2 {
            assert_eq!(log.next().await, Event::Error(None, ErrorKind::Panic));
        }
        assert_eq!(soon(tried.recv()).await, Some(1));
        stream = accept(&listener).await;
        log.connected().await;
    }
    assert_eq!(client.hub().metrics().error_count, 4);
    drop(stream);
    soon(client.disconnect()).await;
}

#[tokio::test]
async fn an_error_of_on_reconnecting_is_reported_and_the_attempt_is_made() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (recorder, mut log) = recorder();
    let client = TcpClient::new(listener.local_addr().unwrap())
        .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
        .handler(recorder)
        .on_reconnecting(|_, _| async { Err::<(), _>("no token") })
        .connect()
        .await
        .unwrap();
    drop(accept(&listener).await);
    log.connected().await;
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    assert_eq!(log.next().await, Event::Error(None, ErrorKind::Handler));
    let _again = accept(&listener).await;
    log.connected().await;
    soon(client.disconnect()).await;
}

#[cfg(feature = "ws")]
#[test]
fn on_reconnecting_takes_what_returns_nothing_a_result_or_never() {
    use stormsocket::{BoxError, WsClient};

    fn ready(_: u32, _: Duration) -> std::future::Ready<()> {
        std::future::ready(())
    }
    let client = TcpClient::new("127.0.0.1:1")
        .on_reconnecting(ready)
        .on_reconnecting(|attempt, _| async move {
            u8::try_from(attempt)?;
            Ok::<(), BoxError>(())
        })
        .on_reconnecting(async |_, _| -> () { std::process::exit(1) });
    drop(client);
    let client = WsClient::new("ws://127.0.0.1:1/")
        .on_reconnecting(ready)
        .on_reconnecting(|_, _| async { Err::<(), BoxError>("no token".into()) })
        .on_reconnecting(async |_, _| -> () { panic!("an application in the making") });
    drop(client);
}

#[tokio::test]
async fn disconnect_lets_queued_messages_leave() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let client = TcpClient::new(addr_of(&server)).connect().await.unwrap();
    client.send("the last words").await.unwrap();
    soon(client.disconnect()).await;
    log.connected().await;
    assert_eq!(log.data().await, "the last words");
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;
}

#[tokio::test]
async fn of_each_error_it_is_asked_once_whether_it_is_worth_another_attempt() {
    for (most, worth_it, asked) in [(None, false, 1), (Some(2), true, 2), (Some(1), false, 1)] {
        let listener = listen(unused_port().await);
        let (ask, mut answers) = mpsc::unbounded_channel();
        let client = TcpClient::new(listener.local_addr().unwrap())
            .reconnect(ReconnectOptions::default().delay(DELAY).max_attempts(most))
            .retry_if(move |_| {
                ask.send(()).unwrap();
                worth_it
            })
            .connect();
        let client = soon(client).await.unwrap();
        drop((accept(&listener).await, listener));
        soon(client.closed()).await;
        let count = std::iter::from_fn(|| answers.try_recv().ok()).count();
        assert_eq!(count, asked, "{most:?}, {worth_it}");
        assert_eq!(client.hub().metrics().error_count, u64::from(!worth_it));
    }
}

#[tokio::test]
async fn a_client_that_has_ended_lets_go_of_its_hooks_though_a_handle_is_kept() {
    let listener = listen(unused_port().await);
    let held = Arc::new(OnceLock::new());
    let hold = || held.clone();
    let (reconnecting, retry, reconnect, data) = (hold(), hold(), hold(), hold());
    let client = TcpClient::new(listener.local_addr().unwrap())
        .reconnect(ReconnectOptions::default())
        .on_reconnecting(move |_, _| {
            let _held = &reconnecting;
            async {}
        })
        .retry_if(move |_| retry.get().is_some())
        .reconnect_if(move |_, _| reconnect.get().is_some())
        .on_data(move |_, _| {
            let _held = &data;
            async {}
        })
        .connect();
    let client = soon(client).await.unwrap();
    // A cycle, until it ends.
    held.set(client.clone()).unwrap();
    let _stream = accept(&listener).await;
    assert_eq!(Arc::strong_count(&held), 5);
    client.abort();
    soon(client.closed()).await;
    assert_eq!(Arc::strong_count(&held), 1);
}
