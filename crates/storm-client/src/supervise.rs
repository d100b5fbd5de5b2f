//! One connection after the other, until this side has had enough.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use storm_core::isolation::{catch_unwind_in, catch_unwind_of};
use storm_core::{
    ConnectionState, DisconnectReason, Error, ErrorKind, HandlerOutcome, Hub, IntoHandlerOutcome, Session,
    trace,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::queue::Queue;
use crate::reconnect::Delays;
use crate::{ClientHandle, ClientOptions, ConnectError};

/// What a client does to get a connection, and with it.
pub(crate) trait Endpoint: Send + Sync + 'static {
    /// A connection that has a session and is ready to run.
    type Ready: Send;

    /// Opens a connection, in the given attempt to replace a lost one (0 for the first one of all); the caller bounds the
    /// time.
    fn open(
        &self,
        shared: &Shared,
        attempt: u32,
    ) -> impl Future<Output = Result<Self::Ready, ConnectError>> + Send;

    /// The session of a connection.
    fn session(ready: &Self::Ready) -> Session;

    /// Runs a connection to its end.
    fn run(&self, ready: Self::Ready) -> impl Future<Output = DisconnectReason> + Send;

    /// Reports an error that no session has.
    fn report(&self, error: &Error) -> impl Future<Output = ()> + Send;
}

/// A closure for `on_reconnecting`. Boxed: it runs once an attempt.
pub(crate) type OnReconnecting =
    Box<dyn Fn(u32, Duration) -> Pin<Box<dyn Future<Output = HandlerOutcome> + Send>> + Send + Sync>;

/// A closure for `retry_if`.
pub(crate) type RetryIf = Box<dyn Fn(&ConnectError) -> bool + Send + Sync>;

/// A closure for `reconnect_if`.
pub(crate) type ReconnectIf = Box<dyn Fn(&Session, DisconnectReason) -> bool + Send + Sync>;

/// What users have to say about attempts.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) on_reconnecting: Vec<OnReconnecting>,
    pub(crate) retry_if: Option<RetryIf>,
    pub(crate) reconnect_if: Option<ReconnectIf>,
}

impl Hooks {
    /// Adds a closure for `on_reconnecting`.
    pub(crate) fn on_reconnecting<Fut>(
        &mut self,
        handler: impl Fn(u32, Duration) -> Fut + Send + Sync + 'static,
    ) where
        Fut: Future<Output: IntoHandlerOutcome> + Send + 'static,
    {
        self.on_reconnecting.push(Box::new(move |attempt, delay| {
            let handling = handler(attempt, delay);
            Box::pin(async move { handling.await.into_outcome() })
        }));
    }
}

/// What a client's task and handles share.
pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    pub(crate) options: ClientOptions,
    pub(crate) queue: Option<Arc<Queue>>,
    /// None once the client has ended, since what they hold may lead back here.
    hooks: Mutex<Arc<Hooks>>,
    current: Mutex<Current>,
    /// Becomes true, once, when the client is to end.
    pub(crate) disconnecting: watch::Sender<bool>,
}

/// The connection of the moment.
#[derive(Debug)]
struct Current {
    session: Option<Session>,
    /// Why the latest attempt to have another one failed.
    failure: Option<Error>,
    ended: bool,
}

impl Shared {
    pub(crate) fn new(hub: Arc<Hub>, options: ClientOptions, hooks: Hooks) -> Self {
        let queued = options.reconnect.as_ref().and_then(|reconnect| reconnect.max_queued_bytes);
        Self {
            hub,
            options,
            queue: queued.map(|bytes| Arc::new(Queue::new(bytes))),
            hooks: Mutex::new(Arc::new(hooks)),
            current: Mutex::new(Current { session: None, failure: None, ended: false }),
            disconnecting: watch::channel(false).0,
        }
    }

    /// The latest session; between two connections the one that ended.
    pub(crate) fn session(&self) -> Option<Session> {
        self.current.lock().session.clone()
    }

