//! Bytes of one session that wait for the socket, their bound, and those who wait for room.
//!
//! ```text
//!  send ── admit ──> Encode ──> SendQueue ── Driver::sync (take) ──> in flight ──> socket
//!            │ full: wait (first come first served) / drop / disconnect      │
//!            └──────────── resumes when queued + in flight <= limit / 2 <────┘
//! ```
//!
//! Owns: the encoder, the queue, the count of unsent bytes, the phase, the wakers.
//! Not here: the socket, and user code of any kind: everything runs behind one short lock.

mod encode;
mod queue;
mod waiters;

use std::num::NonZeroUsize;
use std::task::Waker;

pub use encode::{Control, Encode, Part, SharedFrames};
pub use queue::{SHARE_FROM, SendQueue};
pub(crate) use waiters::Ticket;
use waiters::Waiters;

use crate::cork::Corked;
use crate::{Message, MessageRef, SendError};

/// Bytes a batch queues before it asks the outbox: the time others wait for their turn is bounded by it.
const MOST_CORKED: usize = 256 * 1024;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendOutcome {
    /// It is queued whole and leaves in order, unless the session is aborted first.
    Sent,
    /// The outbox was full and the policy is [`SlowConsumerPolicy::Drop`](crate::SlowConsumerPolicy::Drop). None of
    /// it leaves.
    Dropped,
    /// A middleware suppressed it.
    Suppressed,
}

