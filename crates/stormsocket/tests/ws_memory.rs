//! What peers can make a session hold, and what an idle one costs, in bytes allocated.
#![cfg(all(feature = "server", feature = "client", feature = "deflate"))]
#![expect(unsafe_code, reason = "an allocator that counts")]

mod ws_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use storm_core::events::{Adapter, Events};
use storm_transport::stream::Foreign;
use storm_transport::ws::{Agreed, WsProtocol};
use storm_transport::{Connection, Link};
use storm_ws_proto::{DeflateParams, Incoming, MessageKind, Receiver, Sender};
use stormsocket::{
    DeflateOptions, DisconnectReason, Limits, Message, Role, SessionOptions, WsHandler, WsOptions, WsServer,
    WsSession,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ws_support::*;

/// Counts what is allocated at the moment, the most there was since it was last asked, and all there ever was.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static EVER: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator; the counters do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        EVER.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to our contract, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn now() -> usize {
    PEAK.store(NOW.load(Ordering::Relaxed), Ordering::Relaxed);
    NOW.load(Ordering::Relaxed)
}

/// The most that was allocated above `before` since then.
fn peak_since(before: usize) -> usize {
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}

/// Nobody at the other end.
struct Nobody;

impl AsyncRead for Nobody {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Nobody {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An echo as users write it.
struct Echo;

impl WsHandler for Echo {
    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), stormsocket::BoxError> {
        session.send(message).await?;
        Ok(())
    }
}

/// Bytes of the future that runs a connection.
fn size_of_run<E: Events<WsSession, Message>>(events: &E) -> usize {
    let hub = hub(SessionOptions::default());
    let ws = WsOptions::default();
    let (protocol, driver) = WsProtocol::register(&hub, Role::Server, None, Agreed::default(), &ws, None);
    let connection = Connection::new(Foreign(Nobody), protocol, driver, BytesMut::new());
    size_of_val(&connection.run(events))
}

// One test: the counters are the process's.
#[tokio::test]
async fn memory_is_bounded() {
    an_idle_session_is_small().await;
    a_bomb_costs_no_more_than_the_limit().await;
    without_context_takeover_nothing_is_held_between_messages();
    final_blocks_of_two_bytes_cost_no_state_each();
    a_million_fragments_cost_no_more_than_the_cap().await;
    a_declared_length_costs_nothing().await;
}

async fn an_idle_session_is_small() {
    const SESSIONS: usize = 1000;
    let session = size_of::<WsSession>();
    let connection = size_of::<Connection<Link, WsProtocol>>();
    let run = size_of_run(&Adapter(Echo));
    let hub = hub(SessionOptions::default());
    let ws = WsOptions::default();
    let before = now();
    let mut tasks = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        let (protocol, driver) = WsProtocol::register(&hub, Role::Server, None, Agreed::default(), &ws, None);
        let connection = Connection::new(Foreign(Nobody), protocol, driver, BytesMut::new());
        tasks.push(tokio::spawn(async move { connection.run(&Adapter(Echo)).await }));
    }
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    // Heartbeat on, everything parked.
    let each = (now() - before) / SESSIONS;
    println!("session {session}, connection {connection}, run {run}, idle {each} bytes");
    assert_eq!(session, 2 * size_of::<usize>());
    assert!(connection <= 640, "{connection}");
    assert!(run <= 3600, "{run}");
    assert!(each <= 5120, "{each}");
    for session in hub.sessions().iter() {
        session.abort();
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), DisconnectReason::Aborted);
    }
}

async fn a_bomb_costs_no_more_than_the_limit() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .deflate(DeflateOptions::default())
        .limits(Limits::default().max_message_size(1 << 20))
        .handler(handler)
        .start()
        .await
        .unwrap();
    let bomb: Bytes = {
        let mut wire = BytesMut::new();
        let mut sender =
            Sender::client(|| [1, 2, 3, 4]).deflate(&DeflateParams::default(), &DeflateOptions::default());
        sender.message(MessageKind::Binary, vec![0; 100 << 20].into(), true, &mut wire).unwrap();
        wire.freeze()
    };
    let headers = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let (mut peer, _) = Peer::connect_with(&server, headers).await;
    observed.connected().await;
    let before = now();
    peer.write(&bomb).await;
    assert_eq!(peer.closes().await, Some(1009));
    let peak = peak_since(before);
    // The message and the half of it that it was before it last grew; the inflater, a read buffer.
    assert!(peak < (1 << 20) * 3 / 2 + (256 << 10), "{peak}");
    peer.end().await;
    drop(peer);
    stop(server).await;
}

