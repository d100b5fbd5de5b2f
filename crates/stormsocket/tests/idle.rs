//! Sessions that have nothing to say: the idle timeout, and what they weigh.

mod support;

use std::time::Duration;

use storm_core::SessionOptions;
use storm_core::events::{Adapter, Chain, OnConnected, OnDisconnected, OnMessage};
use storm_transport::{Connection, Framed, Link};
use stormsocket::{DisconnectReason, RawFramer, Role, Session};
use support::virtual_time::{in_memory, in_memory_as};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(60);

fn options() -> SessionOptions {
    let mut options = SessionOptions::default();
    options.idle_timeout = Some(TIMEOUT);
    options
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session_and_data_puts_that_off() {
    let (recorder, mut log) = recorder();
    let mut connection = in_memory(1024, options(), RawFramer, Adapter(recorder));
    let session = log.connected().await;
    for _ in 0..3 {
        tokio::time::sleep(TIMEOUT - Duration::from_secs(1)).await;
        connection.peer.write_all(b"still here").await.unwrap();
        log.data().await;
    }
    // What we send is no sign of life.
    let began = Instant::now();
    tokio::time::sleep(TIMEOUT / 2).await;
    session.send("anybody there?").await.unwrap();
    let mut rest = Vec::new();
    connection.peer.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"anybody there?");
    assert_eq!(began.elapsed().as_secs(), TIMEOUT.as_secs());
    drop(connection.peer);
    assert_eq!(connection.task.await.unwrap(), DisconnectReason::IdleTimeout);
    assert_eq!(log.disconnected().await, DisconnectReason::IdleTimeout);
    log.assert_quiet();
}

#[tokio::test(start_paused = true)]
async fn data_that_is_there_when_the_clock_has_jumped_puts_the_end_off() {
    for role in [Role::Server, Role::Client] {
        let (recorder, mut log) = recorder();
        let mut connection = in_memory_as(role, 1024, options(), RawFramer, Adapter(recorder));
        log.connected().await;
        connection.faults.stall_reads(true);
        connection.peer.write_all(b"before the jump").await.unwrap();
        // A suspend: data and deadlines are there at once. Of the timers that are due, this one comes first.
        let faults = connection.faults.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TIMEOUT - Duration::from_secs(1)).await;
            faults.stall_reads(false);
        });
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(3600)).await;
        let woken = Instant::now();
        assert_eq!(log.data().await, "before the jump", "{role:?}");
        connection.peer.write_all(b"after it").await.unwrap();
        assert_eq!(log.data().await, "after it", "{role:?}");
        assert_eq!(connection.session.disconnect_reason(), None);
        // From there on silence counts anew.
        assert_eq!(connection.peer.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(woken.elapsed().as_secs(), TIMEOUT.as_secs());
        drop(connection.peer);
        assert_eq!(log.disconnected().await, DisconnectReason::IdleTimeout);
    }
}

#[tokio::test(start_paused = true)]
async fn time_spent_in_handlers_is_not_idle() {
    let slow = OnMessage(|_: Session, _: bytes::Bytes| tokio::time::sleep(TIMEOUT * 3));
    let connected = OnConnected(|_: Session| tokio::time::sleep(TIMEOUT * 3));
    let mut connection = in_memory(1024, options(), RawFramer, Chain(connected, slow));
    let began = Instant::now();
    tokio::time::sleep(TIMEOUT * 3 + TIMEOUT / 2).await;
    connection.peer.write_all(b"x").await.unwrap();
    assert_eq!(connection.peer.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), (TIMEOUT * 7).as_secs() + TIMEOUT.as_secs() / 2);
}

#[tokio::test(start_paused = true)]
async fn no_timeout_is_no_timeout() {
    let mut connection = in_memory(
        1024,
        SessionOptions::default(),
        RawFramer,
        OnMessage(|s: Session, d| async move { s.send(d).await }),
    );
    tokio::time::sleep(Duration::from_secs(365 * 24 * 3600)).await;
    connection.peer.write_all(b"x").await.unwrap();
    assert_eq!(connection.peer.read_u8().await.unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn times_beyond_the_end_of_all_time_are_none() {
    for role in [Role::Server, Role::Client] {
        let mut options = SessionOptions::default();
        options.idle_timeout = Some(Duration::MAX);
        options.close_deadline = Duration::MAX;
        let (recorder, mut log) = recorder();
        let mut connection = in_memory_as(role, 1024, options, RawFramer, Adapter(recorder));
        let session = log.connected().await;
        tokio::time::sleep(TIMEOUT).await;
        connection.peer.write_all(b"still here").await.unwrap();
        assert_eq!(log.data().await, "still here", "{role:?}");
        session.close().await;
        assert_eq!(connection.peer.read(&mut [0]).await.unwrap(), 0);
        drop(connection.peer);
        let by_us = if role == Role::Server {
            DisconnectReason::ClosedByServer
        } else {
            DisconnectReason::ClosedByClient
        };
        assert_eq!(log.disconnected().await, by_us);
        log.assert_quiet();
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_outlive_its_connection_for_as_long_as_there_is() {
    let mut options = SessionOptions::default();
    options.close_deadline = Duration::MAX;
    let (told, mut reasons) = tokio::sync::mpsc::unbounded_channel();
    let slow = OnMessage(|_: Session, _: bytes::Bytes| tokio::time::sleep(TIMEOUT * 60));
    let disconnected = OnDisconnected(move |_: Session, reason| {
        let _ = told.send(reason);
        async {}
    });
    let mut connection = in_memory(1024, options, RawFramer, Chain(slow, disconnected));
    let began = Instant::now();
    connection.peer.write_all(b"x").await.unwrap();
    tokio::time::sleep(TIMEOUT).await;
    connection.session.abort();
    assert_eq!(reasons.recv().await, Some(DisconnectReason::Aborted));
    assert_eq!(began.elapsed().as_secs(), (TIMEOUT * 60).as_secs());
}

#[test]
fn an_idle_connection_is_small() {
    // Its task holds this, the handler's future and little more, and is rounded up to a multiple of 128 bytes; 2 KiB is
    // the promise for everything together.
    let size = size_of::<Connection<Link, Framed<RawFramer>>>();
    assert!(size <= 192, "{size} bytes: see docs/performance.md, \"Idle sessions\"");
}
