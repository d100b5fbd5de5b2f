//! Broadcasts leave from here: one task writes to the sockets of many sessions, instead of waking a task for each.
//!
//! ```text
//!  broadcast ── queues for each member ──> Outbox
//!      └── lists those that sleep ──> Lane ── Delivering (one task each) ── Outbox::deliver ──> socket
//!                                                      └── what the socket does not take ──> the session's own task
//! ```
//!
//! What is queued for a listed session before its turn comes leaves with the same write, whoever sent it. Without lanes, or
//! for sockets nobody else may write to (TLS), broadcasts wake the sessions' tasks.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Mutex, RwLock};

use crate::Session;

/// Sessions written to before others have their turn: at some 5 µs each, half a millisecond.
const TURN: usize = 100;

/// Fewer sessions than this are not worth the wake-up of another lane.
const LEAST_PER_LANE: usize = 64;

/// The lanes of a hub, each with a task of its own. Dropping this has the tasks end once everything listed is delivered.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Arc<Open>);

type Open = RwLock<Vec<Arc<Lane>>>;

#[derive(Debug, Default)]
struct Lane(Mutex<Listed>);

#[derive(Debug, Default)]
struct Listed {
    /// Each has a promise to be delivered to.
    sessions: Vec<Session>,
    /// The lane's task, if it sleeps.
    task: Option<Waker>,
    /// The hub is gone.
    closed: bool,
}

impl Lanes {
    /// Opens a lane, which is open as long as the future is there.
    pub(crate) fn open(&self) -> Delivering {
        let lane = Arc::<Lane>::default();
        self.0.write().push(lane.clone());
        Delivering { open: self.0.clone(), lane, taken: Vec::new() }
    }

    pub(crate) fn are_open(&self) -> bool {
        !self.0.read().is_empty()
    }

    /// Has the promises of `sessions` kept.
    pub(crate) fn list(&self, mut sessions: Vec<Session>) {
        let lanes = self.0.read();
        let per_lane = sessions.len().div_ceil(lanes.len().max(1)).max(LEAST_PER_LANE);
        for lane in lanes.iter() {
            let rest = sessions.len().saturating_sub(per_lane);
            lane.list(&mut sessions, rest);
        }
        drop(lanes);
        // There was a lane when the promises were made.
        sessions.iter().for_each(Session::cancel_delivery);
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for lane in self.0.read().iter() {
            let mut listed = lane.0.lock();
            listed.closed = true;
            wake(&mut listed);
        }
    }
}

impl Lane {
    /// Takes those of `sessions` behind the first `rest`.
    fn list(&self, sessions: &mut Vec<Session>, rest: usize) {
        if rest == sessions.len() {
            return;
        }
        let mut listed = self.0.lock();
        if rest == 0 && listed.sessions.is_empty() {
            mem::swap(&mut listed.sessions, sessions);
        } else {
            listed.sessions.extend(sessions.drain(rest..));
        }
        wake(&mut listed);
    }
}

fn wake(listed: &mut Listed) {
    if let Some(task) = listed.task.take() {
        task.wake();
    }
}

/// Delivers what broadcasts queue, until its hub is gone: to be polled in a task of its own. Made by
/// [`Hub::deliver_broadcasts`](crate::Hub::deliver_broadcasts).
///
/// # Cancel safety
/// If it is dropped, the sessions' own tasks write what it was to.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Delivering {
    open: Arc<Open>,
    lane: Arc<Lane>,
    taken: Vec<Session>,
}

impl Future for Delivering {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        for _ in 0..TURN {
            let Some(session) = this.taken.pop() else {
                let mut listed = this.lane.0.lock();
                if !listed.sessions.is_empty() {
                    mem::swap(&mut this.taken, &mut listed.sessions);
                    continue;
                }
                if listed.closed {
                    return Poll::Ready(());
                }
                listed.task = Some(cx.waker().clone());
                return Poll::Pending;
            };
            session.deliver();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Delivering {
    fn drop(&mut self) {
        self.open.write().retain(|lane| !Arc::ptr_eq(lane, &self.lane));
        let listed = mem::take(&mut self.lane.0.lock().sessions);
        for session in self.taken.drain(..).chain(listed) {
            session.cancel_delivery();
        }
    }
}
