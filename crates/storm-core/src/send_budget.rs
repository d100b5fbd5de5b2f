//! One bound on what all sessions of a process have waiting for their sockets.
//!
//! Owns: the sum of what outboxes have accounted, and who goes when it is too much.
//! In: differences, from each outbox behind its own lock. Out: dropped backlogs, aborted sessions.
//! Not here: the bound of one session (`outbox`). Shedding holds no outbox's lock but the one it looks at, and runs no
//! user code.

use std::cmp::Reverse;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::{DisconnectReason, Hub, Session};

/// A bound on the bytes that wait for the sockets of any number of servers and clients, all together.
///
/// [`max_pending_send_bytes`](crate::SessionOptions::max_pending_send_bytes) bounds one slow reader; ten thousand of them
/// can still cost ten thousand times that. A budget bounds the sum. While more than its [`limit`](Self::limit) waits,
/// sessions that read too slowly are shed until 90 % of it is left, those with most waiting first, and only those with at
/// least [`FLOOR`](Self::FLOOR) bytes: first what they have waiting that [may go
/// again](crate::SlowConsumerPolicy::DropOldest) (sent under `DropOldest` or a
/// [`latest`](crate::SendingWith::latest) key, even its newest) is dropped, whole messages; if that is not enough, they
/// are aborted with [`DisconnectReason::SlowConsumer`]. A session with less waiting than the floor is never shed, so the sum may be as large
/// as the number of sessions times the floor, and a sixteenth more (or 64 KiB), since after a look for slow readers in vain
/// the next one waits for that much.
///
/// What is queued counts at once or, from a session's own handlers, with its batch. The limit is exceeded by what is queued
/// before anyone is shed: one message of each task that sends, one batch of each session that has one under way, one message
/// for each receiver of a broadcast. What an aborted session's task still holds does not count.
///
/// A clone is the same budget.
///
/// ```
/// use storm_core::{SendBudget, SessionOptions};
///
/// let budget = SendBudget::new(256 << 20);
/// let public = SessionOptions::default().send_budget(budget.clone());
/// let internal = SessionOptions::default().send_budget(budget.clone());
/// assert_eq!(public, internal);
/// assert_eq!((budget.used(), budget.shed_sessions()), (0, 0));
/// ```
#[derive(Clone)]
pub struct SendBudget(Arc<Shared>);

struct Shared {
    limit: usize,
    used: AtomicUsize,
    /// Shedding begins above it: the limit, or more while there is nobody to shed. Else every send would look for one.
    shed_above: AtomicUsize,
    /// Someone sheds.
    shedding: AtomicBool,
    shed_messages: AtomicU64,
    shed_sessions: AtomicU64,
    hubs: Mutex<Vec<Weak<Hub>>>,
}

impl SendBudget {
    /// Sessions with fewer bytes waiting are never shed: 64 KiB.
    pub const FLOOR: usize = 64 * 1024;

    /// A budget of `bytes`. Zero is refused when a server or client is built with it.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Shared {
            limit: bytes,
            used: AtomicUsize::new(0),
            shed_above: AtomicUsize::new(bytes),
            shedding: AtomicBool::new(false),
            shed_messages: AtomicU64::new(0),
            shed_sessions: AtomicU64::new(0),
            hubs: Mutex::new(Vec::new()),
        }))
    }

    /// Bytes that may wait.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Bytes that wait.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Messages dropped so far because of it. They are among the `messages_dropped` of their sessions.
    pub fn shed_messages(&self) -> u64 {
        self.0.shed_messages.load(Ordering::Relaxed)
    }

    /// Sessions aborted so far because of it.
    pub fn shed_sessions(&self) -> u64 {
        self.0.shed_sessions.load(Ordering::Relaxed)
    }

    /// From here on the sessions of `hub` may be shed.
    pub(crate) fn register(&self, hub: &Arc<Hub>) {
        let mut hubs = self.0.hubs.lock();
        hubs.retain(|hub| hub.strong_count() > 0);
        hubs.push(Arc::downgrade(hub));
    }

    /// Whether [`enforce`](Self::enforce) has something to do.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.0.shed_above.load(Ordering::Relaxed)
    }

    /// Sheds if too much waits and nobody else is at it. The caller holds no lock.
    #[cold]
    #[inline(never)]
    pub(crate) fn enforce(&self) {
        while self.is_over()
            && let Some(_shedding) = Shedding::begin(&self.0.shedding)
        {
            // Where nobody is left to shed there is nobody a little later, either.
            let above = match self.shed() {
                true => self.0.limit,
                false => self.used().saturating_add(Self::FLOOR.max(self.used() / 16)),
            };
            self.0.shed_above.store(above, Ordering::Relaxed);
        }
    }

    /// Returns whether that was enough.
    fn shed(&self) -> bool {
        let target = self.0.limit - self.0.limit / 10;
        let mut slowest = self.slowest();
        for (pending, session) in &mut slowest {
            if self.used() <= target {
                return true;
            }
            let mut outbox = session.outbox();
            let shed = outbox.shed_backlog();
            *pending = outbox.pending_bytes();
            drop(outbox);
            self.0.shed_messages.fetch_add(shed.len(), Ordering::Relaxed);
        }
        slowest.sort_unstable_by_key(|(pending, _)| Reverse(*pending));
        for (_, session) in slowest {
            if self.used() <= target {
                return true;
            }
            // It may have read on meanwhile.
            let aborted = session
                .abort_if(DisconnectReason::SlowConsumer, |outbox| outbox.pending_bytes() >= Self::FLOOR);
            self.0.shed_sessions.fetch_add(u64::from(aborted), Ordering::Relaxed);
        }
        self.used() <= self.0.limit
    }

    /// Those that may be shed, most pending first.
    fn slowest(&self) -> Vec<(usize, Session)> {
        let hubs: Vec<_> = self.0.hubs.lock().iter().filter_map(Weak::upgrade).collect();
        let mut slowest = Vec::new();
        for hub in hubs {
            hub.sessions().visit(|_, session| {
                let pending = session.0.outbox.lock().accounted_bytes();
                if pending >= Self::FLOOR {
                    slowest.push((pending, session.clone()));
                }
            });
        }
        slowest.sort_unstable_by_key(|(pending, _)| Reverse(*pending));
        slowest
    }
}

