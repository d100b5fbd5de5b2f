//! Messages that may go again before they leave, without a socket: a `Driver` stands in for the connection task.

mod support;

use std::io::IoSlice;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use storm_core::driver::Driver;
use storm_core::middleware::MiddlewareChain;
use storm_core::outbox::SendQueue;
use storm_core::{
    DisconnectReason, Hub, Role, SendError, SendOutcome, Session, SessionOptions, SlowConsumerPolicy,
};
use support::Plain;

/// What a waiting message counts besides its payload.
const COST: usize = 128;

fn driver(limit: usize, policy: SlowConsumerPolicy) -> Driver {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(limit);
    options.slow_consumer_policy = policy;
    let hub = Hub::new(options, MiddlewareChain::default()).expect("valid");
    Driver::register(&hub, Role::Server, None, Plain(1000))
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The outcome of what waits for nothing but its one chance to write.
fn outcome<F: IntoFuture>(future: F) -> F::Output {
    let mut future = pin!(future.into_future());
    for _ in 0..2 {
        if let Poll::Ready(outcome) = poll(future.as_mut()) {
            return outcome;
        }
    }
    panic!("it waits for room");
}

fn drop_oldest(session: &Session, text: &str) -> SendOutcome {
    outcome(session.send(text).policy(SlowConsumerPolicy::DropOldest)).expect("it is open")
}

fn sent<F: Future<Output = Result<SendOutcome, SendError>>>(send: F) {
    let Poll::Ready(sent) = poll(pin!(send)) else { panic!("it is ready at once") };
    assert_eq!(sent.expect("it is open"), SendOutcome::Sent);
}

/// What one visit of the task hands out.
fn visit(driver: &mut Driver, writing: &mut SendQueue, written: usize) -> String {
    driver.sync(writing, written);
    let mut slices = [IoSlice::new(&[]); 64];
    let filled = writing.fill_slices(&mut slices);
    slices[..filled].iter().map(|slice| std::str::from_utf8(slice).expect("text")).collect()
}

/// Everything that leaves now, in order.
fn take(driver: &mut Driver) -> String {
    let (mut writing, mut all, mut written) = (SendQueue::default(), String::new(), 0);
    loop {
        let some = visit(driver, &mut writing, written);
        if some.is_empty() {
            return all;
        }
        written = some.len();
        writing.advance(written);
        all.push_str(&some);
    }
}

/// Sent, dropped, replaced.
fn counts(session: &Session) -> [u64; 3] {
    let metrics = session.metrics();
    [metrics.messages_sent, metrics.messages_dropped, metrics.messages_replaced]
}

#[test]
fn at_the_limit_the_oldest_make_room_and_the_rest_keeps_its_order() {
    let mut driver = driver(4 * (COST + 1), SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    // The first goes to the task at once, with nothing before it.
    for text in ["a", "b", "c", "d", "e"] {
        sent(session.send(text).policy(SlowConsumerPolicy::DropOldest));
    }
    assert!(session.is_backpressured());
    assert_eq!(session.pending_send_bytes(), 1 + 4 * (COST + 1));
    let mut sixth = pin!(session.send("f").policy(SlowConsumerPolicy::DropOldest));
    assert!(poll(sixth.as_mut()).is_pending(), "the task has one chance to write");
    assert_eq!(counts(&session), [1, 0, 0]);
    assert!(matches!(poll(sixth), Poll::Ready(Ok(SendOutcome::Sent))));
    assert_eq!(drop_oldest(&session, "g"), SendOutcome::Sent);
    assert_eq!(session.pending_send_bytes(), 1 + 4 * (COST + 1));
    assert_eq!(counts(&session), [1, 2, 0]);
    assert_eq!(take(&mut driver), "adefg");
    assert_eq!(counts(&session), [5, 2, 0]);
    assert_eq!((session.pending_send_bytes(), session.is_backpressured()), (0, false));
}

#[test]
fn the_chance_to_write_may_save_the_oldest() {
    let mut driver = driver(COST, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    assert_eq!(drop_oldest(&session, "a"), SendOutcome::Sent);
    assert_eq!(drop_oldest(&session, "b"), SendOutcome::Sent);
    let mut third = pin!(session.send("c").policy(SlowConsumerPolicy::DropOldest));
    assert!(poll(third.as_mut()).is_pending());
    assert_eq!(take(&mut driver), "ab");
    assert!(matches!(poll(third), Poll::Ready(Ok(SendOutcome::Sent))));
    assert_eq!(take(&mut driver), "c");
    assert_eq!(counts(&session), [3, 0, 0]);
}

#[test]
fn what_is_as_large_as_several_takes_the_room_of_several() {
    let mut driver = driver(4 * (COST + 1), SlowConsumerPolicy::DropOldest);
    let session = driver.session().clone();
    for text in ["a", "b", "c", "d", "e"] {
        assert_eq!(drop_oldest(&session, text), SendOutcome::Sent);
    }
    let large = "L".repeat(COST + 2);
    assert_eq!(drop_oldest(&session, &large), SendOutcome::Sent);
    assert_eq!(counts(&session), [1, 2, 0]);
    assert_eq!(take(&mut driver), format!("ade{large}"));
}

#[test]
fn messages_under_another_policy_are_never_dropped() {
    let mut driver = driver(300, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    let plain = "p".repeat(200);
    assert_eq!(drop_oldest(&session, "a"), SendOutcome::Sent);
    assert_eq!(drop_oldest(&session, "b"), SendOutcome::Sent);
    // From here on neither can go, or the order would not be this.
    sent(session.send(plain.as_str()));
    assert_eq!(counts(&session)[0], 3);
    assert_eq!(session.pending_send_bytes(), 202);
    assert_eq!(drop_oldest(&session, "c"), SendOutcome::Sent);
    assert!(session.is_backpressured());
    assert_eq!(drop_oldest(&session, "d"), SendOutcome::Sent, "in the stead of c");
    assert_eq!(take(&mut driver), format!("ab{plain}d"));
    assert_eq!(counts(&session), [4, 1, 0]);

    sent(session.send("q".repeat(300)));
    assert_eq!(drop_oldest(&session, "e"), SendOutcome::Dropped, "nothing that waits may be");
    assert_eq!(counts(&session), [5, 2, 0]);
    let dropped = session.send("f").policy(SlowConsumerPolicy::Drop);
    assert_eq!(outcome(dropped).expect("open"), SendOutcome::Dropped);
    let cut = session.send("g").policy(SlowConsumerPolicy::Disconnect);
    let cut = outcome(cut);
    assert!(matches!(cut, Err(SendError::Closed(Some(DisconnectReason::SlowConsumer)))), "{cut:?}");
}

#[test]
fn the_latest_takes_the_place_of_the_one_that_waits() {
    let mut driver = driver(10_000, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    sent(session.send("x"));
    sent(session.send("[a1]").latest("a"));
    sent(session.send("[b1]").latest(7));
    sent(session.send("[d]").policy(SlowConsumerPolicy::DropOldest));
    sent(session.send("[a2]").latest(String::from("a")));
    sent(session.send("[b2]").latest(7));
    sent(session.send("[a3]").latest("a"));
    assert_eq!(counts(&session), [1, 0, 3]);
    assert_eq!(take(&mut driver), "x[a3][b2][d]");
    assert_eq!(counts(&session), [4, 0, 3]);
    sent(session.send("[a4]").latest("a"));
    assert_eq!(take(&mut driver), "[a4]");
    assert_eq!(counts(&session), [5, 0, 3]);
}

#[test]
fn a_full_outbox_still_takes_the_latest_in_the_place_of_another() {
    let mut driver = driver(2 * COST, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    sent(session.send("x"));
    sent(session.send("a1").latest("a"));
    sent(session.send("b1").latest("b"));
    assert!(session.is_backpressured());
    sent(session.send("a2").latest("a"));
    let mut third_key = pin!(session.send("c1").latest("c"));
    assert!(poll(third_key.as_mut()).is_pending(), "the policy is to wait");
    let dropped = session.send("d1").latest("d").policy(SlowConsumerPolicy::Drop);
    assert_eq!(outcome(dropped).expect("open"), SendOutcome::Dropped);
    // As large as it may be, for what else waits; a second one must not be larger.
    let large = "A".repeat(900);
    sent(session.send(large.as_str()).latest("a"));
    assert!(poll(pin!(session.send("B".repeat(901)).latest("b"))).is_pending());
    assert_eq!(take(&mut driver), format!("x{large}b1"));
    assert!(poll(third_key).is_ready());
    assert_eq!(take(&mut driver), "c1");
    assert_eq!(counts(&session), [4, 1, 2]);
}

#[test]
fn a_larger_latest_is_taken_while_the_rest_is_below_the_limit() {
    let limit = 2 * COST;
    for (rest, outcome_of_larger) in [(limit - 1, SendOutcome::Sent), (limit, SendOutcome::Dropped)] {
        let driver = driver(limit, SlowConsumerPolicy::Drop);
        let session = driver.session();
        sent(session.send("x"));
        sent(session.send("1").latest(1));
        sent(session.send("y".repeat(rest - COST - 1)).latest(2));
        assert!(session.is_backpressured());
        let larger = session.send("22").latest(1);
        assert_eq!(outcome(larger).expect("open"), outcome_of_larger, "{rest} bytes besides it");
    }
}

#[test]
fn whoever_waited_and_is_kept_leaves_the_line() {
    let mut driver = driver(4 * COST, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    sent(session.send("x".repeat(3 * COST)));
    sent(session.send("1").latest(1));
    assert!(session.is_backpressured());
    let mut waiting = pin!(session.send("2").latest(2).into_future());
    assert!(poll(waiting.as_mut()).is_pending());
    let mut writing = SendQueue::default();
    visit(&mut driver, &mut writing, 0);
    writing.advance(3 * COST);
    driver.sync(&mut writing, 3 * COST);
    assert!(session.pending_send_bytes() > 0 && !session.is_backpressured());
    assert!(poll(waiting.as_mut()).is_ready());
    sent(session.send("3"));
    assert_eq!(counts(&session)[1..], [0, 0]);
}

#[test]
fn a_batch_follows_what_may_go_again() {
    let mut driver = driver(10_000, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    sent(session.send("1"));
    sent(session.send("2").policy(SlowConsumerPolicy::DropOldest));
    driver.begin_batch();
    sent(session.send("3"));
    assert_eq!(take(&mut driver), "123");
}

#[test]
fn under_drop_oldest_a_batch_of_the_sessions_own_may_lose_its_oldest() {
    let mut driver = driver(4 * (COST + 1), SlowConsumerPolicy::DropOldest);
    let session = driver.session().clone();
    driver.begin_batch();
    for text in ["a", "b", "c", "d", "e", "f", "g"] {
        assert_eq!(outcome(session.send(text)).expect("open"), SendOutcome::Sent);
    }
    assert!(matches!(session.try_send("now"), Err(SendError::Full)));
    assert_eq!(take(&mut driver), "adefg");
    assert_eq!(counts(&session), [5, 2, 0]);
    assert_eq!(session.try_send("now").expect("there is room"), SendOutcome::Sent);
    assert_eq!(take(&mut driver), "now");
}

#[test]
fn order_holds_between_a_batch_and_what_another_thread_keeps() {
    let mut driver = driver(10_000, SlowConsumerPolicy::Wait);
    driver.begin_batch();
    sent(driver.session().send("1"));
    std::thread::scope(|scope| {
        let session = driver.session().clone();
        scope.spawn(move || {
            for text in ["2", "3"] {
                sent(session.send(text).policy(SlowConsumerPolicy::DropOldest));
            }
            sent(session.send("4"));
            sent(session.send("5").latest("key"));
        });
    });
    sent(driver.session().send("6"));
    sent(driver.session().send("7").latest("key"));
    driver.begin_batch();
    sent(driver.session().send("8"));
    assert_eq!(take(&mut driver), "12345678");
    assert_eq!(counts(driver.session()), [8, 0, 0]);
}

#[test]
fn a_feed_does_not_keep_others_waiting_for_ever() {
    let limit = 10 * (COST + 1);
    let mut driver = driver(limit, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    sent(session.send("first".repeat(200)));
    while !session.is_backpressured() {
        assert_eq!(drop_oldest(&session, "t"), SendOutcome::Sent);
    }
    let mut waiting = pin!(session.send("waited"));
    assert!(poll(waiting.as_mut()).is_pending());
    let mut writing = SendQueue::default();
    driver.sync(&mut writing, 0);
    let mut steps = 0;
    while poll(waiting.as_mut()).is_pending() {
        for _ in 0..20 {
            assert_eq!(drop_oldest(&session, "t"), SendOutcome::Sent);
        }
        let some = writing.len().min(50);
        writing.advance(some);
        driver.sync(&mut writing, some);
        steps += 1;
        assert!(steps < 100, "it waits on: {} pending", session.pending_send_bytes());
    }
}

#[test]
fn the_task_takes_what_it_writes_at_a_time_and_the_rest_may_still_go() {
    let mut driver = driver(1 << 20, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    for _ in 0..100 {
        assert_eq!(drop_oldest(&session, &"t".repeat(1000)), SendOutcome::Sent);
    }
    sent(session.send("last").latest("key"));
    let mut writing = SendQueue::default();
    let taken = visit(&mut driver, &mut writing, 0);
    assert_eq!(taken.len(), 17_000, "the first message that crosses 16 KiB");
    sent(session.send("very last").latest("key"));
    assert_eq!(session.pending_send_bytes(), 17_000 + 83 * (1000 + COST) + 9 + COST);
    writing.advance(17_000);
    let mut rest = taken;
    let mut written = 17_000;
    while !writing.is_empty() || written > 0 {
        let some = visit(&mut driver, &mut writing, written);
        written = some.len();
        writing.advance(written);
        rest.push_str(&some);
    }
    assert_eq!((rest.len(), rest.ends_with("tvery last")), (100_009, true));
    assert_eq!(counts(&session), [101, 0, 1]);
}

#[test]
fn an_orderly_close_lets_leave_what_waits_and_an_abort_does_not() {
    for orderly in [true, false] {
        let mut driver = driver(10_000, SlowConsumerPolicy::Wait);
        let session = driver.session().clone();
        sent(session.send("1"));
        assert_eq!(drop_oldest(&session, "2"), SendOutcome::Sent);
        sent(session.send("3").latest("key"));
        match orderly {
            true => session.start_close(DisconnectReason::ClosedByServer),
            false => session.abort(),
        }
        let late = outcome(session.send("4").latest("key"));
        assert!(matches!(late, Err(SendError::Closed(Some(_)))), "{late:?}");
        assert_eq!(session.pending_send_bytes(), if orderly { 3 } else { 0 });
        assert_eq!(take(&mut driver), if orderly { "123" } else { "" });
    }
}

#[test]
fn what_cannot_be_encoded_is_refused_when_it_is_sent() {
    let mut driver = driver(10_000, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    for text in ["1", "2"] {
        assert_eq!(drop_oldest(&session, text), SendOutcome::Sent);
    }
    let refused = outcome(session.send("x".repeat(1001)).latest("key"));
    assert!(matches!(refused, Err(SendError::TooLarge { len: 1001, limit: 1000 })), "{refused:?}");
    assert_eq!(take(&mut driver), "12");
    assert_eq!(counts(&session), [2, 0, 0]);
}

#[test]
fn a_send_that_is_given_up_has_dropped_nothing() {
    let mut driver = driver(COST, SlowConsumerPolicy::Wait);
    let session = driver.session().clone();
    for text in ["1", "2"] {
        assert_eq!(drop_oldest(&session, text), SendOutcome::Sent);
    }
    {
        let mut given_up = pin!(session.send("3").policy(SlowConsumerPolicy::DropOldest));
        assert!(poll(given_up.as_mut()).is_pending());
        let mut waiting = pin!(session.send("4").latest("key"));
        assert!(poll(waiting.as_mut()).is_pending());
    }
    assert_eq!(take(&mut driver), "12");
    sent(session.send("5"));
    assert_eq!(take(&mut driver), "5");
    assert_eq!(counts(&session), [3, 0, 0]);
}

#[test]
fn a_broadcast_has_a_policy_and_a_key_of_its_own() {
    let mut options = SessionOptions::default();
    options.max_pending_send_bytes = Some(2 * (COST + 2));
    let hub = Hub::new(options, MiddlewareChain::default()).expect("valid");
    let mut drivers: Vec<_> =
        (0..3).map(|_| Driver::register(&hub, Role::Server, None, Plain(1000))).collect();
    drivers[1].session().join("room");
    sent(drivers[0].session().send("x".repeat(300)));
    for number in 0..4 {
        let report =
            outcome(hub.broadcast(format!("a{number}")).latest("a").policy(SlowConsumerPolicy::Drop));
        assert_eq!((report.sent, report.dropped), (2, 1));
    }
    let report = outcome(hub.groups().broadcast("room", "b0").policy(SlowConsumerPolicy::DropOldest));
    assert_eq!(report.sent, 1);
    let report = outcome(hub.broadcast("c0").policy(SlowConsumerPolicy::DropOldest));
    assert_eq!((report.sent, report.dropped), (2, 1));
    let report = outcome(hub.broadcast("d0").policy(SlowConsumerPolicy::DropOldest));
    assert_eq!((report.sent, report.dropped), (2, 1));
    let left: Vec<_> = drivers.iter_mut().map(take).collect();
    assert_eq!(left, ["x".repeat(300), "a0a3d0".to_owned(), "a0a3d0".to_owned()]);
    assert_eq!(counts(drivers[1].session()), [3, 2, 2]);
    assert_eq!(counts(drivers[2].session()), [3, 1, 2]);
    let metrics = hub.metrics();
    assert_eq!([metrics.messages_sent, metrics.messages_dropped, metrics.messages_replaced], [7, 9, 4]);
}

/// Numbers that look random, the same ones each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn any_mix_of_sends_and_writes_keeps_order_bound_and_counts() {
    const LIMIT: usize = 3000;
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let policy = if seed % 2 == 0 { SlowConsumerPolicy::Drop } else { SlowConsumerPolicy::DropOldest };
        let mut driver = driver(LIMIT, policy);
        let session = driver.session().clone();
        let (mut writing, mut written, mut wire) = (SendQueue::default(), 0, String::new());
        let (mut accepted, mut refused, mut kept, mut latest) = (0, 0, Vec::new(), [None; 4]);
        for number in 0..300_u64 {
            let text = format!("{number:05}{};", "x".repeat(usize::try_from(dice.roll(300)).unwrap()));
            let key = dice.roll(4);
            let (kind, sent) = match dice.roll(8) {
                0 => ('k', session.try_send(text)),
                1 => ('k', outcome(session.send(text).policy(SlowConsumerPolicy::Drop))),
                2..5 => ('d', outcome(session.send(text).policy(SlowConsumerPolicy::DropOldest))),
                5 => ('d', outcome(session.send(text).latest(key).policy(SlowConsumerPolicy::DropOldest))),
                _ => ('l', outcome(session.send(text).latest(key).policy(SlowConsumerPolicy::Drop))),
            };
            match sent {
                Ok(SendOutcome::Sent) => accepted += 1,
                Ok(_) => refused += 1,
                Err(SendError::Full) => {}
                Err(error) => panic!("{error}"),
            }
            if matches!(sent, Ok(SendOutcome::Sent)) {
                match kind {
                    'k' => kept.push(number),
                    'l' => latest[usize::try_from(key).unwrap()] = Some(number),
                    // It may have replaced the latest, and be dropped.
                    _ => latest[usize::try_from(key).unwrap()] = None,
                }
            }
            assert!(session.pending_send_bytes() < LIMIT + 306 + COST, "{}", session.pending_send_bytes());
            match dice.roll(6) {
                0 => driver.begin_batch(),
                1 => {
                    driver.sync(&mut writing, std::mem::take(&mut written));
                    let mut slices = [IoSlice::new(&[]); 64];
                    let filled = writing.fill_slices(&mut slices);
                    let all: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                    written = all.len().min(usize::try_from(dice.roll(700)).unwrap());
                    wire.push_str(std::str::from_utf8(&all[..written]).expect("ascii"));
                    writing.advance(written);
                }
                _ => {}
            }
        }
        loop {
            driver.sync(&mut writing, std::mem::take(&mut written));
            if writing.is_empty() {
                break;
            }
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = writing.fill_slices(&mut slices);
            for slice in &slices[..filled] {
                wire.push_str(std::str::from_utf8(slice).expect("ascii"));
                written += slice.len();
            }
            writing.advance(written);
        }
        let left: Vec<u64> =
            wire.split_terminator(';').map(|message| message[..5].parse().expect("whole messages")).collect();
        let [sent, dropped, replaced] = counts(&session);
        assert_eq!((sent, sent + dropped + replaced), (left.len() as u64, accepted + refused), "{seed}");
        assert!(dropped > refused && replaced > 0, "{seed}: {dropped} {refused} {replaced}");
        let is_left = |number: &u64| left.contains(number);
        assert!(kept.iter().all(is_left), "{seed}: {kept:?} {left:?}");
        assert!(latest.iter().flatten().all(is_left), "{seed}: {latest:?} {left:?}");
        let in_line: Vec<_> = left.iter().filter(|number| kept.contains(number)).collect();
        assert!(in_line.is_sorted(), "{seed}");
        assert_eq!(session.pending_send_bytes(), 0);
    }
}
