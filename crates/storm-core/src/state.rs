//! Where a connection is in its life, and why it ended.
//!
//! ```text
//! Connecting ──> Connected ──> Closing ──> Closed
//!                    └──────── abort ────────^
//! ```

use std::sync::atomic::{AtomicU8, Ordering};

/// Which side of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The side that accepted.
    Server,
    /// The side that connected.
    Client,
}

impl Role {
    /// The reason for an end that the peer began.
    pub const fn closed_by_peer(self) -> DisconnectReason {
        match self {
            Self::Server => DisconnectReason::ClosedByClient,
            Self::Client => DisconnectReason::ClosedByServer,
        }
    }

    /// The reason for an end that this side began.
    pub const fn closed_by_us(self) -> DisconnectReason {
        match self {
            Self::Server => DisconnectReason::ClosedByServer,
            Self::Client => DisconnectReason::ClosedByClient,
        }
    }
}

/// Where a connection is in its life. States only move forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConnectionState {
    /// The transport is being set up; no handler has run. Clients show it between two connections, too.
    Connecting = 0,
    /// Messages flow.
    Connected = 1,
    /// A close is under way: what was queued leaves, nothing new is accepted.
    Closing = 2,
    /// The transport is gone.
    Closed = 3,
}

/// Why a session ended. The first, most specific reason wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum DisconnectReason {
    /// The client ended it in an orderly way.
    ClosedByClient = 1,
    /// The server ended it in an orderly way.
    ClosedByServer = 2,
    /// `abort` was called on this side, or a handler panicked.
    Aborted = 3,
    /// The peer broke the protocol, or the installed framer did, by a panic too.
    ProtocolError = 4,
    /// The transport failed: reset by the peer, timed out, truncated.
    TransportError = 5,
    /// The peer left too many pings unanswered.
    HeartbeatTimeout = 6,
    /// The handshake did not end within its budget. No session ends so, since there is none before the handshake has ended: servers
    /// count it as [`HandshakeFailure::Timeout`](crate::metrics::HandshakeFailure::Timeout), for clients it is an error of `connect`.
    HandshakeTimeout = 7,
    /// The peer read too slowly under `SlowConsumerPolicy::Disconnect`, or for a [`SendBudget`](crate::SendBudget).
    SlowConsumer = 8,
    /// The server is shutting down, or the peer said that it goes away.
    GoingAway = 9,
    /// A rate limit was exceeded.
    RateLimited = 10,
    /// No application data for longer than the idle timeout.
    IdleTimeout = 11,
    /// A frame or message exceeded its limit.
    MessageTooBig = 12,
}

impl DisconnectReason {
    /// Every reason, in the order of its declaration.
    pub const ALL: [Self; 12] = [
        Self::ClosedByClient,
        Self::ClosedByServer,
        Self::Aborted,
        Self::ProtocolError,
        Self::TransportError,
        Self::HeartbeatTimeout,
        Self::HandshakeTimeout,
        Self::SlowConsumer,
        Self::GoingAway,
        Self::RateLimited,
        Self::IdleTimeout,
        Self::MessageTooBig,
    ];

    /// A stable snake-case name, for logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClosedByClient => "closed_by_client",
            Self::ClosedByServer => "closed_by_server",
            Self::Aborted => "aborted",
            Self::ProtocolError => "protocol_error",
            Self::TransportError => "transport_error",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::SlowConsumer => "slow_consumer",
            Self::GoingAway => "going_away",
            Self::RateLimited => "rate_limited",
            Self::IdleTimeout => "idle_timeout",
            Self::MessageTooBig => "message_too_big",
        }
    }
}

impl std::fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A [`ConnectionState`] that only moves forward.
#[derive(Debug)]
pub(crate) struct StateCell(AtomicU8);

impl StateCell {
    pub(crate) const fn new(state: ConnectionState) -> Self {
        Self(AtomicU8::new(state as u8))
    }

    pub(crate) fn get(&self) -> ConnectionState {
        match self.0.load(Ordering::Acquire) {
            0 => ConnectionState::Connecting,
            1 => ConnectionState::Connected,
            2 => ConnectionState::Closing,
            _ => ConnectionState::Closed,
        }
    }

    pub(crate) fn advance(&self, to: ConnectionState) {
        self.0.fetch_max(to as u8, Ordering::AcqRel);
    }
}

/// An `Option<DisconnectReason>` that is written once.
#[derive(Debug)]
pub(crate) struct ReasonCell(AtomicU8);

impl ReasonCell {
    pub(crate) const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    pub(crate) fn get(&self) -> Option<DisconnectReason> {
        let stored = self.0.load(Ordering::Acquire);
        DisconnectReason::ALL.into_iter().find(|reason| *reason as u8 == stored)
    }

    /// Stores `reason` unless there is one already.
    pub(crate) fn set(&self, reason: DisconnectReason) {
        let _first_wins = self.0.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_never_move_back() {
        let cell = StateCell::new(ConnectionState::Connecting);
        cell.advance(ConnectionState::Closed);
        cell.advance(ConnectionState::Connected);
        assert_eq!(cell.get(), ConnectionState::Closed);
    }

    #[test]
    fn the_first_reason_wins() {
        let cell = ReasonCell::new();
        assert_eq!(cell.get(), None);
        cell.set(DisconnectReason::SlowConsumer);
        cell.set(DisconnectReason::Aborted);
        assert_eq!(cell.get(), Some(DisconnectReason::SlowConsumer));
    }

    #[test]
    fn every_reason_survives_the_cell_and_has_its_own_name() {
        let mut names = std::collections::HashSet::new();
        for reason in DisconnectReason::ALL {
            let cell = ReasonCell::new();
            cell.set(reason);
            assert_eq!(cell.get(), Some(reason));
            assert!(names.insert(reason.to_string()));
        }
    }
}
