//! Policies and keys of single messages, over whole connections whose peers read nothing for a while: TCP and WebSocket.
//! The outbox alone is in storm-core's `outbox_policies.rs`.

mod ws_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use storm_core::driver::Driver;
use storm_core::events::Adapter;
use storm_core::middleware::MiddlewareChain;
use storm_core::outbox::Control;
use storm_transport::stream::Foreign;
use storm_transport::ws::{Agreed, WsProtocol};
use storm_transport::{Connection, Framed, FramedEncode, Protocol};
use stormsocket::{
    HeartbeatOptions, Hub, LengthPrefixFramer, Message, Middleware, Role, SendError, SendOutcome, Session,
    SessionOptions, SlowConsumerPolicy, TcpHandler, TcpServer, WsHandler, WsOptions, WsSession,
};
use tokio::io::{AsyncReadExt, DuplexStream};
use ws_support::*;

const BOUND: usize = 8 * 1024;

/// The numbers of the messages that may not go again.
const PLAIN: [u32; 3] = [10, 20, 30];

fn options(policy: SlowConsumerPolicy) -> SessionOptions {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(BOUND);
    options.slow_consumer_policy = policy;
    options
}

fn silent() -> WsOptions {
    WsOptions::default().heartbeat(HeartbeatOptions::default().interval(None))
}

struct Quiet;

impl WsHandler for Quiet {}

struct QuietTcp;

impl TcpHandler for QuietTcp {}

/// What was sent, and what became of it as far as the sender can know.
#[derive(Default)]
struct Feed {
    number: u32,
    /// Sent under a policy that drops nothing that was sent.
    kept: Vec<u32>,
    /// The last message under each key.
    latest: BTreeMap<u64, u32>,
    accepted: u64,
    refused: u64,
}

impl Feed {
    /// Sends `count` messages to a peer that does not read: plain ones, droppable ones, and states of three feeds.
    async fn send(&mut self, session: &Session, count: u32) {
        for _ in 0..count {
            self.number += 1;
            let number = self.number;
            let text = format!("{number} {}", "the same words each time ".repeat(number as usize % 4));
            let key = u64::from(number % 3);
            let send = session.send(text);
            let outcome = match number % 10 {
                _ if PLAIN.contains(&number) => send.policy(SlowConsumerPolicy::Drop).await,
                0..5 => send.policy(SlowConsumerPolicy::DropOldest).await,
                _ => send.latest(key).policy(SlowConsumerPolicy::Drop).await,
            };
            match outcome.expect("it is open") {
                SendOutcome::Sent => self.accepted += 1,
                SendOutcome::Dropped => {
                    self.refused += 1;
                    continue;
                }
                other => panic!("{other:?}"),
            }
            match number % 10 {
                _ if PLAIN.contains(&number) => self.kept.push(number),
                0..5 => {}
                _ => {
                    self.latest.insert(key, number);
                }
            }
        }
    }

    /// Checks what the peer has got, all of it, against what was sent and counted.
    fn check(&self, session: &Session, received: &[u32]) {
        let metrics = session.metrics();
        assert_eq!(metrics.messages_sent, received.len() as u64);
        assert_eq!(
            metrics.messages_sent + metrics.messages_dropped + metrics.messages_replaced,
            self.accepted + self.refused,
        );
        assert!(metrics.messages_replaced > 0 && metrics.messages_dropped > self.refused, "{metrics:?}");
        assert_eq!(self.kept, PLAIN, "those found room");
        for kept in self.kept.iter().chain(self.latest.values()) {
            assert!(received.contains(kept), "{kept} was reported as sent: {received:?}");
        }
        let in_line: Vec<_> = received.iter().filter(|number| (0..5).contains(&(**number % 10))).collect();
        assert!(in_line.is_sorted(), "{in_line:?}");
    }
}

fn number(text: &str) -> u32 {
    let (number, rest) = text.split_once(' ').expect("a number and words");
    let number = number.parse().expect("a number");
    assert_eq!(rest, "the same words each time ".repeat(number as usize % 4));
    number
}

async fn settled(session: &Session) {
    until(|| session.pending_send_bytes() == 0).await;
}

