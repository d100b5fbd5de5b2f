//! Sessions over streams that fail: in pieces, stalled, ended and reset, after each byte there is.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use storm_core::SessionOptions;
use storm_core::events::{Adapter, Chain, OnMessage};
use storm_core::middleware::MiddlewareChain;
use storm_testing::clock::timed;
use storm_testing::{Faults, Faulty, ws};
use storm_transport::Connection;
use storm_transport::stream::Foreign;
use storm_transport::ws::{Agreed, WsProtocol};
use stormsocket::{
    BoxError, DisconnectReason, ErrorKind, Hub, LengthPrefixFramer, Message, Role, Session, WsHandler,
    WsOptions, WsSession,
};
use support::virtual_time::{InMemory, in_memory};
use support::*;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

const MESSAGES: [&[u8]; 3] = [b"a", b"", b"three"];

fn wire() -> Vec<u8> {
    MESSAGES.iter().flat_map(|message| frame(message)).collect()
}

/// How many messages are whole in the first `len` bytes.
fn whole_in(len: usize) -> usize {
    let ends = MESSAGES.iter().scan(0, |end, message| {
        *end += 4 + message.len();
        Some(*end)
    });
    ends.take_while(|end| *end <= len).count()
}

fn echo() -> (InMemory, Log) {
    let (recorder, log) = recorder();
    let echo = OnMessage(|session: Session, data: Bytes| async move { session.send(data).await });
    let events = Chain(Adapter(recorder), echo);
    (in_memory(1024, SessionOptions::default(), LengthPrefixFramer::new(), events), log)
}

