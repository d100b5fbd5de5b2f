//! One send on the session's own terms: the short way and the long one.
//!
//! Not here: terms of its own ([`sending_with`](crate::sending_with)), and what the outbox makes of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use crate::attempt::{self, Stage};
use crate::cork::{self, Put};
use crate::outbox::Terms;
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

impl<'a> Sending<'a> {
    #[inline]
    pub(crate) const fn new(session: &'a Session, message: Message) -> Self {
        Self { session, stage: Stage::Fresh, uncompressed: false, message: Some(message) }
    }

    #[cold]
    pub(crate) const fn not_utf8(session: &'a Session) -> Self {
        Self { session, stage: Stage::NotUtf8, uncompressed: false, message: None }
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
        debug_assert!(matches!(self.stage, Stage::Fresh | Stage::NotUtf8), "it has not been polled");
        SendingWith::new(self.session, self.stage, self.message.take(), self.uncompressed)
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
        let policy = self.session.0.hub.options().slow_consumer_policy;
        let droppable = policy == SlowConsumerPolicy::DropOldest;
        let terms = Terms { droppable, key: None, uncompressed: self.uncompressed };
        attempt::poll(self.session, &mut self.stage, &mut self.message, policy, &terms, cx)
    }
}

impl Drop for Sending<'_> {
    #[inline]
    fn drop(&mut self) {
        attempt::give_up_place(self.session, &mut self.stage);
    }
}
