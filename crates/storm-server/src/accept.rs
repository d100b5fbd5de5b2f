//! The accept loop: never ends by an error, never spins on one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use storm_core::isolation::catch_unwind_in;
use storm_core::{Error, ErrorKind};
use storm_transport::{Listener, Stream};

use crate::shared::{Endpoint, Phase, Shared, report};
use crate::slots::Slot;
use crate::worker::Worker;

/// Waits between failed accepts, doubling from the first to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

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
        // Each connection has its own clone of the user's framer, which may panic.
        let serve = |accepted| catch_unwind_in(|| serve(accepted, &endpoint, &shared, worker.as_ref()));
        let error = match accepted.map(serve) {
            Ok(Ok(Ok(()))) => {
                wait = FIRST_WAIT;
                continue;
            }
            Ok(Err(panic)) => Error::new(ErrorKind::Panic, panic),
            Ok(Ok(Err(error))) | Err(error) if concerns_one_connection(&error) => {
                tokio::task::yield_now().await;
                continue;
            }
            Ok(Ok(Err(error))) | Err(error) => Error::new(ErrorKind::Accept, error),
        };
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
    let mut slot = match shared.slot(remote, endpoint.has_handshake(shared, remote)) {
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

/// A connection that ended before it was accepted: the next one may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use storm_core::middleware::MiddlewareChain;
    use storm_core::{Hub, SessionOptions};
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

    #[tokio::test(start_paused = true)]
    async fn errors_are_waited_out_and_aborted_connections_passed_over() {
        let out_of_descriptors = io::ErrorKind::Other;
        let mut errors = vec![io::ErrorKind::ConnectionAborted; 3];
        errors.extend([out_of_descriptors; 12]);
        let calls = Arc::new(AtomicUsize::new(0));
        let listener = Failing { errors: Mutex::new(errors), calls: calls.clone() };
        let hub = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
        let shared = Shared::unlimited(&hub);
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

    /// Has an error handler that panics.
    struct Panics;

    impl Endpoint for Panics {
        fn serve(self: &Arc<Self>, _: Stream, _: Option<SocketAddr>, _: &Arc<Shared>, _: Slot) {}

        async fn report(&self, error: &Error) {
            panic!("{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_handler_that_panics_does_not_end_the_accepting() {
        let calls = Arc::new(AtomicUsize::new(0));
        let listener = Failing { errors: Mutex::new(vec![io::ErrorKind::Other; 3]), calls: calls.clone() };
        let hub = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
        let shared = Shared::unlimited(&hub);
        let listening = shared.listening.take().expect("no limit");
        let accepting =
            tokio::spawn(accept_loop(listener, Arc::new(Panics), shared.clone(), listening, None));
        while calls.load(Ordering::Relaxed) < 4 && !accepting.is_finished() {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(hub.metrics().error_count, 3);
        shared.enter(Phase::Stopping);
        accepting.await.expect("no panic");
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
        let shared = Shared::unlimited(&hub);
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
