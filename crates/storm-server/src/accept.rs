//! The accept loop: never ends by an error, never spins on one.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
#[cfg(feature = "ws")]
use storm_core::Peer;
use storm_core::isolation::catch_unwind_of;
use storm_core::metrics::Limit;
use storm_core::{DisconnectReason, Error, ErrorKind, Hub, Session};
use storm_transport::{Listener, Stream};
use tokio::sync::watch;

use crate::per_ip::PerIp;
use crate::proxied::Proxies;
use crate::slots::{Slot, Slots};
use crate::workers::{Worker, Workers};

/// Waits between failed accepts, doubling from the first to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What a server does with its connections.
pub(crate) trait Endpoint: Send + Sync + 'static {
    /// Serves one connection to its end, in a task of its own that holds `slot`, and tells that when a handshake is over.
    fn serve(self: &Arc<Self>, stream: Stream, remote: Option<SocketAddr>, shared: &Arc<Shared>, slot: Slot);

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
    #[cfg(feature = "ws")]
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

    /// A slot for a connection from `remote`, unless a limit is reached.
    pub(crate) fn slot(&self, remote: Option<SocketAddr>) -> Result<Slot, Limit> {
        let mut slot = self.slots.take().ok_or(Limit::Connections)?;
        Ok(match (&self.per_ip, remote) {
            // Whose connection a proxy passes on is known later.
            (Some(per_ip), Some(addr)) if !self.proxies.contains(remote) => {
                slot.set_ip(per_ip.take(addr.ip())?);
                slot
            }
            _ => slot,
        })
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
            match per_ip.take(addr.ip()) {
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

/// Where connections come from.
pub(crate) trait Accept: Send + 'static {
    fn accept(&self) -> impl Future<Output = io::Result<(Stream, Option<SocketAddr>)>> + Send;
}

impl Accept for Listener {
    fn accept(&self) -> impl Future<Output = io::Result<(Stream, Option<SocketAddr>)>> + Send {
        Self::accept(self)
    }
}

/// Accepts until the server stops; `listening` is held meanwhile. `worker` is the one in whose thread this runs, if it is to keep
/// what it accepts.
pub(crate) async fn accept_loop<A: Accept, E: Endpoint>(
    listener: A,
    endpoint: Arc<E>,
    shared: Arc<Shared>,
    listening: Slot,
    worker: Option<Arc<Worker>>,
) {
    let mut wait = FIRST_WAIT;
    let mut stopped = std::pin::pin!(shared.reached(Phase::Stopping));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|accepted| serve(accepted, &endpoint, &shared, worker.as_ref())) {
            Ok(()) => wait = FIRST_WAIT,
            Err(error) if concerns_one_connection(&error) => tokio::task::yield_now().await,
            Err(error) => {
                let error = Error::new(ErrorKind::Accept, error);
                tokio::select! {
                    // Handlers that hang hold up no shutdown beyond its deadline.
                    () = shared.reached(Phase::Cutting) => break,
                    () = report(&*endpoint, &shared.hub, &error) => {}
                }
                tokio::select! {
                    () = &mut stopped => break,
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
    drop(listener);
    drop(listening);
}

/// Serves a connection within the limits. Without a slot the socket is closed here, before anything is read from it.
fn serve<E: Endpoint>(
    (stream, remote): (Stream, Option<SocketAddr>),
    endpoint: &Arc<E>,
    shared: &Arc<Shared>,
    worker: Option<&Arc<Worker>>,
) -> io::Result<()> {
    let mut slot = match shared.slot(remote) {
        Ok(slot) => slot,
        Err(limit) => {
            shared.hub.count_refusal(limit, remote);
            return Ok(());
        }
    };
    let Some(worker) = worker else {
        return shared.place(stream, slot, |stream, slot| endpoint.serve(stream, remote, shared, slot));
    };
    slot.set_worker(worker.assign());
    endpoint.serve(stream, remote, shared, slot);
    Ok(())
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

/// A connection that ended before it was accepted: the next one may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use storm_core::SessionOptions;
    use storm_core::middleware::MiddlewareChain;
    use tokio::time::Instant;

    use super::*;

    /// Fails as told, then never again.
    struct Failing {
        errors: Mutex<Vec<io::ErrorKind>>,
        calls: Arc<AtomicUsize>,
    }

    impl Accept for Failing {
        async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let next = self.errors.lock().expect("not poisoned").pop();
            match next {
                Some(kind) => Err(kind.into()),
                None => std::future::pending().await,
            }
        }
    }

    #[derive(Default)]
    struct Reports(AtomicUsize);

    impl Endpoint for Reports {
        fn serve(self: &Arc<Self>, _: Stream, _: Option<SocketAddr>, _: &Arc<Shared>, _: Slot) {}

        async fn report(&self, error: &Error) {
            assert_eq!(error.kind(), ErrorKind::Accept);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn shared(hub: &Arc<Hub>) -> Arc<Shared> {
        Arc::new(Shared {
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

    #[tokio::test(start_paused = true)]
    async fn errors_are_waited_out_and_aborted_connections_passed_over() {
        let out_of_descriptors = io::ErrorKind::Other;
        let mut errors = vec![io::ErrorKind::ConnectionAborted; 3];
        errors.extend([out_of_descriptors; 12]);
        let calls = Arc::new(AtomicUsize::new(0));
        let listener = Failing { errors: Mutex::new(errors), calls: calls.clone() };
        let hub = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
        let shared = shared(&hub);
        let endpoint = Arc::new(Reports::default());
        let listening = shared.listening.take().expect("no limit");
        let began = Instant::now();
        let accepting =
            tokio::spawn(accept_loop(listener, endpoint.clone(), shared.clone(), listening, None));
        while calls.load(Ordering::Relaxed) < 16 {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        // 5 + 10 + ... + 640 ms, then 1 s four times: it neither spins nor gives up.
        assert!(began.elapsed() >= Duration::from_millis(1275 + 4 * 1000), "{:?}", began.elapsed());
        assert_eq!(endpoint.0.load(Ordering::Relaxed), 12);
        assert_eq!(hub.metrics().error_count, 12);
        shared.enter(Phase::Stopping);
        accepting.await.expect("no panic");
        assert_eq!(shared.slots.used(), 0);
    }

    /// Has an error handler that hangs.
    struct Hangs;

    impl Endpoint for Hangs {
        fn serve(self: &Arc<Self>, _: Stream, _: Option<SocketAddr>, _: &Arc<Shared>, _: Slot) {}

        async fn report(&self, _: &Error) {
            std::future::pending::<()>().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_handler_that_hangs_holds_up_no_shutdown_beyond_its_deadline() {
        let calls = Arc::new(AtomicUsize::new(0));
        let listener = Failing { errors: Mutex::new(vec![io::ErrorKind::Other]), calls: calls.clone() };
        let hub = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
        let shared = shared(&hub);
        let listening = shared.listening.take().expect("no limit");
        let accepting = tokio::spawn(accept_loop(listener, Arc::new(Hangs), shared.clone(), listening, None));
        while hub.metrics().error_count == 0 {
            tokio::task::yield_now().await;
        }
        shared.enter(Phase::Stopping);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!accepting.is_finished(), "it has its time");
        shared.enter(Phase::Cutting);
        accepting.await.expect("no panic");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
