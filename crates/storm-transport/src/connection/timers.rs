//! One timer for the open sessions of a server, instead of one for each.
//!
//! ```text
//!  connection task ── arm ──> Queue: (when, session), earliest first <── fire ── Drive: a task with one `Sleep`
//!        ^                       one for each runtime, and its clock                       │
//!        └──────── wake, and the session's note is 0 ──────────────────────────────────────┘
//! ```
//!
//! Owns: when each session is next to be looked at, never later than its earliest deadline. A session whose deadline has
//! moved since is woken early, finds nothing due, and arms anew: nothing is reset per message. One that has ended is passed
//! over; its entry goes with its time, or once there are more of those than sessions.
//! Not here: what the deadlines are (`deadlines`), the last ones of a session that is ending, and those of clients, which
//! have one session each: they have a `Sleep` of their own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use storm_core::timer::{self, SharedTimer};
use storm_core::{Hub, Session, SessionId, Sessions};
use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep, sleep_until};

/// Entries beyond two for each session that a queue may hold before those of sessions that have ended are looked for.
const SLACK: usize = 64;

/// The timers of one hub: a queue for each runtime its sessions run on, which is one with few exceptions.
#[derive(Debug, Default)]
pub(super) struct Timers(Mutex<Vec<Queue>>);

#[derive(Debug)]
struct Queue {
    runtime: Id,
    /// What times are counted from, in nanoseconds and from 1.
    start: Instant,
    entries: BinaryHeap<Reverse<Entry>>,
    /// The task that waits for the earliest, to be woken for an earlier one.
    driver: Option<Waker>,
}

type Entry = (u64, SessionId);

/// What a queue's task is to do.
enum Next {
    Sleep(Instant),
    /// Wait for an entry.
    Wait,
    /// There are no sessions left.
    End,
}

/// Whether the timer has yet to wake `session`'s task.
#[inline]
pub(super) fn is_armed(session: &Session) -> bool {
    timer::note(session).load(Ordering::Relaxed) != 0
}

/// Has `session`'s task woken at `at`, or before. For that task itself, once it has parked.
pub(super) fn arm(session: &Session, at: Instant) {
    let hub = session.server();
    let runtime = Handle::current().id();
    let mut queues = hub.timer::<Timers>().0.lock();
    let known = queues.iter().position(|queue| queue.runtime == runtime);
    let index = known.unwrap_or_else(|| {
        queues.push(Queue::new(runtime));
        queues.len() - 1
    });
    let earlier = queues[index].insert(session, at);
    drop(queues);
    if known.is_none() {
        // Not under the lock: a runtime that is shutting down drops the task at once.
        tokio::spawn(Drive::new(hub, runtime));
    } else if let Some(driver) = earlier {
        driver.wake();
    }
}

impl Queue {
    fn new(runtime: Id) -> Self {
        Self { runtime, start: Instant::now(), entries: BinaryHeap::new(), driver: None }
    }

    /// Returns the task to wake because it sleeps for longer.
    fn insert(&mut self, session: &Session, at: Instant) -> Option<Waker> {
        let nanos = at.saturating_duration_since(self.start).as_nanos();
        let at = u64::try_from(nanos).unwrap_or(u64::MAX).saturating_add(1);
        let note = timer::note(session);
        let before = note.load(Ordering::Relaxed);
        if before != 0 && before <= at {
            return None;
        }
        self.forget(session.server().sessions());
        note.store(at, Ordering::Relaxed);
        let is_first = self.entries.peek().is_none_or(|Reverse((first, _))| at < *first);
        self.entries.push(Reverse((at, session.id())));
        if is_first { self.driver.take() } else { None }
    }