    /// Why the latest attempt failed, if it did.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.current.lock().failure.clone()
    }

    fn failed(&self, error: ConnectError) -> Error {
        let error = Error::new(ErrorKind::Connect, error);
        let replaced = self.current.lock().failure.replace(error.clone());
        // It may hold an error of a hook: the user's code, and not under the lock.
        drop(replaced);
        error
    }

    fn connected(&self, session: Session) {
        let mut current = self.current.lock();
        let replaced = (current.session.replace(session), current.failure.take());
        drop(current);
        // As above; and what is in the items of a session is the user's, too.
        drop(replaced);
    }

    /// The state of the client, not of one connection: between two connections it is connecting.
    pub(crate) fn state(&self) -> ConnectionState {
        let current = self.current.lock();
        if current.ended {
            return ConnectionState::Closed;
        }
        match current.session.as_ref().map(Session::state) {
            None => ConnectionState::Connecting,
            Some(ConnectionState::Closed) if self.options.reconnect.is_some() => ConnectionState::Connecting,
            Some(state) => state,
        }
    }

    /// To be called without a lock: they are the user's code.
    fn hooks(&self) -> Arc<Hooks> {
        self.hooks.lock().clone()
    }

    /// Whether an error is worth another attempt.
    fn is_worth_it(&self, error: &ConnectError) -> bool {
        match &self.hooks().retry_if {
            // A panic in it decides nothing: the usual answer stands.
            Some(retry_if) => catch_unwind_in(|| retry_if(error)).unwrap_or_else(|_| error.is_retryable()),
            None => error.is_retryable(),
        }
    }

    /// Whether a connection that ended for `reason` is to be replaced.
    fn is_to_be_replaced(&self, reason: DisconnectReason) -> bool {
        if reason == DisconnectReason::ClosedByClient || self.is_disconnecting() {
            return false;
        }
        match (&self.hooks().reconnect_if, self.session()) {
            // A panic in it decides nothing, either.
            (Some(reconnect_if), Some(session)) => {
                catch_unwind_in(|| reconnect_if(&session, reason)).unwrap_or(true)
            }
            _ => true,
        }
    }

    fn is_disconnecting(&self) -> bool {
        *self.disconnecting.borrow()
    }

    async fn disconnect_wanted(&self) {
        // The sender is ours, so waiting cannot fail.
        let _ = self.disconnecting.subscribe().wait_for(|wanted| *wanted).await;
    }
}

/// Opens a connection within the budget, and publishes its session. Hooks and resolvers run in here, and may panic.
async fn open<E: Endpoint>(endpoint: &E, shared: &Shared, attempt: u32) -> Result<E::Ready, ConnectError> {
    let budget = shared.options.connect_timeout;
    let opening = catch_unwind_of(endpoint.open(shared, attempt));
    let ready = tokio::time::timeout(budget, opening)
        .await
        .map_err(|_| ConnectError::TimedOut(budget))?
        .map_err(ConnectError::Panic)??;
    let session = E::session(&ready);
    // Published before the look: a disconnect sees this session, or is seen here.
    shared.connected(session.clone());
    if shared.is_disconnecting() {
        session.start_close(DisconnectReason::ClosedByClient);
    }
    Ok(ready)
}

/// Gets the first connection, then runs it and what replaces it in a task.
///
/// That it is `Send` is proved here, for any handlers. Where it is spawned the compiler cannot, if a closure among them captures
/// a reference, were it a `&'static str` (rust-lang/rust#110338).
#[expect(clippy::manual_async_fn, reason = "an `async fn` cannot say that it is `Send`")]
pub(crate) fn launch<E: Endpoint>(
    endpoint: E,
    shared: Arc<Shared>,
) -> impl Future<Output = Result<ClientHandle, ConnectError>> + Send {
    async move {
        let mut delays = shared.options.reconnect.as_ref().map(Delays::new);
        let ready = match (open(&endpoint, &shared, 0).await, &mut delays) {
            (Ok(ready), _) => ready,
            (Err(error), None) => return Err(error),
            (Err(error), Some(delays)) => {
                let most = delays.options().max_first_attempts.map(|attempts| attempts - 1);
                match retry(&endpoint, &shared, delays, most, Some(error)).await {
                    Retried::Connected(ready) => ready,
                    Retried::Failed(error, _) => return Err(error),
                    Retried::Unwanted => unreachable!("nobody has a handle to disconnect yet"),
                }
            }
        };
        Ok(start(endpoint, ready, delays, shared))
    }
}

/// Runs the first connection, and what replaces it, in a task.
fn start<E: Endpoint>(
    endpoint: E,
    ready: E::Ready,
    delays: Option<Delays>,
    shared: Arc<Shared>,
) -> ClientHandle {
    let (running, ended) = watch::channel(());
    let handle = ClientHandle::new(shared.clone(), ended);
    let life = Life { shared: shared.clone(), _running: running };
    let supervised = supervise(endpoint, ready, delays, shared);
    tokio::spawn(async move {
        supervised.await;
        drop(life);
    });
    handle
}

