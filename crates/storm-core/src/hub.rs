//! What the sessions of one server or client have in common.

use std::sync::Arc;

use crate::broadcast::Broadcast;
use crate::metrics::{MetricsState, ServerMetrics};
use crate::middleware::MiddlewareChain;
use crate::{ConfigError, Error, Groups, Message, Session, SessionOptions, Sessions};

/// The sessions, groups and metrics of one server or client; every session leads to it with
/// [`Session::server`].
#[derive(Debug)]
pub struct Hub {
    sessions: Sessions,
    groups: Groups,
    options: SessionOptions,
    middleware: Option<MiddlewareChain>,
    metrics: MetricsState,
}

impl Hub {
    /// A hub without sessions.
    ///
    /// # Errors
    /// `options` are not valid.
    pub fn new(options: SessionOptions, middleware: MiddlewareChain) -> Result<Arc<Self>, ConfigError> {
        options.validate()?;
        let hub = Arc::new(Self {
            sessions: Sessions::default(),
            groups: Groups::default(),
            options,
            middleware: (!middleware.is_empty()).then_some(middleware),
            metrics: MetricsState::default(),
        });
        #[cfg(feature = "metrics")]
        crate::metrics::otel::observe(&hub);
        Ok(hub)
    }

    /// The live sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The groups.
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

    /// The middlewares, `None` if there are none.
    pub fn middleware(&self) -> Option<&MiddlewareChain> {
        self.middleware.as_ref()
    }

    /// Counts an error; whoever calls this also has the error reported.
    pub fn count_error(&self, error: &Error) {
        let _ = error;
        self.metrics.count_error();
    }

    /// Notes how long a handshake took.
    pub fn record_handshake(&self, took: std::time::Duration) {
        self.metrics.record_handshake(took);
    }

    /// Counts a handshake that made no session, because its time was up if `timed_out`.
    pub fn count_handshake_failure(&self, timed_out: bool) {
        self.metrics.count_handshake_failure(timed_out);
    }

    pub(crate) fn enter(&self, session: &Session) {
        self.metrics.count_connection();
        self.sessions.insert(session);
    }

    pub(crate) fn leave(&self, session: &Session) {
        self.groups.retire(session);
        self.metrics.retire(&self.sessions, session);
    }
}
