//! One send on the session's own terms: the short way and the long one.
//!
//! Not here: terms of its own ([`sending_with`](crate::sending_with)), and what the outbox makes of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use crate::cork::{self, Put};
use crate::outbox::{Admission, Payload, Terms, Ticket};
use crate::sending_with;
use crate::{LatestKey, Message, SendError, SendOutcome, SendingWith, Session, SlowConsumerPolicy};

/// The future of [`Session::send`].
#[derive(Debug)]
#[must_use = "a message is sent when its future is awaited"]
pub struct Sending<'a> {
    session: &'a Session,
    stage: Stage,
    uncompressed: bool,
    message: Option<Message>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not polled yet: the middleware has not seen the message.
    Fresh,
    /// The outbox was full once, and the connection task has had its chance to write since.
    Yielded,
    /// In line for room.
    Waiting(Ticket),
    Done,
}

impl<'a> Sending<'a> {
    #[inline]
    pub(crate) const fn new(session: &'a Session, message: Message) -> Self {
        Self { session, stage: Stage::Fresh, uncompressed: false, message: Some(message) }
    }

    /// Sends the message as it is, where the protocol would compress it.
    pub fn uncompressed(mut self) -> Self {
        self.uncompressed = true;
        self
    }

    /// Sends it under `policy`, whatever the session's is.
    ///
    /// ```
    /// use storm_core::{SendOutcome, Session, SlowConsumerPolicy};
    ///
    /// async fn position(session: &Session, position: String) {
    ///     let outcome = session.send(position).policy(SlowConsumerPolicy::Drop).await;
    ///     if let Ok(SendOutcome::Dropped) = outcome {
    ///         // It reads too slowly for this one.
    ///     }
    /// }
    /// ```
    pub fn policy(self, policy: SlowConsumerPolicy) -> SendingWith<'a> {
        self.with().policy(policy)
    }

    /// Sends it as the newest state of a feed: of the messages under one key that wait, only the last is sent. See
    /// [`SendingWith::latest`].
    pub fn latest(self, key: impl Into<LatestKey>) -> SendingWith<'a> {
        self.with().latest(key)
    }

    fn with(mut self) -> SendingWith<'a> {
        debug_assert_eq!(self.stage, Stage::Fresh, "it has not been polled");
        SendingWith::new(self.session, self.message.take(), self.uncompressed)
    }

    fn finish<T>(&mut self, result: T) -> Poll<T> {
        self.stage = Stage::Done;
        Poll::Ready(result)
    }
}

impl Future for Sending<'_> {
    type Output = Result<SendOutcome, SendError>;

    // Inlined into the handler, the usual answer is a constant; else it travels through memory.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let inner = &*this.session.0;
        // In a batch of the session's own handlers no lock is needed.
        if this.stage == Stage::Fresh && !inner.uncork.load(Ordering::Relaxed) {
            match cork::put(inner.id, &mut this.message) {
                Put::Queued => {
                    this.stage = Stage::Done;
                    return Poll::Ready(Ok(SendOutcome::Sent));
                }
                Put::Failed(error) => {
                    this.stage = Stage::Done;
                    return Poll::Ready(Err(*error));
                }
                Put::NoRoom => {}
            }
        }
        this.poll_admission(cx)
    }
}

impl Sending<'_> {
    /// Every way but the short one.
    #[inline(never)]
    fn poll_admission(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendOutcome, SendError>> {
        let this = self;
        let policy = this.session.0.hub.options().slow_consumer_policy;
        if policy == SlowConsumerPolicy::DropOldest {
            let terms = Terms { droppable: true, key: None, uncompressed: this.uncompressed };
            return sending_with::poll(this.session, &mut this.stage, &mut this.message, policy, &terms, cx);
        }
        if this.stage == Stage::Fresh
            && let Some(middleware) = this.session.0.hub.middleware()
        {
            let message = this.message.take().expect("a fresh send has its message");
            match middleware.sending(this.session, message) {
                Ok(Some(message)) => this.message = Some(message),
                Ok(None) => return this.finish(Ok(SendOutcome::Suppressed)),
                Err(error) => return this.finish(Err(error)),
            }
        }
        let ticket = match this.stage {
            Stage::Fresh | Stage::Yielded => None,
            Stage::Waiting(ticket) => Some(ticket),
            Stage::Done => panic!("a send was polled after it had completed"),
        };
        let mut outbox = this.session.outbox();
        let payload = match this.uncompressed {
            false => Payload::Own(&mut this.message),
            true => Payload::Uncompressed(&mut this.message),
        };
        match outbox.admit(payload, ticket) {
            Ok(Admission::Queued) => {
                this.stage = Stage::Done;
                Poll::Ready(this.session.sent(outbox))
            }
            Ok(Admission::Busy) => {
                this.stage = Stage::Waiting(outbox.wait(ticket, cx.waker()));
                Poll::Pending
            }
            Ok(Admission::Full) => match this.session.0.hub.options().slow_consumer_policy {
                SlowConsumerPolicy::Wait => {
                    this.stage = Stage::Waiting(outbox.wait(ticket, cx.waker()));
                    Poll::Pending
                }
                policy if this.stage == Stage::Yielded => {
                    drop(outbox);
                    let refused = this.session.refuse(policy);
                    this.finish(refused)
                }
                _ => {
                    // In a handler of this session nothing is written until the handler pends: give it that chance,
                    // else a peer that reads quickly would lose messages to its own server's burst.
                    drop(outbox);
                    this.give_up_place();
                    this.stage = Stage::Yielded;
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            },
            Ok(Admission::Closed) => {
                drop(outbox);
                this.give_up_place();
                let closed = this.session.closed_error();
                this.finish(Err(closed))
            }
            Err(error) => {
                drop(outbox);
                this.finish(Err(error))
            }
        }
    }
}

impl Sending<'_> {
    #[inline]
    fn give_up_place(&mut self) {
        sending_with::give_up_place(self.session, &mut self.stage);
    }
}

impl Drop for Sending<'_> {
    #[inline]
    fn drop(&mut self) {
        self.give_up_place();
    }
}
