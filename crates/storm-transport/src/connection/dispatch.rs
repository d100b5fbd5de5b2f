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
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    pub(super) fn live<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
    ) -> impl Future<Output = ()> + Send {
        async move {
            Box::pin(self.connected(events, seen)).await;
            self.deadlines.touch();
            // First what came with the handshake, or was read ahead of the handlers just run.
            let mut ended = false;
            loop {
                let make = E::message;
                match (Dispatch { connection: self, events, seen, ended, make, handling: None }).await {
                    Dispatched::All => {}
                    Dispatched::Failed(failures) => {
                        Box::pin(self.report_all(events, seen, failures.into_errors())).await;
                        continue;
                    }
                    Dispatched::Received(message) => {
                        Box::pin(self.through_middleware(events, seen, message)).await;
                        continue;
                    }
                    Dispatched::Ended(end) => Box::pin(self.end_by_peer(events, seen, end)).await,
                }
                self.dispatched();
                if ended {
                    let reason = self.protocol.end_of_stream(self.session());
                    self.session().start_close(reason);
                    return;
                }
                match self.fill().await {
                    Fill::Bytes => {}
                    // The protocol looks once more at what is left.
                    Fill::End => ended = true,
                    Fill::Closing => return,
                }
            }
        }
    }

    /// Every whole message in the inbox has been handed over.
    fn dispatched(&mut self) {
        // Control frames are no data.
        if self.received.1 > 0 || !self.inbox.is_empty() || self.protocol.is_mid_message() {
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
        ended: bool,
        shown: &mut bool,
    ) -> Result<Option<P::Message>, End> {
        let mut message = if self.ahead.is_some() || self.end.is_some() {
            self.next_ahead()?
        } else if E::IN_PLACE && self.session().server().middleware().is_none() {
            self.show_messages(events, seen, shown)?
        } else {
            self.protocol.receive(&mut self.inbox, self.driver.session())?
        };
        if message.is_none() && ended {
            message = self.protocol.receive_eof(&mut self.inbox, self.driver.session())?;
        }
        self.received.1 += u64::from(message.is_some());
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
        self.received.1 += done;
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

    /// Has the middlewares look at a message first, then the handlers.
    async fn through_middleware<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
        message: P::Message,
    ) {
        let handled = match self.rewritten(message).await {
            Ok(None) => return,
            Ok(Some(message)) if E::IN_PLACE && self.show(events, seen, &message) == Handled::Done => return,
            Ok(Some(message)) => self.foreground(events.message(seen, message)).await,
            Err(error) => Some(Err(Failures::from(error))),
        };
        if let Some(Err(failures)) = handled {
            self.report_all(events, seen, failures.into_errors()).await;
        }
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
    struct Dispatch<'a, T, P: Protocol, E, F, H> {
        connection: &'a mut Connection<T, P>,
        events: &'a E,
        seen: &'a P::Session,
        ended: bool,
        make: F,
        #[pin]
        handling: Option<H>,
    }
}

impl<'a, T, P, E, F, H> Future for Dispatch<'a, T, P, E, F, H>
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
        let connection = &mut **this.connection;
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
            let message = match connection.next(*this.events, this.seen, *this.ended, &mut shown) {
                Ok(Some(message)) => message,
                Ok(None) => return Poll::Ready(Dispatched::All),
                Err(end) => return Poll::Ready(Dispatched::Ended(end)),
            };
            if !plain {
                return Poll::Ready(Dispatched::Received(message));
            }
            if E::IN_PLACE && !shown && connection.show(*this.events, this.seen, &message) == Handled::Done {
                continue;
            }
            this.handling.set(Some((this.make)(this.events, this.seen, message)));
        }
    }
}