#[tokio::test(start_paused = true)]
async fn pieces_of_any_size_are_the_same_messages() {
    for size in 1..=wire().len() {
        let (connection, mut log) = echo();
        connection.faults.read_in_pieces(size);
        connection.faults.write_in_pieces(size);
        let mut peer = Peer(connection.peer);
        log.connected().await;
        peer.send_in_pieces(&wire(), size).await;
        peer.expect(&wire()).await;
        for message in MESSAGES {
            assert_eq!(log.data().await, message);
        }
        peer.half_close().await;
        peer.expect_end().await;
        assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
        log.assert_quiet();
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_after_any_byte_leaves_whole_messages_and_one_end() {
    for at in 0..=wire().len() {
        let (connection, mut log) = echo();
        connection.faults.reset_after_reading(at);
        let mut peer = Peer(connection.peer);
        log.connected().await;
        // With no byte read it may be over before this is sent.
        let _ = peer.0.write_all(&wire()).await;
        for message in &MESSAGES[..whole_in(at)] {
            assert_eq!(log.data().await, *message, "at {at}");
        }
        assert_eq!(log.disconnected().await, DisconnectReason::TransportError, "at {at}");
        assert_eq!(connection.task.await.unwrap(), DisconnectReason::TransportError);
        log.assert_quiet();
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_after_any_byte_answers_whole_messages_and_drops_what_is_left() {
    for at in 0..=wire().len() {
        let (connection, mut log) = echo();
        connection.faults.end_after_reading(at);
        let mut peer = Peer(connection.peer);
        log.connected().await;
        // With no byte read it may be over before this is sent.
        let _ = peer.0.write_all(&wire()).await;
        let whole = whole_in(at);
        let answered: Vec<u8> = MESSAGES[..whole].iter().flat_map(|message| frame(message)).collect();
        assert_eq!(peer.rest().await, answered, "at {at}");
        for message in &MESSAGES[..whole] {
            assert_eq!(log.data().await, *message, "at {at}");
        }
        // What is left over is no message, and no error either.
        assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient, "at {at}");
        log.assert_quiet();
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_that_finds_no_room_is_an_abort_at_its_deadline() {
    let (connection, mut log) = echo();
    let session = log.connected().await;
    connection.faults.stall_writes(true);
    session.send("never seen").await.unwrap();
    let ((), took) = timed(session.close()).await;
    assert_eq!(took.as_secs(), SessionOptions::default().close_deadline.as_secs());
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    Peer(connection.peer).expect_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stall_that_ends_has_lost_nothing() {
    let (connection, mut log) = echo();
    let session = log.connected().await;
    let mut peer = Peer(connection.peer);
    connection.faults.stall_writes(true);
    peer.send(&wire()).await;
    for message in MESSAGES {
        assert_eq!(log.data().await, message);
    }
    storm_testing::clock::pass(Duration::from_secs(3600)).await;
    assert_eq!(session.pending_send_bytes(), wire().len());
    connection.faults.stall_writes(false);
    peer.expect(&wire()).await;
    assert_eq!(session.pending_send_bytes(), 0);
}

struct Echo;

impl WsHandler for Echo {
    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
        session.send(message).await?;
        Ok(())
    }
}

fn websocket(options: &WsOptions) -> (ws::Peer<DuplexStream>, Faults, JoinHandle<DisconnectReason>) {
    let hub: Arc<Hub> = Hub::new(SessionOptions::default(), MiddlewareChain::default()).unwrap();
    let (theirs, ours) = tokio::io::duplex(4096);
    let (ours, faults) = Faulty::new(ours);
    let (protocol, driver) = WsProtocol::register(&hub, Role::Server, None, Agreed::default(), options, None);
    let connection = Connection::new(Foreign(ours), protocol, driver, BytesMut::new());
    let task = tokio::spawn(async move { connection.run(&Adapter(Echo)).await });
    (ws::Peer::over(theirs).patient(), faults, task)
}

#[tokio::test(start_paused = true)]
async fn websocket_messages_in_pieces_of_any_size() {
    for size in 1..=16 {
        let (mut peer, faults, task) = websocket(&WsOptions::default());
        faults.read_in_pieces(size);
        faults.write_in_pieces(size);
        let text = "ß".repeat(150);
        peer.send_frame(ws::Frame::text_message(&text.as_bytes()[..151]).not_final()).await;
        peer.send_frame(ws::Frame::ping("between")).await;
        peer.send_frame(ws::Frame::continuation(&text.as_bytes()[151..])).await;
        let pong = peer.frame().await;
        assert_eq!((pong.first, &pong.payload[..]), (0x8A, &b"between"[..]));
        assert_eq!(peer.frame().await.text(), text);
        peer.send_frame(ws::Frame::close(1000, "")).await;
        assert_eq!(peer.closes().await, Some(1000));
        peer.end().await;
        drop(peer);
        assert_eq!(task.await.unwrap(), DisconnectReason::ClosedByClient);
    }
}

#[tokio::test(start_paused = true)]
async fn what_left_before_a_reset_counts_as_sent() {
    let answer = wire().len();
    for at in 1..answer {
        let (connection, mut log) = echo();
        connection.faults.reset_after_writing(at);
        let mut peer = Peer(connection.peer);
        let session = log.connected().await;
        peer.send(&wire()).await;
        for message in MESSAGES {
            assert_eq!(log.data().await, message);
        }
        assert_eq!(log.disconnected().await, DisconnectReason::TransportError, "at {at}");
        assert_eq!(session.metrics().bytes_sent, at as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_reset_while_it_answers() {
    let answer = ws::plain(0x82, b"hello");
    for at in 0..answer.len() {
        let (mut peer, faults, task) = websocket(&WsOptions::default());
        faults.reset_after_writing(at);
        peer.send(0x82, "hello").await;
        assert_eq!(soon(task).await.unwrap(), DisconnectReason::TransportError, "at {at}");
        // Not a byte more than there was room for.
        peer.gone().await;
        assert_eq!(peer.wire.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_peer_that_falls_silent_is_given_up() {
    let (mut peer, faults, task) = websocket(&WsOptions::default());
    faults.stall_reads(true);
    let (reason, took) = timed(task).await;
    assert_eq!(reason.unwrap(), DisconnectReason::HeartbeatTimeout);
    // Three pings are missed; the fourth tick ends it.
    assert_eq!(took.as_secs(), 4 * 30);
    for _ in 0..3 {
        assert_eq!(peer.frame().await.first, 0x89);
    }
    peer.gone().await;
}

/// Panics when it is dropped.
struct Fragile(Vec<u8>);

impl AsRef<[u8]> for Fragile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        panic!("do not drop me");
    }
}

/// A handler that panics, after a send or with a value, each of which panics in turn when it is dropped.
async fn panics_twice(session: Session, data: Bytes) -> Result<(), BoxError> {
    let fragile = Fragile(vec![0; 100_000]);
    if data == "send" {
        session.send(Bytes::from_owner(fragile)).await?;
        panic!("for the first time");
    }
    std::panic::panic_any(fragile);
}

#[tokio::test(start_paused = true)]
async fn a_second_panic_over_the_first_hides_no_end() {
    for what in ["send", "panic"] {
        let (recorder, mut log) = recorder();
        let events = Chain(Adapter(recorder), OnMessage(panics_twice));
        let connection = in_memory(1024, SessionOptions::default(), LengthPrefixFramer::new(), events);
        let mut peer = Peer(connection.peer);
        log.connected().await;
        peer.send(&frame(what.as_bytes())).await;
        assert_eq!(log.data().await, what);
        assert_eq!(log.error().await, ErrorKind::Panic);
        assert_eq!(log.disconnected().await, DisconnectReason::Aborted, "{what}");
        assert_eq!(connection.task.await.expect("no panic goes further"), DisconnectReason::Aborted);
        let hub = connection.session.server();
        assert_eq!((hub.sessions().len(), hub.endings().total()), (0, 1), "{what}");
        log.assert_quiet();
    }
}
