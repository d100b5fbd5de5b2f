//! Handlers, kept by type so that the compiler can inline them.
//!
//! A builder starts with [`NoEvents`] and puts a [`Chain`] around it with every handler it is given: several handlers
//! per event run in the order they were added.

use std::future::{self, Future};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::error::BoxError;
use crate::isolation::catch_unwind_of;
use crate::{BroadcastReport, DisconnectReason, Error, MessageRef, SendOutcome, Session};

/// What the handlers of one event came to: nothing, or the errors of those that failed.
pub type HandlerOutcome = Result<(), Failures>;

/// The errors of handlers, at least one. One word, so that the usual `Ok` travels in a register.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "one word instead of three")]
pub struct Failures(Box<Vec<BoxError>>);

impl Failures {
    /// The errors, in the order of the handlers.
    pub fn into_errors(self) -> Vec<BoxError> {
        *self.0
    }
}

impl From<BoxError> for Failures {
    fn from(error: BoxError) -> Self {
        Self(Box::new(vec![error]))
    }
}

/// What a handler may return: nothing, or a `Result` whose error reaches `on_error`.
pub trait IntoHandlerOutcome {
    /// The handler's error, if it failed.
    fn into_outcome(self) -> HandlerOutcome;
}

impl IntoHandlerOutcome for () {
    fn into_outcome(self) -> HandlerOutcome {
        Ok(())
    }
}

impl IntoHandlerOutcome for SendOutcome {
    fn into_outcome(self) -> HandlerOutcome {
        Ok(())
    }
}

impl IntoHandlerOutcome for BroadcastReport {
    fn into_outcome(self) -> HandlerOutcome {
        Ok(())
    }
}

impl<T, E: Into<BoxError>> IntoHandlerOutcome for Result<T, E> {
    #[inline]
    fn into_outcome(self) -> HandlerOutcome {
        self.map(drop).map_err(|error| Failures::from(error.into()))
    }
}

/// What a handler that looks at a message in place came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Handled {
    /// That was all: no other handler sees the message.
    Done,
    /// The next handler in place is asked and, if none is done with it, the message goes to the handlers that own it.
    Pass,
}

/// What happens around a session of type `S` that receives messages of type `M`.
pub trait Events<S, M>: Send + Sync + 'static {
    /// Whether [`message`](Self::message) does anything: a chain copies a message only for those that look at it.
    const MESSAGES: bool = true;

    /// The session is ready; no message has arrived.
    fn connected(&self, session: &S) -> impl Future<Output = HandlerOutcome> + Send {
        let _ = session;
        future::ready(Ok(()))
    }

    /// Whether [`message_ref`](Self::message_ref) may do anything: messages are looked at in place only for those that
    /// care.
    const IN_PLACE: bool = false;

    /// A message arrived and lies in the read buffer; a first look at it, before it becomes one of its own.
    #[inline(always)]
    fn message_ref(&self, session: &S, message: MessageRef<'_>) -> Handled {
        let _ = (session, message);
        Handled::Pass
    }

    /// A message arrived, and nobody's [`message_ref`](Self::message_ref) was done with it.
    fn message(&self, session: &S, message: M) -> impl Future<Output = HandlerOutcome> + Send;

    /// The session has ended.
    fn disconnected(
        &self,
        session: &S,
        reason: DisconnectReason,
    ) -> impl Future<Output = HandlerOutcome> + Send {
        let _ = (session, reason);
        future::ready(Ok(()))
    }

    /// Something failed that needs a person.
    fn error(&self, session: Option<&S>, error: &Error) -> impl Future<Output = ()> + Send {
        let _ = (session, error);
        future::ready(())
    }
}

/// No handlers.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEvents;

impl<S: Sync, M: Send> Events<S, M> for NoEvents {
    const MESSAGES: bool = false;

    fn message(&self, _: &S, message: M) -> impl Future<Output = HandlerOutcome> + Send {
        drop(message);
        future::ready(Ok(()))
    }
}

/// The handlers of `A`, then those of `B`. All run, whether one fails or not.
#[derive(Debug, Clone, Copy)]
pub struct Chain<A, B>(pub A, pub B);

fn both(first: HandlerOutcome, second: HandlerOutcome) -> HandlerOutcome {
    match (first, second) {
        (Ok(()), outcome) | (outcome, Ok(())) => outcome,
        (Err(mut first), Err(second)) => {
            first.0.extend(*second.0);
            Err(first)
        }
    }
}

