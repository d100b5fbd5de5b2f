//! The one connection loop.
//!
//! ```text
//!  connected ──> [ fill ──> dispatch ──> flush ]* ──> wind down ──> disconnected
//!                   │  bytes     │ a message at a time     │ flush, end our stream, read to the end of theirs
//!                   └────────────┴──── poll_background ────┘ whenever the foreground is pending
//! ```
//!
//! Owns: the transport, bytes read and not yet dispatched, bytes taken from the outbox and not yet written, deadlines.
//! In:   the session's wishes and outgoing bytes (`Driver`), the peer's bytes.
//! Out:  events, in order, one at a time.
//! Not here: what bytes mean (`Protocol`), what may be queued (`storm_core::outbox`).
//!
//! Idle connections are many, so what a task rarely does (errors, its first and last steps) is boxed: its future would
//! have room for all of it all the time.

mod background;
mod deadlines;
mod dispatch;
mod inbox;
mod read;
mod timers;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use pin_project_lite::pin_project;
use storm_core::driver::Driver;
use storm_core::error::PanicMessage;
use storm_core::isolation::{catch_unwind_in, catch_unwind_of};
use storm_core::metrics::Ending;
use storm_core::outbox::SendQueue;
use storm_core::{BoxError, DisconnectReason, Error, ErrorKind, Events, SendError, Session};

use crate::protocol::{End, Parts, Protocol};
use crate::transport::Transport;
use deadlines::Deadlines;
use inbox::Inbox;

/// One connection: a transport, a protocol and a session, to be [`run`](Self::run) in a task of its own.
pub struct Connection<T, P: Protocol> {
    /// `None` once the connection is over.
    transport: Option<T>,
    protocol: P,
    driver: Driver,
    /// Bytes read and not yet taken by the protocol. Holds no memory while idle.
    inbox: Inbox,
    /// Boxed: most connections have none of it most of the time.
    rare: Option<Box<Rare<P::Message>>>,
    /// A violation has ended the session: the protocol is asked nothing more.
    deaf: bool,
    /// Bytes taken from the outbox and not yet written.
    writing: SendQueue,
    /// Bytes the transport was given and that are not accounted yet.
    given: usize,
    /// Messages received and not yet counted.
    received: u32,
    stage: Stage,
    /// The transport was given bytes since it was last flushed.
    flush: bool,
    /// The shared timer was armed without a look at the idle timeout, which does not run while a handler is busy.
    armed_busy: bool,
    /// The peer has ended its stream.
    peer_ended: bool,
    /// It has, and the protocol is to look once more at what is left.
    ended: bool,
    /// How often the room for one read has been doubled.
    doubled: u8,
    /// Bytes read since the task last had to wait: bounds what one turn does.
    turn: u32,
    deadlines: Deadlines,
    /// The handlers have been told of the connect, and are to be told of the end.
    greeted: bool,
}

/// What a connection has while a handler is busy, or at its end.
struct Rare<M> {
    /// Messages taken by the protocol while a handler was busy.
    ahead: VecDeque<M>,
    /// Bytes of their payloads.
    bytes: usize,
    /// Why nothing is received behind them.
    end: Option<End>,
    /// What `on_error` is still to hear of the transport.
    fault: Option<io::Error>,
}

impl<M> Default for Rare<M> {
    fn default() -> Self {
        Self { ahead: VecDeque::new(), bytes: 0, end: None, fault: None }
    }
}

/// Those a connection hands messages to, and what it shows them. One reference to it is less to keep than two.
struct Handlers<S, R> {
    seen: S,
    events: R,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// What is queued leaves, then our end of the stream, then we wait for theirs.
    Closing,
    /// Our stream has ended.
    ShutDown,
    /// The transport is gone.
    Over,
}

impl<T: Transport, P: Protocol> Connection<T, P> {
    /// A connection over `transport`, whose session is `driver`'s. `early` holds bytes that were read already.
    pub fn new(transport: T, protocol: P, driver: Driver, early: BytesMut) -> Self {
        let options = driver.session().server().options();
        let deadlines = Deadlines::new(options.idle_timeout.is_some());
        Self {
            transport: Some(transport),
            protocol,
            driver,
            inbox: Inbox::new(early),
            rare: None,
            deaf: false,
            writing: SendQueue::default(),
            given: 0,
            received: 0,
            stage: Stage::Open,
            flush: false,
            armed_busy: false,
            peer_ended: false,
            doubled: 0,
            ended: false,
            turn: 0,
            deadlines,
            greeted: false,
        }
    }

