//! One connection after the other, until this side has had enough.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use storm_core::isolation::catch_unwind_of;
use storm_core::{ConnectionState, DisconnectReason, Error, ErrorKind, Hub, Session};
use tokio::sync::watch;

use crate::{ClientOptions, ConnectError, ReconnectOptions};

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
    Box<dyn Fn(u32, Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What a client's task and handles share.
pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    pub(crate) options: ClientOptions,
    pub(crate) on_reconnecting: Vec<OnReconnecting>,
    current: Mutex<Current>,
    /// Becomes true, once, when the client is to end.
    pub(crate) disconnecting: watch::Sender<bool>,
}

/// The connection of the moment.
#[derive(Debug)]
struct Current {
    session: Option<Session>,
    ended: bool,
}

impl Shared {
    pub(crate) fn new(hub: Arc<Hub>, options: ClientOptions, on_reconnecting: Vec<OnReconnecting>) -> Self {
        Self {
            hub,
            options,
            on_reconnecting,
            current: Mutex::new(Current { session: None, ended: false }),
            disconnecting: watch::channel(false).0,
        }
    }

    /// The latest session; between two connections the one that ended.
    pub(crate) fn session(&self) -> Option<Session> {
        self.current.lock().session.clone()
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

    fn is_disconnecting(&self) -> bool {
        *self.disconnecting.borrow()
    }

    async fn disconnect_wanted(&self) {
        // The sender is ours, so waiting cannot fail.
        let _ = self.disconnecting.subscribe().wait_for(|wanted| *wanted).await;
    }
}

/// Opens a connection within the budget, and publishes its session.
pub(crate) async fn open<E: Endpoint>(
    endpoint: &E,
    shared: &Shared,
    attempt: u32,
) -> Result<E::Ready, ConnectError> {
    let budget = shared.options.connect_timeout;
    let ready = tokio::time::timeout(budget, endpoint.open(shared, attempt))
        .await
        .map_err(|_| ConnectError::TimedOut(budget))??;
    let session = E::session(&ready);
    // Published before the look: a disconnect sees this session, or is seen here.
    shared.current.lock().session = Some(session.clone());
    if shared.is_disconnecting() {
        session.start_close(DisconnectReason::ClosedByClient);
    }
    Ok(ready)
}

/// Runs `ready`, and what replaces it, to the end of the client.
pub(crate) async fn supervise<E: Endpoint>(endpoint: E, mut ready: E::Ready, shared: Arc<Shared>) {
    loop {
        let reason = endpoint.run(ready).await;
        let wanted = reason == DisconnectReason::ClosedByClient || shared.is_disconnecting();
        let next = match &shared.options.reconnect {
            Some(reconnect) if !wanted => replace(&endpoint, reconnect, &shared).await,
            _ => None,
        };
        match next {
            Some(next) => ready = next,
            None => break,
        }
    }
    shared.current.lock().ended = true;
}

/// A new connection; `None` once all attempts have failed or the client is to end.
async fn replace<E: Endpoint>(
    endpoint: &E,
    reconnect: &ReconnectOptions,
    shared: &Shared,
) -> Option<E::Ready> {
    let mut attempt = 0;
    while reconnect.max_attempts.is_none_or(|most| attempt < most) {
        attempt += 1;
        tokio::select! {
            biased;
            () = shared.disconnect_wanted() => return None,
            () = tokio::time::sleep(reconnect.delay) => {}
        }
        for handler in &shared.on_reconnecting {
            if let Err(panic) = catch_unwind_of(async { handler(attempt, reconnect.delay).await }).await {
                report(endpoint, shared, Error::new(ErrorKind::Panic, panic)).await;
            }
        }
        let opened = tokio::select! {
            biased;
            () = shared.disconnect_wanted() => return None,
            opened = open(endpoint, shared, attempt) => opened,
        };
        match opened {
            Ok(ready) => return Some(ready),
            Err(error) if error.is_expected() => {}
            Err(error) => report(endpoint, shared, Error::new(ErrorKind::Connect, error)).await,
        }
    }
    None
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