impl<S, M, A, B> Events<S, M> for Chain<A, B>
where
    S: Sync,
    M: Clone + Send,
    A: Events<S, M>,
    B: Events<S, M>,
{
    const MESSAGES: bool = A::MESSAGES || B::MESSAGES;
    const IN_PLACE: bool = A::IN_PLACE || B::IN_PLACE;

    #[inline(always)]
    fn message_ref(&self, session: &S, message: MessageRef<'_>) -> Handled {
        match self.0.message_ref(session, message) {
            Handled::Done => Handled::Done,
            Handled::Pass => self.1.message_ref(session, message),
        }
    }

    async fn connected(&self, session: &S) -> HandlerOutcome {
        both(self.0.connected(session).await, self.1.connected(session).await)
    }

    #[inline]
    fn message(&self, session: &S, message: M) -> impl Future<Output = HandlerOutcome> + Send {
        match <Parts<S, M, A, B>>::LISTENING {
            Listening::First => ChainMessage::First { first: self.0.message(session, message) },
            Listening::Second => ChainMessage::Second { second: self.1.message(session, message) },
            Listening::Both => {
                let first = self.0.message(session, message.clone());
                let rest = move || self.1.message(session, message);
                let both = Both::First { first, rest: Some(rest) };
                ChainMessage::Both { both, parts: PhantomData::<Parts<S, M, A, B>> }
            }
        }
    }

    async fn disconnected(&self, session: &S, reason: DisconnectReason) -> HandlerOutcome {
        // The last chance to clean up: a panic of the first must not take it from the second.
        let first = catch_unwind_of(async { self.0.disconnected(session, reason).await }).await;
        let first = first.unwrap_or_else(|panic| Err(Failures::from(BoxError::from(panic))));
        both(first, self.1.disconnected(session, reason).await)
    }

    async fn error(&self, session: Option<&S>, error: &Error) {
        self.0.error(session, error).await;
        self.1.error(session, error).await;
    }
}

/// Which parts of a chain look at messages; if none does, the second sees them off.
#[derive(Clone, Copy)]
enum Listening {
    First,
    Second,
    Both,
}

/// The parts of a chain as far as the compiler must know them to leave out the ways it never goes.
trait ChainParts {
    const LISTENING: Listening;
}

struct Parts<S, M, A, B>(PhantomData<fn(S, M, A, B)>);

impl<S, M, A: Events<S, M>, B: Events<S, M>> ChainParts for Parts<S, M, A, B> {
    const LISTENING: Listening = match (A::MESSAGES, B::MESSAGES) {
        (true, false) => Listening::First,
        (false, _) => Listening::Second,
        (true, true) => Listening::Both,
    };
}