    /// Runs the connection to its end, `events` included, and returns why it ended.
    ///
    /// # Cancel safety
    /// Dropping the future drops the transport; `disconnected` does not run then.
    pub fn run<E, R>(mut self, events: R) -> impl Future<Output = DisconnectReason> + Send
    where
        E: Events<P::Session, P::Message>,
        R: Deref<Target = E> + Send + Sync,
    {
        let to = Handlers { seen: P::session(self.driver.session()), events };
        async move {
            let lived = catch_unwind_of(self.live(&to)).await;
            // All of it in one box: what is kept from one step to the next would take room in every idle connection.
            Box::pin(self.end(&*to.events, &to.seen, lived)).await
        }
    }

    /// From the last message on, or from a panic of a handler.
    async fn end<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
        lived: Result<(), PanicMessage>,
    ) -> DisconnectReason {
        match lived {
            Ok(()) => {}
            Err(panic) if self.protocol.is_to_blame() => {
                let end = End::violation(DisconnectReason::ProtocolError, panic, None);
                drop(catch_unwind_of(Box::pin(self.end_by_peer(events, seen, end))).await);
            }
            Err(panic) => {
                // It may drop payloads, whose owners may panic in turn, or encode what waits.
                if catch_unwind_in(|| self.driver.end_after_panic()).is_err() {
                    drop(catch_unwind_in(|| self.session().abort()));
                }
                Box::pin(self.report_isolated(events, seen, panic)).await;
            }
        }
        if let Err(panic) = catch_unwind_of(self.wind_down()).await {
            // Only a protocol's own code can bring this about; the transport goes either way.
            drop(catch_unwind_in(|| self.over(DisconnectReason::ProtocolError, true)));
            Box::pin(self.report_isolated(events, seen, panic)).await;
        }
        // Whatever else the peer has said since the close began is nobody's concern any more.
        if let Some(panic) = self.rare.as_mut().and_then(|rare| rare.end.take()?.into_panic()) {
            Box::pin(self.report_isolated(events, seen, panic)).await;
        }
        self.count_received();
        let reason = self.driver.transport_gone(DisconnectReason::Aborted, Ending::Cut);
        self.report_hook_panic(events, seen).await;
        if let Some(fault) = self.rare.as_mut().and_then(|rare| rare.fault.take()) {
            let error = Error::new(ErrorKind::Transport, fault);
            drop(catch_unwind_of(Box::pin(self.report(events, seen, &error))).await);
        }
        if let Err(panic) = catch_unwind_of(Box::pin(self.disconnected(events, seen, reason))).await {
            Box::pin(self.report_isolated(events, seen, panic)).await;
        }
        // Whoever sends to a session that has ended, as its own handlers of the end may, still runs its hooks.
        self.report_hook_panic(events, seen).await;
        reason
    }

    async fn connected<E: Events<P::Session, P::Message>>(&mut self, events: &E, seen: &P::Session) {
        let session = self.session().clone();
        if let Some(middleware) = session.server().middleware()
            && let Some(Err(error)) = self.foreground(middleware.connected(&session)).await
        {
            Box::pin(self.report_all(events, seen, vec![error])).await;
        }
        self.greeted = true;
        if let Some(Err(failures)) = self.foreground(events.connected(seen)).await {
            Box::pin(self.report_all(events, seen, failures.into_errors())).await;
        }
    }

    /// Ends the session because the peer said goodbye or broke the protocol; what was answered before still leaves.
    async fn end_by_peer<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
        end: End,
    ) {
        let Parts { reason, error, goodbye } = end.into_parts();
        self.inbox = Inbox::default();
        self.deaf = true;
        self.session().start_close_with(reason, goodbye);
        if let Some(error) = error {
            let kind = kind_of(&error, ErrorKind::Protocol);
            self.report(events, seen, &Error::new(kind, error)).await;
        }
    }

    async fn disconnected<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
        reason: DisconnectReason,
    ) {
        let session = self.session().clone();
        let mut errors = match session.server().middleware() {
            Some(middleware) => middleware.disconnected(&session, reason).await,
            None => Vec::new(),
        };
        if self.greeted
            && let Err(failures) = events.disconnected(seen, reason).await
        {
            errors.extend(failures.into_errors());
        }
        self.report_all(events, seen, errors).await;
    }

    async fn report_all<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
        errors: Vec<BoxError>,
    ) {
        for error in errors {
            // A send to a peer that has just gone is an end, and ends are reasons; a hook's panic is reported by itself.
            if !matches!(error.downcast_ref(), Some(SendError::Closed(_) | SendError::Panicked)) {
                let kind = kind_of(&error, ErrorKind::Handler);
                self.report(events, seen, &Error::new(kind, error)).await;
            }
        }
    }

    async fn report<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
        error: &Error,
    ) {
        let session = self.session().clone();
        session.server().count_error(error);
        let handlers = async {
            if let Some(middleware) = session.server().middleware() {
                middleware.error(Some(&session), error).await;
            }
            events.error(Some(seen), error).await;
        };
        self.foreground(handlers).await;
    }

    async fn report_hook_panic<E: Events<P::Session, P::Message>>(&mut self, events: &E, seen: &P::Session) {
        if let Some(panic) = self.driver.take_hook_panic() {
            Box::pin(self.report_isolated(events, seen, panic)).await;
        }
    }

    /// Reports a panic; a panic of the error handler itself goes no further.
    async fn report_isolated<E: Events<P::Session, P::Message>>(
        &mut self,
        events: &E,
        seen: &P::Session,
        panic: PanicMessage,
    ) {
        let error = Error::new(ErrorKind::Panic, panic);
        drop(catch_unwind_of(self.report(events, seen, &error)).await);
    }

    /// Awaits user code with the background going on. `None` if it was still running when its time had run out after
    /// the end of the connection; it is dropped then.
    const fn foreground<F: Future>(&mut self, user: F) -> Foreground<'_, T, P, F> {
        Foreground { connection: self, user }
    }

    #[inline]
    fn poll_foreground<F: Future>(
        &mut self,
        user: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<F::Output>> {
        self.driver.begin_batch();
        if let Poll::Ready(output) = user.poll(cx) {
            return Poll::Ready(Some(output));
        }
        self.poll_beside_foreground(cx).map(|()| None)
    }

    /// Ready when user code that is still running has had its time.
    #[inline(never)]
    fn poll_beside_foreground(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_background(cx, true).is_pending() {
            return Poll::Pending;
        }
        let grace = self.session().server().handler_grace();
        self.deadlines.poll_grace(grace, cx)
    }

    /// Lets leave what may, until the transport is gone.
    async fn wind_down(&mut self) {
        poll_fn(|cx| self.poll_background(cx, false)).await;
    }

    /// The session.
    pub fn session(&self) -> &Session {
        self.driver.session()
    }

    fn count_received(&mut self) {
        let messages = std::mem::take(&mut self.received);
        if messages > 0 {
            self.driver.received(0, messages.into());
        }
    }
}

pin_project! {
    /// The future of [`Connection::foreground`]. Written by hand: an async fn keeps its argument twice.
    struct Foreground<'a, T, P: Protocol, F> {
        connection: &'a mut Connection<T, P>,
        #[pin]
        user: F,
    }
}

impl<T: Transport, P: Protocol, F: Future> Future for Foreground<'_, T, P, F> {
    type Output = Option<F::Output>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.connection.poll_foreground(this.user, cx)
    }
}

impl<T, P: Protocol> std::fmt::Debug for Connection<T, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("session", self.driver.session())
            .field("stage", &self.stage)
            .finish()
    }
}

/// What `error` is to be reported as, unless it is a panic.
fn kind_of(error: &BoxError, usual: ErrorKind) -> ErrorKind {
    if error.is::<PanicMessage>() { ErrorKind::Panic } else { usual }
}
