//! The TCP client.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use storm_core::driver::Driver;
use storm_core::events::{Chain, NoEvents, TcpHandler};
use storm_core::middleware::{Middleware, MiddlewareChain};
use storm_core::trace::traced;
use storm_core::{DisconnectReason, Error, Events, Hub, IntoHandlerOutcome, Role, Session};
use storm_framing::{MessageFramer, RawFramer};
use storm_transport::connect::Purpose;
#[cfg(feature = "tls")]
use storm_transport::tls::TlsConnector;
use storm_transport::{ConnectAddr, Connection, Framed, FramedEncode, Link};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::options::option_setters;
use crate::queue::Greeted;
#[cfg(feature = "tls")]
use crate::secure::{connector, host_of, secure};
use crate::supervise::{Endpoint, Hooks, Shared, launch};
use crate::way::{Given, Way};
use crate::{ClientHandle, ClientOptions, ConnectError};

/// A TCP client to be: subscribe to events, set options, [`connect`](Self::connect).
///
/// ```no_run
/// use storm_client::{ReconnectOptions, TcpClient};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = TcpClient::new("127.0.0.1:5000")
///     .reconnect(ReconnectOptions::default())
///     .on_data(|_, data| async move { println!("received {data:?}") })
///     .connect()
///     .await?;
/// client.send("hello").await?;
/// client.disconnect().await;
/// # Ok(())
/// # }
/// ```
///
/// Handlers run one at a time, in order. Several handlers may be added for an event; they run in the order they were
/// added. A handler's error reaches `on_error`; a panic does, too, and aborts the connection.
#[must_use = "a client does nothing until it connects"]
pub struct TcpClient<E = NoEvents, F = RawFramer> {
    addr: ConnectAddr,
    options: ClientOptions,
    middleware: MiddlewareChain,
    hooks: Hooks,
    framer: F,
    events: E,
}

impl Default for TcpClient {
    /// A client for `127.0.0.1:5000`.
    fn default() -> Self {
        Self::new("127.0.0.1:5000")
    }
}

impl TcpClient {
    /// A client for `addr`: `host:port`, a socket address, or the [`Path`](std::path::Path) of a unix socket. Nothing is opened yet.
    pub fn new(addr: impl Into<ConnectAddr>) -> Self {
        Self {
            addr: addr.into(),
            options: ClientOptions::default(),
            middleware: MiddlewareChain::default(),
            hooks: Hooks::default(),
            framer: RawFramer,
            events: NoEvents,
        }
    }
}

impl<E, F> TcpClient<E, F> {
    /// Replaces all options.
    pub fn options(mut self, options: ClientOptions) -> Self {
        self.options = options;
        self
    }

    option_setters!(options);

    /// Sets how messages are told apart in the stream of bytes. Default [`RawFramer`]: not at all.
    pub fn framer<G>(self, framer: G) -> TcpClient<E, G>
    where
        G: MessageFramer + Clone + Sync,
    {
        let Self { addr, options, middleware, hooks, events, .. } = self;
        TcpClient { addr, options, middleware, hooks, framer, events }
    }

    /// Adds a middleware; hooks run in the order of registration, before the handlers.
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware.push(middleware);
        self
    }

    fn and<N>(self, next: N) -> TcpClient<Chain<E, N>, F> {
        let Self { addr, options, middleware, hooks, framer, events } = self;
        TcpClient { addr, options, middleware, hooks, framer, events: Chain(events, next) }
    }

    storm_core::event_setters!(TcpClient<[F]>, Session, on_data(Bytes), on_data_ref(&[u8], OnDataRef), TcpHandler,
        /// Runs for each message: one frame, or with the raw framer what one read brought. Data that is kept keeps the read
        /// buffer it was cut from, 65 to 520 KiB: copy what is small and stays (`Bytes::copy_from_slice`).
        #[doc(alias = "on_message")]
    );

    /// Decides which errors of an attempt are worth another one, instead of [`ConnectError::is_retryable`] or of what was said
    /// here before. An error that is not ends the client, and reaches `on_error`.
    pub fn retry_if(mut self, is_worth_it: impl Fn(&ConnectError) -> bool + Send + Sync + 'static) -> Self {
        self.hooks.retry_if = Some(Box::new(is_worth_it));
        self
    }

    /// Decides, with [`reconnect`](Self::reconnect), whether a connection that has ended is to be replaced, by its session and
    /// the reason; default: always. If not, the client ends. Asked after `on_disconnected`, and not where this side has closed
    /// the connection, which ends the client anyhow. A panic in it decides nothing. The last one set counts.
    ///
    /// ```
    /// use storm_client::{ReconnectOptions, TcpClient};
    /// use storm_core::DisconnectReason;
    ///
    /// let client = TcpClient::new("127.0.0.1:5000")
    ///     .reconnect(ReconnectOptions::default())
    ///     // A server that ends the connection by itself has no use for us.
    ///     .reconnect_if(|_, reason| reason != DisconnectReason::ClosedByServer);
    /// ```
    pub fn reconnect_if(
        mut self,
        is_to_be_replaced: impl Fn(&Session, DisconnectReason) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.hooks.reconnect_if = Some(Box::new(is_to_be_replaced));
        self
    }

    /// Runs before each attempt after the first of all, when the delay has passed, with the number of the attempt (from 1
    /// after each loss) and the delay. Its error reaches `on_error`, and the attempt is made all the same;
    /// [`ClientHandle::last_error`] says why the one before failed. A closure that never returns says what it would return:
    /// `async |_, _| -> () { std::process::exit(1) }`.
    pub fn on_reconnecting<H, Fut>(mut self, handler: H) -> Self
    where
        H: Fn(u32, Duration) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoHandlerOutcome> + Send + 'static,
    {
        self.hooks.on_reconnecting(handler);
        self
    }
}