pin_project! {
    /// A chain's handling of one message: the future of the only part that looks at messages as it is, not in one more
    /// layer, since each layer moves the message once more.
    #[project = ChainMessageProjection]
    enum ChainMessage<P, A, B, Both> {
        First { #[pin] first: A },
        Second { #[pin] second: B },
        Both { #[pin] both: Both, parts: PhantomData<P> },
    }
}

pin_project! {
    /// The handling of one message by two that both look at it. Written by hand: an async block has room for both at once,
    /// and every idle connection for an async block.
    #[project = BothProjection]
    #[project_replace = BothOwned]
    enum Both<A, B, F> {
        First { #[pin] first: A, rest: Option<F> },
        Second { #[pin] second: B, first: HandlerOutcome },
    }
}

impl<A, B, F> Future for Both<A, B, F>
where
    A: Future<Output = HandlerOutcome>,
    B: Future<Output = HandlerOutcome>,
    F: FnOnce() -> B,
{
    type Output = HandlerOutcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<HandlerOutcome> {
        loop {
            match self.as_mut().project() {
                BothProjection::First { first, rest } => {
                    let first = ready!(first.poll(cx));
                    let rest = rest.take().expect("the second handler begins once");
                    self.as_mut().project_replace(Self::Second { second: rest(), first });
                }
                BothProjection::Second { second, first } => {
                    let second = ready!(second.poll(cx));
                    return Poll::Ready(both(std::mem::replace(first, Ok(())), second));
                }
            }
        }
    }
}

impl<P, A, B, Both> Future for ChainMessage<P, A, B, Both>
where
    P: ChainParts,
    A: Future<Output = HandlerOutcome>,
    B: Future<Output = HandlerOutcome>,
    Both: Future<Output = HandlerOutcome>,
{
    type Output = HandlerOutcome;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<HandlerOutcome> {
        match (P::LISTENING, self.project()) {
            (Listening::First, ChainMessageProjection::First { first }) => first.poll(cx),
            (Listening::Second, ChainMessageProjection::Second { second }) => second.poll(cx),
            (Listening::Both, ChainMessageProjection::Both { both, .. }) => both.poll(cx),
            _ => unreachable!("a chain makes the future of those that listen"),
        }
    }
}

pin_project! {
    /// A handler's future with its result as an outcome.
    #[derive(Debug)]
    pub struct Handling<F> {
        #[pin]
        handler: F,
    }
}

impl<F> Handling<F> {
    /// The future of a handler, whatever handlers may return.
    pub const fn new(handler: F) -> Self {
        Self { handler }
    }
}

impl<F: Future<Output: IntoHandlerOutcome>> Future for Handling<F> {
    type Output = HandlerOutcome;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<HandlerOutcome> {
        Poll::Ready(ready!(self.project().handler.poll(cx)).into_outcome())
    }
}

/// A closure for `connected`.
#[derive(Debug)]
pub struct OnConnected<F>(pub F);

/// A closure for `message`.
#[derive(Debug)]
pub struct OnMessage<F>(pub F);

/// A closure for `message_ref`.
#[derive(Debug)]
pub struct OnMessageRef<F>(pub F);

/// A closure for `message_ref` of messages without a kind.
#[derive(Debug)]
pub struct OnDataRef<F>(pub F);

/// A closure for `disconnected`.
#[derive(Debug)]
pub struct OnDisconnected<F>(pub F);

/// A closure for `error`.
#[derive(Debug)]
pub struct OnError<F>(pub F);

impl<S, M, F, Fut> Events<S, M> for OnConnected<F>
where
    S: Clone + Sync,
    M: Send,
    F: Fn(S) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoHandlerOutcome> + Send,
{
    const MESSAGES: bool = false;

    fn connected(&self, session: &S) -> impl Future<Output = HandlerOutcome> + Send {
        Handling { handler: (self.0)(session.clone()) }
    }

    fn message(&self, _: &S, message: M) -> impl Future<Output = HandlerOutcome> + Send {
        drop(message);
        future::ready(Ok(()))
    }
}

impl<S, M, F, Fut> Events<S, M> for OnMessage<F>
where
    S: Clone + Sync,
    M: Send,
    F: Fn(S, M) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoHandlerOutcome> + Send,
{
    #[inline]
    fn message(&self, session: &S, message: M) -> impl Future<Output = HandlerOutcome> + Send {
        Handling { handler: (self.0)(session.clone(), message) }
    }
}

impl<S, M, F> Events<S, M> for OnMessageRef<F>
where
    S: Sync,
    M: Send,
    F: Fn(&S, MessageRef<'_>) -> Handled + Send + Sync + 'static,
{
    const MESSAGES: bool = false;
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn message_ref(&self, session: &S, message: MessageRef<'_>) -> Handled {
        (self.0)(session, message)
    }

    fn message(&self, _: &S, message: M) -> impl Future<Output = HandlerOutcome> + Send {
        drop(message);
        future::ready(Ok(()))
    }
}

impl<S, M, F> Events<S, M> for OnDataRef<F>
where
    S: Sync,
    M: Send,
    F: Fn(&S, &[u8]) -> Handled + Send + Sync + 'static,
{
    const MESSAGES: bool = false;
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn message_ref(&self, session: &S, message: MessageRef<'_>) -> Handled {
        (self.0)(session, message.data())
    }

    fn message(&self, _: &S, message: M) -> impl Future<Output = HandlerOutcome> + Send {
        drop(message);
        future::ready(Ok(()))
    }
}

impl<S, M, F, Fut> Events<S, M> for OnDisconnected<F>
where
    S: Clone + Sync,
    M: Send,
    F: Fn(S, DisconnectReason) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoHandlerOutcome> + Send,
{
    const MESSAGES: bool = false;

    fn message(&self, _: &S, message: M) -> impl Future<Output = HandlerOutcome> + Send {
        drop(message);
        future::ready(Ok(()))
    }

    fn disconnected(
        &self,
        session: &S,
        reason: DisconnectReason,
    ) -> impl Future<Output = HandlerOutcome> + Send {
        Handling { handler: (self.0)(session.clone(), reason) }
    }
}

impl<S, M, F, Fut> Events<S, M> for OnError<F>
where
    S: Clone + Sync,
    M: Send,
    F: Fn(Option<S>, Error) -> Fut + Send + Sync + 'static,
    Fut: Future + Send,
{
    const MESSAGES: bool = false;

    fn message(&self, _: &S, message: M) -> impl Future<Output = HandlerOutcome> + Send {
        drop(message);
        future::ready(Ok(()))
    }

    fn error(&self, session: Option<&S>, error: &Error) -> impl Future<Output = ()> + Send {
        let handler = (self.0)(session.cloned(), error.clone());
        async move {
            handler.await;
        }
    }
}

/// Makes [`Events`] of a handler trait such as [`TcpHandler`].
#[derive(Debug)]
pub struct Adapter<H>(pub H);

/// Handlers of TCP sessions as one type with state, instead of closures. Every method has a default that does nothing.
///
/// ```
/// use bytes::Bytes;
/// use storm_core::events::TcpHandler;
/// use storm_core::{BoxError, Session};
///
/// struct Echo;
///
/// impl TcpHandler for Echo {
///     async fn on_data(&self, session: &Session, data: Bytes) -> Result<(), BoxError> {
///         session.send(data).await?;
///         Ok(())
///     }
/// }
/// ```
pub trait TcpHandler: Send + Sync + 'static {
    /// The session is ready; no message has arrived.
    fn on_connected(&self, session: &Session) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = session;
        future::ready(Ok(()))
    }

    /// A first look at each message, where it lies in the read buffer: no reference is counted and nothing copied. What
    /// it is not done with goes to [`on_data`](Self::on_data). It must not block; see
    /// [`Session::try_send_ref`] for how to answer.
    #[inline]
    fn on_data_ref(&self, session: &Session, data: &[u8]) -> Handled {
        let _ = (session, data);
        Handled::Pass
    }

    /// A message arrived: one frame, or with the raw framer what one read brought. Data that is kept keeps the read buffer it
    /// was cut from, 65 to 520 KiB: copy what is small and stays ([`Bytes::copy_from_slice`](bytes::Bytes::copy_from_slice)).
    fn on_data(
        &self,
        session: &Session,
        data: bytes::Bytes,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = (session, data);
        future::ready(Ok(()))
    }

    /// The session has ended. It is still in its server's sessions and in its groups: leave them here before telling who is
    /// left.
    fn on_disconnected(
        &self,
        session: &Session,
        reason: DisconnectReason,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = (session, reason);
        future::ready(Ok(()))
    }

    /// Something failed that needs a person; without a session if there is none.
    fn on_error(&self, session: Option<&Session>, error: &Error) -> impl Future<Output = ()> + Send {
        let _ = (session, error);
        future::ready(())
    }
}

/// The same handler for several servers and clients, and for whoever else wants its state.
impl<H: TcpHandler> TcpHandler for Arc<H> {
    fn on_connected(&self, session: &Session) -> impl Future<Output = Result<(), BoxError>> + Send {
        (**self).on_connected(session)
    }

    #[inline]
    fn on_data_ref(&self, session: &Session, data: &[u8]) -> Handled {
        (**self).on_data_ref(session, data)
    }

    fn on_data(
        &self,
        session: &Session,
        data: bytes::Bytes,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        (**self).on_data(session, data)
    }

    fn on_disconnected(
        &self,
        session: &Session,
        reason: DisconnectReason,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        (**self).on_disconnected(session, reason)
    }

    fn on_error(&self, session: Option<&Session>, error: &Error) -> impl Future<Output = ()> + Send {
        (**self).on_error(session, error)
    }
}

impl<H: TcpHandler> Events<Session, bytes::Bytes> for Adapter<H> {
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn message_ref(&self, session: &Session, message: MessageRef<'_>) -> Handled {
        self.0.on_data_ref(session, message.data())
    }

    fn connected(&self, session: &Session) -> impl Future<Output = HandlerOutcome> + Send {
        Handling { handler: self.0.on_connected(session) }
    }

    #[inline]
    fn message(
        &self,
        session: &Session,
        message: bytes::Bytes,
    ) -> impl Future<Output = HandlerOutcome> + Send {
        Handling { handler: self.0.on_data(session, message) }
    }

    fn disconnected(
        &self,
        session: &Session,
        reason: DisconnectReason,
    ) -> impl Future<Output = HandlerOutcome> + Send {
        Handling { handler: self.0.on_disconnected(session, reason) }
    }

    fn error(&self, session: Option<&Session>, error: &Error) -> impl Future<Output = ()> + Send {
        self.0.on_error(session, error)
    }
}
