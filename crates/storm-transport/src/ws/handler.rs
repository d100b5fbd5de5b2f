//! Handlers of WebSocket sessions as one type with state.

use std::future::{Future, ready};
use std::sync::Arc;

use storm_core::events::{Adapter, Events, Failures, HandlerOutcome, Handling};
use storm_core::{BoxError, DisconnectReason, Error, Handled, Message, MessageRef};

use super::WsSession;

/// Handlers of WebSocket sessions as one type with state, instead of closures. Every method has a default that does
/// nothing. A handler type borrows its session where a closure owns a handle, which saves a reference count.
///
/// ```
/// use storm_core::{BoxError, Message};
/// use storm_transport::ws::{WsHandler, WsSession};
///
/// struct Echo;
///
/// impl WsHandler for Echo {
///     async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
///         session.send(message).await?;
///         Ok(())
///     }
/// }
/// ```
pub trait WsHandler: Send + Sync + 'static {
    /// The session is ready; no message has arrived.
    fn on_connected(&self, session: &WsSession) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = session;
        ready(Ok(()))
    }

    /// A first look at each message, where it lies in the read buffer: no reference is counted and nothing copied. What
    /// it is not done with goes to [`on_message`](Self::on_message). It must not block; see
    /// [`Session::try_send_ref`](storm_core::Session::try_send_ref) for how to answer.
    ///
    /// ```
    /// use storm_core::{BoxError, Handled, Message, MessageRef};
    /// use storm_transport::ws::{WsHandler, WsSession};
    ///
    /// struct Echo;
    ///
    /// impl WsHandler for Echo {
    ///     fn on_message_ref(&self, session: &WsSession, message: MessageRef<'_>) -> Handled {
    ///         match session.try_send_ref(message) {
    ///             Ok(_) => Handled::Done,
    ///             // No room: `on_message` waits for it.
    ///             Err(_) => Handled::Pass,
    ///         }
    ///     }
    ///
    ///     async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
    ///         session.send(message).await?;
    ///         Ok(())
    ///     }
    /// }
    /// ```
    #[inline]
    fn on_message_ref(&self, session: &WsSession, message: MessageRef<'_>) -> Handled {
        let _ = (session, message);
        Handled::Pass
    }

    /// A message arrived. One that is kept keeps the read buffer it was cut from, 65 to 520 KiB: copy what is small and stays.
    fn on_message(
        &self,
        session: &WsSession,
        message: Message,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = (session, message);
        ready(Ok(()))
    }

    /// The session has ended. It is still in its server's sessions and in its groups: leave them here before telling who is
    /// left.
    fn on_disconnected(
        &self,
        session: &WsSession,
        reason: DisconnectReason,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = (session, reason);
        ready(Ok(()))
    }

    /// Something failed that needs a person; without a session if there is none.
    fn on_error(&self, session: Option<&WsSession>, error: &Error) -> impl Future<Output = ()> + Send {
        let _ = (session, error);
        ready(())
    }
}

/// The same handler for several servers and clients, and for whoever else wants its state.
impl<H: WsHandler> WsHandler for Arc<H> {
    fn on_connected(&self, session: &WsSession) -> impl Future<Output = Result<(), BoxError>> + Send {
        (**self).on_connected(session)
    }

    #[inline]
    fn on_message_ref(&self, session: &WsSession, message: MessageRef<'_>) -> Handled {
        (**self).on_message_ref(session, message)
    }

    fn on_message(
        &self,
        session: &WsSession,
        message: Message,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        (**self).on_message(session, message)
    }

    fn on_disconnected(
        &self,
        session: &WsSession,
        reason: DisconnectReason,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        (**self).on_disconnected(session, reason)
    }

    fn on_error(&self, session: Option<&WsSession>, error: &Error) -> impl Future<Output = ()> + Send {
        (**self).on_error(session, error)
    }
}

impl<H: WsHandler> Events<WsSession, Message> for Adapter<H> {
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn message_ref(&self, session: &WsSession, message: MessageRef<'_>) -> Handled {
        self.0.on_message_ref(session, message)
    }

    async fn connected(&self, session: &WsSession) -> HandlerOutcome {
        self.0.on_connected(session).await.map_err(Failures::from)
    }

    #[inline]
    fn message(&self, session: &WsSession, message: Message) -> impl Future<Output = HandlerOutcome> + Send {
        Handling::new(self.0.on_message(session, message))
    }

    async fn disconnected(&self, session: &WsSession, reason: DisconnectReason) -> HandlerOutcome {
        self.0.on_disconnected(session, reason).await.map_err(Failures::from)
    }

    fn error(&self, session: Option<&WsSession>, error: &Error) -> impl Future<Output = ()> + Send {
        self.0.on_error(session, error)
    }
}
