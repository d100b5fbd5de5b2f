//! Many sends, many receivers, some of whom read nothing: WebSocket over memory, in both roles.

mod ws_support;

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use stormsocket::metrics::Ending;
use stormsocket::{
    BoxError, DisconnectReason, HeartbeatOptions, Hub, Limits, Message, Role, SendOutcome, SessionOptions,
    SlowConsumerPolicy, WsHandler, WsOptions, WsSession,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use ws_support::*;

fn silent() -> WsOptions {
    WsOptions::default().heartbeat(HeartbeatOptions::default().interval(None))
}

fn options(limit: usize, policy: SlowConsumerPolicy) -> SessionOptions {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(limit);
    options.slow_consumer_policy = policy;
    options
}

struct Quiet;

impl WsHandler for Quiet {}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_tasks_send_a_thousand_messages_each() {
    const TASKS: usize = 100;
    const EACH: usize = 1000;
    for role in [Role::Server, Role::Client] {
        let hub = hub(options(16 * 1024, SlowConsumerPolicy::Wait));
        let (session, mut peer, running) = piped(&hub, role, &silent(), 8 * 1024, Quiet);
        for task in 0..TASKS {
            let session = session.clone();
            tokio::spawn(async move {
                for number in 0..EACH {
                    let text = format!("{task} {number} {}", "x".repeat((task + number) % 200));
                    assert_eq!(session.send_text(text).await.unwrap(), SendOutcome::Sent);
                }
            });
        }
        let mut next = [0; TASKS];
        soon(async {
            for _ in 0..TASKS * EACH {
                let frame = peer.frame().await;
                assert_eq!(frame.masked, role == Role::Client);
                let mut words = frame.text().split(' ');
                let mut number = || words.next().unwrap().parse::<usize>().unwrap();
                let (task, number) = (number(), number());
                assert_eq!(number, next[task], "order of task {task}");
                assert_eq!(words.next().unwrap().len(), (task + number) % 200);
                next[task] += 1;
            }
        })
        .await;
        assert_eq!(next, [EACH; TASKS]);
        assert_eq!(session.metrics().messages_sent, (TASKS * EACH) as u64);
        session.abort();
        soon(running).await.unwrap();
    }
}

#[cfg(feature = "deflate")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn compressed_in_the_order_in_which_they_leave_whoever_sends() {
    use stormsocket::{DeflateOptions, WsClient, WsServer};
    let (handler, mut observed) = observer();
    let deflate = DeflateOptions::default().min_size(0);
    let server = WsServer::bind("127.0.0.1:0").deflate(deflate).handler(Quiet).start().await.unwrap();
    let client = WsClient::new(format!("ws://{}", server.local_addr().unwrap())).deflate(deflate);
    let client = soon(client.handler(handler).connect()).await.unwrap();
    observed.connected().await;
    until(|| server.sessions().len() == 1).await;
    let session = server.sessions().iter().next().unwrap();
    for task in 0..10 {
        let session = session.clone();
        tokio::spawn(async move {
            for number in 0..100 {
                session
                    .send_text(format!("task {task} number {number} and the same words each time"))
                    .await
                    .unwrap();
            }
        });
    }
    let mut next = [0; 10];
    for _ in 0..1000 {
        // With context takeover, one message out of order spoils all that follow.
        let message = observed.message().await;
        let words: Vec<_> = message.text().unwrap().split(' ').collect();
        let (task, number): (usize, usize) = (words[1].parse().unwrap(), words[3].parse().unwrap());
        assert_eq!(number, next[task]);
        next[task] += 1;
    }
    soon(client.disconnect()).await;
    stop(server).await;
}

#[tokio::test]
async fn sends_cancelled_at_any_poll_are_whole_or_not_at_all() {
    for role in [Role::Server, Role::Client] {
        let hub = hub(options(256, SlowConsumerPolicy::Wait));
        let (session, mut peer, running) = piped(&hub, role, &silent(), 64, Quiet);
        let mut kept = VecDeque::new();
        let mut given_up = 0;
        for number in 0..3000_usize {
            let text = format!("{number} {}", "x".repeat(number % 90));
            let polls = number % 5;
            let mut send = pin!(session.send_text(text.clone()));
            let mut outcome = None;
            for _ in 0..polls {
                if let std::task::Poll::Ready(ready) =
                    send.as_mut().poll(&mut Context::from_waker(Waker::noop()))
                {
                    outcome = Some(ready.unwrap());
                    break;
                }
                // The connection gets to write, and the peer to read, between two polls.
                tokio::task::yield_now().await;
                let mut some = BytesMut::with_capacity(16 + number % 32);
                let read = pin!(peer.stream.read_buf(&mut some));
                if let std::task::Poll::Ready(read) = read.poll(&mut Context::from_waker(Waker::noop())) {
                    read.unwrap();
                    peer.wire.extend_from_slice(&some);
                }
            }
            match outcome {
                Some(SendOutcome::Sent) => kept.push_back(text),
                None => given_up += 1,
                other => panic!("{other:?}"),
            }
            while let Some(frame) = Frame::take(&mut peer.wire) {
                assert_eq!(Some(frame.text()), kept.pop_front().as_deref());
            }
        }
        assert!(given_up > 600 && session.metrics().messages_sent > 600, "{given_up} given up");
        assert_eq!(session.metrics().messages_sent, 3000 - given_up);
        while let Some(text) = kept.pop_front() {
            assert_eq!(peer.frame().await.text(), text);
        }
        session.abort();
        soon(running).await.unwrap();
    }
}

