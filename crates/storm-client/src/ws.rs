//! The WebSocket client.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use storm_core::events::{Chain, NoEvents};
use storm_core::middleware::{Middleware, MiddlewareChain};
use storm_core::trace::traced;
use storm_core::{
    BoxError, ConfigError, DisconnectReason, Error, Events, Hub, IntoHandlerOutcome, Message, MessageRef,
    Role, Session,
};
use storm_transport::connect::Purpose;
#[cfg(feature = "tls")]
use storm_transport::tls::TlsConnector;
use storm_transport::ws::upgrade::{UpgradeError, exchange};
use storm_transport::ws::{Agreed, WsHandler, WsOptions, WsProtocol, WsSession};
use storm_transport::{ConnectAddr, Connection, Link};
use storm_ws_proto::handshake::ClientRequest;
use storm_ws_proto::http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::options::option_setters;
use crate::queue::Greeted;
#[cfg(feature = "tls")]
use crate::secure::{connector, secure};
use crate::supervise::{Endpoint, Hooks, Shared, launch};
use crate::way::{Given, Way};
use crate::{ClientHandle, ClientOptions, ConnectError};

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type BeforeConnect = Box<dyn Fn(u32, ClientRequest) -> Boxed<Result<ClientRequest, BoxError>> + Send + Sync>;

/// A WebSocket client to be: subscribe to events, set options, [`connect`](Self::connect).
///
/// ```no_run
/// use storm_client::{ReconnectOptions, WsClient};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = WsClient::new("ws://localhost:8080/chat")
///     .header("Authorization", "Bearer my-token")
///     .reconnect(ReconnectOptions::default())
///     .on_message(|_, message| async move {
///         if let Some(text) = message.text() {
///             println!("the server says: {text}");
///         }
///     })
///     .connect()
///     .await?;
/// client.send_text("hello").await?;
/// client.disconnect().await;
/// # Ok(())
/// # }
/// ```
///
/// Handlers run one at a time, in order. Several handlers may be added for an event; they run in the order they were
/// added. A handler's error reaches `on_error`; a panic does, too, and closes the connection with code 1011.
#[must_use = "a client does nothing until it connects"]
pub struct WsClient<E = NoEvents> {
    uri: String,
    address: Option<ConnectAddr>,
    headers: Vec<(String, String)>,
    protocols: Vec<String>,
    options: ClientOptions,
    ws: WsOptions,
    middleware: MiddlewareChain,
    hooks: Hooks,
    before_connect: Option<BeforeConnect>,
    events: E,
}

impl Default for WsClient {
    /// A client for `ws://localhost:8080`.
    fn default() -> Self {
        Self::new("ws://localhost:8080")
    }
}

impl WsClient {
    /// A client for a `ws://` URI, or with feature `tls` a `wss://` one. Nothing is opened yet.
    ///
    /// The port is 80, or 443, unless the URI says another. A name in another script must be in its ASCII form (`xn--`). A fragment
    /// is left out, and so are user name and password: servers that want these get an `Authorization` [`header`](Self::header).
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            address: None,
            headers: Vec::new(),
            protocols: Vec::new(),
            options: ClientOptions::default(),
            ws: WsOptions::default(),
            middleware: MiddlewareChain::default(),
            hooks: Hooks::default(),
            before_connect: None,
            events: NoEvents,
        }
    }
}

impl<E> WsClient<E> {
    /// Connects there, whatever host and port the URI names: to a unix socket, say. The request, and what TLS verifies, are as
    /// the URI has them.
    ///
    /// ```no_run
    /// use storm_client::WsClient;
    ///
    /// let client = WsClient::new("ws://localhost/chat").address(std::path::Path::new("/run/chat.socket"));
    /// ```
    pub fn address(mut self, addr: impl Into<ConnectAddr>) -> Self {
        self.address = Some(addr.into());
        self
    }

    /// Replaces all options but those of [`ws`](Self::ws).
    pub fn options(mut self, options: ClientOptions) -> Self {
        self.options = options;
        self
    }

    option_setters!(options);

    /// Replaces the WebSocket options: heartbeat, limits, compression.
    pub fn ws(mut self, ws: WsOptions) -> Self {
        self.ws = ws;
        self
    }

    /// Sets [`WsOptions::heartbeat`].
    pub fn heartbeat(mut self, heartbeat: storm_ws_proto::HeartbeatOptions) -> Self {
        self.ws = self.ws.heartbeat(heartbeat);
        self
    }

    /// Sets [`WsOptions::limits`].
    pub fn limits(mut self, limits: storm_ws_proto::Limits) -> Self {
        self.ws = self.ws.limits(limits);
        self
    }

    /// Sets [`WsOptions::head_limits`].
    pub fn head_limits(mut self, limits: storm_ws_proto::handshake::HeadLimits) -> Self {
        self.ws = self.ws.head_limits(limits);
        self
    }

