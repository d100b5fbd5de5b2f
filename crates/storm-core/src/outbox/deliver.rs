//! Writing to the socket under the outbox's lock: from elsewhere while the connection task sleeps, or by a task about to.
//!
//! Not here: which sessions are written to, and when ([`crate::delivery`]).

use super::{Encode, Outbox, Phase, SendQueue};

impl<E: Encode + ?Sized> Outbox<E> {
    /// Promises a delivery in place of a wake-up, if the task sleeps and its socket can be written to from here. Nobody else
    /// may have promised one: the caller is to list the session, or to call [`deliver`](Self::deliver).
    #[inline]
    pub(crate) fn promise_delivery(&mut self) -> bool {
        let promised = self.parked && !self.listed && self.encoder.writer().is_some();
        self.listed |= promised;
        promised
    }

    /// Keeps the promise: writes what is queued, unless the task is awake and does so itself. What the socket does not take
    /// now is the task's, and so is all that may run user code, which is not for here: shared payloads, whose owners are
    /// dropped, and messages that are still to be encoded. Returns whether too much waits in all sessions.
    pub(crate) fn deliver(&mut self) -> bool {
        self.listed = false;
        // A task that sleeps has nothing in flight. One that is to end the session is awake.
        if !self.parked || self.phase != Phase::Open {
            return false;
        }
        if !self.is_plain() || !self.write_queued() {
            self.wake_task();
        }
        self.room != 0 && self.relieve_and_settle()
    }

    /// Whether all that waits is copied bytes.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.queue.is_copied() && self.aside.is_none()
    }

    /// Writes what is queued, as far as the socket takes it now; `true` if all of it. Nothing may be in flight, and what
    /// waits [is plain](Self::is_plain).
    #[inline(never)]
    pub(super) fn write_queued(&mut self) -> bool {
        self.encoder.flush(&mut self.queue);
        while !self.queue.is_empty() {
            let Some(written) = self.try_write(&self.queue) else { return false };
            self.queue.advance(written);
            self.bytes_sent += written as u64;
        }
        true
    }

    /// One write of what `queue` begins with. An error is the task's to find, which ends the session for it.
    #[inline]
    pub(super) fn try_write(&self, queue: &SendQueue) -> Option<usize> {
        let to = self.encoder.writer()?;
        let written = queue.with_slices(|slices| match slices {
            [slice] => to.try_write(slice),
            slices => to.try_write_vectored(slices),
        });
        written.ok().filter(|written| *written > 0)
    }

    /// Takes the promise back: the task is woken instead.
    pub(crate) fn cancel_delivery(&mut self) {
        self.listed = false;
        if self.parked {
            self.wake_task();
        }
    }

    /// A sender has found no room and is about to give the connection a chance to write: a delivery may be too far off.
    #[inline]
    pub(super) fn hurry(&mut self) {
        if self.parked && self.listed {
            self.wake_task();
        }
    }
}
