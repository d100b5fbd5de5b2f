//! From bytes in the inbox to handlers, one message at a time.
//!
//! Owns: the handler that is running.
//! In:   what the protocol finds in the inbox, what was read ahead.
//! Out:  calls of handlers, in order; what needs more than that goes back to the async function around it.
//! Not here: reading (`read`), what goes on while a handler waits (`background`).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use storm_core::events::{Failures, HandlerOutcome};
use storm_core::{BoxError, ConnectionState, Events, Handled, MessageRef};

use super::Connection;
use super::read::Fill;
use crate::protocol::{End, Look, Protocol};
use crate::stream::Transport;

impl<T: Transport, P: Protocol> Connection<T, P> {
    /// From connected until there is nothing more to dispatch.
    pub(super) fn live<'a, E: Events<P::Session, P::Message>>(
        &'a mut self,
        events: &'a E,
        seen: &'a P::Session,
    ) -> impl Future<Output = ()> + Send + 'a {
        let mut hands = Hands { connection: self, events, seen };
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
        let mut message = if self.ahead.is_some() || self.end.is_some() {
            self.next_ahead()?
        } else if E::IN_PLACE && self.session().server().middleware().is_none() {
            self.show_messages(events, seen, shown)?
        } else {
            self.protocol.receive(&mut self.inbox, self.driver.session())?
        };
        if message.is_none() && self.ended {
            message = self.protocol.receive_eof(&mut self.inbox, self.driver.session())?;
        }
        self.received += u64::from(message.is_some());
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
        let message = self.protocol.receive_each(&mut self.inbox, session, look);
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
        let Some(ahead) = &mut self.ahead else {
            return self.end.take().map_or(Ok(None), Err);
        };
        let message = ahead.messages.pop_front();
        if let Some(message) = &message {
            ahead.bytes -= P::size(message);
        }
        if ahead.messages.is_empty() {
            self.ahead = None;
        }
        Ok(message)
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

/// A connection with those it hands messages to. One reference to it is less to keep than one to each.
struct Hands<'a, T, P: Protocol, E> {
    connection: &'a mut Connection<T, P>,
    events: &'a E,
    seen: &'a P::Session,
}

impl<T: Transport, P: Protocol, E: Events<P::Session, P::Message>> Hands<'_, T, P, E> {
    async fn connected(&mut self) {
        self.connection.connected(self.events, self.seen).await;
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
                Box::pin(self.connection.end_by_peer(self.events, self.seen, end)).await;
                false
            }
        }
    }

    async fn report_all(&mut self, failures: Failures) {
        Box::pin(self.connection.report_all(self.events, self.seen, failures.into_errors())).await;
    }

    /// Has the middlewares look at a message first, then the handlers.
    async fn through_middleware(&mut self, message: P::Message) {
        let (connection, events, seen) = (&mut *self.connection, self.events, self.seen);
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
    struct Dispatch<'h, 'a, T, P: Protocol, E, F, H> {
        hands: &'h mut Hands<'a, T, P, E>,
        make: F,
        #[pin]
        handling: Option<H>,
    }
}

impl<'a, T, P, E, F, H> Future for Dispatch<'_, 'a, T, P, E, F, H>
where
    T: Transport,
    P: Protocol,
    E: Events<P::Session, P::Message>,
    F: Fn(&'a E, &'a P::Session, P::Message) -> H,
    H: Future<Output = HandlerOutcome>,
{
    type Output = Dispatched<P::Message>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Hands { connection, events, seen } = &mut **this.hands;
        let (connection, events, seen) = (&mut **connection, *events, *seen);
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
