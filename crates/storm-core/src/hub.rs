//! What the sessions of one server or client have in common.
//!
//! Hidden methods are for connection tasks, servers and clients: they keep the numbers and the clock that users only read.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::broadcast::Broadcast;
use crate::delivery::{Delivering, Lanes};
use crate::metrics::{Ending, HandshakeFailure, Limit, MetricsState, ServerMetrics, Tally};
use crate::middleware::MiddlewareChain;
use crate::timer::SharedTimer;
use crate::trace;
use crate::{ConfigError, Error, Groups, Message, Session, SessionOptions, Sessions};

/// What the clock can add to now without overflowing.
const LONGEST_CLOSE: Duration = Duration::from_secs(86_400 * 365);

/// The sessions, groups and metrics of one server or client; every session leads to it with
/// [`Session::server`].
#[derive(Debug)]
pub struct Hub {
    sessions: Sessions,
    groups: Groups,
    options: SessionOptions,
    middleware: Option<MiddlewareChain>,
    pub(crate) metrics: Arc<MetricsState>,
    lanes: Lanes,
    /// Boxed and made when first asked for: the hub of a client does without.
    timer: OnceLock<Box<dyn SharedTimer>>,
    /// Milliseconds that a close may take at least, whatever the close deadline.
    drain: AtomicU64,
}

impl Hub {
    /// A hub without sessions.
    ///
    /// # Errors
    /// `options` are not valid.
    pub fn new(options: SessionOptions, middleware: MiddlewareChain) -> Result<Arc<Self>, ConfigError> {
        options.validate()?;
        let hub = Arc::new(Self {
            sessions: Sessions::new(),
            groups: Groups::new(),
            options,
            middleware: (!middleware.is_empty()).then_some(middleware),
            metrics: Arc::default(),
            lanes: Lanes::default(),
            timer: OnceLock::new(),
            drain: AtomicU64::new(0),
        });
        if let Some(budget) = &hub.options.send_budget {
            budget.register(&hub);
        }
        #[cfg(feature = "metrics")]
        crate::metrics::otel::observe(&hub);
        Ok(hub)
    }

    /// The live sessions.
    #[doc(alias("connections", "clients"))]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The groups.
    #[doc(alias("rooms", "topics", "channels"))]
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// What every session is configured with.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Counters over all sessions, those that have ended included. Costs a visit to every live session.
    pub fn metrics(&self) -> ServerMetrics {
        self.metrics.read(&self.sessions)
    }

    /// Sends `message` to every session; see [`Broadcast`].
    pub fn broadcast(&self, message: impl Into<Message>) -> Broadcast<'_> {
        self.sessions.broadcast(message)
    }

    /// Sends `text` to every session; see [`Broadcast`].
    pub fn broadcast_text(&self, text: impl Into<bytestring::ByteString>) -> Broadcast<'_> {
        self.sessions.broadcast_text(text)
    }

    /// Delivers broadcasts to sockets that sleep, until the hub is gone; for a task of its own. Several share the work.
    /// Without any, each session's task is woken to write, which takes more CPU.
    pub fn deliver_broadcasts(&self) -> Delivering {
        self.lanes.open()
    }

    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// The middlewares, `None` if there are none.
    pub fn middleware(&self) -> Option<&MiddlewareChain> {
        self.middleware.as_ref()
    }

    /// The timer its sessions share.
    ///
    /// # Panics
    /// It was asked for as another type before.
    #[doc(hidden)]
    pub fn timer<T: SharedTimer + Default>(&self) -> &T {
        let timer: &dyn Any = &**self.timer.get_or_init(|| Box::new(T::default()));
        timer.downcast_ref().expect("a hub has one kind of timer")
    }

    /// Counts and logs an error; whoever calls this also has the error reported.
    #[doc(hidden)]
    pub fn count_error(&self, error: &Error) {
        trace::reported(error);
        self.metrics.count_error();
    }

    /// How long an orderly close that begins now may take: the close deadline, or the time a shutdown gives.
    #[doc(hidden)]
    pub fn close_within(&self) -> Duration {
        let drain = Duration::from_millis(self.drain.load(Ordering::Acquire));
        self.handler_grace().max(drain.min(LONGEST_CLOSE))
    }

    /// How long handlers that outlive their connection may take: the close deadline.
    #[doc(hidden)]
    pub fn handler_grace(&self) -> Duration {
        self.options.close_deadline.min(LONGEST_CLOSE)
    }

    /// Gives closes that begin from now on `within`, if that is longer than the close deadline.
    #[doc(hidden)]
    pub fn extend_closes(&self, within: Duration) {
        let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.drain.fetch_max(millis, Ordering::AcqRel);
    }

    /// How the transports of sessions have ended so far.
    pub fn endings(&self) -> Tally<Ending> {
        self.metrics.endings()
    }

    pub(crate) fn count_ending(&self, ending: Ending) {
        self.metrics.count_ending(ending);
    }

    /// Handshakes that made no session so far.
    pub fn handshake_failures(&self) -> Tally<HandshakeFailure> {
        self.metrics.handshake_failures()
    }

    /// Notes how long a handshake took.
    #[doc(hidden)]
    pub fn record_handshake(&self, took: Duration) {
        self.metrics.record_handshake(took);
    }

    /// Counts a socket from `peer` that was closed because of `limit`.
    #[doc(hidden)]
    pub fn count_refusal(&self, limit: Limit, peer: Option<SocketAddr>) {
        trace::refused(limit, peer);
        self.metrics.count_refusal(limit);
    }

    /// Counts a handshake with `peer` that made no session.
    #[doc(hidden)]
    pub fn count_handshake_failure(&self, failure: HandshakeFailure, peer: Option<SocketAddr>) {
        trace::handshake_failed(failure, peer);
        self.metrics.count_handshake_failure(failure);
    }

    /// Sheds sessions if too much waits in all of them. The caller holds no lock.
    #[cold]
    pub(crate) fn enforce_budget(&self) {
        if let Some(budget) = &self.options.send_budget {
            budget.enforce();
        }
    }

    pub(crate) fn enter(&self, session: &Session) {
        self.metrics.count_connection();
        self.sessions.insert(session);
    }

    pub(crate) fn leave(&self, session: &Session) {
        self.groups.retire(session);
        self.metrics.retire(&self.sessions, session);
        if let Some(timer) = self.timer.get() {
            timer.session_left(&self.sessions);
        }
        trace::disconnected(session);
    }
}
