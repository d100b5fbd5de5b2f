//! One budget over many outboxes, without sockets: a `Driver` stands in for each connection task.

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use storm_core::driver::{Driver, Wish};
use storm_core::metrics::Ending;
use storm_core::middleware::MiddlewareChain;
use storm_core::outbox::SendQueue;
use storm_core::{
    DisconnectReason, Hub, Role, SendBudget, SendError, SendOutcome, Session, SessionOptions,
    SlowConsumerPolicy,
};
use support::{Asking, Fragile, Plain, drain};

const KIB: usize = 1024;

fn hub(budget: &SendBudget) -> Arc<Hub> {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = None;
    options.send_budget = Some(budget.clone());
    Hub::new(options, MiddlewareChain::default()).expect("valid")
}

fn driver(hub: &Arc<Hub>) -> Driver {
    Driver::register(hub, Role::Server, None, Plain(usize::MAX))
}

fn ready<F: IntoFuture>(future: F) -> F::Output {
    let mut future = pin!(future.into_future());
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it is ready at once"),
    }
}

fn send(session: &Session, len: usize) -> Result<SendOutcome, SendError> {
    ready(session.send(vec![0; len]))
}

/// A session with `len` bytes waiting, of which the task has taken none.
fn with_pending(hub: &Arc<Hub>, len: usize) -> Driver {
    let driver = driver(hub);
    assert_eq!(send(driver.session(), len).expect("it is open"), SendOutcome::Sent);
    driver
}

fn is_shed(driver: &Driver) -> bool {
    driver.session().disconnect_reason() == Some(DisconnectReason::SlowConsumer)
}

#[test]
fn used_is_what_waits_and_nothing_once_it_is_gone() {
    let budget = SendBudget::new(100 * KIB * KIB);
    let hub = hub(&budget);
    let mut drained = with_pending(&hub, 10 * KIB);
    let aborted = with_pending(&hub, 20 * KIB);
    let mut gone = with_pending(&hub, 40 * KIB);
    let dropped = with_pending(&hub, 80 * KIB);
    let mut closed = with_pending(&hub, 160 * KIB);
    assert_eq!(budget.used(), 310 * KIB);
    drain(&mut drained);
    assert_eq!(budget.used(), 300 * KIB);
    aborted.session().abort();
    assert_eq!(budget.used(), 280 * KIB);
    gone.transport_gone(DisconnectReason::Aborted, Ending::Cut);
    assert_eq!(budget.used(), 240 * KIB);
    drop(dropped);
    assert_eq!(budget.used(), 160 * KIB);
    closed.session().start_close(DisconnectReason::ClosedByServer);
    assert_eq!(budget.used(), 160 * KIB, "what is queued still leaves");
    drain(&mut closed);
    assert_eq!(budget.used(), 0);
    assert_eq!((budget.shed_messages(), budget.shed_sessions()), (0, 0));
}

#[test]
fn what_the_socket_has_not_taken_and_what_may_go_again_counts() {
    let budget = SendBudget::new(100 * KIB * KIB);
    let mut driver = with_pending(&hub(&budget), 1000);
    let mut writing = SendQueue::default();
    driver.sync(&mut writing, 0);
    assert_eq!(budget.used(), 1000, "in flight");
    let session = driver.session().clone();
    for _ in 0..3 {
        ready(session.send("newest").latest("key")).expect("it is open");
    }
    assert_eq!((budget.used(), session.pending_send_bytes()), (1000 + 6 + 128, 1000 + 6 + 128));
    writing.advance(400);
    driver.sync(&mut writing, 400);
    assert_eq!(budget.used(), 600 + 6 + 128);
    writing.advance(600);
    driver.sync(&mut writing, 600);
    assert_eq!(budget.used(), 6);
}

#[test]
fn the_largest_go_first_and_those_below_the_floor_never() {
    let budget = SendBudget::new(600 * KIB);
    let (one, other) = (hub(&budget), hub(&budget));
    let middle = with_pending(&one, 200 * KIB);
    let largest = with_pending(&other, 300 * KIB);
    let small = with_pending(&one, SendBudget::FLOOR - 1);
    assert_eq!(budget.shed_sessions(), 0);
    let last = with_pending(&one, 60 * KIB);
    assert!(is_shed(&largest), "though another hub's session was the one too many");
    assert!(![&middle, &small, &last].into_iter().any(is_shed));
    assert_eq!(budget.used(), 260 * KIB + SendBudget::FLOOR - 1);
    assert_eq!(budget.shed_sessions(), 1);
    // Down to 90 %: of two that are needed, two go.
    let (third, fourth) = (with_pending(&other, 100 * KIB), with_pending(&other, 150 * KIB));
    let fifth = driver(&other);
    assert!(send(fifth.session(), 340 * KIB).is_err(), "it is the largest itself");
    assert_eq!(budget.shed_sessions(), 3);
    assert!([&fifth, &middle].into_iter().all(is_shed));
    assert!(![&small, &third, &fourth, &last].into_iter().any(is_shed));
    drop((middle, small, last, third, fourth, fifth));
    assert_eq!(budget.used(), 0);
}