/// Reads length-prefixed messages until `session` has nothing left.
async fn read_frames(stream: &mut DuplexStream, session: &Session) -> Vec<u32> {
    let (mut wire, mut numbers) = (BytesMut::new(), Vec::new());
    loop {
        while let Some(len) = wire.first_chunk().map(|len| u32::from_be_bytes(*len) as usize)
            && wire.len() >= 4 + len
        {
            let frame = wire.split_to(4 + len);
            numbers.push(number(std::str::from_utf8(&frame[4..]).expect("text")));
        }
        if wire.is_empty() && session.pending_send_bytes() == 0 {
            // What the pipe holds is not pending any more.
            let more = tokio::time::timeout(std::time::Duration::from_millis(50), stream.read_buf(&mut wire));
            if more.await.is_err() {
                return numbers;
            }
        } else {
            soon(stream.read_buf(&mut wire)).await.expect("it goes on");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn over_tcp_what_was_kept_arrives_and_the_counts_add_up() {
    let hub = hub(options(SlowConsumerPolicy::Wait));
    let (mut peer, stream) = tokio::io::duplex(64);
    let framer = LengthPrefixFramer::new().max_message(200);
    let driver = Driver::register(&hub, Role::Server, None, FramedEncode::new(framer, None));
    let session = driver.session().clone();
    let connection = Connection::new(Foreign(stream), Framed::new(framer), driver, BytesMut::new());
    let running = tokio::spawn(async move { connection.run(&Adapter(QuietTcp)).await });
    let mut feed = Feed::default();
    feed.send(&session, 400).await;
    let too_large = session.send(vec![0; 201]).latest(0).await;
    assert!(matches!(too_large, Err(SendError::TooLarge { len: 201, limit: 200 })), "{too_large:?}");
    let received = read_frames(&mut peer, &session).await;
    feed.check(&session, &received);
    assert_eq!(hub.metrics().messages_replaced, session.metrics().messages_replaced);
    session.abort();
    soon(running).await.unwrap();
}

/// A connection that is not running yet: as long as it does not, the other end's peer reads nothing.
type Stalled = Connection<Foreign<DuplexStream>, WsProtocol>;

fn websocket(hub: &Arc<Hub>, role: Role, stream: DuplexStream, agreed: Agreed) -> (WsSession, Stalled) {
    let (protocol, driver) = WsProtocol::register(hub, role, None, agreed, &silent(), None);
    let session = WsProtocol::session(driver.session());
    (session, Connection::new(Foreign(stream), protocol, driver, BytesMut::new()))
}

/// Sends from `role` to a peer that wakes up late, a ping in between.
async fn over_websocket(role: Role, agreed: impl Fn() -> Agreed) {
    let (ours, theirs) = tokio::io::duplex(64);
    let hub = hub(options(SlowConsumerPolicy::Wait));
    let (session, sender) = websocket(&hub, role, ours, agreed());
    let other = if role == Role::Server { Role::Client } else { Role::Server };
    let (_, receiver) = websocket(&hub, other, theirs, agreed());
    let sending = tokio::spawn(async move { sender.run(&Adapter(Quiet)).await });
    let mut feed = Feed::default();
    feed.send(&session, 20).await;
    assert!(session.control(Control::Ping(Bytes::from_static(b"still there?"))), "there is room");
    feed.send(&session, 400).await;
    let (handler, mut observed) = observer();
    let receiving = tokio::spawn(async move { receiver.run(&Adapter(handler)).await });
    settled(&session).await;
    session.start_close(role.closed_by_us());
    let mut received = Vec::new();
    observed.connected().await;
    loop {
        match soon(observed.next()).await {
            Some(Event::Message(message)) => received.push(number(message.text().expect("text"))),
            Some(Event::Disconnected(_)) => break,
            event => panic!("{event:?}"),
        }
    }
    feed.check(&session, &received);
    soon(sending).await.unwrap();
    soon(receiving).await.unwrap();
}

#[tokio::test]
async fn over_websocket_what_was_kept_arrives_and_the_counts_add_up() {
    for role in [Role::Server, Role::Client] {
        over_websocket(role, Agreed::default).await;
    }
}

/// With context takeover one message that was compressed and did not leave would spoil all that follow.
#[cfg(feature = "deflate")]
#[tokio::test]
async fn what_is_compressed_may_be_dropped_and_replaced_too() {
    let agreed = || {
        let mut agreed = Agreed::default();
        agreed.deflate = Some(storm_ws_proto::DeflateParams::default());
        agreed
    };
    for role in [Role::Server, Role::Client] {
        over_websocket(role, agreed).await;
    }
}

#[tokio::test]
async fn a_broadcast_of_states_reaches_all_and_those_who_stall_get_the_last() {
    const STATES: usize = 500;
    for latest in [true, false] {
        let hub = hub(options(SlowConsumerPolicy::Disconnect));
        let mut peers = Vec::new();
        for number in 0..50 {
            let (session, peer, running) = piped(&hub, Role::Server, &silent(), 256, Quiet);
            peers.push((number % 10 == 5, session, peer, running));
        }
        for state in 0..STATES {
            let text = format!("{state:0100}");
            let report = match latest {
                true => hub.broadcast_text(text).latest("state").await,
                false => hub.broadcast_text(text).policy(SlowConsumerPolicy::DropOldest).await,
            };
            assert_eq!((report.sent, report.dropped, report.disconnected), (50, 0, 0));
            for (stalled, _, peer, _) in &mut peers {
                if !*stalled {
                    assert_eq!(peer.frame().await.text().parse::<usize>().unwrap(), state);
                }
            }
        }
        for (stalled, session, peer, _) in &mut peers {
            let mut got = 0;
            if *stalled {
                let mut last = None;
                while last != Some(STATES - 1) {
                    let state = peer.frame().await.text().parse::<usize>().unwrap();
                    assert!(last < Some(state), "{state} after {last:?}");
                    last = Some(state);
                    got += 1;
                }
            }
            let metrics = session.metrics();
            let gone = (STATES - got) as u64;
            let expected = match (*stalled, latest) {
                (false, _) => [STATES as u64, 0, 0],
                (true, true) => [got as u64, 0, gone],
                (true, false) => [got as u64, gone, 0],
            };
            let counts = [metrics.messages_sent, metrics.messages_dropped, metrics.messages_replaced];
            assert_eq!(counts, expected);
            assert!(!*stalled || got < if latest { 10 } else { STATES / 4 }, "{got}");
        }
        for (_, session, _, running) in peers {
            session.abort();
            soon(running).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_server_whose_policy_it_is_drops_the_oldest_whatever_is_sent() {
    let server = TcpServer::bind("127.0.0.1:0")
        .framer(LengthPrefixFramer::new())
        .max_pending_send_bytes(64 * 1024)
        .slow_consumer_policy(SlowConsumerPolicy::DropOldest)
        .handler(QuietTcp)
        .start()
        .await
        .unwrap();
    let mut peer = tokio::net::TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
    until(|| server.sessions().len() == 1).await;
    let session = server.sessions().iter().next().unwrap();
    let mut sent: u32 = 0;
    // Until well over what the kernel takes.
    while session.metrics().messages_dropped < 200 {
        let mut message = sent.to_be_bytes().to_vec();
        message.resize(10_000, 0);
        assert_eq!(session.send(Message::from(message)).await.unwrap(), SendOutcome::Sent);
        sent += 1;
        assert!(session.pending_send_bytes() < 64 * 1024 + 16 * 1024 + 2 * 10_128);
    }
    let (mut last, mut received) = (None, 0);
    while last != Some(sent - 1) {
        assert_eq!(soon(peer.read_u32()).await.unwrap(), 10_000);
        let mut message = vec![0; 10_000];
        soon(peer.read_exact(&mut message)).await.unwrap();
        let number = u32::from_be_bytes(*message.first_chunk().unwrap());
        assert!(last < Some(number), "{number} after {last:?}");
        last = Some(number);
        received += 1;
    }
    let metrics = server.metrics();
    assert_eq!((metrics.messages_sent, metrics.messages_dropped), (received, u64::from(sent) - received));
    drop(peer);
    stop(server).await;
}

#[tokio::test]
async fn a_message_in_parts_is_never_broken_up_nor_dropped() {
    let hub = hub(options(SlowConsumerPolicy::DropOldest));
    let (session, mut peer, running) = piped(&hub, Role::Server, &silent(), 64, Quiet);
    for number in 0..200 {
        assert_eq!(session.send_text(format!("{number:060}")).await.unwrap(), SendOutcome::Sent);
    }
    assert!(session.metrics().messages_dropped > 100);
    let reading = tokio::spawn(async move {
        let mut frames = vec![peer.frame().await];
        while !frames.last().unwrap().payload.ends_with(b"behind") {
            frames.push(peer.frame().await);
        }
        frames
    });
    let mut writer = session.text_writer();
    writer.write("begun").await.unwrap();
    let behind = tokio::spawn({
        let session = session.clone();
        async move { session.send_text("behind").latest("state").await.unwrap() }
    });
    tokio::task::yield_now().await;
    assert!(!behind.is_finished(), "it waits for the end of the parts");
    writer.finish().await.unwrap();
    assert_eq!(soon(behind).await.unwrap(), SendOutcome::Sent);
    let frames = soon(reading).await.unwrap();
    let [.., first, last, behind] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((first.first, &first.payload[..]), (0x01, &b"begun"[..]));
    assert_eq!((last.first, &last.payload[..]), (0x80, &b""[..]));
    assert_eq!(behind.text(), "behind");
    let before: Vec<u32> = frames[..frames.len() - 3].iter().map(|f| f.text().parse().unwrap()).collect();
    assert!(before.is_sorted() && before.last() == Some(&199), "{before:?}");
    session.abort();
    soon(running).await.unwrap();
}

struct Shout;

impl Middleware for Shout {
    fn on_data_sending(&self, _: &Session, data: Bytes) -> Option<Bytes> {
        (data != "no").then(|| [&data[..], b"!"].concat().into())
    }
}

#[tokio::test]
async fn middlewares_see_messages_with_a_policy_or_a_key_once() {
    let mut chain = MiddlewareChain::default();
    chain.push(Shout);
    let hub = Hub::new(options(SlowConsumerPolicy::Wait), chain).unwrap();
    let (session, mut peer, running) = piped(&hub, Role::Server, &silent(), 1024, Quiet);
    assert_eq!(session.send("no").latest(1).await.unwrap(), SendOutcome::Suppressed);
    assert_eq!(session.send_text("a").latest(1).await.unwrap(), SendOutcome::Sent);
    let report = hub.broadcast_text("b").policy(SlowConsumerPolicy::DropOldest).await;
    assert_eq!((report.sent, report.suppressed), (1, 0));
    assert_eq!(hub.broadcast_text("no").latest(1).await.suppressed, 1);
    assert_eq!((peer.frame().await.text(), peer.frame().await.text()), ("a!", "b!"));
    session.abort();
    soon(running).await.unwrap();
}