impl<E, F> TcpClient<E, F>
where
    E: Events<Session, Bytes>,
    F: MessageFramer + Clone + Sync,
{
    /// Connects, and runs the connection (and those that replace it) in the background. Needs a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the attempt.
    ///
    /// # Errors
    /// The options do not go together, or the first attempts failed: one, unless
    /// [`max_first_attempts`](crate::ReconnectOptions::max_first_attempts) allows more.
    pub async fn connect(self) -> Result<ClientHandle, ConnectError> {
        self.connect_with(None).await
    }

    /// [`connect`](Self::connect), over a stream that is open already; the address says at most which host TLS is to verify.
    /// An abort resets a TCP socket, and drops any other stream.
    /// What concerns the way to the server (resolver, proxy, options of the socket) has no effect.
    ///
    /// # Cancel safety
    /// Dropping the future drops the stream.
    ///
    /// # Errors
    /// As [`connect`](Self::connect). There is no second stream, so [`reconnect`](Self::reconnect) is a
    /// [`ConfigError`](storm_core::ConfigError).
    pub async fn connect_over<S>(self, stream: S) -> Result<ClientHandle, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let given = Given::new(&self.options, stream)?;
        self.connect_with(Some(given)).await
    }

    async fn connect_with(self, given: Option<Given>) -> Result<ClientHandle, ConnectError> {
        let Self { addr, options, middleware, hooks, framer, events } = self;
        options.validate()?;
        let hub = Hub::new(options.session.clone(), middleware)?;
        let shared = Arc::new(Shared::new(hub, options, hooks));
        #[cfg(feature = "tls")]
        let tls = match &shared.options.tls {
            Some(tls) => Some(connector(tls.clone(), host_of(&addr)).await?),
            None => None,
        };
        let endpoint = TcpEndpoint {
            way: Way::new(addr, given),
            #[cfg(feature = "tls")]
            tls,
            framer,
            events: Chain(events, Greeted(shared.queue.clone())),
        };
        launch(endpoint, shared).await
    }
}

impl<E, F> std::fmt::Debug for TcpClient<E, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpClient")
            .field("addr", &self.addr)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

struct TcpEndpoint<E, F> {
    way: Way,
    #[cfg(feature = "tls")]
    tls: Option<TlsConnector>,
    framer: F,
    events: Chain<E, Greeted>,
}

impl<E, F> TcpEndpoint<E, F> {
    /// What its connections are for, as far as the way to the server depends on it.
    fn purpose(&self) -> Purpose {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return Purpose::Tls;
        }
        Purpose::Tcp
    }
}

impl<E, F> Endpoint for TcpEndpoint<E, F>
where
    E: Events<Session, Bytes>,
    F: MessageFramer + Clone + Sync,
{
    type Ready = Connection<Link, Framed<F>>;

    async fn open(&self, shared: &Shared, _: u32) -> Result<Self::Ready, ConnectError> {
        let (stream, peer) = self.way.open(&shared.options, self.purpose()).await?;
        #[cfg(feature = "tls")]
        let (stream, peer) = secure(stream, peer, self.tls.as_ref()).await?;
        // One session has no broadcasts to deliver.
        let (stream, _) = stream.share();
        let encoder = FramedEncode::new(self.framer.clone(), None);
        let driver = Driver::register(&shared.hub, Role::Client, peer, encoder);
        Ok(Connection::new(stream, Framed::new(self.framer.clone()), driver, BytesMut::new()))
    }

    fn session(ready: &Self::Ready) -> Session {
        ready.session().clone()
    }

    async fn run(&self, ready: Self::Ready) -> DisconnectReason {
        let session = ready.session().clone();
        traced(&session, "tcp", ready.run(&self.events)).await
    }

    async fn report(&self, error: &Error) {
        self.events.error(None, error).await;
    }
}
