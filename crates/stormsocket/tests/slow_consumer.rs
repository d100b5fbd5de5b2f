//! A peer that never reads, under each policy; what it costs others is in `broadcast.rs`.

mod support;

use std::time::Duration;

use storm_core::SessionOptions;
use storm_core::events::{Adapter, OnMessage};
use stormsocket::{
    ClientHandle, DisconnectReason, LengthPrefixFramer, Role, SendError, SendOutcome, ServerHandle,
    ServerMetrics, Session, SlowConsumerPolicy, SocketOptions, TcpClient,
};
use support::virtual_time::in_memory;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const LIMIT: usize = 64 * 1024;

async fn server(policy: SlowConsumerPolicy, recorder: Recorder) -> ServerHandle {
    local_server()
        .framer(LengthPrefixFramer::new())
        .socket(SocketOptions::default().send_buffer_size(4096))
        .max_pending_send_bytes(LIMIT)
        .slow_consumer_policy(policy)
        .handler(recorder)
        .start()
        .await
        .unwrap()
}

/// A server or a client under a policy.
enum Side {
    Server(ServerHandle),
    Client(ClientHandle),
}

impl Side {
    /// With the peer of its session, whose receive buffer is as small as the kernel allows.
    async fn start(role: Role, policy: SlowConsumerPolicy, recorder: Recorder) -> (Self, Peer) {
        if role == Role::Server {
            let server = server(policy, recorder).await;
            let peer = Peer::connect_narrow(addr_of(&server)).await;
            return (Self::Server(server), peer);
        }
        let socket = TcpSocket::new_v4().unwrap();
        // What is accepted inherits it.
        socket.set_recv_buffer_size(1).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let client = TcpClient::new(listener.local_addr().unwrap())
            .framer(LengthPrefixFramer::new())
            .socket(SocketOptions::default().send_buffer_size(4096))
            .max_pending_send_bytes(LIMIT)
            .slow_consumer_policy(policy)
            .handler(recorder)
            .connect()
            .await
            .unwrap();
        (Self::Client(client), Peer(soon(listener.accept()).await.unwrap().0))
    }

    /// Its counters once it has ended.
    async fn stop(self) -> ServerMetrics {
        match self {
            Self::Server(server) => {
                stop(&server).await;
                server.metrics()
            }
            Self::Client(client) => {
                soon(client.closed()).await;
                client.hub().metrics()
            }
        }
    }
}

/// A numbered message of 1000 bytes.
fn numbered(number: u32) -> Vec<u8> {
    let mut message = number.to_be_bytes().to_vec();
    message.resize(1000, 0);
    message
}

fn number(message: &[u8]) -> u32 {
    assert_eq!(message.len(), 1000);
    u32::from_be_bytes(message[..4].try_into().unwrap())
}

/// Sends until the next send would wait; returns how many left.
async fn fill(session: &Session) -> u32 {
    for count in 0.. {
        // The connection's task runs in between: what the kernel takes is gone from the outbox.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        if session.is_backpressured() {
            return count;
        }
        assert_eq!(session.send(numbered(count)).await.unwrap(), SendOutcome::Sent);
    }
    unreachable!("numbers do not end")
}

#[tokio::test]
async fn wait_suspends_at_the_limit_and_resumes_at_half_of_it() {
    for role in [Role::Server, Role::Client] {
        let (recorder, mut log) = recorder();
        let (side, mut peer) = Side::start(role, SlowConsumerPolicy::Wait, recorder).await;
        let session = log.connected().await;
        let filled = fill(&session).await;
        // Below the limit before the last message, so over it by less than one.
        assert!(
            (LIMIT..LIMIT + 1004).contains(&session.pending_send_bytes()),
            "{}",
            session.pending_send_bytes()
        );
        let waiting = tokio::spawn({
            let session = session.clone();
            async move { (session.send(numbered(filled)).await.unwrap(), session.pending_send_bytes()) }
        });
        let mut received = 0;
        while !waiting.is_finished() {
            let pending = session.pending_send_bytes();
            assert!(pending > LIMIT / 2 || !session.is_backpressured(), "{pending}");
            assert_eq!(number(&peer.frame().await), received);
            received += 1;
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        }
        let (outcome, pending) = waiting.await.unwrap();
        assert_eq!(outcome, SendOutcome::Sent);
        assert!(pending <= LIMIT / 2 + 1004, "resumed with {pending} pending");
        while received <= filled {
            assert_eq!(number(&peer.frame().await), received);
            received += 1;
        }
        assert_eq!(session.metrics().messages_dropped, 0);
        drop(peer);
        side.stop().await;
    }
}