/// The life of a client's task. Dropping it tells whoever waits that the client is over: at its end, and where a runtime
/// that shuts down drops the task.
struct Life {
    shared: Arc<Shared>,
    /// Goes last: when it is gone, all else has been told.
    _running: watch::Sender<()>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.shared.current.lock().ended = true;
        if let Some(queue) = &self.shared.queue {
            queue.over(self.shared.session().and_then(|session| session.disconnect_reason()));
        }
        let hooks = mem::take(&mut *self.shared.hooks.lock());
        drop(hooks);
    }
}

/// Runs `ready`, and what replaces it, to the end of the client.
async fn supervise<E: Endpoint>(
    endpoint: E,
    mut ready: E::Ready,
    mut delays: Option<Delays>,
    shared: Arc<Shared>,
) {
    loop {
        let began = Instant::now();
        let reason = endpoint.run(ready).await;
        if let Some(queue) = &shared.queue {
            queue.lost();
        }
        let next = match &mut delays {
            Some(delays) if shared.is_to_be_replaced(reason) => {
                delays.lasted(began.elapsed());
                replace(&endpoint, delays, &shared).await
            }
            _ => None,
        };
        match next {
            Some(next) => ready = next,
            None => break,
        }
    }
}

/// A new connection; `None` once attempts have failed for good or the client is to end.
async fn replace<E: Endpoint>(endpoint: &E, delays: &mut Delays, shared: &Shared) -> Option<E::Ready> {
    let most = delays.options().max_attempts;
    match retry(endpoint, shared, delays, most, None).await {
        Retried::Connected(ready) => Some(ready),
        Retried::Unwanted => None,
        Retried::Failed(error, why) => {
            // Why nothing follows is news, even where the error itself would not be.
            let is_news = !error.is_expected() || why == GaveUp::Hopeless || !shared.is_worth_it(&error);
            let error = shared.failed(error);
            trace::gave_up(&error);
            if is_news {
                report(endpoint, shared, error).await;
            }
            None
        }
    }
}

/// What a row of attempts came to.
enum Retried<R> {
    Connected(R),
    Failed(ConnectError, GaveUp),
    /// The client is to end.
    Unwanted,
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GaveUp {
    /// There have been enough; whether the last error would be worth another one nobody has asked.
    Exhausted,
    /// It is not.
    Hopeless,
}

/// Makes up to `most` attempts, each after its delay, until one succeeds; `failed` is the error of an attempt before. An error that
/// is not the last one is reported if it needs a person.
async fn retry<E: Endpoint>(
    endpoint: &E,
    shared: &Shared,
    delays: &mut Delays,
    most: Option<u32>,
    mut failed: Option<ConnectError>,
) -> Retried<E::Ready> {
    let mut attempt: u32 = 0;
    loop {
        if let Some(error) = failed.take_if(|_| most.is_some_and(|most| attempt >= most)) {
            return Retried::Failed(error, GaveUp::Exhausted);
        }
        if let Some(error) = failed.take_if(|error| !shared.is_worth_it(error)) {
            return Retried::Failed(error, GaveUp::Hopeless);
        }
        attempt = attempt.saturating_add(1);
        let delay = delays.next(failed.as_ref().and_then(ConnectError::retry_after));
        if let Some(error) = failed.take() {
            let is_expected = error.is_expected();
            let error = shared.failed(error);
            if is_expected {
                trace::attempt_failed(&error);
            } else {
                report(endpoint, shared, error).await;
            }
        }
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(target: "stormsocket::client", attempt, delay_ms, "reconnecting");
        let opening = async {
            tokio::time::sleep(delay).await;
            for handler in &shared.hooks().on_reconnecting {
                match catch_unwind_of(async { handler(attempt, delay).await }).await {
                    Ok(Ok(())) => {}
                    Ok(Err(failures)) => {
                        for error in failures.into_errors() {
                            report(endpoint, shared, Error::new(ErrorKind::Handler, error)).await;
                        }
                    }
                    Err(panic) => report(endpoint, shared, Error::new(ErrorKind::Panic, panic)).await,
                }
            }
            open(endpoint, shared, attempt).await
        };
        let opened = tokio::select! {
            biased;
            () = shared.disconnect_wanted() => return Retried::Unwanted,
            opened = opening => opened,
        };
        match opened {
            Ok(ready) => return Retried::Connected(ready),
            Err(error) => failed = Some(error),
        }
    }
}

/// Tells middlewares and handlers of an error that no session has; a panic of theirs goes no further.
async fn report<E: Endpoint>(endpoint: &E, shared: &Shared, error: Error) {
    shared.hub.count_error(&error);
    let told = catch_unwind_of(async {
        if let Some(middleware) = shared.hub.middleware() {
            middleware.error(None, &error).await;
        }
        endpoint.report(&error).await;
    });
    drop(told.await);
}

#[cfg(test)]
mod tests;
