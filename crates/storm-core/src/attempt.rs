//! The attempts of a send, whatever its terms: once fresh, then whenever there may be room.
//!
//! Owns: how far a send has got, and its place in line.
//! Not here: the short way, of a session's own handlers (`sending`), what the outbox makes of an attempt (`outbox`).

use std::task::{Context, Poll};

use crate::outbox::{Admission, Terms, Ticket};
use crate::{Message, SendError, SendOutcome, Session, SlowConsumerPolicy};

/// How far a send has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not polled yet: the middleware has not seen the message.
    Fresh,
    /// The outbox was full once, and the connection task has had its chance to write since.
    Yielded,
    /// In line for room.
    Waiting(Ticket),
    /// There is no message: what was to be a text was none.
    NotUtf8,
    Done,
}

/// One attempt of a send on `terms`, under `policy`.
pub(crate) fn poll(
    session: &Session,
    stage: &mut Stage,
    message: &mut Option<Message>,
    policy: SlowConsumerPolicy,
    terms: &Terms,
    cx: &Context<'_>,
) -> Poll<Result<SendOutcome, SendError>> {
    let outcome = attempt(session, stage, message, policy, terms, cx);
    if outcome.is_ready() {
        give_up_place(session, stage);
        *stage = Stage::Done;
    }
    outcome
}

fn attempt(
    session: &Session,
    stage: &mut Stage,
    message: &mut Option<Message>,
    policy: SlowConsumerPolicy,
    terms: &Terms,
    cx: &Context<'_>,
) -> Poll<Result<SendOutcome, SendError>> {
    if *stage == Stage::Fresh
        && let Some(middleware) = session.server().middleware()
    {
        let fresh = message.take().expect("a fresh send has its message");
        match middleware.sending(session, fresh)? {
            Some(rewritten) => *message = Some(rewritten),
            None => return Poll::Ready(Ok(SendOutcome::Suppressed)),
        }
    }
    let ticket = match *stage {
        Stage::Fresh | Stage::Yielded => None,
        Stage::Waiting(ticket) => Some(ticket),
        Stage::NotUtf8 => return Poll::Ready(Err(SendError::InvalidUtf8)),
        Stage::Done => panic!("a send was polled after it had completed"),
    };
    // Dropped behind the outbox.
    let mut displaced = Vec::new();
    let mut outbox = session.outbox();
    let may_displace = *stage == Stage::Yielded;
    match outbox.admit_on(terms.payload(message), terms, ticket, may_displace, &mut displaced)? {
        Admission::Queued => {
            // Whoever was admitted has no place any more.
            *stage = Stage::Done;
            Poll::Ready(session.sent(outbox))
        }
        Admission::Full if policy != SlowConsumerPolicy::Wait => {
            if *stage == Stage::Yielded {
                return Poll::Ready(session.refuse(outbox, policy));
            }
            drop(outbox);
            // In a handler of this session nothing is written until the handler pends: give it that chance, else a peer
            // that reads quickly would lose messages to its own server's burst.
            give_up_place(session, stage);
            *stage = Stage::Yielded;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Admission::Full | Admission::Busy => {
            *stage = Stage::Waiting(outbox.wait(ticket, cx.waker()));
            Poll::Pending
        }
        Admission::Closed => {
            drop(outbox);
            Poll::Ready(Err(session.closed_error()))
        }
    }
}

#[inline]
pub(crate) fn give_up_place(session: &Session, stage: &mut Stage) {
    if let Stage::Waiting(ticket) = *stage {
        session.leave_line(ticket);
        *stage = Stage::Done;
    }
}