    /// Sets [`WsOptions::deflate`]: offers compression.
    #[cfg(feature = "deflate")]
    pub fn deflate(mut self, deflate: impl Into<Option<storm_ws_proto::DeflateOptions>>) -> Self {
        self.ws = self.ws.deflate(deflate);
        self
    }

    /// Adds a header to the request. One that cannot be sent (control characters, or one of the handshake's own) is an
    /// error of [`connect`](Self::connect), before anything is opened. The same name twice is two headers.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Offers these subprotocols, the most wanted first, behind those of earlier calls. [`WsSession::protocol`] says which one
    /// the server chose, [`WsSession::response_headers`] what else it has answered.
    pub fn subprotocols<T: Into<String>>(mut self, protocols: impl IntoIterator<Item = T>) -> Self {
        self.protocols.extend(protocols.into_iter().map(Into::into));
        self
    }

    /// Runs before each attempt to connect, the first one (number 0) included, and may change the request: a fresh token,
    /// say. Within the connect budget. An error ends the attempt, with [`ConnectError::Hook`], and so does a panic; both
    /// are worth another attempt, unless [`retry_if`](Self::retry_if) says otherwise. There is one: the last one set.
    ///
    /// ```no_run
    /// use std::io;
    /// use storm_client::{ReconnectOptions, WsClient};
    ///
    /// # async fn fetch_token() -> io::Result<String> { Ok("fresh".into()) }
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = WsClient::new("ws://localhost:8080/chat")
    ///     .reconnect(ReconnectOptions::default())
    ///     .before_connect(|_attempt, request| async move {
    ///         let token = fetch_token().await?;
    ///         Ok(request.set_header("Authorization", format!("Bearer {token}"))?)
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn before_connect<H, Fut>(mut self, hook: H) -> Self
    where
        H: Fn(u32, ClientRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ClientRequest, BoxError>> + Send + 'static,
    {
        self.before_connect = Some(Box::new(move |attempt, request| Box::pin(hook(attempt, request))));
        self
    }

    /// Adds a middleware; hooks run in the order of registration, before the handlers.
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware.push(middleware);
        self
    }

    fn and<N>(self, next: N) -> WsClient<Chain<E, N>> {
        WsClient {
            uri: self.uri,
            address: self.address,
            headers: self.headers,
            protocols: self.protocols,
            options: self.options,
            ws: self.ws,
            middleware: self.middleware,
            hooks: self.hooks,
            before_connect: self.before_connect,
            events: Chain(self.events, next),
        }
    }