/// What is to be put into the outbox.
pub(crate) enum Payload<'a> {
    Own(&'a mut Option<Message>),
    Ref(MessageRef<'a>),
    Uncompressed(&'a mut Option<Message>),
    Part(&'a mut Option<Part>),
    Shared(&'a Message, &'a mut SharedFrames),
}

/// What an attempt to queue came to.
#[derive(Debug)]
pub(crate) enum Admission {
    Queued,
    Full,
    /// A message that is sent in parts is not complete: wait, whatever the policy.
    Busy,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// What is queued leaves; nothing is admitted.
    Closing,
    /// Nothing leaves any more: the connection task is to reset the transport.
    Aborting,
    Closed,
}

pub(crate) struct Outbox<E: ?Sized> {
    queue: SendQueue,
    /// The connection task has a batch of its own ([`crate::cork`]), and nobody has interfered.
    ///
    /// Holds the bytes that batch may queue, which others leave free: the limit is kept, whoever is first.
    corked: Option<NonZeroUsize>,
    /// What others have queued since the batch began; leaves behind it.
    behind: Option<Box<SendQueue>>,
    /// Bytes the connection task has taken and the kernel does not have yet.
    in_flight: usize,
    limit: usize,
    backpressured: bool,
    pub(crate) phase: Phase,
    /// A message that is sent in parts has begun and not ended.
    in_parts: bool,
    /// The connection task. Present once it has parked for the first time.
    task: Option<Waker>,
    /// The task sleeps and nothing has woken it since: the next message must.
    parked: bool,
    waiters: Option<Box<Waiters>>,
    pub(crate) bytes_sent: u64,
    pub(crate) messages_sent: u64,
    pub(crate) messages_dropped: u64,
    encoder: E,
}

/// Where the next bytes go that do not come from the connection task's own batch.
fn target<'a>(
    corked: bool,
    queue: &'a mut SendQueue,
    behind: &'a mut Option<Box<SendQueue>>,
) -> &'a mut SendQueue {
    if corked { behind.get_or_insert_default() } else { queue }
}

impl<E: Encode> Outbox<E> {
    pub(crate) fn new(encoder: E, limit: Option<usize>) -> Self {
        Self {
            queue: SendQueue::default(),
            corked: None,
            behind: None,
            in_flight: 0,
            limit: limit.unwrap_or(usize::MAX),
            backpressured: false,
            phase: Phase::Open,
            in_parts: false,
            task: None,
            parked: false,
            waiters: None,
            bytes_sent: 0,
            messages_sent: 0,
            messages_dropped: 0,
            encoder,
        }
    }
}

impl<E: Encode + ?Sized> Outbox<E> {
    pub(crate) const fn is_backpressured(&self) -> bool {
        self.backpressured
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        let behind = match &self.behind {
            Some(behind) => behind.len(),
            None => 0,
        };
        self.queue.len() + behind + self.in_flight
    }

    /// Whether a message that has not waited would be queued now.
    pub(crate) fn may_admit(&self) -> bool {
        let waiting = self.waiters.as_ref().is_some_and(|waiters| waiters.has_senders());
        self.phase == Phase::Open && !self.in_parts && !self.backpressured && !waiting
    }

    /// Queues `payload` if there is room; `ticket` is the caller's place if it has waited.
    pub(crate) fn admit(
        &mut self,
        payload: Payload<'_>,
        ticket: Option<Ticket>,
    ) -> Result<Admission, SendError> {
        if self.phase != Phase::Open {
            return Ok(Admission::Closed);
        }
        let is_its_turn = match (&self.waiters, ticket) {
            (None, _) => true,
            (Some(waiters), None) => !waiters.has_senders(),
            (Some(waiters), Some(ticket)) => waiters.is_first(ticket),
        };
        let continues = self.in_parts
            && matches!(&payload, Payload::Part(part) if part.as_ref().is_some_and(|part| !part.first));
        if self.in_parts && !continues {
            return Ok(Admission::Busy);
        }
        if self.corked.is_some_and(|budget| self.pending_bytes() + budget.get() >= self.limit) {
            self.backpressured = true;
        }
        // The parts of a message go before those who wait for its end.
        if self.backpressured || !(is_its_turn || continues) {
            return Ok(Admission::Full);
        }
        if let Some(ticket) = ticket {
            self.leave(ticket);
        }
        let queue = target(self.corked.is_some(), &mut self.queue, &mut self.behind);
        match payload {
            Payload::Own(message) => {
                let message = message.take().expect("a send queues its message once");
                self.encoder.encode(message, queue)?;
            }
            Payload::Ref(message) => self.encoder.encode_slice(message.data(), message.is_text(), queue)?,
            Payload::Uncompressed(message) => {
                let message = message.take().expect("a send queues its message once");
                self.encoder.encode_uncompressed(message, queue)?;
            }
            Payload::Part(part) => {
                let part = part.take().expect("a send queues its part once");
                let last = part.last;
                self.encoder.encode_part(part, queue)?;
                self.in_parts = !last;
                self.queued();
                if last {
                    self.messages_sent += 1;
                    if let Some(waiters) = &self.waiters {
                        waiters.wake_first();
                    }
                }
                return Ok(Admission::Queued);
            }
            Payload::Shared(message, frames) => self.encoder.encode_shared(message, frames, queue)?,
        }
        self.messages_sent += 1;
        self.queued();
        Ok(Admission::Queued)
    }

    /// After bytes were queued: notes the limit, wakes the connection task unless it is running.
    fn queued(&mut self) {
        if self.pending_bytes() >= self.limit {
            self.backpressured = true;
        }
        if self.parked {
            self.wake_task();
        }
    }

    fn wake_task(&mut self) {
        self.parked = false;
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    pub(crate) fn wait(&mut self, ticket: Option<Ticket>, waker: &Waker) -> Ticket {
        let waiters = self.waiters.get_or_insert_default();
        match ticket {
            Some(ticket) => {
                waiters.update(ticket, waker);
                ticket
            }
            None => waiters.enqueue(waker),
        }
    }

    /// Gives up a place; the next in line takes its turn.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        let Some(waiters) = &mut self.waiters else { return };
        waiters.remove(ticket);
        if !self.backpressured {
            waiters.wake_first();
        }
    }

    pub(crate) fn wait_for_close(&mut self, waker: &Waker) {
        self.waiters.get_or_insert_default().wait_for_close(waker);
    }

    pub(crate) fn control(&mut self, control: Control) -> bool {
        // A pong takes no room: the encoder holds back the newest one and sends no other.
        let has_room = matches!(control, Control::Pong(_)) || !self.backpressured;
        if self.phase != Phase::Open || !has_room {
            return false;
        }
        let queue = target(self.corked.is_some(), &mut self.queue, &mut self.behind);
        self.encoder.control(control, queue);
        // The frame may be held back until the flush: the task must come to it either way.
        self.queued();
        true
    }

    /// Stops admitting; what is queued leaves, `goodbye` behind it. Returns whether this call began the close.
    pub(crate) fn begin_close(&mut self, goodbye: Option<(u16, bytestring::ByteString)>) -> bool {
        if self.phase != Phase::Open {
            return false;
        }
        let queue = target(self.corked.is_some(), &mut self.queue, &mut self.behind);
        self.encoder.control(Control::Close(goodbye), queue);
        self.enter(Phase::Closing);
        true
    }

    /// Discards what is queued and has the transport reset.
    pub(crate) fn begin_abort(&mut self) {
        if self.phase < Phase::Aborting {
            self.queue.clear();
            self.behind = None;
            self.enter(Phase::Aborting);
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.wake_task();
        if let Some(waiters) = &self.waiters {
            waiters.wake_senders();
        }
    }

    /// The transport is gone. Returns whether that is news.
    pub(crate) fn finish(&mut self) -> bool {
        let is_news = self.phase != Phase::Closed;
        self.phase = Phase::Closed;
        self.queue.clear();
        self.behind = None;
        self.in_flight = 0;
        self.backpressured = false;
        self.task = None;
        self.parked = false;
        if let Some(waiters) = &mut self.waiters {
            waiters.wake_all();
        }
        is_news
    }

    /// The connection task is at work and wants a batch of its own: the bytes it may queue by itself, 0 for none.
    pub(crate) fn begin_batch(&mut self, wants_cork: bool) -> usize {
        self.parked = false;
        let waiting = self.waiters.as_ref().is_some_and(|waiters| waiters.has_senders());
        let may_cork = wants_cork
            && self.phase == Phase::Open
            && !self.backpressured
            && !waiting
            && !self.in_parts
            && self.pending_bytes() <= self.limit / 2;
        self.corked = if may_cork { NonZeroUsize::new(MOST_CORKED.min(self.limit / 4)) } else { None };
        self.corked.map_or(0, NonZeroUsize::get)
    }

    /// Takes over what the connection task's batch has queued, and ends the batch.
    pub(crate) fn end_batch(&mut self, corked: Corked) {
        self.corked = None;
        self.messages_sent += corked.messages;
        if self.phase >= Phase::Aborting {
            return;
        }
        self.queue.append(corked.queue);
        if let Some(behind) = self.behind.take() {
            self.queue.append(*behind);
        }
        if self.pending_bytes() >= self.limit {
            self.backpressured = true;
        }
    }

    /// The connection task's visit: accounts `written` bytes and hands out what is queued if `writing` is empty.
    pub(crate) fn sync(&mut self, writing: &mut SendQueue, written: usize) {
        // After an abort nothing is in flight any more.
        self.in_flight = self.in_flight.saturating_sub(written);
        self.bytes_sent += written as u64;
        if writing.is_empty() {
            self.encoder.flush(&mut self.queue);
            if !self.queue.is_empty() {
                std::mem::swap(writing, &mut self.queue);
                self.in_flight += writing.len();
            }
        }
        if self.backpressured && self.pending_bytes() <= self.limit / 2 {
            self.backpressured = false;
            if let Some(waiters) = &self.waiters {
                // The parts of a message go before those who wait for its end, wherever in line its writer is.
                if self.in_parts { waiters.wake_senders() } else { waiters.wake_first() }
            }
        }
    }

    /// Remembers the connection task; `wake_on_send` when it has nothing to write and would sleep through a send.
    pub(crate) fn park(&mut self, task: &Waker, wake_on_send: bool) {
        match &self.task {
            Some(stored) if stored.will_wake(task) => {}
            _ => self.task = Some(task.clone()),
        }
        self.parked = wake_on_send;
    }
}