fn without_context_takeover_nothing_is_held_between_messages() {
    const SESSIONS: usize = 100;
    let mut params = DeflateParams::default();
    params.server_no_context_takeover = true;
    let options = DeflateOptions::default();
    let (mut sessions, mut wire) = (Vec::with_capacity(SESSIONS), BytesMut::with_capacity(1 << 16));
    let before = now();
    for _ in 0..SESSIONS {
        let mut sender = Sender::server().deflate(&params, &options);
        let mut receiver = Receiver::new(storm_ws_proto::Role::Client, Limits::default()).deflate(&params);
        for byte in *b"ab" {
            wire.clear();
            let message = vec![byte; 10_000];
            sender.message(MessageKind::Binary, message.clone().into(), true, &mut wire).unwrap();
            assert!(wire.len() < 100, "it is compressed");
            match receiver.receive(&mut wire) {
                Ok(Some(Incoming::Message(back))) => assert!(back.data() == &message),
                other => panic!("{other:?}"),
            }
        }
        sessions.push((sender, receiver));
    }
    // One compressor and one inflater for all of them.
    let held = now() - before;
    assert!(held < SESSIONS * 1024 + (400 << 10), "{held}");
}

fn final_blocks_of_two_bytes_cost_no_state_each() {
    for window_bits in [9, 15] {
        let mut params = DeflateParams::default();
        params.client_max_window_bits = window_bits;
        let mut receiver = Receiver::new(storm_ws_proto::Role::Server, Limits::default()).deflate(&params);
        // Empty, with fixed codes, and the last one of its stream, each.
        let blocks = [0x03, 0x00].repeat(10_000);
        let mut wire = BytesMut::from(&masked(0xC2, &blocks)[..]);
        let before = EVER.load(Ordering::Relaxed);
        match receiver.receive(&mut wire) {
            Ok(Some(Incoming::Message(message))) => assert_eq!(message.len(), 0),
            other => panic!("{other:?}"),
        }
        let allocated = EVER.load(Ordering::Relaxed) - before;
        assert!(allocated < 300 << 10, "{window_bits} bits: {allocated}");
    }
}

async fn a_million_fragments_cost_no_more_than_the_cap() {
    let both = [Role::Server, Role::Client].into_iter();
    for (role, fragment) in both.flat_map(|role| [&b""[..], b"x"].map(|fragment| (role, fragment))) {
        let (handler, mut observed) = observer();
        let (_, mut peer, running) =
            piped(&hub(SessionOptions::default()), role, &WsOptions::default(), 1 << 16, handler);
        observed.connected().await;
        let fragments = peer.frame_of(0x00, fragment).repeat(10_000);
        let before = now();
        peer.send(0x02, b"").await;
        // Those above the cap are read and forgotten.
        for _ in 0..100 {
            peer.write(&fragments).await;
        }
        observed.error().await;
        let peak = peak_since(before);
        assert!(peak < (1 << 20), "{role:?}: {peak}");
        assert_eq!(peer.closes().await, Some(1008), "{role:?}");
        drop(peer);
        assert_eq!(running.await.unwrap(), DisconnectReason::ProtocolError);
    }
}

async fn a_declared_length_costs_nothing() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .limits(Limits::default().max_frame_size(None).max_message_size(None))
        .handler(handler)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(&server).await;
    let session = observed.connected().await;
    let before = now();
    // Without any limit, a frame of 1 TiB: memory follows what has come.
    peer.write([&head(0x82, 0x80, 1 << 40)[..], &[0; 4], &[7; 1000]].concat()).await;
    until(|| session.metrics().bytes_received >= 1000).await;
    let peak = peak_since(before);
    assert!(peak < 300_000, "{peak}");
    drop(peer);
    observed.disconnected().await;
    stop(server).await;
}
