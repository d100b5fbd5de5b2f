//! The handle to a running server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use storm_core::{
    Broadcast, ConnectionState, DisconnectReason, Groups, Hub, Message, ServerMetrics, Sessions,
};

#[cfg(feature = "tls")]
use storm_transport::tls::TlsConfigError;

use crate::accept::Shared;
use crate::slots::Slots;

/// A running server. Cloning is cheap; dropping every handle leaves the server running.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    /// One slot for each listener.
    listening: Arc<Slots>,
    local_addrs: Arc<[SocketAddr]>,
}

/// How the sessions ended that were alive when a shutdown began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// In an orderly way: everything queued has left.
    pub closed: usize,
    /// Cut at the deadline.
    pub aborted: usize,
    /// Connections whose handlers were still running when the shutdown returned.
    pub unfinished: usize,
}

/// RFC 6455 §7.4.1: an endpoint is going away.
const GOING_AWAY: u16 = 1001;

impl ServerHandle {
    pub(crate) fn new(shared: Arc<Shared>, listening: Arc<Slots>, local_addrs: Vec<SocketAddr>) -> Self {
        Self { shared, listening, local_addrs: local_addrs.into() }
    }

    /// The first address it listens on, with the port the system chose if 0 was asked for; `None` if it listens on
    /// unix sockets only.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addrs.first().copied()
    }

    /// Every address it listens on; unix sockets have none.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Sessions, groups and metrics in one: what [`Session::server`](storm_core::Session::server) leads to.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }

    /// The live sessions.
    pub fn sessions(&self) -> &Sessions {
        self.shared.hub.sessions()
    }

    /// The groups.
    pub fn groups(&self) -> &Groups {
        self.shared.hub.groups()
    }

    /// Counters over all sessions so far.
    pub fn metrics(&self) -> ServerMetrics {
        self.shared.hub.metrics()
    }

    /// Connections at this moment, those in a handshake and those whose handlers are still finishing included.
    pub fn connections(&self) -> usize {
        self.shared.slots.used()
    }

    /// Sends `message` to every session; see [`Broadcast`].
    pub fn broadcast(&self, message: impl Into<Message>) -> Broadcast<'_> {
        self.shared.hub.broadcast(message)
    }

    /// Sends `text` to every session; see [`Broadcast`].
    pub fn broadcast_text(&self, text: impl Into<ByteString>) -> Broadcast<'_> {
        self.shared.hub.broadcast_text(text)
    }

    /// Reads the files of certificates, keys and roots anew, for new connections. Those that are there go on as they are.
    ///
    /// # Cancel safety
    /// The reload, once begun, goes on if the future is dropped.
    ///
    /// # Errors
    /// A file cannot be used, and the server goes on with what it has; or it speaks no TLS.
    #[cfg(feature = "tls")]
    pub async fn reload_tls(&self) -> Result<(), TlsConfigError> {
        let tls = self.shared.tls.clone().ok_or(TlsConfigError::Disabled)?;
        crate::secure::blocking(move || tls.reload()).await
    }

    /// Replaces certificates and all other TLS options (except
    /// [`watch_files`](storm_transport::TlsOptions::watch_files)) for new connections.
    ///
    /// # Cancel safety
    /// As [`reload_tls`](Self::reload_tls).
    ///
    /// # Errors
    /// As [`reload_tls`](Self::reload_tls).
    #[cfg(feature = "tls")]
    pub async fn replace_tls(&self, options: storm_transport::TlsOptions) -> Result<(), TlsConfigError> {
        let tls = self.shared.tls.clone().ok_or(TlsConfigError::Disabled)?;
        crate::secure::blocking(move || tls.replace(options)).await
    }

    /// Completes when a shutdown has begun and no connection is left.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn stopped(&self) {
        self.shared.stopped().await;
        self.listening.all_free().await;
        self.shared.slots.all_free().await;
    }

    /// Stops: accepts no more, closes every session with reason [`DisconnectReason::GoingAway`], waits up to
    /// `deadline` for queued messages to leave and peers to answer, aborts the rest and reports. Handlers that still
    /// run then have one close deadline to finish. May be called again and together; every caller gets a report.
    ///
    /// # Cancel safety
    /// What has begun goes on if the future is dropped: the server has stopped accepting and sessions are closing.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        self.shared.stopping.send_replace(true);
        self.listening.all_free().await;
        let mut began_with = 0;
        for session in self.sessions().iter() {
            began_with += 1;
            say_goodbye(&session);
        }
        let in_time = tokio::time::timeout(deadline, self.shared.slots.all_free()).await.is_ok();
        let mut report = ShutdownReport { closed: began_with, ..ShutdownReport::default() };
        if in_time {
            return report;
        }
        for session in self.sessions().iter().filter(|session| session.state() != ConnectionState::Closed) {
            session.abort_for(DisconnectReason::GoingAway);
            report.aborted += 1;
        }
        report.closed = report.closed.saturating_sub(report.aborted);
        let grace = self.shared.hub.options().close_deadline + Duration::from_millis(100);
        if tokio::time::timeout(grace, self.shared.slots.all_free()).await.is_err() {
            report.unfinished = self.shared.slots.used();
        }
        report
    }
}

/// Closes a session because its server stops.
pub(crate) fn say_goodbye(session: &storm_core::Session) {
    session.start_close_with(DisconnectReason::GoingAway, Some((GOING_AWAY, ByteString::new())));
}
