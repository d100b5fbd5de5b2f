//! Messages sent in parts: fragments on the wire, others wait, control frames pass, unfinished ones end the session.
#![cfg(all(feature = "server", feature = "client", feature = "ws"))]

mod ws_support;

use std::task::Poll;
use std::time::Duration;

use stormsocket::{
    BoxError, DisconnectReason, HeartbeatOptions, Message, Role, SendError, SendOutcome, SessionOptions,
    SlowConsumerPolicy, WsHandler, WsOptions, WsSession,
};
use ws_support::*;

const ROOM: usize = 1 << 16;

fn quiet() -> WsOptions {
    WsOptions::default().heartbeat(HeartbeatOptions::default().interval(None))
}

/// Polls once: the future has its place in line from then on.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx))).await
}

#[tokio::test(start_paused = true)]
async fn parts_are_frames_and_other_messages_wait_for_the_last() {
    for role in [Role::Server, Role::Client] {
        let (handler, _observed) = observer();
        let (session, mut peer, running) =
            piped(&hub(SessionOptions::default()), role, &quiet(), ROOM, handler);
        let mut writer = session.text_writer();
        writer.write("gr\u{fc}".as_bytes()[..3].to_vec()).await.unwrap();
        let mut other = Box::pin(async { session.send("other").await });
        let mut broadcast = Box::pin(async { session.server().broadcast("everyone").await });
        assert!(poll_once(&mut other).await.is_pending());
        assert!(poll_once(&mut broadcast).await.is_pending());
        session.ping("between").unwrap();
        writer.write("\u{fc}n".as_bytes()[1..].to_vec()).await.unwrap();
        assert!(poll_once(&mut other).await.is_pending());
        writer.finish().await.unwrap();
        assert_eq!(other.await.unwrap(), SendOutcome::Sent);
        assert_eq!(broadcast.await.sent, 1);
        let expected: [(u8, &[u8]); 6] = [
            (0x01, b"gr\xC3"),
            (0x89, b"between"),
            (0x00, b"\xBCn"),
            (0x80, b""),
            (0x81, b"other"),
            (0x81, b"everyone"),
        ];
        for (first, payload) in expected {
            let frame = peer.frame().await;
            assert_eq!(
                (frame.first, &frame.payload[..], frame.masked),
                (first, payload, role == Role::Client)
            );
        }
        assert_eq!(session.metrics().messages_sent, 3);
        session.abort();
        running.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn two_writers_queue_up() {
    let (handler, _observed) = observer();
    let (session, mut peer, running) =
        piped(&hub(SessionOptions::default()), Role::Server, &quiet(), ROOM, handler);
    let writers: Vec<_> = (0..10_u8)
        .map(|number| {
            let session = session.clone();
            tokio::spawn(async move {
                let mut writer = session.binary_writer();
                for _ in 0..5 {
                    writer.write(vec![number]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                writer.finish().await.unwrap();
            })
        })
        .collect();
    for _ in 0..10 {
        let number = peer.frame().await;
        assert_eq!(number.first, 0x02);
        for _ in 1..5 {
            let frame = peer.frame().await;
            assert_eq!((frame.first, frame.payload), (0x00, number.payload.clone()));
        }
        assert_eq!(peer.frame().await.first, 0x80);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    session.abort();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_writer_dropped_half_way_ends_the_session_with_1011() {
    let (handler, mut observed) = observer();
    let (session, mut peer, running) =
        piped(&hub(SessionOptions::default()), Role::Server, &quiet(), ROOM, handler);
    observed.connected().await;
    // Untouched and finished ones harm nobody.
    drop(session.text_writer());
    session.text_writer().finish().await.unwrap();
    assert_eq!(peer.frame().await, Frame { first: 0x81, masked: false, payload: vec![] });
    let mut writer = session.text_writer();
    writer.write("half").await.unwrap();
    let mut waiting = Box::pin(async { session.send("never").await });
    assert!(poll_once(&mut waiting).await.is_pending());
    drop(writer);
    assert!(matches!(waiting.await, Err(SendError::Closed(Some(DisconnectReason::Aborted)))));
    assert_eq!(peer.frame().await.first, 0x01);
    assert_eq!(peer.closes().await, Some(1011));
    peer.send(0x88, goodbye(1011, "")).await;
    peer.end().await;
    drop(peer);
    assert_eq!(running.await.unwrap(), DisconnectReason::Aborted);
    assert_eq!(observed.disconnected().await, DisconnectReason::Aborted);
}

#[tokio::test(start_paused = true)]
async fn text_that_is_none_is_refused_part_by_part() {
    let (handler, _observed) = observer();
    let (session, mut peer, running) =
        piped(&hub(SessionOptions::default()), Role::Server, &quiet(), ROOM, handler);
    // Nothing has been sent: others may go on.
    let mut writer = session.text_writer();
    assert!(matches!(writer.write(vec![0xFF]).await, Err(SendError::InvalidUtf8)));
    drop(writer);
    session.send("fine").await.unwrap();
    assert_eq!(peer.frame().await.text(), "fine");
    // A part that goes wrong later can be made good.
    let mut writer = session.text_writer();
    writer.write(vec![0xC3]).await.unwrap();
    assert!(matches!(writer.write("x").await, Err(SendError::InvalidUtf8)));
    writer.write(vec![0xBC]).await.unwrap();
    writer.finish().await.unwrap();
    for (first, payload) in [(0x01, &b"\xC3"[..]), (0x00, b"\xBC"), (0x80, b"")] {
        let frame = peer.frame().await;
        assert_eq!((frame.first, &frame.payload[..]), (first, payload));
    }
    // A character that is not finished at the end.
    let mut writer = session.text_writer();
    writer.write(vec![0xC3]).await.unwrap();
    assert!(matches!(writer.finish().await, Err(SendError::InvalidUtf8)));
    assert_eq!(peer.frame().await.first, 0x01);
    assert_eq!(peer.closes().await, Some(1011));
    session.abort();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_met_the_limit_goes_on_although_others_are_in_line_before_it() {
    for policy in [SlowConsumerPolicy::Wait, SlowConsumerPolicy::Drop, SlowConsumerPolicy::Disconnect] {
        let mut options = SessionOptions::default();
        options.max_pending_send_bytes = Some(1000);
        options.slow_consumer_policy = policy;
        let (handler, _observed) = observer();
        let (session, mut peer, running) = piped(&hub(options), Role::Server, &quiet(), 100, handler);
        let (begun, wait) = tokio::sync::oneshot::channel();
        // Tasks of their own: each is polled only when it is woken.
        let writing = tokio::spawn({
            let session = session.clone();
            async move {
                let mut writer = session.binary_writer();
                writer.write(vec![1; 10]).await.unwrap();
                begun.send(()).unwrap();
                tokio::task::yield_now().await;
                for _ in 0..5 {
                    writer.write(vec![2; 2000]).await.unwrap();
                }
                writer.finish().await.unwrap();
            }
        });
        wait.await.unwrap();
        let other = tokio::spawn({
            let session = session.clone();
            async move { session.send("other").await }
        });
        let reading = async {
            assert_eq!(peer.frame().await.first, 0x02);
            for _ in 0..5 {
                assert_eq!(peer.frame().await.payload.len(), 2000);
            }
            assert_eq!(peer.frame().await.first, 0x80);
            assert_eq!(peer.frame().await.text(), "other");
        };
        tokio::time::timeout(Duration::from_secs(60), reading).await.expect("who may go on is woken");
        writing.await.unwrap();
        assert_eq!(other.await.unwrap().unwrap(), SendOutcome::Sent);
        session.abort();
        running.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_keeps_a_place_in_line_that_has_been_turned_away() {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(1000);
    options.slow_consumer_policy = SlowConsumerPolicy::Drop;
    let (handler, _observed) = observer();
    let (session, mut peer, running) = piped(&hub(options), Role::Server, &quiet(), 100, handler);
    let mut writer = session.text_writer();
    writer.write("half").await.unwrap();
    // All wait for the writer; the first of them fills the outbox, the others are polled with it.
    let hub = session.server().clone();
    let together = async {
        tokio::join!(session.send(vec![0; 5000]), session.send("dropped"), async {
            hub.broadcast("dropped, too").await
        },)
    };
    let (sent, ()) = tokio::join!(together, async {
        tokio::task::yield_now().await;
        writer.finish().await.unwrap();
    });
    assert_eq!((sent.0.unwrap(), sent.1.unwrap()), (SendOutcome::Sent, SendOutcome::Dropped));
    assert_eq!((sent.2.sent, sent.2.dropped), (0, 1));
    for first in [0x01, 0x80, 0x82] {
        assert_eq!(peer.frame().await.first, first);
    }
    peer.settle().await;
    assert_eq!(session.send("room again").await.unwrap(), SendOutcome::Sent);
    assert_eq!(peer.frame().await.text(), "room again");
    session.abort();
    running.await.unwrap();
}

/// Streams an answer from inside the handler.
struct Streaming;

impl WsHandler for Streaming {
    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
        session.send("before").await?;
        let mut writer = session.text_writer();
        for word in message.text().unwrap_or_default().split(' ') {
            writer.write(word.to_owned()).await?;
        }
        writer.finish().await?;
        session.send("after").await?;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_stream_its_answer_between_others() {
    let (session, mut peer, running) =
        piped(&hub(SessionOptions::default()), Role::Server, &quiet(), ROOM, Streaming);
    for _ in 0..3 {
        peer.send(0x81, b"a bc").await;
    }
    for _ in 0..3 {
        for (first, payload) in
            [(0x81, &b"before"[..]), (0x01, b"a"), (0x00, b"bc"), (0x80, b""), (0x81, b"after")]
        {
            let frame = peer.frame().await;
            assert_eq!((frame.first, &frame.payload[..]), (first, payload));
        }
    }
    session.abort();
    running.await.unwrap();
}
