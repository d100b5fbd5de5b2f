//! Bytes of one session that wait for the socket, their bound, and those who wait for room.
//!
//! ```text
//!  send ── admit ──> Encode ──> SendQueue ── Driver::sync (take) ──> in flight ──> socket
//!            │ full: wait (first come first served) / drop / disconnect      │
//!            │ may go again: Backlog ── encoded when the task comes          │
//!            └──────────── resumes when queued + in flight <= limit / 2 <────┘
//! ```
//!
//! Owns: the encoder, the queue, the count of unsent bytes, the phase, the wakers.
//! Not here: the socket, and user code of any kind: everything runs behind one short lock.

mod backlog;
mod budget;
mod deliver;
mod encode;
mod queue;
mod task;
mod waiters;

use std::num::NonZeroU32;
use std::task::Waker;

pub use backlog::LatestKey;
pub(crate) use backlog::Terms;
use backlog::{Backlog, Entry};
pub use encode::{Control, Encode, Part, SharedFrames, TryWrite};
pub use queue::{SHARE_FROM, SendQueue};
pub(crate) use waiters::Ticket;
use waiters::Waiters;

use crate::send_budget::{Account, SendBudget};
use crate::{Message, MessageRef, SendError};

/// Bytes up to which the task takes messages that may go again: worth a write, and the rest can still go.
const DRAWN: usize = 16 * 1024;

/// Bits of [`Outbox::room`]: senders wait until half of the limit is left; a budget wants to know what waits; a message that
/// is sent in parts has begun and not ended; a control message has gone past the limit since.
const FULL: u8 = 1;
const ACCOUNTED: u8 = 2;
const IN_PARTS: u8 = 4;
const PASSED: u8 = 8;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendOutcome {
    /// It is queued whole and leaves in order, unless the session is aborted first.
    ///
    /// A message sent under [`SlowConsumerPolicy::DropOldest`](crate::SlowConsumerPolicy::DropOldest) or a
    /// [`latest`](crate::SendingWith::latest) key may go again before the connection takes it: dropped for a newer one,
    /// or replaced by the next under its key, or dropped for a [`SendBudget`].
    Sent,
    /// The outbox was full and the policy is [`SlowConsumerPolicy::Drop`](crate::SlowConsumerPolicy::Drop), or
    /// [`DropOldest`](crate::SlowConsumerPolicy::DropOldest) and what waits may not be dropped for this. None of it
    /// leaves.
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

impl Payload<'_> {
    fn message(&self) -> &Message {
        const ONCE: &str = "a send queues its message once";
        match self {
            Payload::Own(message) | Payload::Uncompressed(message) => message.as_ref().expect(ONCE),
            Payload::Shared(message, _) => message,
            Payload::Ref(_) | Payload::Part(_) => unreachable!("these are queued at once, or not at all"),
        }
    }

    fn into_message(self) -> Message {
        match self {
            Payload::Own(message) | Payload::Uncompressed(message) => {
                message.take().expect("a send queues its message once")
            }
            other => other.message().clone(),
        }
    }
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
    corked: Option<NonZeroU32>,
    /// What is queued elsewhere and leaves later; boxed, since an idle session pays for every byte.
    aside: Option<Box<Aside>>,
    /// Bytes the connection task has taken and the kernel does not have yet.
    in_flight: usize,
    limit: usize,
    /// [`FULL`] while it is backpressured, [`ACCOUNTED`], [`IN_PARTS`] and [`PASSED`]: one look tells that there is nothing to do.
    room: u8,
    pub(crate) phase: Phase,
    /// The connection task. Present once it has parked for the first time.
    task: Option<Waker>,
    /// The task sleeps and nothing has woken it since: the next message must.
    parked: bool,
    /// The session is listed for a delivery ([`crate::delivery`]), which writes what is queued or wakes the task.
    listed: bool,
    waiters: Option<Box<Waiters>>,
    /// Where what waits is accounted, if it is; not after an abort.
    account: Option<Box<Account>>,
    pub(crate) bytes_sent: u64,
    pub(crate) messages_sent: u64,
    /// Boxed: most sessions lose none.
    lost: Option<Box<Lost>>,
    encoder: E,
}

/// Messages that do not leave, by what became of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lost {
    pub(crate) dropped: u64,
    pub(crate) replaced: u64,
}

