//! The connection task's visits: it begins and ends batches of its own, takes what is queued, and goes to sleep.
//!
//! ```text
//!  begin_batch ── handlers ──> write_and_end_batch, write_and_park ──> asleep
//!                   └── or: end_batch, sync ── the task writes ──> park ──> asleep, or waiting for the socket
//! ```

use std::num::NonZeroU32;
use std::task::Waker;

use super::{Encode, FULL, Outbox, Phase, SendQueue};
use crate::cork::Corked;

/// Bytes a batch queues before it asks the outbox: the time others wait for their turn is bounded by it.
const MOST_CORKED: u32 = 256 * 1024;

impl<E: Encode + ?Sized> Outbox<E> {
    /// The connection task is at work and wants a batch of its own: the bytes it may queue by itself, 0 for none.
    pub(crate) fn begin_batch(&mut self, wants_cork: bool) -> usize {
        self.parked = false;
        let waiting = self.waiters.as_ref().is_some_and(|waiters| waiters.has_senders());
        let may_cork = wants_cork
            && self.phase == Phase::Open
            && !self.is_backpressured()
            && !waiting
            && !self.is_in_parts()
            && self.aside.is_none()
            && self.queue.len() + self.in_flight <= self.limit / 2;
        let quarter = u32::try_from(self.limit / 4).unwrap_or(MOST_CORKED);
        self.corked = if may_cork { NonZeroU32::new(MOST_CORKED.min(quarter)) } else { None };
        self.corked.map_or(0, |budget| budget.get() as usize)
    }

    /// Takes over what the connection task's batch has queued, and ends the batch.
    pub(crate) fn end_batch(&mut self, corked: &mut Corked) {
        self.corked = None;
        self.messages_sent += std::mem::take(&mut corked.messages);
        if self.phase >= Phase::Aborting {
            // None of it leaves. Shared payloads go where the task drops them, without the lock.
            if corked.queue.is_copied() {
                corked.queue.clear();
            } else {
                self.queue.append(&mut corked.queue);
            }
            return;
        }
        if !corked.queue.is_empty() {
            self.queue.append(&mut corked.queue);
        }
        if self.aside.is_some() {
            self.append_behind();
        }
        if self.pending_bytes() >= self.limit {
            self.room |= FULL;
        }
    }

    /// What [`end_batch`](Self::end_batch) does, after a first write of what the batch has queued if nothing else is to leave before
    /// it. What a batch of few messages brings then never leaves the thread's own buffer.
    #[inline]
    pub(crate) fn write_and_end_batch(&mut self, corked: &mut Corked) {
        if self.phase == Phase::Open && self.queue.is_empty() && corked.queue.is_copied() {
            self.encoder.flush(&mut corked.queue);
            if !corked.queue.is_empty()
                && let Some(written) = self.try_write(&corked.queue)
            {
                corked.queue.advance_and_keep(written);
                self.bytes_sent += written as u64;
            }
        }
        self.end_batch(corked);
    }

    /// The connection task's visit: accounts `written` bytes and hands out what is queued if `writing` is empty. Returns
    /// whether too much waits in all sessions.
    pub(crate) fn sync(&mut self, writing: &mut SendQueue, written: usize) -> bool {
        // Whatever woke the task, what it takes must be written before anything else is.
        self.parked = false;
        self.wrote(written);
        if writing.is_empty() {
            self.encoder.flush(&mut self.queue);
            self.draw_backlog();
            if !self.queue.is_empty() {
                std::mem::swap(writing, &mut self.queue);
                self.in_flight += writing.len();
            }
        }
        self.room != 0 && self.relieve_and_settle()
    }

    /// The kernel has `written` bytes more.
    #[inline]
    pub(crate) fn wrote(&mut self, written: usize) {
        // After an abort nothing is in flight any more.
        self.in_flight = self.in_flight.saturating_sub(written);
        self.bytes_sent += written as u64;
    }

    /// Remembers the connection task; `wake_on_send` when it has nothing to write and would sleep through a send.
    pub(crate) fn park(&mut self, task: &Waker, wake_on_send: bool) {
        match &self.task {
            Some(stored) if stored.will_wake(task) => {}
            _ => self.task = Some(task.clone()),
        }
        self.parked = wake_on_send;
    }

    /// What [`sync`](Self::sync), a write and [`park`](Self::park) do, in one visit of a task that has nothing in flight. `false` if
    /// the socket cannot be written to from here or does not take it all, and for shared payloads, which may be dropped without
    /// a lock only: then `writing` has what is left, as after `sync`. The second tells whether too much waits in all sessions.
    pub(crate) fn write_and_park(&mut self, writing: &mut SendQueue, task: &Waker) -> (bool, bool) {
        let may_write = self.phase == Phase::Open && self.is_plain() && self.encoder.writer().is_some();
        if !may_write || !self.write_queued() {
            return (false, self.sync(writing, 0));
        }
        self.park(task, true);
        (true, self.room != 0 && self.relieve_and_settle())
    }
}
