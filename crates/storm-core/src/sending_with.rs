//! One send on terms of its own: another policy than the session's, or a key of which only the latest is sent.
//!
//! Apart from [`Session::send`], whose short way is not to know of this.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::outbox::{Admission, Terms};
use crate::sending::Stage;
use crate::{LatestKey, Message, SendError, SendOutcome, Session, SlowConsumerPolicy};

/// The future of a [`Session::send`] with a policy or a key.
///
/// # Cancel safety
/// As [`Session::send`].
#[derive(Debug)]
#[must_use = "a message is sent when its future is awaited"]
pub struct SendingWith<'a> {
    session: &'a Session,
    stage: Stage,
    message: Option<Message>,
    policy: Option<SlowConsumerPolicy>,
    terms: Terms,
}

impl<'a> SendingWith<'a> {
    pub(crate) fn new(
        session: &'a Session,
        stage: Stage,
        message: Option<Message>,
        uncompressed: bool,
    ) -> Self {
        let terms = Terms { uncompressed, ..Terms::default() };
        Self { session, stage, message, policy: None, terms }
    }

    /// Sends it under `policy`, whatever the session's is.
    pub fn policy(mut self, policy: SlowConsumerPolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Sends it as the newest state of the feed `key`: if a message under the same key of this session still waits, this
    /// one takes its place in line, full or not, and the other counts as replaced. If none waits, this one is sent like
    /// any other: at the limit the policy decides.
    ///
    /// A message that finds nothing waiting goes to the connection at once and is not replaced any more. What waits is
    /// encoded when the connection takes it, and until then counts as its payload and 128 bytes.
    ///
    /// ```
    /// use storm_core::Session;
    ///
    /// async fn quote(session: &Session, symbol: &'static str, price: f64) {
    ///     // A peer that reads slowly gets fewer prices, and always the last one.
    ///     let _gone = session.send(format!("{symbol} {price}")).latest(symbol).await;
    /// }
    /// ```
    pub fn latest(mut self, key: impl Into<LatestKey>) -> Self {
        self.terms.key = Some(key.into());
        self
    }

    /// Sends the message as it is, where the protocol would compress it.
    pub fn uncompressed(mut self) -> Self {
        self.terms.uncompressed = true;
        self
    }
}

impl Future for SendingWith<'_> {
    type Output = Result<SendOutcome, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let policy = this.policy.unwrap_or(this.session.server().options().slow_consumer_policy);
        this.terms.droppable = policy == SlowConsumerPolicy::DropOldest;
        poll(this.session, &mut this.stage, &mut this.message, policy, &this.terms, cx)
    }
}

impl Drop for SendingWith<'_> {
    fn drop(&mut self) {
        give_up_place(self.session, &mut self.stage);
    }
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
    let mut outbox = session.outbox();
    match outbox.admit_on(terms.payload(message), terms, ticket, *stage == Stage::Yielded)? {
        Admission::Queued => {
            // Whoever was admitted has no place any more.
            *stage = Stage::Done;
            Poll::Ready(session.sent(outbox))
        }
        Admission::Full if policy != SlowConsumerPolicy::Wait => {
            drop(outbox);
            if *stage == Stage::Yielded {
                return Poll::Ready(session.refuse(policy));
            }
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
