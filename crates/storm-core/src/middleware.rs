//! Hooks around every session of a server or client.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use crate::error::BoxError;
use crate::isolation::{catch_unwind_in, catch_unwind_of};
use crate::{DisconnectReason, Error, Message, SendError, Session};

/// Hooks around every session. Every method has a default that does nothing.
///
/// Hooks of several middlewares run in the order of registration, before the handlers; `on_disconnected` in reverse.
/// An error reaches `on_error` and ends nothing; a panic ends the session.
///
/// ```
/// use bytes::Bytes;
/// use storm_core::{BoxError, Middleware, Session};
///
/// /// Drops what looks like spam.
/// struct NoSpam;
///
/// impl Middleware for NoSpam {
///     async fn on_data_received(&self, _: &Session, data: Bytes) -> Result<Option<Bytes>, BoxError> {
///         Ok(if data.starts_with(b"spam") { None } else { Some(data) })
///     }
/// }
/// ```
pub trait Middleware: Send + Sync + 'static {
    /// A session is registered; its handlers have not run yet.
    fn on_connected(&self, session: &Session) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = session;
        ready(Ok(()))
    }

    /// A message arrived. What is returned goes to the next middleware and then to the handler; `None` or nothing but
    /// emptiness suppresses it.
    fn on_data_received(
        &self,
        session: &Session,
        data: Bytes,
    ) -> impl Future<Output = Result<Option<Bytes>, BoxError>> + Send {
        let _ = session;
        ready(Ok(Some(data)))
    }

    /// A message is about to be queued, for every send and for each receiver of a broadcast. What is returned goes to
    /// the next middleware and then into the outbox; `None` or emptiness suppresses it.
    ///
    /// Not async: it runs inside the send, so that the order of hooks is the order of messages and no hook can hold up
    /// a broadcast. It must not block. If it panics, `session` ends and the send fails with [`SendError::Panicked`].
    fn on_data_sending(&self, session: &Session, data: Bytes) -> Option<Bytes> {
        let _ = session;
        Some(data)
    }

    /// A session has ended. It is still in its server's sessions and in its groups.
    fn on_disconnected(
        &self,
        session: &Session,
        reason: DisconnectReason,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = (session, reason);
        ready(Ok(()))
    }

    /// Something failed that needs a person; without a session if there is none (accepting, a handshake).
    fn on_error(&self, session: Option<&Session>, error: &Error) -> impl Future<Output = ()> + Send {
        let _ = (session, error);
        ready(())
    }
}

/// The same middleware for several servers and clients, and for whoever else wants its state.
impl<M: Middleware> Middleware for Arc<M> {
    fn on_connected(&self, session: &Session) -> impl Future<Output = Result<(), BoxError>> + Send {
        (**self).on_connected(session)
    }

    fn on_data_received(
        &self,
        session: &Session,
        data: Bytes,
    ) -> impl Future<Output = Result<Option<Bytes>, BoxError>> + Send {
        (**self).on_data_received(session, data)
    }

    fn on_data_sending(&self, session: &Session, data: Bytes) -> Option<Bytes> {
        (**self).on_data_sending(session, data)
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

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`Middleware`] with boxed futures, so that several kinds fit into one chain.
trait DynMiddleware: Send + Sync {
    fn connected<'a>(&'a self, session: &'a Session) -> Boxed<'a, Result<(), BoxError>>;
    fn received<'a>(
        &'a self,
        session: &'a Session,
        data: Bytes,
    ) -> Boxed<'a, Result<Option<Bytes>, BoxError>>;
    fn sending(&self, session: &Session, data: Bytes) -> Option<Bytes>;
    fn disconnected<'a>(
        &'a self,
        session: &'a Session,
        reason: DisconnectReason,
    ) -> Boxed<'a, Result<(), BoxError>>;
    fn error<'a>(&'a self, session: Option<&'a Session>, error: &'a Error) -> Boxed<'a, ()>;
}

impl<M: Middleware> DynMiddleware for M {
    fn connected<'a>(&'a self, session: &'a Session) -> Boxed<'a, Result<(), BoxError>> {
        Box::pin(self.on_connected(session))
    }

