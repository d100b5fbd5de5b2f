//! Messages looked at where they lie: who sees them, in which order, and sends that copy from there.
#![cfg(all(feature = "server", feature = "client", feature = "ws"))]

mod support;
mod ws_support;

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use stormsocket::{
    BoxError, CloseCode, DelimiterFramer, DisconnectReason, FramingError, Handled, LengthPrefixFramer,
    Message, MessageFramer, MessageRef, Middleware, RawFramer, SendError, SendOutcome, ServerHandle, Session,
    SlowConsumerPolicy, TcpServer, Wire, WsHandler, WsServer, WsSession,
};
use support::{Peer as TcpPeer, addr_of, frame as len_frame, local_server, soon};
use ws_support::{Peer, masked, plain, until};

/// What happened, in order.
#[derive(Debug, Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn shown(message: MessageRef<'_>) -> String {
    String::from_utf8_lossy(message.data()).into_owned()
}

/// Done with messages that begin with `d`, passes the others on.
fn ds_are_done(notes: &Notes) -> impl Fn(&WsSession, MessageRef<'_>) -> Handled + Send + Sync + use<> {
    let notes = notes.clone();
    move |_, message| {
        notes.add(format!("looked at {}", shown(message)));
        if message.data().starts_with(b"d") { Handled::Done } else { Handled::Pass }
    }
}

fn owner(notes: &Notes) -> impl Fn(WsSession, Message) -> std::future::Ready<()> + Send + Sync + use<> {
    let notes = notes.clone();
    move |_, message| {
        notes.add(format!("owned {}", shown((&message).into())));
        std::future::ready(())
    }
}

async fn ws_server(server: WsServer<impl storm_core::Events<WsSession, Message>>) -> (ServerHandle, Peer) {
    let server = server.start().await.unwrap();
    let peer = Peer::connect(&server).await;
    (server, peer)
}

/// Everything before it has been handled.
async fn ping_pong(peer: &mut Peer) {
    peer.send(0x89, "sync").await;
    assert_eq!(peer.frame().await.payload, b"sync");
}

#[tokio::test]
async fn what_one_is_done_with_no_other_sees_and_order_is_kept() {
    let notes = Notes::default();
    let second = notes.clone();
    let (server, mut peer) = ws_server(
        WsServer::bind("127.0.0.1:0")
            .on_message(owner(&notes))
            .on_message_ref(ds_are_done(&notes))
            .on_message_ref(move |_, message| {
                second.add(format!("looked again at {}", shown(message)));
                Handled::Pass
            }),
    )
    .await;
    let batch = [masked(0x81, b"d1"), masked(0x82, b"p1"), masked(0x81, b"d2"), masked(0x82, b"p2")];
    peer.write(batch.concat()).await;
    ping_pong(&mut peer).await;
    let expected = [
        "looked at d1",
        "looked at p1",
        "looked again at p1",
        "owned p1",
        "looked at d2",
        "looked at p2",
        "looked again at p2",
        "owned p2",
    ];
    assert_eq!(notes.taken(), expected);
    assert_eq!(server.sessions().iter().next().unwrap().metrics().messages_received, 4);
    drop(peer);
    ws_support::stop(server).await;
}

#[tokio::test]
async fn messages_that_do_not_lie_in_the_buffer_are_shown_too() {
    let notes = Notes::default();
    let server = WsServer::bind("127.0.0.1:0").on_message(owner(&notes)).on_message_ref(ds_are_done(&notes));
    #[cfg(feature = "deflate")]
    let server = server.deflate(stormsocket::DeflateOptions::default());
    let server = server.start().await.unwrap();
    let (mut peer, _) = Peer::connect_with(&server, "Sec-WebSocket-Extensions: permessage-deflate\r\n").await;
    peer.write([masked(0x01, b"d fragm"), masked(0x89, b""), masked(0x80, b"ented")].concat()).await;
    peer.write([masked(0x02, b"p fragm"), masked(0x80, b"ented")].concat()).await;
    assert_eq!(peer.frame().await.first, 0x8A);
    // "d" in a stored block, RFC 7692 \u{a7}7.2.3.3.
    #[cfg(feature = "deflate")]
    peer.write(masked(0xC2, b"\0\x01\0\xFE\xFFd\0")).await;
    ping_pong(&mut peer).await;
    let mut expected = vec!["looked at d fragmented", "looked at p fragmented", "owned p fragmented"];
    if cfg!(feature = "deflate") {
        expected.push("looked at d");
    }
    assert_eq!(notes.taken(), expected);
    drop(peer);
    ws_support::stop(server).await;
}

struct Shout;

impl Middleware for Shout {
    async fn on_data_received(&self, _: &Session, data: Bytes) -> Result<Option<Bytes>, BoxError> {
        Ok(Some(data.to_ascii_uppercase().into()))
    }

    fn on_data_sending(&self, _: &Session, data: Bytes) -> Option<Bytes> {
        (data != "HUSH").then(|| [&data[..], b"!"].concat().into())
    }
}

