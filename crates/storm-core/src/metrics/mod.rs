//! Counters of a session and of a server.
//!
//! Nothing is pushed on the hot path: a session keeps its own counters, a server adds them up when it is asked, and
//! what ended sessions counted is kept in one place.

#[cfg(feature = "metrics")]
pub(crate) mod otel;
mod tally;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use tally::AtomicTally;
pub use tally::{Ending, HandshakeFailure, Kind, Limit, Tally};

use crate::{DisconnectReason, Session, Sessions};

/// Counters of one connection at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConnectionMetrics {
    /// Wire bytes the kernel has taken.
    pub bytes_sent: u64,
    /// Wire bytes read.
    pub bytes_received: u64,
    /// Messages queued. One that may be dropped or replaced again counts once it cannot any more.
    pub messages_sent: u64,
    /// Messages received, those included that a middleware suppresses.
    pub messages_received: u64,
    /// Messages dropped by [`SlowConsumerPolicy::Drop`](crate::SlowConsumerPolicy::Drop) and
    /// [`DropOldest`](crate::SlowConsumerPolicy::DropOldest), or for a [`SendBudget`](crate::SendBudget).
    pub messages_dropped: u64,
    /// Messages that gave way to a later one under the same [`latest`](crate::SendingWith::latest) key.
    pub messages_replaced: u64,
    /// Time since the connection was ready.
    pub uptime: Duration,
}

/// Counters of one server or client at one moment, over all its sessions since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServerMetrics {
    /// Sessions alive.
    pub active_connections: u64,
    /// Sessions so far.
    pub total_connections: u64,
    /// Messages queued. One that may be dropped or replaced again counts once it cannot any more.
    pub messages_sent: u64,
    /// Messages received, those included that a middleware suppresses.
    pub messages_received: u64,
    /// Messages dropped by [`SlowConsumerPolicy::Drop`](crate::SlowConsumerPolicy::Drop) and
    /// [`DropOldest`](crate::SlowConsumerPolicy::DropOldest), or for a [`SendBudget`](crate::SendBudget).
    pub messages_dropped: u64,
    /// Messages that gave way to a later one under the same [`latest`](crate::SendingWith::latest) key.
    pub messages_replaced: u64,
    /// Wire bytes sent.
    pub bytes_sent_total: u64,
    /// Wire bytes received.
    pub bytes_received_total: u64,
    /// Errors reported to `on_error`.
    pub error_count: u64,
    /// Sockets closed before anything was read from them, by the limit they were above.
    pub refused: Tally<Limit>,
    /// Sessions that have ended, by reason. Those whose handlers still run are not among them yet.
    pub disconnects: Tally<DisconnectReason>,
    /// Handshakes that made no session. Plain HTTP requests that a hook has answered are not among them.
    pub handshake_failures: u64,
    /// Those of them whose time was up.
    pub handshake_timeouts: u64,
    /// The same by kind.
    pub handshake_failures_by: Tally<HandshakeFailure>,
}

impl ServerMetrics {
    /// Sessions cut off by [`SlowConsumerPolicy::Disconnect`](crate::SlowConsumerPolicy::Disconnect), or for a
    /// [`SendBudget`](crate::SendBudget).
    pub fn slow_consumers(&self) -> u64 {
        self.disconnects.get(DisconnectReason::SlowConsumer)
    }

    fn add(&mut self, session: ConnectionMetrics) {
        self.messages_sent += session.messages_sent;
        self.messages_received += session.messages_received;
        self.messages_dropped += session.messages_dropped;
        self.messages_replaced += session.messages_replaced;
        self.bytes_sent_total += session.bytes_sent;
        self.bytes_received_total += session.bytes_received;
    }
}

#[derive(Debug, Default)]
pub(crate) struct MetricsState {
    connections: AtomicU64,
    errors: AtomicU64,
    handshake_failures: AtomicTally<HandshakeFailure>,
    endings: AtomicTally<Ending>,
    refused: AtomicTally<Limit>,
    /// What sessions that have ended counted. Locked before the sessions are, so that no session is in both or none.
    ended: Mutex<ServerMetrics>,
    #[cfg(feature = "metrics")]
    durations: otel::Durations,
}

impl MetricsState {
    pub(crate) fn count_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_handshake_failure(&self, failure: HandshakeFailure) {
        self.handshake_failures.add(failure);
    }

    pub(crate) fn handshake_failures(&self) -> Tally<HandshakeFailure> {
        self.handshake_failures.read()
    }

    pub(crate) fn count_refusal(&self, limit: Limit) {
        self.refused.add(limit);
    }

    pub(crate) fn count_ending(&self, ending: Ending) {
        self.endings.add(ending);
    }

    pub(crate) fn endings(&self) -> Tally<Ending> {
        self.endings.read()
    }

    pub(crate) fn record_handshake(&self, took: Duration) {
        #[cfg(feature = "metrics")]
        self.durations.record_handshake(took);
        #[cfg(not(feature = "metrics"))]
        let _ = took;
    }

    /// Takes `session` out of `sessions` and keeps what it counted.
    pub(crate) fn retire(&self, sessions: &Sessions, session: &Session) {
        let counted = session.metrics();
        let reason = session.disconnect_reason();
        let mut ended = self.ended.lock();
        sessions.remove(session, || {
            ended.add(counted);
            if let Some(reason) = reason {
                ended.disconnects.add(reason);
            }
        });
        drop(ended);
        #[cfg(feature = "metrics")]
        self.durations.record_connection(counted.uptime, reason);
    }

    pub(crate) fn read(&self, sessions: &Sessions) -> ServerMetrics {
        let ended = self.ended.lock();
        let mut sum = *ended;
        sessions.visit(|_, session| {
            sum.add(session.metrics());
            sum.active_connections += 1;
        });
        drop(ended);
        sum.total_connections = self.connections.load(Ordering::Relaxed);
        sum.error_count = self.errors.load(Ordering::Relaxed);
        sum.refused = self.refused.read();
        sum.handshake_failures_by = self.handshake_failures();
        sum.handshake_failures = sum.handshake_failures_by.total();
        sum.handshake_timeouts = sum.handshake_failures_by.get(HandshakeFailure::Timeout);
        sum
    }
}
