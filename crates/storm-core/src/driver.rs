//! The connection task's side of a session. One driver per session; users never meet it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use parking_lot::MutexGuard;

use crate::cork::{self, Corked};
use crate::error::PanicMessage;
use crate::metrics::Ending;
use crate::outbox::{Encode, Outbox, Phase, SendQueue};
use crate::{ConnectionState, DisconnectReason, EarlyItems, Hub, Peer, Role, Session, SlowConsumerPolicy};

/// What the session's users want of the connection task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Run,
    /// Let leave what is queued, then end.
    Close,
    /// Reset the transport now.
    Abort,
}

/// The one owner of a session's outgoing bytes and counters.
///
/// Rules of use: [`begin_batch`](Self::begin_batch) before handlers run; [`sync`](Self::sync) to get what is to be
/// written; [`park`](Self::park) right before sleeping; [`transport_gone`](Self::transport_gone) when the transport is
/// gone. Dropping the driver does that, too, and takes the session out of its hub: no session outlives its task.
pub struct Driver {
    session: Session,
    /// The encoder of this task's own batches ([`crate::cork`]); `None` while one is under way, or if there can be none.
    twin: Option<Box<dyn Encode>>,
}

impl Driver {
    /// A session for a transport that is ready, registered with `hub` from here on.
    pub fn register(hub: &Arc<Hub>, role: Role, peer: impl Into<Peer>, encoder: impl Encode) -> Self {
        Self::register_with(hub, role, peer, encoder, None, EarlyItems::default())
    }

