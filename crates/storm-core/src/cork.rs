//! The short cut for sends from a session's own handlers: no lock while one batch is dispatched.
//!
//! ```text
//!  begin ── a handler's sends ──> Cork (this thread's) ────────────┐
//!   │       anyone else's ──> lock ──> Outbox::behind ──┐          v
//!   └── end: the outbox holds [queued before] [corked] [behind], in this order
//! ```
//!
//! Owns: the bytes the connection task's thread has queued for its session since the batch began.
//! Order holds because whoever sends from elsewhere meanwhile raises a flag (`Inner::uncork`) before its send
//! completes: a handler that could know of that send sees the flag, and goes through the lock from then on.
//! Only encoders without state take part: theirs is a twin, used by this thread alone.
//!
//! While one encodes, the owner of a payload may be dropped, whose code may send in turn, though it must not (the same message
//! outside of a batch is dropped under the outbox's lock). To that the cork is as if it were another thread's: what it sends goes
//! behind.

use std::cell::RefCell;

use crate::outbox::{Encode, SendQueue};
use crate::{Message, MessageRef, SendError, SessionId};

thread_local! {
    static CORK: RefCell<Cork> = RefCell::default();
}

/// A batch, while one is under way, and what it has queued.
#[derive(Default)]
struct Cork {
    of: Option<Batch>,
    /// Empty without a batch.
    corked: Corked,
}

struct Batch {
    session: SessionId,
    encoder: Box<dyn Encode>,
    /// Bytes that may be queued before the outbox has to be asked.
    budget: usize,
}

impl Cork {
    #[inline(always)]
    fn is_of(&self, session: SessionId) -> bool {
        self.of.as_ref().is_some_and(|batch| batch.session == session)
    }
}

/// This thread's cork, unless it is in use further up the stack.
#[inline(always)]
fn with<R>(f: impl FnOnce(&mut Cork) -> R) -> Option<R> {
    CORK.with(
        #[inline(always)]
        |cork| cork.try_borrow_mut().ok().map(|mut cork| f(&mut cork)),
    )
}

/// What a batch has queued.
#[derive(Debug, Default)]
pub(crate) struct Corked {
    pub(crate) queue: SendQueue,
    pub(crate) messages: u64,
}

/// Begins a batch of `session` on this thread; gives the encoder back if another session's batch is under way, which a
/// handler that blocks on other work brings about.
pub(crate) fn begin(
    session: SessionId,
    encoder: Box<dyn Encode>,
    budget: usize,
) -> Result<(), Box<dyn Encode>> {
    let mut encoder = Some(encoder);
    with(|cork| {
        if cork.of.is_none() {
            cork.of = encoder.take().map(|encoder| Batch { session, encoder, budget });
        }
    });
    encoder.map_or(Ok(()), Err)
}

/// Ends the batch of `session`, if it is under way on this thread, and has `take` take all of what it has queued.
#[inline]
pub(crate) fn end(session: SessionId, take: impl FnOnce(&mut Corked)) -> Option<Box<dyn Encode>> {
    with(|cork| {
        if !cork.is_of(session) {
            return None;
        }
        take(&mut cork.corked);
        cork.of.take().map(|batch| batch.encoder)
    })?
}

/// Whose batch is under way on this thread.
pub(crate) fn session() -> Option<SessionId> {
    with(|cork| cork.of.as_ref().map(|batch| batch.session))?
}

/// Has `take` take all of what the batch of `session` has queued so far, if it is under way on this thread.
#[inline]
pub(crate) fn drain(session: SessionId, take: impl FnOnce(&mut Corked)) {
    with(|cork| {
        if cork.is_of(session) {
            take(&mut cork.corked);
        }
    });
}

/// What became of a message that was to be corked. Two words, so that the usual answer travels in registers.
pub(crate) enum Put {
    Queued,
    /// The session has no batch on this thread, or the batch may not take more.
    NoRoom,
    Failed(Box<SendError>),
}

/// Queues `message`, which with [`Put::NoRoom`] stays in place.
#[inline(always)]
pub(crate) fn put(session: SessionId, message: &mut Option<Message>) -> Put {
    with_room(session, |encoder, queue| {
        let message = message.take().expect("a send queues its message once");
        encoder.encode(message, queue)
    })
}

/// Queues a copy of `message`.
#[inline(always)]
pub(crate) fn put_ref(session: SessionId, message: MessageRef<'_>) -> Put {
    with_room(session, |encoder, queue| encoder.encode_slice(message.data(), message.is_text(), queue))
}

#[inline(always)]
fn with_room(
    session: SessionId,
    encode: impl FnOnce(&mut dyn Encode, &mut SendQueue) -> Result<(), SendError>,
) -> Put {
    CORK.with(
        #[inline(always)]
        |cork| {
            // Not by `with`: an answer in an option does not travel in registers.
            let Ok(mut cork) = cork.try_borrow_mut() else { return Put::NoRoom };
            let cork = &mut *cork;
            let Some(batch) = cork.of.as_mut().filter(|batch| batch.session == session) else {
                return Put::NoRoom;
            };
            if cork.corked.queue.len() >= batch.budget {
                return Put::NoRoom;
            }
            match encode(&mut *batch.encoder, &mut cork.corked.queue) {
                Ok(()) => {
                    cork.corked.messages += 1;
                    Put::Queued
                }
                Err(error) => failed(error),
            }
        },
    )
}

#[cold]
fn failed(error: SendError) -> Put {
    Put::Failed(Box::new(error))
}
