//! Servers that stop.

mod support;

use std::sync::Arc;
use std::time::Duration;

use stormsocket::{ConnectionState, DisconnectReason, ShutdownReport};
use support::*;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(15);

fn counts(report: ShutdownReport) -> [usize; 3] {
    [report.closed, report.aborted, report.unfinished]
}

#[tokio::test]
async fn everyone_is_closed_with_what_was_queued_and_reported() {
    let (recorder, mut log) = recorder();
    let server = local_server().max_pending_send_bytes(None).handler(recorder).start().await.unwrap();
    let mut peers = Vec::new();
    for _ in 0..5 {
        peers.push(Peer::connect(addr_of(&server)).await);
        log.connected().await.send(vec![3; 1 << 20]).await.unwrap();
    }
    let stopping = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(LONG).await }
    });
    for mut peer in peers {
        assert_eq!(peer.rest().await.len(), 1 << 20);
    }
    assert_eq!(counts(soon(stopping).await.unwrap()), [5, 0, 0]);
    for _ in 0..5 {
        assert_eq!(log.disconnected().await, DisconnectReason::GoingAway);
    }
    soon(server.stopped()).await;
    // Nobody listens any more, and the port is free.
    assert!(TcpStream::connect(addr_of(&server)).await.is_err());
    let next = stormsocket::TcpServer::bind(addr_of(&server)).start().await.unwrap();
    stop(&next).await;
}

#[tokio::test]
async fn those_that_do_not_end_are_cut_at_the_deadline() {
    let (recorder, mut log) = recorder();
    let server = local_server().max_pending_send_bytes(None).handler(recorder).start().await.unwrap();
    let mut polite = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    let mut stubborn = Peer::connect_narrow(addr_of(&server)).await;
    log.connected().await.send(vec![3; 32 << 20]).await.unwrap();
    let began = Instant::now();
    let stopping = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(Duration::from_millis(200)).await }
    });
    polite.expect_end().await;
    drop(polite);
    assert_eq!(counts(soon(stopping).await.unwrap()), [1, 1, 0]);
    assert!(began.elapsed() >= Duration::from_millis(200));
    stubborn.expect_reset().await;
    for _ in 0..2 {
        assert_eq!(log.disconnected().await, DisconnectReason::GoingAway);
    }
}

#[tokio::test]
async fn repeated_and_concurrent_shutdowns_all_report() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let peer = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    let all: Vec<_> = (0..4)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { server.shutdown(LONG).await })
        })
        .collect();
    tokio::task::yield_now().await;
    drop(peer);
    for one in all {
        let report = soon(one).await.unwrap();
        assert_eq!((report.aborted, report.unfinished), (0, 0));
    }
    assert_eq!(counts(soon(server.shutdown(LONG)).await), [0, 0, 0]);
    assert_eq!(log.disconnected().await, DisconnectReason::GoingAway);
    log.assert_quiet();
}

#[tokio::test]
async fn a_dropped_shutdown_has_stopped_the_server_all_the_same() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    assert!(tokio::time::timeout(Duration::from_millis(50), server.shutdown(LONG)).await.is_err());
    peer.expect_end().await;
    drop(peer);
    soon(server.stopped()).await;
    assert_eq!(log.disconnected().await, DisconnectReason::GoingAway);
}

#[tokio::test]
async fn a_handler_that_does_not_finish_is_dropped_after_its_time() {
    let busy = Arc::new(Notify::new());
    let (recorder, mut log) = recorder();
    let server = local_server()
        .close_deadline(Duration::from_millis(100))
        .on_data({
            let busy = busy.clone();
            move |_, _| {
                let busy = busy.clone();
                async move {
                    busy.notify_one();
                    std::future::pending::<()>().await;
                }
            }
        })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    peer.send(b"x").await;
    soon(busy.notified()).await;
    let report = soon(server.shutdown(Duration::from_millis(50))).await;
    assert_eq!(counts(report), [0, 1, 0]);
    assert_eq!(log.disconnected().await, DisconnectReason::GoingAway);
}

#[tokio::test]
async fn times_may_be_as_long_as_they_get() {
    let release = Arc::new(Notify::new());
    let (recorder, mut log) = recorder();
    let server = local_server()
        .close_deadline(Duration::MAX)
        .idle_timeout(Duration::MAX)
        .handshake_timeout(Duration::MAX)
        .handler(recorder)
        .on_data({
            let release = release.clone();
            move |_, _| {
                let release = release.clone();
                async move { release.notified().await }
            }
        })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    peer.send(b"x").await;
    assert_eq!(log.data().await, "x");
    let stopping = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(Duration::from_millis(50)).await }
    });
    // It is cut, and then its handler has all the time it wants.
    until(|| session.state() == ConnectionState::Closed).await;
    release.notify_one();
    assert_eq!(counts(soon(stopping).await.unwrap()), [0, 1, 0]);
    assert_eq!(log.disconnected().await, DisconnectReason::GoingAway);
    assert_eq!(counts(soon(server.shutdown(Duration::MAX)).await), [0, 0, 0]);
}

#[tokio::test]
async fn a_shutdown_begun_in_a_handler_ends() {
    let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
    let handle = Arc::new(std::sync::OnceLock::<stormsocket::ServerHandle>::new());
    let server = local_server()
        .close_deadline(Duration::from_millis(100))
        .on_data({
            let handle = handle.clone();
            move |_, _| {
                let server = handle.get().expect("it has started").clone();
                async move {
                    let _report = server.shutdown(Duration::from_millis(50)).await;
                }
            }
        })
        .on_disconnected(move |_, reason| {
            let _ = ended.send(reason);
            async {}
        })
        .start()
        .await
        .unwrap();
    handle.set(server.clone()).expect("set once");
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(b"stop").await;
    assert_eq!(soon(end.recv()).await, Some(DisconnectReason::GoingAway));
    soon(server.stopped()).await;
}
