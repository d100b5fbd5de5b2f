//! From bytes in the inbox to handlers, one message at a time.
//!
//! Owns: the handler that is running.
//! In:   what the protocol finds in the inbox, what was read ahead.
//! Out:  calls of handlers, in order; what needs more than that goes back to the async function around it.
//! Not here: reading (`read`), what goes on while a handler waits (`background`).

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use storm_core::events::{Failures, HandlerOutcome};
use storm_core::{BoxError, ConnectionState, Events, Handled, MessageRef};

use super::read::Fill;
use super::{Connection, Handlers};
use crate::protocol::{End, Look, Protocol};
use crate::transport::Transport;

impl<T: Transport, P: Protocol> Connection<T, P> {
    /// From connected until there is nothing more to dispatch.
    pub(super) fn live<'a, E, R>(
        &'a mut self,
        to: &'a Handlers<P::Session, R>,
    ) -> impl Future<Output = ()> + Send + 'a
    where
        E: Events<P::Session, P::Message>,
        R: Deref<Target = E> + Send + Sync,
    {
        let mut hands = Hands { connection: self, to };
        async move {
            Box::pin(hands.connected()).await;
            // First what came with the handshake, or was read ahead of the handlers just run.
            loop {
                let make = E::message;
                match (Dispatch { hands: &mut hands, make, handling: None }).await {
                    Dispatched::All => {}
                    // Moved into the box whole: what is left of it here would take room in every idle connection.
                    other => {
                        if Box::pin(hands.attend(other)).await {
                            continue;
                        }
                    }
                }
                if hands.are_empty().is_ready() {
                    return;
                }
                match hands.connection.fill().await {
                    Fill::Bytes => {}
                    Fill::End => hands.connection.ended = true,
                    Fill::Closing => return,
                }
            }
        }
    }

    /// Every whole message in the inbox has been handed over.
    fn dispatched(&mut self) {
        // Control frames are no data.
        if self.received > 0 || !self.inbox.is_empty() || self.protocol.is_mid_message() {
            self.deadlines.touch();
        }
        self.count_received();
    }

    /// The next message; `shown` if it lay in the inbox and the handlers have looked at it there.
    #[inline(always)]
    fn next<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
        shown: &mut bool,
    ) -> Result<Option<P::Message>, End> {
        let mut message = if self.rare.is_some() {
            self.next_ahead()?
        } else if E::IN_PLACE && self.session().server().middleware().is_none() {
            self.show_messages(events, seen, shown)?
        } else {
            self.protocol.receive(self.inbox.buffer(), self.driver.session())?
        };
        if message.is_none() && self.ended {
            message = self.protocol.receive_eof(self.inbox.buffer(), self.driver.session())?;
        }
        self.received += u32::from(message.is_some());
        Ok(message)
    }

    /// Shows messages to the handlers in place, until one is `shown` and wanted as a message of its own, or cannot be
    /// shown where it is.
    #[inline(always)]
    fn show_messages<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
        shown: &mut bool,
    ) -> Result<Option<P::Message>, End> {
        self.driver.begin_batch();
        let session = self.driver.session();
        let mut done = 0;
        let look = |message: MessageRef<'_>| match events.message_ref(seen, message) {
            Handled::Pass => {
                *shown = true;
                Look::Pass
            }
            Handled::Done => {
                done += 1;
                if session.state() == ConnectionState::Connected { Look::Done } else { Look::Stop }
            }
        };
        let message = self.protocol.receive_each(self.inbox.buffer(), session, look);
        self.received += done;
        message
    }

    /// Shows the handlers a message that is its own already.
    fn show<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
        message: &P::Message,
    ) -> Handled {
        self.driver.begin_batch();
        events.message_ref(seen, P::view(message))
    }

    /// What was received while a handler was busy.
    #[cold]
    fn next_ahead(&mut self) -> Result<Option<P::Message>, End> {
        let Some(rare) = &mut self.rare else { return Ok(None) };
        let Some(message) = rare.ahead.pop_front() else {
            return rare.end.take().map_or(Ok(None), Err);
        };
        rare.bytes -= P::size(&message);
        if rare.ahead.is_empty() && rare.end.is_none() {
            self.rare = None;
        }
        Ok(Some(message))
    }

    /// What the middlewares make of a message; `None` if they suppress it.
    async fn rewritten(&mut self, message: P::Message) -> Result<Option<P::Message>, BoxError> {
        let session = self.session().clone();
        let Some(middleware) = session.server().middleware() else {
            return Ok(Some(message));
        };
        let (data, kind) = P::split(message);
        match self.foreground(middleware.received(&session, data)).await {
            Some(Ok(Some(data))) => P::join(data, kind).map(Some),
            Some(Ok(None)) | None => Ok(None),
            Some(Err(error)) => Err(error),
        }
    }
}