struct Crowd {
    hub: Arc<Hub>,
    reading: Vec<Peer<tokio::io::DuplexStream>>,
    stalled: Vec<Peer<tokio::io::DuplexStream>>,
}

/// A thousand sessions, ten of whose peers have let everything fill up.
async fn crowd(policy: SlowConsumerPolicy) -> Crowd {
    let hub = hub(options(1024, policy));
    let (mut reading, mut stalled) = (Vec::new(), Vec::new());
    for number in 0..1000 {
        let (session, peer, _) = piped(&hub, Role::Server, &silent(), 128, Quiet);
        if number % 100 == 50 {
            while !session.is_backpressured() {
                session.send(vec![0; 200]).await.unwrap();
                tokio::task::yield_now().await;
            }
            stalled.push(peer);
        } else {
            reading.push(peer);
        }
    }
    Crowd { hub, reading, stalled }
}

#[tokio::test]
async fn a_broadcast_reaches_those_who_read_whatever_becomes_of_the_stalled() {
    for policy in [SlowConsumerPolicy::Wait, SlowConsumerPolicy::Drop, SlowConsumerPolicy::Disconnect] {
        let Crowd { hub, mut reading, stalled } = crowd(policy).await;
        let sending = tokio::spawn({
            let hub = hub.clone();
            async move { hub.broadcast_text("to all").await }
        });
        // Nobody has touched the stalled ones by then.
        for peer in &mut reading {
            assert_eq!(peer.frame().await.text(), "to all");
        }
        let expected = match policy {
            SlowConsumerPolicy::Wait => {
                assert!(!sending.is_finished(), "it waits for those that are full");
                for mut peer in stalled {
                    tokio::spawn(async move {
                        while peer.stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
                    });
                }
                [1000, 0, 0]
            }
            SlowConsumerPolicy::Drop => [990, 10, 0],
            _ => [990, 0, 10],
        };
        let report = soon(sending).await.unwrap();
        assert_eq!([report.sent, report.dropped, report.disconnected], expected, "{policy:?}");
        if policy == SlowConsumerPolicy::Drop {
            assert_eq!(hub.metrics().messages_dropped, 10);
        }
        if policy == SlowConsumerPolicy::Disconnect {
            until(|| hub.sessions().len() == 990).await;
            let metrics = hub.metrics();
            assert_eq!(metrics.slow_consumers(), 10);
            assert_eq!(metrics.disconnects.get(DisconnectReason::SlowConsumer), 10);
            assert_eq!(hub.endings().get(Ending::Cut), 10);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_suspend_ends_nobody_who_is_alive() {
    let hub = hub(SessionOptions::default());
    let ws = WsOptions::default()
        .heartbeat(HeartbeatOptions::default().interval(Duration::from_secs(30)).max_missed_pongs(3))
        .limits(Limits::default());
    let mut peers = Vec::new();
    for role in [Role::Server, Role::Client] {
        for _ in 0..10 {
            peers.push(piped(&hub, role, &ws, 1024, Quiet));
        }
    }
    tokio::task::yield_now().await;
    // The clock the timers go by stands still in a suspend or jumps behind it, all at once; it never goes back.
    tokio::time::advance(Duration::from_secs(3600)).await;
    for (session, peer, _) in &mut peers {
        let ping = peer.frame().await;
        assert_eq!(ping.first, 0x89, "one ping for all the ticks that were slept through");
        peer.send(0x8A, &ping.payload).await;
        peer.settle().await;
        assert_eq!(session.disconnect_reason(), None);
    }
    assert_eq!(hub.sessions().len(), 20);
}

/// A peer that sends one message and then pings, as fast as they are read; after very many it ends.
struct Pinging {
    reads: Arc<AtomicUsize>,
}

const VERY_MANY: usize = 100_000;

impl AsyncRead for Pinging {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.reads.fetch_add(1, Ordering::Relaxed) {
            0 => buf.put_slice(&masked(0x82, b"work")),
            1..VERY_MANY => buf.put_slice(&masked(0x89, b"ping")),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pinging {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Works for ten turns, and notes how much was read until it was done.
struct Working {
    reads: Arc<AtomicUsize>,
    when_done: Arc<AtomicUsize>,
}

impl WsHandler for Working {
    async fn on_message(&self, session: &WsSession, _: Message) -> Result<(), BoxError> {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.when_done.store(self.reads.load(Ordering::Relaxed), Ordering::Relaxed);
        session.abort();
        Ok(())
    }
}

#[tokio::test]
async fn a_flood_of_pings_does_not_keep_a_handler_from_going_on() {
    let (reads, when_done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let stream = Pinging { reads: reads.clone() };
    let handler = Working { reads, when_done: when_done.clone() };
    let running = over(&hub(SessionOptions::default()), Role::Server, &silent(), stream, handler).1;
    assert_eq!(soon(running).await.unwrap(), DisconnectReason::Aborted);
    let when_done = when_done.load(Ordering::Relaxed);
    assert!((1..1000).contains(&when_done), "{when_done} reads");
}