#[derive(Default)]
struct Aside {
    /// What others than the task have queued since its batch began; leaves behind the batch.
    behind: SendQueue,
    /// What may go again; leaves behind all that is encoded. Invariant: empty while a message is sent in parts.
    backlog: Backlog,
}

/// What does not leave. Dropping it drops payloads, which may run code of their owners: whoever has it lets go of the outbox
/// first.
#[must_use = "it is not for the outbox's lock"]
pub(crate) struct Remains {
    queue: SendQueue,
    _aside: Option<Box<Aside>>,
}

impl Drop for Remains {
    fn drop(&mut self) {
        // Gives its buffer back, if there is one.
        self.queue.clear();
    }
}

/// Messages that others have taken the place of: like [`Remains`], not to be dropped under the lock.
pub(crate) type Displaced = Vec<Entry>;

/// Where the next bytes go that do not come from the connection task's own batch.
fn target<'a>(
    corked: bool,
    queue: &'a mut SendQueue,
    aside: &'a mut Option<Box<Aside>>,
) -> &'a mut SendQueue {
    if corked { &mut aside.get_or_insert_default().behind } else { queue }
}

impl<E: Encode> Outbox<E> {
    pub(crate) fn new(encoder: E, limit: Option<usize>, budget: Option<SendBudget>) -> Self {
        Self {
            queue: SendQueue::default(),
            corked: None,
            aside: None,
            in_flight: 0,
            limit: limit.unwrap_or(usize::MAX),
            room: if budget.is_some() { ACCOUNTED } else { 0 },
            phase: Phase::Open,
            task: None,
            parked: false,
            listed: false,
            waiters: None,
            account: budget.map(|budget| Box::new(Account::new(budget))),
            bytes_sent: 0,
            messages_sent: 0,
            lost: None,
            encoder,
        }
    }
}

impl<E: Encode + ?Sized> Outbox<E> {
    pub(crate) fn goodbye_after_panic(&self) -> Option<(u16, bytestring::ByteString)> {
        self.encoder.goodbye_after_panic()
    }

    pub(crate) const fn is_backpressured(&self) -> bool {
        self.room & FULL != 0
    }

    const fn is_in_parts(&self) -> bool {
        self.room & IN_PARTS != 0
    }

    /// Messages that were queued, or were to be, and do not leave.
    pub(crate) fn lost(&self) -> Lost {
        self.lost.as_deref().copied().unwrap_or_default()
    }

    #[cold]
    pub(crate) fn count_dropped(&mut self, messages: u64) {
        self.lost.get_or_insert_default().dropped += messages;
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        let aside = match &self.aside {
            Some(aside) => aside.behind.len() + aside.backlog.cost(),
            None => 0,
        };
        self.queue.len() + aside + self.in_flight
    }

    /// All that has left the queue so far, for the kernel or on its way there. What is queued comes behind.
    pub(crate) const fn taken_bytes(&self) -> u64 {
        self.bytes_sent + self.in_flight as u64
    }

