//! One send on terms of its own: another policy than the session's, or a key of which only the latest is sent.
//!
//! Apart from [`Session::send`], whose short way is not to know of this.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::attempt::{self, Stage};
use crate::outbox::Terms;
use crate::{LatestKey, Message, SendError, SendOutcome, Session, SlowConsumerPolicy};

/// The future of a [`Session::send`] with a policy or a key.
///
/// # Cancel safety
/// As [`Session::send`].
#[derive(Debug)]
#[must_use = "a message is sent when its future is awaited"]
pub struct SendingWith<'a> {
    session: Cow<'a, Session>,
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
        Self { session: Cow::Borrowed(session), stage, message, policy: None, terms }
    }

    /// A send that has its session with it, where that of [`Session::send`] borrows it: the future is `'static`, for a task of
    /// its own, say.
    ///
    /// # Errors
    /// As [`Session::send`].
    ///
    /// ```
    /// use storm_core::{SendingWith, Session, SlowConsumerPolicy};
    ///
    /// fn remind(session: &Session) {
    ///     tokio::spawn(SendingWith::over(session.clone(), "are you there?").policy(SlowConsumerPolicy::Wait));
    /// }
    /// ```
    pub fn over(session: Session, message: impl Into<Message>) -> SendingWith<'static> {
        SendingWith {
            session: Cow::Owned(session),
            stage: Stage::Fresh,
            message: Some(message.into()),
            policy: None,
            terms: Terms::default(),
        }
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
        attempt::poll(&this.session, &mut this.stage, &mut this.message, policy, &this.terms, cx)
    }
}

impl Drop for SendingWith<'_> {
    fn drop(&mut self) {
        attempt::give_up_place(&self.session, &mut self.stage);
    }
}