    /// Removes entries that are not to wake anyone, if there are many.
    fn forget(&mut self, sessions: &Sessions) {
        if self.entries.len() >= 2 * sessions.len() + SLACK {
            self.entries.retain(|Reverse((at, id))| {
                sessions.get(*id).is_some_and(|session| timer::note(&session).load(Ordering::Relaxed) == *at)
            });
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// Moves to `due` what is due, and keeps `driver` for what comes next.
    fn next(&mut self, due: &mut Vec<Entry>, sessions: &Sessions, driver: &Waker) -> Next {
        let now = self.start.elapsed().as_nanos();
        while let Some(&Reverse(first)) = self.entries.peek() {
            if u128::from(first.0) > now + 1 {
                break;
            }
            self.entries.pop();
            due.push(first);
        }
        match self.entries.peek() {
            _ if !due.is_empty() => Next::Wait,
            None if sessions.is_empty() => Next::End,
            first => {
                self.driver = Some(driver.clone());
                first.map_or(Next::Wait, |Reverse((at, _))| {
                    Next::Sleep(self.start + Duration::from_nanos(*at - 1))
                })
            }
        }
    }
}

impl SharedTimer for Timers {
    fn session_left(&self, sessions: &Sessions) {
        let mut queues = self.0.lock();
        if !sessions.is_empty() {
            queues.iter_mut().for_each(|queue| queue.forget(sessions));
            return;
        }
        let clear = |queue: &mut Queue| {
            queue.entries.clear();
            queue.driver.take()
        };
        let drivers: Vec<Waker> = queues.iter_mut().filter_map(clear).collect();
        drop(queues);
        drivers.into_iter().for_each(Waker::wake);
    }
}

/// The task of a queue. Ends with the hub's last session.
struct Drive {
    hub: Weak<Hub>,
    runtime: Id,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Empty between two polls.
    due: Vec<Entry>,
    over: bool,
}

impl Drive {
    fn new(hub: &Arc<Hub>, runtime: Id) -> Self {
        Self { hub: Arc::downgrade(hub), runtime, sleep: None, due: Vec::new(), over: false }
    }

    /// Wakes whoever is due.
    fn fire(&mut self, hub: &Hub, driver: &Waker) -> Next {
        loop {
            let mut queues = hub.timer::<Timers>().0.lock();
            let Some(index) = queues.iter().position(|queue| queue.runtime == self.runtime) else {
                return Next::End;
            };
            let next = queues[index].next(&mut self.due, hub.sessions(), driver);
            if matches!(next, Next::End) {
                queues.swap_remove(index);
            }
            drop(queues);
            if self.due.is_empty() {
                return next;
            }
            wake(hub, self.due.drain(..));
        }
    }
}

impl Future for Drive {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let next = match this.hub.upgrade() {
                Some(hub) => this.fire(&hub, cx.waker()),
                None => Next::End,
            };
            let until = match next {
                Next::Sleep(until) => until,
                Next::Wait => {
                    this.sleep = None;
                    return Poll::Pending;
                }
                Next::End => {
                    this.over = true;
                    return Poll::Ready(());
                }
            };
            let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if sleep.deadline() != until {
                sleep.as_mut().reset(until);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.sleep = None;
        }
    }
}

impl Drop for Drive {
    /// The runtime has dropped the task, and its sessions with it; should one go on on another runtime, it arms anew there.
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade().filter(|_| !self.over) else { return };
        let mut queues = hub.timer::<Timers>().0.lock();
        let Some(index) = queues.iter().position(|queue| queue.runtime == self.runtime) else { return };
        let orphaned = queues.swap_remove(index);
        drop(queues);
        wake(&hub, orphaned.entries.into_iter().map(|Reverse(entry)| entry));
    }
}

/// Wakes the tasks of those sessions that are still waiting for these very entries.
fn wake(hub: &Hub, entries: impl Iterator<Item = Entry>) {
    for (at, id) in entries {
        if let Some(session) = hub.sessions().get(id)
            // Before the task is woken, so that it sees what has woken it.
            && timer::note(&session).compare_exchange(at, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            timer::wake(&session);
        }
    }
}

#[cfg(test)]
mod tests {
    use storm_core::driver::Driver;
    use storm_core::middleware::MiddlewareChain;
    use storm_core::outbox::SendQueue;
    use storm_core::{Role, SessionOptions};
    use storm_framing::RawFramer;

    use super::*;
    use crate::framed::FramedEncode;

    const SECOND: Duration = Duration::from_secs(1);

    fn hub() -> Arc<Hub> {
        Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid")
    }

    fn register(hub: &Arc<Hub>) -> Driver {
        Driver::register(hub, Role::Server, None, FramedEncode::new(RawFramer, None))
    }

