//! What the tasks of one server share, and what it does with its connections.
//!
//! Owns: the phases of a server's life, its limits, and its endpoint until it stops.
//! Not here: where connections come from (`accept`), what a handshake is (`handshake`, `secure`, `proxied`).

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
#[cfg(feature = "ws")]
use storm_core::Peer;
use storm_core::isolation::catch_unwind_of;
use storm_core::metrics::Limit;
use storm_core::{DisconnectReason, Error, Hub, Session};
use storm_transport::Stream;
use tokio::sync::watch;

use crate::per_ip::PerIp;
use crate::proxied::Proxies;
use crate::slots::{Slot, Slots};
use crate::workers::Workers;

/// What a server does with its connections.
pub(crate) trait Endpoint: Send + Sync + 'static {
    /// Serves one connection to its end, in a task of its own that holds `slot`, and tells that when a handshake is over.
    fn serve(self: &Arc<Self>, stream: Stream, remote: Option<SocketAddr>, shared: &Arc<Shared>, slot: Slot);

    /// Whether anything comes before a session of a connection from there.
    fn has_handshake(&self, _shared: &Shared, _remote: Option<SocketAddr>) -> bool {
        true
    }

    /// Serves a connection that was upgraded elsewhere; gives the slot back if the server speaks no WebSocket.
    #[cfg(feature = "ws")]
    fn serve_upgraded(
        &self,
        upgraded: (Stream, Peer, storm_transport::ws::Agreed),
        shared: &Shared,
        slot: Slot,
    ) -> Result<(), Slot> {
        let _ = (upgraded, shared);
        Err(slot)
    }

    /// Reports an error that no session has.
    fn report(&self, error: &Error) -> impl Future<Output = ()> + Send;
}

/// An [`Endpoint`] of whatever type, for streams that come from elsewhere.
pub(crate) trait Serve: Send + Sync {
    fn serve(&self, stream: Stream, remote: Option<SocketAddr>, shared: &Arc<Shared>, slot: Slot);

    fn has_handshake(&self, shared: &Shared, remote: Option<SocketAddr>) -> bool;

    #[cfg(feature = "ws")]
    fn serve_upgraded(
        &self,
        upgraded: (Stream, Peer, storm_transport::ws::Agreed),
        shared: &Shared,
        slot: Slot,
    ) -> Result<(), Slot>;
}

/// The implementation of [`Serve`].
pub(crate) struct Served<E>(pub(crate) Arc<E>);

impl<E: Endpoint> Serve for Served<E> {
    fn serve(&self, stream: Stream, remote: Option<SocketAddr>, shared: &Arc<Shared>, slot: Slot) {
        self.0.serve(stream, remote, shared, slot);
    }

    fn has_handshake(&self, shared: &Shared, remote: Option<SocketAddr>) -> bool {
        self.0.has_handshake(shared, remote)
    }

    #[cfg(feature = "ws")]
    fn serve_upgraded(
        &self,
        upgraded: (Stream, Peer, storm_transport::ws::Agreed),
        shared: &Shared,
        slot: Slot,
    ) -> Result<(), Slot> {
        self.0.serve_upgraded(upgraded, shared, slot)
    }
}