#[test]
fn what_may_go_again_goes_before_any_session() {
    let budget = SendBudget::new(500 * KIB);
    let hub = hub(&budget);
    let kept = with_pending(&hub, 300 * KIB);
    let droppable = with_pending(&hub, KIB);
    for _ in 0..100 {
        let message = vec![0; KIB - 128];
        ready(droppable.session().send(message).policy(SlowConsumerPolicy::DropOldest)).expect("it is open");
    }
    assert_eq!(budget.used(), 401 * KIB);
    let third = with_pending(&hub, 100 * KIB);
    assert_eq!((budget.used(), budget.shed_messages(), budget.shed_sessions()), (401 * KIB, 100, 0));
    assert_eq!(droppable.session().metrics().messages_dropped, 100);
    assert_eq!(droppable.session().pending_send_bytes(), KIB);
    assert!(![&kept, &droppable, &third].into_iter().any(is_shed));
}

#[test]
fn a_backlog_that_went_makes_room_for_those_who_wait() {
    let budget = SendBudget::new(200 * KIB);
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(100 * KIB);
    options.send_budget = Some(budget.clone());
    let hub = Hub::new(options, MiddlewareChain::default()).expect("valid");
    let driver = with_pending(&hub, KIB);
    let session = driver.session();
    while !session.is_backpressured() {
        ready(session.send(vec![0; KIB - 128]).latest(session.pending_send_bytes() as u64))
            .expect("it is open");
    }
    let mut waits = pin!(session.send("waits"));
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(cx).is_pending());
    let other = with_pending(&hub, 99 * KIB);
    assert_eq!(send(other.session(), 5 * KIB).expect("it is not the one"), SendOutcome::Sent);
    assert!(matches!(waits.as_mut().poll(cx), Poll::Ready(Ok(SendOutcome::Sent))));
    assert_eq!((session.pending_send_bytes(), budget.shed_sessions()), (KIB + 5, 0));
}

#[test]
fn a_send_that_has_its_own_session_shed_says_so() {
    let budget = SendBudget::new(100 * KIB);
    let mut driver = driver(&hub(&budget));
    let closed = send(driver.session(), 101 * KIB);
    assert!(matches!(closed, Err(SendError::Closed(Some(DisconnectReason::SlowConsumer)))), "{closed:?}");
    assert_eq!(driver.sync(&mut SendQueue::default(), 0), Wish::Abort);
    assert_eq!((budget.used(), budget.shed_sessions()), (0, 1));
}

#[test]
fn what_a_batch_queues_counts_when_it_ends() {
    let budget = SendBudget::new(100 * KIB);
    let mut driver = driver(&hub(&budget));
    driver.begin_batch();
    let session = driver.session().clone();
    for _ in 0..101 {
        assert_eq!(send(&session, KIB).expect("it is open"), SendOutcome::Sent);
    }
    assert_eq!(budget.used(), 0);
    assert_eq!(driver.sync(&mut SendQueue::default(), 0), Wish::Abort);
    assert!(is_shed(&driver));
    assert_eq!(budget.used(), 0);
}

