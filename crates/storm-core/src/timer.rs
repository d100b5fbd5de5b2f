//! What many sessions need to share one timer: a note of when each is next to be woken, and a way to wake it.
//!
//! Owns: nothing; the note lies in the session. Not here: the clock and the timer, which the transport brings along.

use std::any::Any;
use std::fmt::Debug;
use std::sync::atomic::AtomicU64;

use crate::{Session, Sessions};

/// A timer that the sessions of a hub share; see [`Hub::timer`](crate::Hub::timer).
pub trait SharedTimer: Any + Debug + Send + Sync {
    /// One session is gone from `sessions`: what is kept for it may go.
    fn session_left(&self, sessions: &Sessions);
}

/// The session's note of when the timer wakes it: 0 if it does not, or has done so.
#[inline]
pub fn note(session: &Session) -> &AtomicU64 {
    &session.0.wake_at
}

/// Wakes the session's task, if it has ever slept and is not over.
///
/// A task that has parked and then finds its note as the timer has yet to see it does not miss this.
pub fn wake(session: &Session) {
    session.0.outbox.lock().wake_task();
}