/// What the tasks of one server share.
pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    pub(crate) slots: Arc<Slots>,
    /// One slot for each listener.
    pub(crate) listening: Arc<Slots>,
    /// The threads that serve connections, if the server has its own.
    pub(crate) workers: Option<Arc<Workers>>,
    pub(crate) per_ip: Option<Arc<PerIp>>,
    pub(crate) handshake_timeout: Option<Duration>,
    pub(crate) proxies: Proxies,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<storm_transport::tls::TlsAcceptor>>,
    /// Serves what comes from elsewhere; `None` once the server stops, since what its handlers hold may lead back here.
    pub(crate) endpoint: Mutex<Option<Arc<dyn Serve>>>,
    /// Only moves forward.
    pub(crate) phase: watch::Sender<Phase>,
}

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    /// Nothing new comes in; what there is gets its time to end.
    Stopping,
    /// The time is up.
    Cutting,
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        *self.phase.borrow() >= Phase::Stopping
    }

    /// Whether anything comes before the bytes of a plain TCP connection from there.
    pub(crate) fn has_handshake(&self, remote: Option<SocketAddr>) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return true;
        }
        self.proxies.contains(remote)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Handlers go with it: not under the lock.
        drop(endpoint);
        self.phase.send_if_modified(|current| {
            let is_news = *current < phase;
            *current = phase.max(*current);
            is_news
        });
    }

    /// Completes when the server is in `phase` or beyond.
    pub(crate) async fn reached(&self, phase: Phase) {
        // The sender is ours, so waiting cannot fail.
        let _ = self.phase.subscribe().wait_for(|current| *current >= phase).await;
    }

    /// A slot for a connection from `remote`, with its handshake before or behind it, unless a limit is reached.
    pub(crate) fn slot(&self, remote: Option<SocketAddr>, half_open: bool) -> Result<Slot, Limit> {
        let mut slot = self.slots.take().ok_or(Limit::Connections)?;
        if let (Some(per_ip), Some(addr)) = (&self.per_ip, remote) {
            if !half_open {
                slot.set_ip(per_ip.take_established(addr.ip())?);
            } else if !self.proxies.contains(remote) {
                slot.set_ip(per_ip.take(addr.ip())?);
            }
            // Else whose connection a proxy passes on is known later.
        }
        Ok(slot)
    }

    /// Has `serve` run where the connection is to stay: in the runtime of a worker, if there are any, else here.
    pub(crate) fn place<T>(
        &self,
        stream: Stream,
        mut slot: Slot,
        serve: impl FnOnce(Stream, Slot) -> T,
    ) -> io::Result<T> {
        let Some(workers) = &self.workers else { return Ok(serve(stream, slot)) };
        let worker = workers.least_busy();
        slot.set_worker(worker.assign());
        let stream = stream.moved_to(&worker.runtime)?;
        // What is spawned belongs there.
        let _inside = worker.runtime.enter();
        Ok(serve(stream, slot))
    }

    /// Completes when the server stops, and no listener and no connection is left.
    pub(crate) async fn over(&self) {
        self.reached(Phase::Stopping).await;
        self.listening.all_free().await;
        self.slots.all_free().await;
    }

    /// The handshake of `client`'s connection is over. `false` if there is one connection too many of an address that was
    /// not known before.
    pub(crate) fn established(&self, slot: &mut Slot, client: Option<SocketAddr>) -> bool {
        if let (Some(per_ip), Some(addr), false) = (&self.per_ip, client, slot.has_ip()) {
            match per_ip.take_established(addr.ip()) {
                Ok(of_ip) => slot.set_ip(of_ip),
                Err(limit) => {
                    self.hub.count_refusal(limit, client);
                    return false;
                }
            }
        }
        slot.established();
        true
    }

    /// For a session that is registered now: ends it if the shutdown may have looked at the sessions before.
    pub(crate) fn admit(&self, session: &Session) {
        let phase = *self.phase.borrow();
        match phase {
            Phase::Running => {}
            Phase::Stopping => say_goodbye(session),
            Phase::Cutting => session.abort_for(DisconnectReason::GoingAway),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("phase", &*self.phase.borrow())
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// RFC 6455 §7.4.1: an endpoint is going away.
const GOING_AWAY: u16 = 1001;

/// Closes a session because its server stops.
pub(crate) fn say_goodbye(session: &Session) {
    session.start_close_with(DisconnectReason::GoingAway, Some((GOING_AWAY, ByteString::new())));
}

/// Tells middlewares and handlers of an error that no session has; a panic of theirs goes no further.
pub(crate) async fn report<E: Endpoint>(endpoint: &E, hub: &Hub, error: &Error) {
    hub.count_error(error);
    let told = catch_unwind_of(async {
        if let Some(middleware) = hub.middleware() {
            middleware.error(None, error).await;
        }
        endpoint.report(error).await;
    });
    drop(told.await);
}

#[cfg(test)]
impl Shared {
    /// Of a server without limits and endpoint.
    pub(crate) fn unlimited(hub: &Arc<Hub>) -> Arc<Self> {
        Arc::new(Self {
            hub: hub.clone(),
            slots: Slots::new(None),
            listening: Slots::new(None),
            workers: None,
            per_ip: None,
            handshake_timeout: None,
            proxies: Proxies::default(),
            #[cfg(feature = "tls")]
            tls: None,
            endpoint: Mutex::new(None),
            phase: watch::channel(Phase::Running).0,
        })
    }
}