    /// A task that sleeps until its session's note is 0.
    async fn woken(driver: &mut Driver) {
        std::future::poll_fn(|cx| {
            driver.park(&mut SendQueue::default(), 0, cx.waker());
            if is_armed(driver.session()) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    fn entries(hub: &Hub) -> Vec<usize> {
        hub.timer::<Timers>().0.lock().iter().map(|queue| queue.entries.len()).collect()
    }

    async fn turns() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_session_is_woken_at_its_time() {
        let hub = hub();
        let began = Instant::now();
        let sleeping: Vec<_> = (0..1000_u64)
            .map(|index| {
                let after = Duration::from_millis(1 + index * 7919 % 1000);
                let mut driver = register(&hub);
                tokio::spawn(async move {
                    arm(driver.session(), began + after);
                    woken(&mut driver).await;
                    assert_eq!(began.elapsed(), after);
                })
            })
            .collect();
        for task in sleeping {
            task.await.expect("on time");
        }
        assert_eq!(began.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_time_counts_and_a_later_one_does_not() {
        let hub = hub();
        let mut driver = register(&hub);
        let began = Instant::now();
        for after in [20, 30, 10, 40] {
            arm(driver.session(), began + SECOND * after);
        }
        assert_eq!(entries(&hub), [2]);
        woken(&mut driver).await;
        assert_eq!(began.elapsed(), 10 * SECOND);
        arm(driver.session(), began + 35 * SECOND);
        woken(&mut driver).await;
        assert_eq!(began.elapsed(), 35 * SECOND, "what was left at 20 s is passed over");
    }

    #[tokio::test(start_paused = true)]
    async fn times_beyond_any_clock_and_before_now_are_no_trouble() {
        let hub = hub();
        let (mut first, mut second) = (register(&hub), register(&hub));
        let began = Instant::now();
        arm(first.session(), began + Duration::from_secs(u64::from(u32::MAX) * 1000));
        arm(second.session(), began.checked_sub(SECOND).unwrap_or(began));
        woken(&mut second).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(is_armed(first.session()));
        arm(first.session(), began + SECOND);
        woken(&mut first).await;
        assert_eq!(began.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_come_and_go_leave_a_bounded_number_of_entries() {
        let hub = hub();
        let at = Instant::now() + 3600 * SECOND;
        let staying: Vec<Driver> = (0..10).map(|_| register(&hub)).collect();
        staying.iter().for_each(|driver| arm(driver.session(), at));
        for _ in 0..10_000 {
            let driver = register(&hub);
            arm(driver.session(), at);
            drop(driver);
            assert!(entries(&hub)[0] <= 2 * 11 + SLACK, "{:?}", entries(&hub));
        }
        assert!(staying.iter().all(|driver| is_armed(driver.session())));
        assert!(entries(&hub)[0] >= 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_last_session_and_a_new_one_has_a_new_task() {
        let hub = hub();
        let tasks = || Handle::current().metrics().num_alive_tasks();
        for _ in 0..3 {
            let began = Instant::now();
            let mut drivers = [register(&hub), register(&hub)];
            for driver in &mut drivers {
                arm(driver.session(), began + SECOND);
                woken(driver).await;
            }
            turns().await;
            assert_eq!((tasks(), entries(&hub)), (1, vec![0]), "it waits for the next");
            arm(drivers[0].session(), began + 3600 * SECOND);
            turns().await;
            drop(drivers);
            turns().await;
            assert_eq!((tasks(), entries(&hub)), (0, vec![]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_is_gone_needs_no_task() {
        let hub = hub();
        let driver = register(&hub);
        arm(driver.session(), Instant::now() + SECOND);
        drop((hub, driver));
        turns().await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    }

    #[test]
    fn sessions_of_another_runtime_outlive_one_that_shuts_down() {
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let (first, second) = (runtime().expect("a runtime"), runtime().expect("a runtime"));
        let hub = hub();
        let mut driver = register(&hub);
        // Armed on the one, and polled on the other.
        let mut waiting = Box::pin(async {
            loop {
                woken(&mut driver).await;
                if tokio::runtime::Handle::current().id() != first.handle().id() {
                    break;
                }
            }
        });
        first.block_on(async {
            arm(hub.sessions().iter().next().as_ref().expect("one"), Instant::now() + SECOND);
        });
        let pending = second
            .block_on(async { std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await });
        assert!(pending.is_pending());
        assert_eq!(entries(&hub), [1]);
        drop(waiting);
        assert!(is_armed(driver.session()));
        drop(first);
        assert!(!is_armed(driver.session()), "its task arms anew");
        assert_eq!(entries(&hub), []);
        second.block_on(async {
            let began = Instant::now();
            arm(driver.session(), began + SECOND);
            woken(&mut driver).await;
            assert_eq!(began.elapsed(), SECOND);
        });
    }
}