    fn received<'a>(
        &'a self,
        session: &'a Session,
        data: Bytes,
    ) -> Boxed<'a, Result<Option<Bytes>, BoxError>> {
        Box::pin(self.on_data_received(session, data))
    }

    fn sending(&self, session: &Session, data: Bytes) -> Option<Bytes> {
        self.on_data_sending(session, data)
    }

    fn disconnected<'a>(
        &'a self,
        session: &'a Session,
        reason: DisconnectReason,
    ) -> Boxed<'a, Result<(), BoxError>> {
        Box::pin(self.on_disconnected(session, reason))
    }

    fn error<'a>(&'a self, session: Option<&'a Session>, error: &'a Error) -> Boxed<'a, ()> {
        Box::pin(self.on_error(session, error))
    }
}

/// The middlewares of one server or client, in order of registration.
#[derive(Clone, Default)]
pub struct MiddlewareChain(Vec<Arc<dyn DynMiddleware>>);

impl std::fmt::Debug for MiddlewareChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MiddlewareChain").field(&self.0.len()).finish()
    }
}

impl MiddlewareChain {
    /// Adds a middleware behind the others.
    pub fn push(&mut self, middleware: impl Middleware) {
        self.0.push(Arc::new(middleware));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Runs the connected hooks, in order; the first error stops them.
    ///
    /// # Errors
    /// What a hook returned.
    pub async fn connected(&self, session: &Session) -> Result<(), BoxError> {
        for middleware in &self.0 {
            middleware.connected(session).await?;
        }
        Ok(())
    }

    /// Runs the receiving hooks, in order. `None`: suppressed.
    ///
    /// # Errors
    /// What a hook returned; the message goes no further then.
    pub async fn received(&self, session: &Session, mut data: Bytes) -> Result<Option<Bytes>, BoxError> {
        for middleware in &self.0 {
            match middleware.received(session, data).await? {
                Some(rewritten) if !rewritten.is_empty() => data = rewritten,
                _ => return Ok(None),
            }
        }
        Ok(Some(data))
    }

    /// Runs the sending hooks, in order. `None`: suppressed. A panic ends `session` and fails this send, whoever sends:
    /// that may be another session's handler, or a task of no session.
    pub(crate) fn sending(&self, session: &Session, message: Message) -> Result<Option<Message>, SendError> {
        let is_text = message.is_text();
        let data = message.into_data();
        let data = match catch_unwind_in(|| self.rewrite(session, data)) {
            Ok(Some(data)) => data,
            Ok(None) => return Ok(None),
            Err(panic) => {
                session.end_after_hook_panic(panic);
                return Err(SendError::Panicked);
            }
        };
        if is_text {
            let text = ByteString::try_from(data).map_err(|_| SendError::InvalidUtf8)?;
            return Ok(Some(Message::Text(text)));
        }
        Ok(Some(Message::Binary(data)))
    }

    fn rewrite(&self, session: &Session, mut data: Bytes) -> Option<Bytes> {
        for middleware in &self.0 {
            data = middleware.sending(session, data).filter(|rewritten| !rewritten.is_empty())?;
        }
        Some(data)
    }

    /// Runs the disconnected hooks, last registered first; returns their errors, a panic as a
    /// [`PanicMessage`](crate::error::PanicMessage): each hook runs, whatever becomes of the others.
    pub async fn disconnected(&self, session: &Session, reason: DisconnectReason) -> Vec<BoxError> {
        let mut errors = Vec::new();
        for middleware in self.0.iter().rev() {
            match catch_unwind_of(async { middleware.disconnected(session, reason).await }).await {
                Ok(outcome) => errors.extend(outcome.err()),
                Err(panic) => errors.push(panic.into()),
            }
        }
        errors
    }

    /// Runs the error hooks, in order.
    pub async fn error(&self, session: Option<&Session>, error: &Error) {
        for middleware in &self.0 {
            middleware.error(session, error).await;
        }
    }
}
