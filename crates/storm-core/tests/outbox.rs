//! The outbox as senders and the connection task see it, without a socket: a `Driver` stands in for the task.

mod support;

use std::io::IoSlice;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use storm_core::driver::{Driver, Wish};
use storm_core::isolation::catch_unwind_in;
use storm_core::metrics::Ending;
use storm_core::middleware::MiddlewareChain;
use storm_core::outbox::{Control, Encode, Part, SHARE_FROM, SendQueue};
use storm_core::{
    ConnectionState, DisconnectReason, Hub, Message, Role, SendError, SendOutcome, Session, SessionOptions,
    SlowConsumerPolicy,
};
use support::{Asking, Fragile, Plain, Wakes};

fn driver(limit: usize, policy: SlowConsumerPolicy) -> Driver {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(limit);
    options.slow_consumer_policy = policy;
    let hub = Hub::new(options, MiddlewareChain::default()).expect("valid");
    Driver::register(&hub, Role::Server, None, Plain(usize::MAX))
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Sends what must be taken at once.
fn send(session: &Session, text: &str) {
    let sent = poll(pin!(session.send(text)));
    assert!(matches!(sent, Poll::Ready(Ok(SendOutcome::Sent))), "{sent:?}");
}

/// Everything that leaves now, in order.
fn take(driver: &mut Driver) -> String {
    let mut writing = SendQueue::default();
    let mut all = String::new();
    let mut written = 0;
    loop {
        driver.sync(&mut writing, written);
        if writing.is_empty() {
            return all;
        }
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = writing.fill_slices(&mut slices);
        slices[..filled].iter().for_each(|slice| all.push_str(std::str::from_utf8(slice).expect("text")));
        written = writing.len();
        writing.advance(written);
    }
}

#[test]
fn room_comes_back_at_half_of_the_limit_and_not_before() {
    let mut driver = driver(10, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    send(driver.session(), "123456789");
    assert!(!session.is_backpressured());
    send(driver.session(), "abc");
    assert!(session.is_backpressured());
    assert_eq!(session.pending_send_bytes(), 12);
    let mut waiting = pin!(session.send("w"));
    assert!(poll(waiting.as_mut()).is_pending());
    let mut writing = SendQueue::default();
    driver.sync(&mut writing, 0);
    writing.advance(6);
    driver.sync(&mut writing, 6);
    assert!(session.is_backpressured(), "6 of 10 bytes are pending");
    assert!(poll(waiting.as_mut()).is_pending());
    writing.advance(1);
    driver.sync(&mut writing, 1);
    assert!(!session.is_backpressured());
    assert!(matches!(poll(waiting), Poll::Ready(Ok(SendOutcome::Sent))));
}

#[test]
fn the_line_is_kept_although_there_is_room_and_a_dropped_place_is_the_next_ones() {
    let mut driver = driver(4, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    send(driver.session(), "full");
    let mut first = Box::pin(session.send("1"));
    let mut second = Box::pin(session.send("2"));
    let mut third = Box::pin(session.send("3"));
    let wakes = Arc::new(Wakes::default());
    assert!(poll(first.as_mut()).is_pending());
    assert!(second.as_mut().poll(&mut Context::from_waker(&wakes.clone().into())).is_pending());
    assert!(poll(third.as_mut()).is_pending());
    assert_eq!(take(&mut driver), "full");
    let again = second.as_mut().poll(&mut Context::from_waker(&wakes.clone().into()));
    assert!(again.is_pending(), "it is the first one's turn");
    assert!(poll(pin!(session.send("4"))).is_pending(), "newcomers stand in line");
    drop(first);
    assert!(wakes.0.load(Ordering::SeqCst) > 0, "the next in line is woken");
    assert!(poll(second.as_mut()).is_ready());
    assert!(poll(third.as_mut()).is_ready());
    assert_eq!(take(&mut driver), "23");
}

#[test]
fn a_batch_and_another_threads_sends_keep_their_order() {
    let mut driver = driver(1000, SlowConsumerPolicy::Wait);
    driver.begin_batch();
    send(driver.session(), "1");
    send(driver.session(), "2");
    std::thread::scope(|scope| {
        let session = driver.session().clone();
        scope.spawn(move || send(&session, "3"));
    });
    send(driver.session(), "4");
    assert_eq!(driver.session().pending_send_bytes(), 4);
    send(driver.session(), "5");
    assert_eq!(take(&mut driver), "12345");
    assert_eq!(driver.session().metrics().messages_sent, 5);
}

#[test]
fn a_batch_does_not_overtake_those_who_wait() {
    let mut driver = driver(100, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    send(&session, &"x".repeat(100));
    let mut waiting = pin!(session.send("1"));
    assert!(poll(waiting.as_mut()).is_pending());
    take(&mut driver);
    driver.begin_batch();
    let mut own = pin!(session.send("2"));
    assert!(poll(own.as_mut()).is_pending(), "there is room, and a line");
    assert!(poll(waiting).is_ready());
    assert!(poll(own).is_ready());
    assert_eq!(take(&mut driver), "12");
}

#[test]
fn a_batch_takes_no_more_than_there_is_room_for() {
    let mut driver = driver(100, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    send(&session, &"x".repeat(99));
    driver.begin_batch();
    send(&session, "12");
    assert!(poll(pin!(session.send("3"))).is_pending());
    assert_eq!(session.pending_send_bytes(), 101);
}

#[test]
fn a_batch_that_meets_what_others_have_queued_has_filled_the_outbox() {
    let mut driver = driver(100, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    driver.begin_batch();
    send(&session, &"1".repeat(20));
    std::thread::scope(|scope| {
        scope.spawn(|| send(&session, &"2".repeat(90)));
    });
    driver.sync(&mut SendQueue::default(), 0);
    assert!(session.is_backpressured(), "110 of 100 bytes are pending");
}

/// Messages in brackets, parts of one as they are.
struct Bracketed;

impl Encode for Bracketed {
    fn encode(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError> {
        queue.put_slice(b"[");
        queue.put_slice(message.data());
        queue.put_slice(b"]");
        Ok(())
    }

    fn encode_part(&mut self, part: Part, queue: &mut SendQueue) -> Result<(), SendError> {
        queue.put_slice(&part.data);
        Ok(())
    }

    fn twin(&self) -> Option<Box<dyn Encode>> {
        Some(Box::new(Self))
    }
}

#[test]
fn a_batch_puts_nothing_between_the_parts_of_a_message() {
    let hub = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
    let mut driver = Driver::register(&hub, Role::Server, None, Bracketed);
    let session = driver.session().clone();
    let part = |text: &'static str, first, last| {
        let data = Bytes::from_static(text.as_bytes());
        Part { is_text: true, data, first, last, compress: false }
    };
    assert!(poll(pin!(session.send_part(part("one ", true, false)))).is_ready());
    driver.begin_batch();
    let mut own = pin!(session.send("x"));
    assert!(poll(own.as_mut()).is_pending());
    assert!(poll(pin!(session.send_part(part("message", false, true)))).is_ready());
    assert!(poll(own).is_ready());
    assert_eq!(take(&mut driver), "one message[x]");
}

#[test]
fn a_full_outbox_takes_a_pong_and_no_ping() {
    let driver = driver(4, SlowConsumerPolicy::Wait);
    send(driver.session(), "full");
    assert!(driver.session().control(Control::Pong("".into())));
    assert!(!driver.session().control(Control::Ping("".into())));
}

#[test]
fn drop_and_disconnect_give_the_task_one_chance_to_write() {
    let mut drops = driver(4, SlowConsumerPolicy::Drop);
    let session = drops.session().clone();
    send(drops.session(), "full");
    let mut kept = pin!(session.send("kept"));
    assert!(poll(kept.as_mut()).is_pending());
    assert_eq!(take(&mut drops), "full");
    assert!(matches!(poll(kept), Poll::Ready(Ok(SendOutcome::Sent))));
    let mut dropped = pin!(session.send("dropped"));
    assert!(poll(dropped.as_mut()).is_pending());
    assert!(matches!(poll(dropped), Poll::Ready(Ok(SendOutcome::Dropped))));
    assert_eq!(session.metrics().messages_dropped, 1);

    let mut cuts = driver(4, SlowConsumerPolicy::Disconnect);
    let session = cuts.session().clone();
    send(cuts.session(), "full");
    let mut cut = pin!(session.send("x"));
    assert!(poll(cut.as_mut()).is_pending());
    let refused = poll(cut);
    assert!(matches!(refused, Poll::Ready(Err(SendError::Closed(Some(DisconnectReason::SlowConsumer))))));
    let mut writing = SendQueue::default();
    assert_eq!(cuts.sync(&mut writing, 0), Wish::Abort);
    assert!(writing.is_empty(), "nothing leaves after an abort");
}

#[test]
fn a_session_without_its_task_is_gone() {
    let driver = driver(4, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    session.join("room");
    send(driver.session(), "full");
    let mut waiting = pin!(session.send("x"));
    assert!(poll(waiting.as_mut()).is_pending());
    let mut closing = pin!(session.close());
    assert!(poll(closing.as_mut()).is_pending());
    drop(driver);
    assert!(matches!(poll(waiting), Poll::Ready(Err(SendError::Closed(_)))));
    assert!(poll(closing).is_ready());
    assert!(session.server().sessions().is_empty());
    assert!(session.server().groups().names().is_empty());
}

#[test]
fn nothing_waits_for_a_transport_that_is_gone() {
    let mut driver = driver(4, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    send(&session, "taken");
    let mut writing = SendQueue::default();
    driver.sync(&mut writing, 0);
    assert!(session.is_backpressured());
    driver.transport_gone(DisconnectReason::TransportError, Ending::Cut);
    assert_eq!((session.pending_send_bytes(), session.is_backpressured()), (0, false));
}

#[test]
fn who_waits_is_woken_where_it_was_polled_last() {
    let mut driver = driver(4, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    let tasks: [Arc<Wakes>; 2] = Default::default();
    let woken = || tasks.each_ref().map(|wakes| wakes.0.swap(0, Ordering::SeqCst));
    send(&session, "full");
    let (mut waiting, mut closed) = (pin!(session.send("x")), pin!(session.closed()));
    for task in &tasks {
        let waker = task.clone().into();
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    woken();
    take(&mut driver);
    assert_eq!(woken(), [0, 1]);
    assert!(poll(waiting).is_ready());
    for task in &tasks {
        assert!(closed.as_mut().poll(&mut Context::from_waker(&task.clone().into())).is_pending());
    }
    let mut another = pin!(session.closed());
    assert!(another.as_mut().poll(&mut Context::from_waker(&tasks[1].clone().into())).is_pending());
    woken();
    drop(driver);
    assert_eq!(woken(), [0, 2], "everyone who waits for the end");
    assert!(poll(closed).is_ready() && poll(another).is_ready());
}

#[test]
fn an_abort_after_the_end_changes_nothing() {
    let mut driver = driver(4, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    driver.transport_gone(DisconnectReason::ClosedByClient, Ending::Orderly);
    session.abort();
    session.start_close(DisconnectReason::ClosedByServer);
    assert_eq!(session.state(), ConnectionState::Closed);
    assert_eq!(session.disconnect_reason(), Some(DisconnectReason::ClosedByClient));
    assert!(poll(pin!(session.closed())).is_ready());
}

/// Keeps the messages themselves.
struct Kept(Arc<Mutex<Vec<Message>>>);

impl Encode for Kept {
    fn encode(&mut self, message: Message, _: &mut SendQueue) -> Result<(), SendError> {
        self.0.lock().unwrap().push(message);
        Ok(())
    }
}

#[test]
fn a_text_may_be_bytes_which_are_checked_and_not_copied() {
    let hub = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
    let kept = Arc::default();
    let driver = Driver::register(&hub, Role::Server, None, Kept(Arc::clone(&kept)));
    let session = driver.session();

    let bytes = Bytes::from("Grüße".repeat(1000));
    let vec = b"from a Vec".to_vec();
    let there = [bytes.as_ptr(), vec.as_ptr()];
    for sent in [
        poll(pin!(session.send_text(bytes.clone()))),
        poll(pin!(session.send_text(vec))),
        poll(pin!(session.send_text("a str"))),
        poll(pin!(session.send_text(bytes.clone()).uncompressed().policy(SlowConsumerPolicy::Drop))),
    ] {
        assert!(matches!(sent, Poll::Ready(Ok(SendOutcome::Sent))), "{sent:?}");
    }
    let kept = std::mem::take(&mut *kept.lock().unwrap());
    assert!(kept.iter().all(Message::is_text));
    assert_eq!(kept.iter().map(|text| text.data().as_ptr()).take(2).collect::<Vec<_>>(), there);
    assert_eq!(kept[3].data(), bytes);
}

#[test]
fn a_text_of_other_bytes_is_refused_on_any_terms_and_not_queued() {
    let driver = driver(1, SlowConsumerPolicy::Wait);
    let session = driver.session();
    let cut = Bytes::from_static(&"ü".as_bytes()[..1]);
    send(session, "full");
    for refused in [
        poll(pin!(session.send_text(cut.clone()))),
        poll(pin!(session.send_text(cut.clone()).uncompressed())),
        poll(pin!(session.send_text(cut.clone()).policy(SlowConsumerPolicy::Drop))),
        poll(pin!(session.send_text(cut).latest(1))),
    ] {
        assert!(matches!(refused, Poll::Ready(Err(SendError::InvalidUtf8))), "{refused:?}");
    }
    assert_eq!(session.pending_send_bytes(), 4);
    assert_eq!(session.state(), ConnectionState::Connected);
}

#[test]
fn what_does_not_leave_is_dropped_without_the_lock() {
    for aborts in [true, false] {
        let mut driver = driver(100_000, SlowConsumerPolicy::Wait);
        let session = driver.session().clone();
        let payload = || Bytes::from_owner(Asking(vec![b'x'; SHARE_FROM], session.clone()));
        session.try_send(payload()).expect("room");
        // One that may go again, and so is not encoded yet, and one that replaces it.
        for _ in 0..2 {
            let latest = poll(pin!(session.send(payload()).latest(1)));
            assert!(matches!(latest, Poll::Ready(Ok(SendOutcome::Sent))), "{latest:?}");
        }
        assert_eq!(session.metrics().messages_replaced, 1);
        if aborts {
            session.abort();
        } else {
            driver.transport_gone(DisconnectReason::TransportError, Ending::Cut);
        }
        assert_eq!(session.pending_send_bytes(), 0);
    }
}

#[test]
fn what_a_batch_has_queued_when_others_abort_is_dropped_without_the_lock() {
    let mut driver = driver(100_000, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    driver.begin_batch();
    let payload = Bytes::from_owner(Asking(vec![b'x'; SHARE_FROM], session.clone()));
    assert!(poll(pin!(session.send(payload))).is_ready());
    std::thread::scope(|scope| {
        scope.spawn(|| session.abort());
    });
    let mut writing = SendQueue::default();
    assert_eq!(driver.sync(&mut writing, 0), Wish::Abort);
    drop(writing);
    driver.transport_gone(DisconnectReason::Aborted, Ending::Cut);
    assert_eq!((session.pending_send_bytes(), session.metrics().bytes_sent), (0, 0));
}

#[test]
fn who_no_longer_waits_for_the_end_leaves_nothing_behind() {
    let mut driver = driver(100_000, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let mut stays = pin!(session.closed());
    assert!(stays.as_mut().poll(&mut cx).is_pending());
    let waiting = Arc::strong_count(&wakes);
    for _ in 0..1000 {
        let mut gives_up = pin!(session.closed());
        assert!(gives_up.as_mut().poll(&mut cx).is_pending());
        assert!(gives_up.as_mut().poll(&mut cx).is_pending(), "a second look takes no second place");
        assert_eq!(Arc::strong_count(&wakes), waiting + 1);
    }
    assert_eq!(Arc::strong_count(&wakes), waiting);
    driver.transport_gone(DisconnectReason::ClosedByClient, Ending::Orderly);
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    assert!(stays.poll(&mut cx).is_ready());
}

#[test]
fn payloads_that_all_panic_as_they_go_panic_once() {
    let mut queue = SendQueue::default();
    for _ in 0..3 {
        queue.put_slice(b"head");
        queue.put_bytes(Bytes::from_owner(Fragile(vec![0; SHARE_FROM])));
    }
    let panic = catch_unwind_in(|| queue.clear()).expect_err("they panic");
    assert_eq!(panic.to_string(), "do not drop me");
    queue.clear();
    assert!(queue.is_empty());
}