#[tokio::test]
async fn handlers_in_place_see_what_a_middleware_made_of_it_and_their_sends_go_through_it() {
    let outcomes = Notes::default();
    let noted = outcomes.clone();
    let (server, mut peer) =
        ws_server(WsServer::bind("127.0.0.1:0").middleware(Shout).on_message_ref(move |session, message| {
            noted.add(format!("{:?}", session.try_send_ref(message)));
            Handled::Done
        }))
        .await;
    peer.write([masked(0x81, b"hello"), masked(0x81, b"hush"), masked(0x81, b"bye")].concat()).await;
    assert_eq!(peer.frame().await.text(), "HELLO!");
    assert_eq!(peer.frame().await.text(), "BYE!");
    assert_eq!(outcomes.taken(), ["Ok(Sent)", "Ok(Suppressed)", "Ok(Sent)"]);
    drop(peer);
    ws_support::stop(server).await;
}

#[tokio::test]
async fn nothing_is_shown_behind_a_close_or_an_abort() {
    let notes = Notes::default();
    let noted = notes.clone();
    let (server, mut peer) =
        ws_server(WsServer::bind("127.0.0.1:0").on_message_ref(move |session, message| {
            noted.add(shown(message));
            if message.text() == Some("close") {
                let goodbye = Some((CloseCode::new(4000).unwrap().into(), "enough".into()));
                session.start_close_with(DisconnectReason::ClosedByServer, goodbye);
            }
            Handled::Done
        }))
        .await;
    peer.write([masked(0x81, b"one"), masked(0x81, b"close"), masked(0x81, b"two")].concat()).await;
    assert_eq!(peer.closes().await, Some(4000));
    peer.send(0x88, 4000_u16.to_be_bytes()).await;
    peer.end().await;
    drop(peer);
    until(|| server.sessions().is_empty()).await;
    assert_eq!(notes.taken(), ["one", "close"]);
    ws_support::stop(server).await;
}

#[tokio::test]
async fn a_panic_ends_its_session_and_shows_it_nothing_more() {
    let notes = Notes::default();
    let (noted, errors) = (notes.clone(), notes.clone());
    let (server, mut peer) = ws_server(
        WsServer::bind("127.0.0.1:0")
            .on_message_ref(move |_, message| {
                noted.add(shown(message));
                assert_ne!(message.data(), b"bad", "as asked");
                Handled::Done
            })
            .on_error(move |_, error| {
                errors.add(format!("{:?}", error.kind()));
                std::future::ready(())
            }),
    )
    .await;
    peer.write([masked(0x81, b"good"), masked(0x81, b"bad"), masked(0x81, b"late")].concat()).await;
    assert_eq!(peer.closes().await, Some(1011));
    peer.send(0x88, 1011_u16.to_be_bytes()).await;
    peer.end().await;
    drop(peer);
    until(|| server.sessions().is_empty()).await;
    assert_eq!(notes.taken(), ["good", "bad", "Panic"]);
    ws_support::stop(server).await;
}

/// Echoes in place while there is room, and waits for it otherwise.
struct Echo;

impl WsHandler for Echo {
    fn on_message_ref(&self, session: &WsSession, message: MessageRef<'_>) -> Handled {
        match session.try_send_ref(message) {
            Ok(outcome) => {
                assert_eq!(outcome, SendOutcome::Sent);
                Handled::Done
            }
            Err(error) => {
                assert!(matches!(error, SendError::Full), "{error}");
                Handled::Pass
            }
        }
    }

    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
        session.send(message).await?;
        Ok(())
    }
}

#[tokio::test]
async fn an_echo_in_place_keeps_order_through_a_full_outbox() {
    let server = WsServer::bind("127.0.0.1:0").max_pending_send_bytes(2000).handler(Echo);
    let (server, mut peer) = ws_server(server).await;
    let mut sent = Vec::new();
    for number in 0..3000_u32 {
        let payload = [&number.to_be_bytes()[..], &vec![b'x'; (number % 50) as usize]].concat();
        sent.extend(masked(0x82, &payload));
    }
    peer.write(sent).await;
    for number in 0..3000_u32 {
        let frame = peer.frame().await;
        assert_eq!((frame.first, frame.payload.first_chunk()), (0x82, Some(&number.to_be_bytes())));
        assert_eq!(frame.payload.len(), 4 + (number % 50) as usize);
    }
    drop(peer);
    ws_support::stop(server).await;
}