    /// As [`register`](Self::register), with what the protocol keeps with the session, and what its user does already.
    pub fn register_with(
        hub: &Arc<Hub>,
        role: Role,
        peer: impl Into<Peer>,
        encoder: impl Encode,
        attachment: Option<Box<dyn Any + Send + Sync>>,
        items: EarlyItems,
    ) -> Self {
        // Under `DropOldest` what handlers send may have to be dropped again, so a batch may not encode it.
        let keeps = hub.options().slow_consumer_policy == SlowConsumerPolicy::DropOldest;
        let twin = if keeps { None } else { encoder.twin() };
        let session = Session::new(hub.clone(), role, peer.into(), encoder, attachment);
        items.give_to(&session);
        session.0.state.advance(ConnectionState::Connected);
        hub.enter(&session);
        Self { session, twin }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Handlers are about to run: what they send to this session need not wake the task, and as long as nobody else sends
    /// to it, it needs no lock. Ends with the next `sync` or `park`; called again before that it does nothing.
    #[inline]
    pub fn begin_batch(&mut self) {
        let in_batch = &self.session.0.in_batch;
        if !in_batch.load(Ordering::Relaxed) {
            in_batch.store(true, Ordering::Relaxed);
            self.cork();
        }
    }

    #[inline(never)]
    fn cork(&mut self) {
        let inner = &self.session.0;
        let mut outbox = inner.outbox.lock();
        // Sends that go through the middleware take the long way.
        let wants_cork = self.twin.is_some() && inner.hub.middleware().is_none();
        let budget = outbox.begin_batch(wants_cork);
        if budget == 0 {
            return;
        }
        let Some(twin) = self.twin.take() else { return };
        match cork::begin(inner.id, twin, budget) {
            Ok(()) => inner.uncork.store(false, Ordering::Relaxed),
            Err(twin) => {
                self.twin = Some(twin);
                outbox.begin_batch(false);
            }
        }
    }

    /// Locks the outbox for the task itself: its batch, if there is one, ends.
    fn outbox(&mut self) -> MutexGuard<'_, Outbox<dyn Encode + 'static>> {
        self.outbox_after(Outbox::end_batch)
    }

    /// As [`outbox`](Self::outbox), with another way to `end` the batch.
    #[inline]
    fn outbox_after(
        &mut self,
        end: impl FnOnce(&mut Outbox<dyn Encode>, &mut Corked),
    ) -> MutexGuard<'_, Outbox<dyn Encode + 'static>> {
        let inner = &self.session.0;
        let mut outbox = inner.outbox.lock();
        if inner.in_batch.load(Ordering::Relaxed) {
            inner.in_batch.store(false, Ordering::Relaxed);
            if let Some(twin) = cork::end(inner.id, |corked| end(&mut outbox, corked)) {
                self.twin = Some(twin);
                inner.uncork.store(true, Ordering::Relaxed);
            }
        }
        outbox
    }

    /// Accounts `written` bytes, hands out what is queued if `writing` is empty, and tells what users want.
    pub fn sync(&mut self, writing: &mut SendQueue, written: usize) -> Wish {
        let mut outbox = self.outbox();
        let over = outbox.sync(writing, written);
        let phase = outbox.phase;
        drop(outbox);
        if over { self.shed() } else { wish(phase) }
    }

    /// As [`sync`](Self::sync); if nothing came out, the next message wakes `task`. A wish wakes it in any case.
    pub fn park(&mut self, writing: &mut SendQueue, written: usize, task: &Waker) -> Wish {
        let mut outbox = self.outbox();
        let over = outbox.sync(writing, written);
        outbox.park(task, writing.is_empty());
        let phase = outbox.phase;
        drop(outbox);
        if over { self.shed() } else { wish(phase) }
    }

    /// What [`sync`](Self::sync), the write and [`park`](Self::park) do, at once, where nothing is left of an earlier write (`writing`
    /// is empty) and the socket takes all there is. `None` if that is not so: then `writing` has what is left, as after `sync`,
    /// and the other two are to follow.
    #[inline]
    pub fn write_and_park(&mut self, writing: &mut SendQueue, task: &Waker) -> Option<Wish> {
        let mut outbox = self.outbox_after(Outbox::write_and_end_batch);
        let (parked, over) = outbox.write_and_park(writing, task);
        let phase = outbox.phase;
        drop(outbox);
        let wish = if over { self.shed() } else { wish(phase) };
        parked.then_some(wish)
    }

    /// Too much waits in all sessions: some are shed, perhaps this one.
    #[cold]
    #[inline(never)]
    fn shed(&self) -> Wish {
        self.session.0.hub.enforce_budget();
        wish(self.session.0.outbox.lock().phase)
    }

    /// Counts what a batch brought.
    pub fn received(&self, bytes: u64, messages: u64) {
        // The connection task is the only writer, so a load and a store do.
        let add = |counter: &std::sync::atomic::AtomicU64, count: u64| {
            counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
        };
        add(&self.session.0.bytes_received, bytes);
        add(&self.session.0.messages_received, messages);
    }

    /// Ends the session because user code panicked.
    pub fn end_after_panic(&self) {
        self.session.end_after_panic();
    }

    /// The panic of a sending hook that has ended the session, to be reported; hooks run on the task of whoever sends.
    pub fn take_hook_panic(&self) -> Option<PanicMessage> {
        self.session.take_hook_panic()
    }

    /// Accounts `written` bytes, the last ones, and nothing else.
    pub fn wrote(&mut self, written: usize) {
        self.outbox().wrote(written);
    }

    /// The transport is gone, for `reason` unless another was there first: sends fail, closers are woken. Only the
    /// first call counts `ending`.
    pub fn transport_gone(&mut self, reason: DisconnectReason, ending: Ending) -> DisconnectReason {
        self.session.0.reason.set(reason);
        self.session.0.state.advance(ConnectionState::Closed);
        let mut outbox = self.outbox();
        let (is_news, remains) = outbox.finish();
        drop(outbox);
        if is_news {
            self.session.0.hub.count_ending(ending);
        }
        // Last: the owners of payloads may panic.
        drop(remains);
        self.session.disconnect_reason().unwrap_or(reason)
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Reached without `transport_gone` only when the runtime drops the task.
        self.transport_gone(DisconnectReason::Aborted, Ending::Cut);
        self.session.0.hub.leave(&self.session);
    }
}

const fn wish(phase: Phase) -> Wish {
    match phase {
        Phase::Open => Wish::Run,
        Phase::Closing => Wish::Close,
        Phase::Aborting | Phase::Closed => Wish::Abort,
    }
}