/// A connection with those it hands messages to.
struct Hands<'a, T, P: Protocol, R> {
    connection: &'a mut Connection<T, P>,
    to: &'a Handlers<P::Session, R>,
}

impl<'a, T, P, E, R> Hands<'a, T, P, R>
where
    T: Transport,
    P: Protocol,
    E: Events<P::Session, P::Message>,
    R: Deref<Target = E> + Send + Sync,
{
    #[inline(always)]
    fn parts(&mut self) -> (&mut Connection<T, P>, &'a E, &'a P::Session) {
        (self.connection, &*self.to.events, &self.to.seen)
    }

    async fn connected(&mut self) {
        let (connection, events, seen) = self.parts();
        connection.connected(events, seen).await;
        self.connection.deadlines.touch();
    }

    /// Does what is not the usual; whether dispatching goes on.
    async fn attend(&mut self, dispatched: Dispatched<P::Message>) -> bool {
        match dispatched {
            Dispatched::All => false,
            Dispatched::Failed(failures) => {
                self.report_all(failures).await;
                true
            }
            Dispatched::Received(message) => {
                self.through_middleware(message).await;
                true
            }
            Dispatched::Ended(end) => {
                let (connection, events, seen) = self.parts();
                Box::pin(connection.end_by_peer(events, seen, end)).await;
                false
            }
        }
    }

    async fn report_all(&mut self, failures: Failures) {
        let (connection, events, seen) = self.parts();
        Box::pin(connection.report_all(events, seen, failures.into_errors())).await;
    }

    /// Has the middlewares look at a message first, then the handlers.
    async fn through_middleware(&mut self, message: P::Message) {
        let (connection, events, seen) = self.parts();
        let handled = match connection.rewritten(message).await {
            Ok(None) => return,
            Ok(Some(message)) if E::IN_PLACE && connection.show(events, seen, &message) == Handled::Done => {
                return;
            }
            Ok(Some(message)) => connection.foreground(events.message(seen, message)).await,
            Err(error) => Some(Err(Failures::from(error))),
        };
        if let Some(Err(failures)) = handled {
            self.report_all(failures).await;
        }
    }

    /// Every whole message in the inbox has been handed over; ready if there will be no more.
    fn are_empty(&mut self) -> Poll<()> {
        let connection = &mut *self.connection;
        connection.dispatched();
        if !connection.ended {
            return Poll::Pending;
        }
        let reason = connection.protocol.end_of_stream(connection.session());
        connection.session().start_close(reason);
        Poll::Ready(())
    }
}

/// Why dispatching stopped.
enum Dispatched<M> {
    /// There is nothing more to hand over.
    All,
    /// Handlers of a message failed.
    Failed(Failures),
    /// There are middlewares, and this is for them first.
    Received(M),
    /// The peer said goodbye, or broke the protocol.
    Ended(End),
}

pin_project! {
    /// Hands messages to handlers until there is something else to do.
    ///
    /// The one place that calls handlers of messages, so that the compiler makes one piece of decoding, handler and
    /// queueing. Written by hand: an async fn would keep room for each message besides the handler it was given to, in
    /// every idle connection.
    struct Dispatch<'h, 'a, T, P: Protocol, R, F, H> {
        hands: &'h mut Hands<'a, T, P, R>,
        make: F,
        #[pin]
        handling: Option<H>,
    }
}

impl<'a, T, P, E, R, F, H> Future for Dispatch<'_, 'a, T, P, R, F, H>
where
    T: Transport,
    P: Protocol,
    E: Events<P::Session, P::Message>,
    R: Deref<Target = E> + Send + Sync,
    F: Fn(&'a E, &'a P::Session, P::Message) -> H,
    H: Future<Output = HandlerOutcome>,
{
    type Output = Dispatched<P::Message>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (connection, events, seen) = this.hands.parts();
        let plain = connection.session().server().middleware().is_none();
        loop {
            if let Some(handling) = this.handling.as_mut().as_pin_mut() {
                let outcome = ready!(connection.poll_foreground(handling, cx));
                this.handling.set(None);
                if let Some(Err(failures)) = outcome {
                    return Poll::Ready(Dispatched::Failed(failures));
                }
            }
            if connection.session().state() != ConnectionState::Connected {
                return Poll::Ready(Dispatched::All);
            }
            let mut shown = false;
            let message = match connection.next(events, seen, &mut shown) {
                Ok(Some(message)) => message,
                Ok(None) => return Poll::Ready(Dispatched::All),
                Err(end) => return Poll::Ready(Dispatched::Ended(end)),
            };
            if !plain {
                return Poll::Ready(Dispatched::Received(message));
            }
            if E::IN_PLACE && !shown && connection.show(events, seen, &message) == Handled::Done {
                continue;
            }
            this.handling.set(Some((this.make)(events, seen, message)));
        }
    }
}