#[tokio::test]
async fn a_send_that_does_not_wait_says_why_it_could_not() {
    for policy in [SlowConsumerPolicy::Wait, SlowConsumerPolicy::Drop, SlowConsumerPolicy::Disconnect] {
        let server =
            WsServer::bind("127.0.0.1:0").max_pending_send_bytes(10_000).slow_consumer_policy(policy);
        let (server, peer) = ws_server(server).await;
        until(|| !server.sessions().is_empty()).await;
        let session = server.sessions().iter().next().unwrap();
        let refused = loop {
            match session.try_send_ref(&[7; 5000]) {
                Ok(outcome) => assert_eq!(outcome, SendOutcome::Sent),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, SendError::Full), "{refused}");
        assert!(matches!(session.try_send(vec![7; 5000]), Err(SendError::Full)));
        assert_eq!((session.metrics().messages_dropped, session.disconnect_reason()), (0, None));
        session.abort();
        assert!(matches!(session.try_send("late"), Err(SendError::Closed(Some(DisconnectReason::Aborted)))));
        drop(peer);
        ws_support::stop(server).await;
    }
}

#[derive(Clone, Default)]
struct CountSends(Arc<std::sync::atomic::AtomicUsize>);

impl Middleware for CountSends {
    fn on_data_sending(&self, _: &Session, data: Bytes) -> Option<Bytes> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(data)
    }
}

#[tokio::test]
async fn a_hook_sees_each_message_that_is_queued_and_none_that_is_refused() {
    let seen = CountSends::default();
    let server = WsServer::bind("127.0.0.1:0").max_pending_send_bytes(10_000).middleware(seen.clone());
    let (server, peer) = ws_server(server).await;
    until(|| !server.sessions().is_empty()).await;
    let session = server.sessions().iter().next().unwrap();
    let mut sent = 0;
    while session.try_send(vec![7; 3000]).is_ok() {
        sent += 1;
    }
    assert!(matches!(session.try_send_ref(b"full"), Err(SendError::Full)));
    session.abort();
    assert!(matches!(session.try_send("late"), Err(SendError::Closed(Some(DisconnectReason::Aborted)))));
    assert!(sent > 0);
    assert_eq!(seen.0.load(std::sync::atomic::Ordering::Relaxed), sent);
    drop(peer);
    ws_support::stop(server).await;
}

/// A framer that does not say where its messages lie.
#[derive(Clone)]
struct Reversed;

impl MessageFramer for Reversed {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        let Some(message) = LengthPrefixFramer::new().decode(buffer)? else { return Ok(None) };
        Ok(Some(message.iter().rev().copied().collect::<Vec<_>>().into()))
    }

    fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
        LengthPrefixFramer::new().encode(message, wire)
    }
}

async fn tcp_transcript(
    framer: impl MessageFramer + Clone + Sync,
    wire: &[u8],
    echoes: &[u8],
) -> Vec<String> {
    let notes = Notes::default();
    let (looked, owned) = (notes.clone(), notes.clone());
    let server: TcpServer<_, _> = local_server()
        .framer(framer)
        .on_data_ref(move |session, data| {
            looked.add(format!("looked at {}", data.escape_ascii()));
            if data.starts_with(b"p") {
                return Handled::Pass;
            }
            session.try_send_ref(data).unwrap();
            Handled::Done
        })
        .on_data(move |session, data| {
            owned.add(format!("owned {}", data.escape_ascii()));
            async move { session.send(data).await }
        });
    let server = server.start().await.unwrap();
    let mut peer = TcpPeer::connect(addr_of(&server)).await;
    peer.send(wire).await;
    peer.expect(echoes).await;
    drop(peer);
    soon(server.shutdown(std::time::Duration::from_millis(200))).await;
    notes.taken()
}

#[tokio::test]
async fn tcp_messages_are_shown_whatever_the_framer() {
    let framed = [len_frame(b"done"), len_frame(b"pass"), len_frame(b""), len_frame(b"d")].concat();
    let expected = ["looked at done", "looked at pass", "owned pass", "looked at ", "looked at d"];
    assert_eq!(tcp_transcript(LengthPrefixFramer::new(), &framed, &framed).await, expected);
    let lines = b"done\npass\n\nd\n";
    assert_eq!(tcp_transcript(DelimiterFramer::default(), lines, lines).await, expected);
    assert_eq!(tcp_transcript(RawFramer, b"bytes", b"bytes").await, ["looked at bytes"]);
    let turned = [len_frame(b"enod"), len_frame(b"ssap")].concat();
    let back = [len_frame(b"done"), len_frame(b"pass")].concat();
    assert_eq!(tcp_transcript(Reversed, &turned, &back).await, expected[..3]);
}

#[tokio::test]
async fn a_client_looks_at_messages_in_place_too() {
    use stormsocket::WsClient;
    use tokio::net::TcpListener;
    let notes = Notes::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let connecting = tokio::spawn(
        WsClient::new(url).on_message(owner(&notes)).on_message_ref(ds_are_done(&notes)).connect(),
    );
    let mut peer = Peer::accept(&listener).await;
    let client = soon(connecting).await.unwrap().unwrap();
    peer.write([plain(0x81, b"d"), plain(0x81, b"p"), plain(0x89, b"")].concat()).await;
    assert_eq!(peer.frame().await.first, 0x8A);
    assert_eq!(notes.taken(), ["looked at d", "looked at p", "owned p"]);
    client.session().abort();
    drop(peer);
}
