//! Broadcasts as their members' outboxes see them, without a socket: a `Driver` stands in for each connection task.

mod support;

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use storm_core::driver::Driver;
use storm_core::middleware::MiddlewareChain;
use storm_core::outbox::{Encode, SendQueue};
use storm_core::{Hub, Message, Role, SendError, SessionOptions, SlowConsumerPolicy};
use support::{Plain, Wakes, drain};

/// A protocol that needs until another session has come and gone for each message.
struct Slow(Weak<Hub>);

impl Encode for Slow {
    fn encode(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError> {
        let hub = self.0.upgrade().expect("it encodes for a session of the hub");
        let (done, wait) = mpsc::channel();
        thread::spawn(move || {
            drop(Driver::register(&hub, Role::Server, None, Plain(usize::MAX)));
            done.send(()).expect("the encoder waits");
        });
        wait.recv_timeout(Duration::from_secs(20)).expect("sessions come and go meanwhile");
        Plain(usize::MAX).encode(message, queue)
    }
}

#[test]
fn sessions_come_and_go_while_a_large_message_is_encoded() {
    let hub: Arc<Hub> = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
    let member = Driver::register(&hub, Role::Server, None, Slow(Arc::downgrade(&hub)));
    member.session().join("room");
    let large = vec![0; 64 * 1024];
    let everyone = hub.sessions().broadcast(large.clone());
    let room = hub.groups().broadcast("room", large);
    for broadcast in [everyone, room] {
        let mut sending = pin!(broadcast.into_future());
        let report = match sending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(report) => report,
            Poll::Pending => panic!("there is room"),
        };
        assert_eq!((report.sent, report.failed), (1, 0));
    }
}

#[test]
fn a_broadcast_that_waits_goes_on_with_whoever_has_room_in_any_order() {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(1000);
    options.slow_consumer_policy = SlowConsumerPolicy::Wait;
    let hub = Hub::new(options, MiddlewareChain::default()).expect("valid");
    let mut members: Vec<_> =
        (0..50).map(|_| Driver::register(&hub, Role::Server, None, Plain(usize::MAX))).collect();
    for member in &members[..40] {
        member.session().try_send(vec![0; 1000]).expect("room");
    }
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let mut sending = pin!(hub.sessions().broadcast("to all").into_future());
    assert!(sending.as_mut().poll(&mut cx).is_pending());
    for member in &mut members[40..] {
        assert_eq!(drain(member), 6, "those with room have it at once");
    }
    assert!(sending.as_mut().poll(&mut cx).is_pending(), "a poll nobody asked for");
    // The last first; one goes without reading.
    for number in (0..40).rev() {
        let before = wakes.0.load(Ordering::SeqCst);
        if number == 20 {
            members[number].session().abort();
        } else {
            assert_eq!(drain(&mut members[number]), 1000);
        }
        assert!(wakes.0.load(Ordering::SeqCst) > before, "{number}");
        match sending.as_mut().poll(&mut cx) {
            Poll::Pending => assert!(number > 0),
            Poll::Ready(report) => assert_eq!((number, report.sent, report.failed), (0, 49, 1)),
        }
        if number != 20 {
            assert_eq!(drain(&mut members[number]), 6, "{number}");
        }
    }
}

#[test]
fn a_broadcast_that_is_given_up_after_a_call_leaves_nothing_behind() {
    let hub = Hub::new(SessionOptions::default().max_pending_send_bytes(1000), MiddlewareChain::default());
    let hub = hub.expect("valid");
    let mut member = Driver::register(&hub, Role::Server, None, Plain(usize::MAX));
    member.session().try_send(vec![0; 1000]).expect("room");
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let before = Arc::strong_count(&wakes);
    {
        let mut sending = pin!(hub.sessions().broadcast("to all").into_future());
        assert!(sending.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(drain(&mut member), 1000);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1, "it has been called");
    }
    assert_eq!(Arc::strong_count(&wakes), before);
}

#[test]
fn a_broadcast_gives_its_members_one_chance_to_write_and_comes_back_by_itself() {
    let options = SessionOptions::default().max_pending_send_bytes(1000);
    let hub = Hub::new(options, MiddlewareChain::default()).expect("valid");
    for policy in [SlowConsumerPolicy::Drop, SlowConsumerPolicy::DropOldest] {
        for reads in [false, true] {
            let mut member = Driver::register(&hub, Role::Server, None, Plain(usize::MAX));
            let session = member.session().clone();
            session.try_send(vec![0; 500]).expect("room");
            let mut oldest =
                pin!(session.send(vec![0; 500]).policy(SlowConsumerPolicy::DropOldest).into_future());
            assert!(oldest.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
            let wakes = Arc::new(Wakes::default());
            let waker = Waker::from(wakes.clone());
            let mut cx = Context::from_waker(&waker);
            let mut sending = pin!(hub.sessions().broadcast("new").policy(policy).into_future());
            assert!(sending.as_mut().poll(&mut cx).is_pending());
            assert_eq!(wakes.0.load(Ordering::SeqCst), 1, "nobody else would wake it");
            assert_eq!(session.metrics().messages_dropped, 0);
            if reads {
                assert_eq!(drain(&mut member), 1000);
            }
            let Poll::Ready(report) = sending.as_mut().poll(&mut cx) else { panic!("it waits for nobody") };
            let is_new = reads || policy == SlowConsumerPolicy::DropOldest;
            assert_eq!((report.sent, report.dropped), (usize::from(is_new), usize::from(!is_new)));
            assert_eq!(session.metrics().messages_dropped, u64::from(!reads), "{policy:?}");
        }
    }
}