    /// Whether a message that has not waited would be queued now.
    pub(crate) fn may_admit(&self) -> bool {
        let waiting = self.waiters.as_ref().is_some_and(|waiters| waiters.has_senders());
        self.phase == Phase::Open && !self.is_in_parts() && !self.is_backpressured() && !waiting
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
        let is_its_turn = self.is_turn_of(ticket);
        let continues = self.is_in_parts()
            && matches!(&payload, Payload::Part(part) if part.as_ref().is_some_and(|part| !part.first));
        if self.is_in_parts() && !continues {
            return Ok(Admission::Busy);
        }
        self.leave_room_for_batch();
        // The parts of a message go before those who wait for its end.
        if self.is_backpressured() || !(is_its_turn || continues) {
            self.hurry();
            return Ok(Admission::Full);
        }
        if let Some(ticket) = ticket {
            self.leave(ticket);
        }
        if self.aside.is_some() {
            self.commit();
        }
        let queue = target(self.corked.is_some(), &mut self.queue, &mut self.aside);
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
                self.room = if last { self.room & !IN_PARTS } else { self.room | IN_PARTS };
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

    /// Queues `payload` on `terms`; see [`keep`](Self::keep) and [`admit`](Self::admit). What goes for it is added to `displaced`.
    #[inline]
    pub(crate) fn admit_on(
        &mut self,
        payload: Payload<'_>,
        terms: &Terms,
        ticket: Option<Ticket>,
        make_room: bool,
        displaced: &mut Displaced,
    ) -> Result<Admission, SendError> {
        match terms.is_usual() {
            true => self.admit(payload, ticket),
            false => self.keep(payload, terms, ticket, make_room, displaced),
        }
    }

    /// Queues a message that may go again, on `terms`, if there is room or if it replaces another. With `make_room`, and
    /// if it may be dropped itself, the oldest of its kind go for it.
    ///
    /// When nothing waits at all the task takes it at once, so it is encoded like any other.
    fn keep(
        &mut self,
        payload: Payload<'_>,
        terms: &Terms,
        ticket: Option<Ticket>,
        make_room: bool,
        displaced: &mut Displaced,
    ) -> Result<Admission, SendError> {
        if self.phase != Phase::Open {
            return Ok(Admission::Closed);
        }
        if self.is_in_parts() {
            return Ok(Admission::Busy);
        }
        self.leave_room_for_batch();
        let full = self.is_backpressured() || !self.is_turn_of(ticket);
        let pending = self.pending_bytes();
        if !full && pending == 0 {
            return self.admit(payload, ticket);
        }
        self.encoder.check(payload.message())?;
        let cost = backlog::cost(payload.message());
        let replaced = match (&self.aside, &terms.key) {
            (Some(aside), Some(key)) => aside.backlog.cost_under(key),
            _ => None,
        };
        let replaces = replaced.is_some_and(|replaced| cost <= replaced || pending - replaced < self.limit);
        if full && !replaces && !(make_room && terms.droppable && self.make_room(cost, displaced)) {
            self.hurry();
            return Ok(Admission::Full);
        }
        if let Some(ticket) = ticket {
            self.leave(ticket);
        }
        let entry = Entry { message: payload.into_message(), terms: terms.clone() };
        let replaced = self.aside.get_or_insert_default().backlog.put(entry);
        if let Some(replaced) = replaced {
            displaced.push(replaced);
            self.lost.get_or_insert_default().replaced += 1;
        }
        self.queued();
        Ok(Admission::Queued)
    }

    /// Drops the oldest that may go, until what comes in their stead takes no more than they did: those who wait for the
    /// outbox to drain would wait for ever if newcomers filled it up again. Where they are too small for that, all of them
    /// go, if that is below the limit; else none.
    fn make_room(&mut self, cost: usize, displaced: &mut Displaced) -> bool {
        let pending = self.pending_bytes();
        let droppable = self.aside.as_ref().map_or(0, |aside| aside.backlog.droppable_cost());
        if droppable < cost && pending - droppable >= self.limit {
            return false;
        }
        let Some(aside) = &mut self.aside else { return true };
        let mut freed = 0;
        while freed < cost
            && let Some(dropped) = aside.backlog.pop_droppable()
        {
            freed += dropped.cost();
            displaced.push(dropped);
            self.lost.get_or_insert_default().dropped += 1;
        }
        true
    }

    #[inline]
    fn is_turn_of(&self, ticket: Option<Ticket>) -> bool {
        match (&self.waiters, ticket) {
            (None, _) => true,
            (Some(waiters), None) => !waiters.has_senders(),
            (Some(waiters), Some(ticket)) => waiters.is_first(ticket),
        }
    }

    #[inline]
    fn leave_room_for_batch(&mut self) {
        if self.corked.is_some_and(|budget| self.pending_bytes() + budget.get() as usize >= self.limit) {
            self.room |= FULL;
        }
    }

    /// Encodes all that could go again, since something follows that cannot: order is kept.
    #[cold]
    #[inline(never)]
    fn commit(&mut self) {
        while let Some(entry) = self.aside.as_mut().and_then(|aside| aside.backlog.pop()) {
            self.encode_kept(entry);
        }
    }

    #[inline]
    fn draw_backlog(&mut self) {
        if self.aside.is_some() {
            self.draw();
        }
    }

    /// Encodes what could go again, oldest first, as much as the task writes at a time.
    #[cold]
    #[inline(never)]
    fn draw(&mut self) {
        while self.queue.len() < DRAWN
            && let Some(entry) = self.aside.as_mut().and_then(|aside| aside.backlog.pop())
        {
            self.encode_kept(entry);
        }
        self.drop_empty_aside();
    }

    /// What others have queued during the task's batch follows it.
    #[inline(never)]
    fn append_behind(&mut self) {
        if let Some(aside) = &mut self.aside {
            self.queue.append(&mut aside.behind);
            self.drop_empty_aside();
        }
    }

    fn drop_empty_aside(&mut self) {
        self.aside.take_if(|aside| aside.backlog.is_empty() && aside.behind.is_empty());
    }

    fn encode_kept(&mut self, Entry { message, terms }: Entry) {
        let queue = target(self.corked.is_some(), &mut self.queue, &mut self.aside);
        let encoded = match terms.uncompressed {
            false => self.encoder.encode(message, queue),
            true => self.encoder.encode_uncompressed(message, queue),
        };
        match encoded {
            Ok(()) => self.messages_sent += 1,
            // What the encoder could not tell when it was asked.
            Err(_) => self.count_dropped(1),
        }
    }

    /// After bytes were queued: notes the limit, wakes the connection task unless it is running.
    fn queued(&mut self) {
        if self.pending_bytes() >= self.limit {
            self.room |= FULL;
        }
        if self.room & ACCOUNTED != 0 {
            self.settle();
        }
        if self.parked && !self.listed {
            self.wake_task();
        }
    }

    pub(crate) fn wake_task(&mut self) {
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
        let full = self.is_backpressured();
        let Some(waiters) = &mut self.waiters else { return };
        waiters.remove(ticket);
        if !full {
            waiters.wake_first();
        }
    }

    /// Has `waker` woken at the end; whoever has a place keeps it.
    pub(crate) fn wait_for_close(&mut self, ticket: Option<Ticket>, waker: &Waker) -> Ticket {
        self.waiters.get_or_insert_default().wait_for_close(ticket, waker)
    }

    /// Gives up that place.
    pub(crate) fn leave_close(&mut self, ticket: Ticket) {
        if let Some(waiters) = &mut self.waiters {
            waiters.leave_close(ticket);
        }
    }

    /// Queues `control`, if there is room. One that `may_pass` does so once until senders may go on: those behind it would
    /// leave no sooner.
    pub(crate) fn control(&mut self, control: Control, may_pass: bool) -> bool {
        // A pong takes no room: the encoder holds back the newest one and sends no other.
        let has_room = matches!(control, Control::Pong(_)) || !self.is_backpressured();
        let passes = may_pass && !has_room && self.room & PASSED == 0;
        if self.phase != Phase::Open || !(has_room || passes) {
            return false;
        }
        if passes {
            self.room |= PASSED;
        }
        let queue = target(self.corked.is_some(), &mut self.queue, &mut self.aside);
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
        self.commit();
        let queue = target(self.corked.is_some(), &mut self.queue, &mut self.aside);
        self.encoder.control(Control::Close(goodbye), queue);
        self.enter(Phase::Closing);
        true
    }

    /// Has the transport reset. What is queued does not leave.
    pub(crate) fn begin_abort(&mut self) -> Remains {
        let remains = self.discard();
        self.enter(Phase::Aborting);
        remains
    }

    fn discard(&mut self) -> Remains {
        self.close_account();
        Remains { queue: std::mem::take(&mut self.queue), _aside: self.aside.take() }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.wake_task();
        if let Some(waiters) = &self.waiters {
            waiters.wake_senders();
        }
    }

    /// The transport is gone. Returns whether that is news, and what does not leave.
    pub(crate) fn finish(&mut self) -> (bool, Remains) {
        let is_news = self.phase != Phase::Closed;
        self.phase = Phase::Closed;
        let remains = self.discard();
        self.in_flight = 0;
        self.room &= !FULL;
        self.task = None;
        self.parked = false;
        self.encoder.close_writer();
        if let Some(waiters) = &mut self.waiters {
            waiters.wake_all();
        }
        (is_news, remains)
    }

    #[inline(never)]
    fn relieve_and_settle(&mut self) -> bool {
        self.relieve();
        self.room & ACCOUNTED != 0 && self.settle()
    }

    /// Lets senders go on if enough has left.
    fn relieve(&mut self) {
        if self.is_backpressured() && self.pending_bytes() <= self.limit / 2 {
            self.room &= !(FULL | PASSED);
            if let Some(waiters) = &self.waiters {
                // The parts of a message go before those who wait for its end, wherever in line its writer is.
                if self.is_in_parts() { waiters.wake_senders() } else { waiters.wake_first() }
            }
        }
    }
}