#[test]
fn with_all_below_the_floor_nobody_is_shed() {
    let budget = SendBudget::new(100 * KIB);
    let hub = hub(&budget);
    let drivers: Vec<_> = (0..20).map(|_| with_pending(&hub, 50 * KIB)).collect();
    assert_eq!((budget.used(), budget.shed_sessions()), (1000 * KIB, 0));
    drop(drivers);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_broadcast_to_many_who_do_not_read_stays_within_it() {
    const MEMBERS: usize = 50;
    let budget = SendBudget::new(2 * MEMBERS * SendBudget::FLOOR);
    let hub = hub(&budget);
    let drivers: Vec<_> = (0..MEMBERS).map(|_| driver(&hub)).collect();
    let mut most = 0;
    for _ in 0..100 {
        let report = ready(hub.broadcast(vec![0; 8 * KIB]));
        assert_eq!(report.sent + report.failed, MEMBERS);
        assert!(budget.used() <= budget.limit(), "{budget:?}");
        most = most.max(budget.used());
    }
    assert!(most > budget.limit() / 2, "it was used at all");
    let shed = drivers.iter().filter(|driver| is_shed(driver)).count();
    assert_eq!(shed as u64, budget.shed_sessions());
    assert!(shed > 0 && shed < MEMBERS, "{shed}");
    drop(drivers);
    assert_eq!(budget.used(), 0);
}

#[test]
fn many_may_send_at_once() {
    const SENDERS: usize = 4;
    const SESSIONS: usize = 8;
    let budget = SendBudget::new(2 * SESSIONS * SendBudget::FLOOR);
    let (one, other) = (hub(&budget), hub(&budget));
    let drivers: Vec<_> = (0..SESSIONS).map(|at| driver(if at % 2 == 0 { &one } else { &other })).collect();
    let sessions: Vec<_> = drivers.iter().map(|driver| driver.session().clone()).collect();
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let sessions = &sessions;
            scope.spawn(move || {
                for count in 0..1000 {
                    match send(&sessions[(count + sender) % SESSIONS], 1000) {
                        Ok(_) | Err(SendError::Closed(Some(DisconnectReason::SlowConsumer))) => {}
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    let pending: usize = sessions.iter().map(Session::pending_send_bytes).sum();
    assert_eq!(budget.used(), pending);
    assert!(pending <= budget.limit() + budget.limit() / 8, "{budget:?}");
    let shed = drivers.iter().filter(|driver| is_shed(driver)).count();
    assert!(shed > 0 && shed as u64 == budget.shed_sessions(), "{shed} {budget:?}");
    drop(drivers);
    assert_eq!(budget.used(), 0);
}

#[test]
fn what_is_shed_is_dropped_without_the_lock() {
    let budget = SendBudget::new(1024 * KIB);
    let hub = hub(&budget);
    let slow = with_pending(&hub, 64 * KIB);
    let session = slow.session();
    let payload = Bytes::from_owner(Asking(vec![0; 900 * KIB], session.clone()));
    ready(session.send(payload).policy(SlowConsumerPolicy::DropOldest)).expect("room");
    let other = with_pending(&hub, 100 * KIB);
    assert_eq!((budget.shed_messages(), budget.shed_sessions()), (1, 0));
    assert_eq!((session.pending_send_bytes(), other.session().pending_send_bytes()), (64 * KIB, 100 * KIB));
}

#[test]
fn a_payload_that_panics_when_it_is_shed_does_not_end_the_shedding() {
    let budget = SendBudget::new(500 * KIB);
    let hub = hub(&budget);
    let slow = with_pending(&hub, 100);
    let fragile = Bytes::from_owner(Fragile(vec![0; 300 * KIB]));
    ready(slow.session().send(fragile).policy(SlowConsumerPolicy::DropOldest)).expect("it may go again");
    let other = driver(&hub);
    let one_too_many = || send(other.session(), 250 * KIB);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(one_too_many)).expect_err("it was dropped");
    assert_eq!(budget.shed_messages(), 1);
    let largest = driver(&hub);
    assert!(send(largest.session(), 350 * KIB).is_err(), "it is shed itself");
    assert!(is_shed(&largest) && !is_shed(&slow));
}

/// Acts when it is dropped.
struct Acting<F: FnMut()>(Vec<u8>, F);

impl<F: FnMut()> AsRef<[u8]> for Acting<F> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<F: FnMut()> Drop for Acting<F> {
    fn drop(&mut self) {
        (self.1)();
    }
}

#[test]
fn a_send_whose_message_has_left_does_not_fail_when_the_session_ends_meanwhile() {
    for leaves in [true, false] {
        let hub = hub(&SendBudget::new(500 * KIB));
        let slow = with_pending(&hub, 100);
        let mut task = driver(&hub);
        let session = task.session().clone();
        // What goes on elsewhere while someone is shed: the message leaves, or does not, and the session is aborted.
        let meanwhile = move || {
            if leaves {
                assert_eq!(drain(&mut task), 250 * KIB);
            }
            task.session().abort();
        };
        let acting = Bytes::from_owner(Acting(vec![0; 300 * KIB], meanwhile));
        ready(slow.session().send(acting).policy(SlowConsumerPolicy::DropOldest)).expect("it may go again");
        let sent = send(&session, 250 * KIB);
        assert_eq!(session.disconnect_reason(), Some(DisconnectReason::Aborted));
        match leaves {
            true => assert_eq!(sent.expect("it has left"), SendOutcome::Sent),
            false => assert!(matches!(sent, Err(SendError::Closed(_))), "{sent:?}"),
        }
    }
}