/// Keeps others from shedding until dropped: at the latest when a payload that goes panics over it.
struct Shedding<'a>(&'a AtomicBool);

impl<'a> Shedding<'a> {
    /// `None` if someone is at it.
    fn begin(shedding: &'a AtomicBool) -> Option<Self> {
        (!shedding.swap(true, Ordering::AcqRel)).then(|| Self(shedding))
    }
}

impl Drop for Shedding<'_> {
    fn drop(&mut self) {
        // A swap, not a store: whoever found this at work has accounted before, and the next look must see that.
        self.0.swap(false, Ordering::AcqRel);
    }
}

impl PartialEq for SendBudget {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SendBudget {}

impl fmt::Debug for SendBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendBudget")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .field("shed_messages", &self.shed_messages())
            .field("shed_sessions", &self.shed_sessions())
            .finish()
    }
}

/// What one outbox has accounted; nothing any more once it is dropped.
pub(crate) struct Account {
    budget: SendBudget,
    accounted: usize,
}

impl Account {
    pub(crate) const fn new(budget: SendBudget) -> Self {
        Self { budget, accounted: 0 }
    }

    pub(crate) const fn accounted(&self) -> usize {
        self.accounted
    }

    /// Accounts `pending` instead of what it was. Returns whether there is something to [shed](SendBudget::enforce).
    pub(crate) fn settle(&mut self, pending: usize) -> bool {
        let Shared { limit, used, shed_above, .. } = &*self.budget.0;
        if pending > self.accounted {
            used.fetch_add(pending - self.accounted, Ordering::Relaxed);
        } else if pending < self.accounted {
            let freed = self.accounted - pending;
            let left = used.fetch_sub(freed, Ordering::Relaxed) - freed;
            if left <= *limit && shed_above.load(Ordering::Relaxed) != *limit {
                shed_above.store(*limit, Ordering::Relaxed);
            }
        }
        self.accounted = pending;
        self.is_over()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.budget.is_over()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_add_up_and_vanish_with_their_owners() {
        let budget = SendBudget::new(100);
        let mut one = Account::new(budget.clone());
        let mut other = Account::new(budget.clone());
        assert!(!one.settle(60) && !other.settle(40));
        assert!(one.settle(61));
        assert_eq!(budget.used(), 101);
        assert!(!other.settle(10));
        drop(one);
        assert_eq!(budget.used(), 10);
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn with_nobody_to_shed_the_next_look_is_much_later() {
        let budget = SendBudget::new(100);
        let mut account = Account::new(budget.clone());
        assert!(account.settle(200));
        budget.enforce();
        assert!(!account.settle(200 + SendBudget::FLOOR) && account.settle(201 + SendBudget::FLOOR));
        // Once it was below the limit the limit counts again.
        assert!(!account.settle(100) && account.settle(101));
        // Where much waits, a sixteenth of it is more than the floor.
        let much = 32 * SendBudget::FLOOR;
        assert!(account.settle(much));
        budget.enforce();
        let later = much + 2 * SendBudget::FLOOR;
        assert!(!account.settle(later) && account.settle(later + 1));
    }

    #[test]
    fn hubs_that_are_gone_are_not_kept() {
        let budget = SendBudget::new(100);
        let hub = || {
            let send_budget = Some(budget.clone());
            let options = crate::SessionOptions { send_budget, ..Default::default() };
            Hub::new(options, crate::middleware::MiddlewareChain::default()).expect("valid")
        };
        let first = hub();
        for _ in 0..10 {
            drop(hub());
        }
        let last = hub();
        let kept: Vec<_> = budget.0.hubs.lock().iter().filter_map(Weak::upgrade).collect();
        assert_eq!((kept.len(), budget.0.hubs.lock().len()), (2, 2));
        drop((first, last));
    }

    #[test]
    fn concurrent_settling_loses_nothing() {
        let budget = SendBudget::new(usize::MAX);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut account = Account::new(budget.clone());
                    for pending in 0..10_000 {
                        account.settle(pending * 7 % 1000);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }
}