#[tokio::test]
async fn waiting_sends_are_served_first_come_first_served() {
    let (recorder, mut log) = recorder();
    let server = server(SlowConsumerPolicy::Wait, recorder).await;
    let mut peer = Peer::connect_narrow(addr_of(&server)).await;
    let session = log.connected().await;
    let filled = fill(&session).await;
    for extra in 0..50 {
        let session = session.clone();
        tokio::spawn(async move { session.send(numbered(filled + extra)).await.unwrap() });
        tokio::task::yield_now().await;
    }
    for expected in 0..filled + 50 {
        assert_eq!(number(&peer.frame().await), expected);
    }
    drop(peer);
    stop(&server).await;
}

#[tokio::test]
async fn a_send_that_is_given_up_leaves_nothing_and_others_their_turn() {
    let (recorder, mut log) = recorder();
    let server = server(SlowConsumerPolicy::Wait, recorder).await;
    let mut peer = Peer::connect_narrow(addr_of(&server)).await;
    let session = log.connected().await;
    let filled = fill(&session).await;
    let mut given_up = Vec::new();
    let mut kept = Vec::new();
    for extra in 0..20 {
        let sender = session.clone();
        let task = tokio::spawn(async move { sender.send(numbered(filled + extra)).await.unwrap() });
        tokio::task::yield_now().await;
        if extra % 2 == 0 { given_up.push(task) } else { kept.push(task) }
    }
    for task in given_up {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    for expected in (0..filled).chain((0..20).filter(|extra| extra % 2 == 1).map(|extra| filled + extra)) {
        assert_eq!(number(&peer.frame().await), expected);
    }
    for task in kept {
        assert_eq!(soon(task).await.unwrap(), SendOutcome::Sent);
    }
    assert_eq!(session.metrics().messages_sent, u64::from(filled) + 10);
    drop(peer);
    stop(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_cancelled_at_any_moment_are_whole_or_not_at_all() {
    let (recorder, mut log) = recorder();
    let server = server(SlowConsumerPolicy::Wait, recorder).await;
    let mut peer = Peer::connect_narrow(addr_of(&server)).await;
    let session = log.connected().await;
    let sending = tokio::spawn(async move {
        for count in 0..2000 {
            let send = session.send(numbered(count));
            // Given up after a number of polls that differs from message to message.
            let _ = tokio::time::timeout(Duration::from_micros((count % 7).into()), send).await;
        }
        session.send(numbered(u32::MAX)).await.unwrap();
        session.metrics().messages_sent
    });
    let (mut received, mut last) = (0, None);
    loop {
        let next = number(&peer.frame().await);
        assert!(last < Some(next), "{next} after {last:?}");
        last = Some(next);
        received += 1;
        if next == u32::MAX {
            break;
        }
    }
    assert_eq!(soon(sending).await.unwrap(), received);
    drop(peer);
    stop(&server).await;
}

#[tokio::test]
async fn drop_returns_at_once_counts_and_keeps_the_rest_in_order() {
    for role in [Role::Server, Role::Client] {
        let (recorder, mut log) = recorder();
        let (side, mut peer) = Side::start(role, SlowConsumerPolicy::Drop, recorder).await;
        let session = log.connected().await;
        let mut sent = Vec::new();
        let mut dropped = 0;
        let mut next = 0;
        for round in 1..=2 {
            while dropped < 500 * round {
                match soon(session.send(numbered(next))).await.unwrap() {
                    SendOutcome::Sent => sent.push(next),
                    SendOutcome::Dropped => dropped += 1,
                    other => panic!("{other:?}"),
                }
                next += 1;
            }
            assert!(session.is_backpressured());
            assert_eq!(session.metrics().messages_dropped, dropped);
            assert!(session.pending_send_bytes() < LIMIT + 1004);
            // Once the peer reads again, messages are taken again.
            for expected in sent.drain(..) {
                assert_eq!(number(&peer.frame().await), expected);
            }
            until(|| !session.is_backpressured()).await;
            assert_eq!(session.send(numbered(next)).await.unwrap(), SendOutcome::Sent);
            sent.push(next);
            next += 1;
        }
        let metrics = session.metrics();
        assert_eq!(metrics.messages_sent + metrics.messages_dropped, next.into());
        assert_eq!(session.disconnect_reason(), None);
        assert_eq!(number(&peer.frame().await), sent[0]);
        drop(peer);
        assert_eq!(side.stop().await.messages_dropped, dropped);
    }
}

#[tokio::test]
async fn disconnect_resets_within_one_send() {
    for role in [Role::Server, Role::Client] {
        let (recorder, mut log) = recorder();
        let (side, mut peer) = Side::start(role, SlowConsumerPolicy::Disconnect, recorder).await;
        let session = log.connected().await;
        let filled = fill(&session).await;
        assert_eq!(session.disconnect_reason(), None);
        let sent = soon(session.send(numbered(filled))).await;
        assert!(matches!(sent, Err(SendError::Closed(Some(DisconnectReason::SlowConsumer)))), "{sent:?}");
        peer.expect_reset().await;
        assert_eq!(log.disconnected().await, DisconnectReason::SlowConsumer);
        assert_eq!(side.stop().await.error_count, 0);
        log.assert_quiet();
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_a_handler_to_a_peer_that_reads_is_not_dropped() {
    // Many times the limit from within one handler: it must get out between the sends.
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(1000);
    options.slow_consumer_policy = SlowConsumerPolicy::Drop;
    let handler = OnMessage(|session: Session, _: bytes::Bytes| async move {
        for count in 0..100 {
            assert_eq!(session.send(numbered(count)).await.unwrap(), SendOutcome::Sent);
        }
    });
    let mut connection = in_memory(1 << 20, options, LengthPrefixFramer::new(), handler);
    connection.peer.write_all(&frame(b"go")).await.unwrap();
    for count in 0..100 {
        assert_eq!(connection.peer.read_u32().await.unwrap(), 1000);
        let mut message = vec![0; 1000];
        connection.peer.read_exact(&mut message).await.unwrap();
        assert_eq!(number(&message), count);
    }
    drop(connection.peer);
    connection.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_sends_to_itself_under_wait_goes_on_when_the_peer_reads() {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(1000);
    let (recorder, mut log) = recorder();
    let handler = OnMessage(|session: Session, _: bytes::Bytes| async move {
        for count in 0..100 {
            session.send(numbered(count)).await.unwrap();
        }
    });
    let events = storm_core::events::Chain(handler, Adapter(recorder));
    let mut connection = in_memory(100, options, LengthPrefixFramer::new(), events);
    log.connected().await;
    connection.peer.write_all(&frame(b"go")).await.unwrap();
    let mut read = vec![0; 100 * 1004];
    connection.peer.read_exact(&mut read).await.unwrap();
    for (count, message) in read.chunks(1004).enumerate() {
        assert_eq!(number(&message[4..]) as usize, count);
    }
    assert_eq!(log.data().await, "go");
}

#[tokio::test]
async fn a_busy_handler_stops_reading_at_the_limit_and_tcp_pushes_back() {
    const READ_AHEAD: usize = 100_000;
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .socket(SocketOptions::default().recv_buffer_size(4096))
        .max_pending_receive_bytes(READ_AHEAD)
        .on_data({
            let gate = gate.clone();
            move |session, data| {
                let gate = gate.clone();
                async move {
                    if number(&data) == 0 {
                        gate.notified().await;
                    }
                    session.send(data).await
                }
            }
        })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    socket2::SockRef::from(&peer.0).set_send_buffer_size(4096).unwrap();
    // Write until nothing more is taken, long enough for the other side to have read all it will.
    let mut written = 0;
    let wire: Vec<u8> = (0..4000).flat_map(|count| frame(&numbered(count))).collect();
    while let Ok(more) =
        tokio::time::timeout(Duration::from_millis(300), peer.0.write(&wire[written..])).await
    {
        written += more.unwrap();
        assert!(written < READ_AHEAD + (1 << 20), "the server reads on without end");
    }
    assert!(written > READ_AHEAD, "{written}");
    gate.notify_one();
    let (mut read, mut write) = peer.0.into_split();
    let writing = tokio::spawn(async move {
        write.write_all(&wire[written..]).await.unwrap();
        write
    });
    for count in 0..4000 {
        let mut message = vec![0; 1004];
        soon(read.read_exact(&mut message)).await.unwrap();
        assert_eq!(number(&message[4..]), count);
    }
    drop(writing.await.unwrap());
    drop(read);
    stop(&server).await;
}