    storm_core::event_setters!(WsClient<[]>, WsSession, on_message(Message), on_message_ref(MessageRef<'_>, OnMessageRef), WsHandler,
        /// Runs for each message, text or binary. One that is kept keeps the read buffer it was cut from, 65 to 520 KiB: copy
        /// what is small and stays.
        #[doc(alias = "on_data")]
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
    /// use storm_client::{ReconnectOptions, WsClient};
    ///
    /// let client = WsClient::new("ws://localhost:8080")
    ///     .reconnect(ReconnectOptions::default())
    ///     // 4001: banned, in this application's words.
    ///     .reconnect_if(|session, _| session.close_frame().is_none_or(|frame| u16::from(frame.code) != 4001));
    /// ```
    pub fn reconnect_if(
        mut self,
        is_to_be_replaced: impl Fn(&WsSession, DisconnectReason) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.hooks.reconnect_if = Some(Box::new(move |session, reason| {
            WsSession::of(session).is_none_or(|session| is_to_be_replaced(&session, reason))
        }));
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

    /// The request, where it goes, and the host to verify if it goes there encrypted.
    fn request(&self) -> Result<(ConnectAddr, ClientRequest, Option<String>), ConnectError> {
        let invalid =
            || ConnectError::Config(ConfigError::new("uri", "not a ws:// or wss:// URI with a host"));
        let uri: Uri = self.uri.parse().map_err(|_| invalid())?;
        let secure = uri.scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("wss"));
        if secure && cfg!(not(feature = "tls")) {
            return Err(ConfigError::new("uri", "wss:// needs TLS, which this build does not have").into());
        }
        #[cfg(feature = "tls")]
        if !secure && self.options.tls.is_some() {
            return Err(ConfigError::new("tls", "a ws:// URI is not encrypted: use wss://").into());
        }
        let mut request = ClientRequest::new(&uri)?;
        for protocol in &self.protocols {
            request = request.protocol(protocol)?;
        }
        for (name, value) in &self.headers {
            request = request.header(name, value)?;
        }
        #[cfg(feature = "deflate")]
        if let Some(deflate) = self.ws.deflate {
            request = request.deflate(deflate);
        }
        let host = uri.host().ok_or_else(invalid)?;
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok((format!("{host}:{port}").into(), request, secure.then(|| host.to_owned())))
    }
}

impl<E: Events<WsSession, Message>> WsClient<E> {
    /// Connects, upgrades, and runs the connection (and those that replace it) in the background. Needs a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the attempt.
    ///
    /// # Errors
    /// The options do not go together, or the first attempts failed: one, unless
    /// [`max_first_attempts`](crate::ReconnectOptions::max_first_attempts) allows more. A server that refuses is
    /// [`ConnectError::Refused`], with its status, headers and body.
    pub async fn connect(self) -> Result<ClientHandle, ConnectError> {
        self.connect_with(None).await
    }

    /// [`connect`](Self::connect), over a stream that is open already; the URI says what to ask for, and for `wss://` which
    /// host TLS is to verify. An abort resets a TCP socket, and drops any other stream.
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
        self.options.validate()?;
        self.ws.validate()?;
        let (addr, request, secure_host) = self.request()?;
        let addr = self.address.unwrap_or(addr);
        #[cfg(feature = "tls")]
        let tls = match secure_host {
            Some(host) => Some(connector(self.options.tls.clone().unwrap_or_default(), Some(host)).await?),
            None => None,
        };
        #[cfg(not(feature = "tls"))]
        let _ = secure_host;
        let hub = Hub::new(self.options.session.clone(), self.middleware)?;
        let shared = Arc::new(Shared::new(hub, self.options, self.hooks));
        let endpoint = WsEndpoint {
            way: Way::new(addr, given),
            #[cfg(feature = "tls")]
            tls,
            request,
            ws: self.ws,
            before_connect: self.before_connect,
            events: Chain(self.events, Greeted(shared.queue.clone())),
        };
        launch(endpoint, shared).await
    }
}

impl<E> std::fmt::Debug for WsClient<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers may hold credentials, and so may what is left out of the URI.
        f.debug_struct("WsClient")
            .field("uri", &without_secrets(&self.uri))
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A URI without user name, password and query; nothing of what is none.
fn without_secrets(uri: &str) -> String {
    let uri = uri.parse::<Uri>().unwrap_or_default();
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else { return String::new() };
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{host}{port}{}", uri.path())
}

struct WsEndpoint<E> {
    way: Way,
    #[cfg(feature = "tls")]
    tls: Option<TlsConnector>,
    request: ClientRequest,
    ws: WsOptions,
    before_connect: Option<BeforeConnect>,
    events: Chain<E, Greeted>,
}

impl<E> WsEndpoint<E> {
    /// What its connections are for, as far as the way to the server depends on it.
    fn purpose(&self) -> Purpose {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return Purpose::Tls;
        }
        Purpose::Ws
    }
}

impl<E: Events<WsSession, Message>> Endpoint for WsEndpoint<E> {
    type Ready = Connection<Link, WsProtocol>;

    async fn open(&self, shared: &Shared, attempt: u32) -> Result<Self::Ready, ConnectError> {
        let mut request = self.request.clone();
        if let Some(before_connect) = &self.before_connect {
            request = before_connect(attempt, request).await.map_err(ConnectError::from_hook)?;
        }
        let (stream, peer) = self.way.open(&shared.options, self.purpose()).await?;
        #[cfg(feature = "tls")]
        let (stream, peer) = secure(stream, peer, self.tls.as_ref()).await?;
        let mut stream = stream;
        let (bytes, handshake) = request.encode(rand::random(), self.ws.head_limits);
        let mut early = BytesMut::new();
        let connected = match exchange(&mut stream, &bytes, &mut early, handshake).await {
            Ok(connected) => connected,
            Err(UpgradeError::Head(error)) => {
                return Err(ConnectError::Refused { error: Box::new(error), body: early.freeze() });
            }
            Err(UpgradeError::Io(error)) => return Err(error.into()),
            Err(_) => return Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into()),
        };
        let mut agreed = Agreed::default();
        agreed.protocol = connected.protocol;
        agreed.target = request.target().to_owned();
        agreed.response_headers = Some(Box::new(connected.headers));
        #[cfg(feature = "deflate")]
        {
            agreed.deflate = connected.deflate;
        }
        // One session has no broadcasts to deliver.
        let (stream, _) = stream.share();
        let (protocol, driver) =
            WsProtocol::register(&shared.hub, Role::Client, peer, agreed, &self.ws, None);
        Ok(Connection::new(stream, protocol, driver, early))
    }

    fn session(ready: &Self::Ready) -> Session {
        ready.session().clone()
    }

    async fn run(&self, ready: Self::Ready) -> DisconnectReason {
        let session = ready.session().clone();
        traced(&session, "ws", ready.run(&self.events)).await
    }

    async fn report(&self, error: &Error) {
        self.events.error(None, error).await;
    }
}
