//! The WebSocket server.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use storm_core::events::{Chain, NoEvents};
use storm_core::middleware::{Middleware, MiddlewareChain};
use storm_core::trace::traced;
use storm_core::{Error, Events, Message, MessageRef, Peer, Role};
use storm_transport::ws::{Agreed, WsHandler, WsOptions, WsProtocol, WsSession};
use storm_transport::{BindAddr, Connection, Stream};
use storm_ws_proto::handshake::{Accept, OriginList, Reject};

use crate::budget::{Ended, within_budget};
use crate::handshake::{HttpRequest, IntoHttpResponse, Rules, UpgradeRequest, handshake};
use crate::options::option_setters;
use crate::prepare::prepare;
use crate::shared::{Endpoint, Shared};
use crate::slots::Slot;
use crate::stages::Stages;
use crate::start::start;
use crate::{ServerHandle, ServerOptions, StartError};

/// A WebSocket server to be: subscribe to events, set options, [`start`](Self::start).
///
/// ```
/// use storm_core::SlowConsumerPolicy;
/// use storm_server::WsServer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = WsServer::bind("127.0.0.1:0")
///     .on_connected(|session| async move { session.join("lobby") })
///     .on_message(|session, message| async move {
///         let others = session.server().groups().broadcast("lobby", message).except(session.id());
///         others.policy(SlowConsumerPolicy::Drop).await
///     })
///     .start()
///     .await?;
/// server.shutdown(std::time::Duration::from_secs(1)).await;
/// # Ok(())
/// # }
/// ```
///
/// Handlers of one session run one at a time, in order. Several handlers may be added for an event; they run in the
/// order they were added. A handler's error reaches `on_error`; a panic does, too, and closes its session with code 1011.
#[must_use = "a server does nothing until it is started"]
pub struct WsServer<E = NoEvents> {
    addrs: Vec<BindAddr>,
    options: ServerOptions,
    ws: WsOptions,
    middleware: MiddlewareChain,
    origins: Option<Vec<String>>,
    rules: Rules,
    events: E,
}

impl Default for WsServer {
    /// A server for `0.0.0.0:5000`.
    fn default() -> Self {
        Self::bind("0.0.0.0:5000")
    }
}

impl WsServer {
    /// A server for `addr`: `host:port`, a socket address, the [`Path`](std::path::Path) of a unix socket, or a listener that is open already, of
    /// the standard library or of tokio. Nothing is bound yet.
    pub fn bind(addr: impl Into<BindAddr>) -> Self {
        Self { addrs: vec![addr.into()], ..Self::unbound() }
    }

    /// A server that listens nowhere: it serves what [`ServerHandle::serve`] is given.
    pub fn unbound() -> Self {
        Self {
            addrs: Vec::new(),
            options: ServerOptions::default(),
            ws: WsOptions::default(),
            middleware: MiddlewareChain::default(),
            origins: None,
            rules: Rules::default(),
            events: NoEvents,
        }
    }
}

impl<E> WsServer<E> {
    /// Listens on `addr`, too. `[::]` takes IPv4 connections as well, unless an IPv4 address with the same port is there.
    pub fn also_bind(mut self, addr: impl Into<BindAddr>) -> Self {
        self.addrs.push(addr.into());
        self
    }

    /// Replaces all options but those of [`ws`](Self::ws).
    pub fn options(mut self, options: ServerOptions) -> Self {
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

    /// Sets [`WsOptions::deflate`]: compresses for clients that offer it, unless [`on_upgrade`](Self::on_upgrade) chooses
    /// ([`Accept::deflate`](storm_ws_proto::handshake::Accept::deflate)).
    #[cfg(feature = "deflate")]
    pub fn deflate(mut self, deflate: impl Into<Option<storm_ws_proto::DeflateOptions>>) -> Self {
        self.ws = self.ws.deflate(deflate);
        self
    }

    /// Lets in browsers from these origins only (`https://example.com`, with a port if it is not the scheme's own);
    /// requests with another origin, or without one, get 403. Default: any. A further call adds to the list.
    pub fn allow_origins<T: Into<String>>(mut self, origins: impl IntoIterator<Item = T>) -> Self {
        self.origins.get_or_insert_default().extend(origins.into_iter().map(Into::into));
        self
    }

    /// Speaks these subprotocols, the most wanted first: the first one a client offers is chosen, unless
    /// [`on_upgrade`](Self::on_upgrade) chooses. A client that offers none of them gets none. A further call
    /// adds to the list, behind.
    pub fn subprotocols<T: Into<String>>(mut self, protocols: impl IntoIterator<Item = T>) -> Self {
        self.rules.protocols.extend(protocols.into_iter().map(Into::into));
        self
    }

    /// Decides on each upgrade request: accepts it, with headers, a subprotocol and compression of its choice, or rejects it
    /// with a status, headers and a body. Runs within the handshake budget; a panic is answered with 500.
    ///
    /// ```
    /// use storm_core::SessionKey;
    /// use storm_server::{Accept, Reject, StatusCode, WsServer};
    ///
    /// static USER: SessionKey<u32> = SessionKey::new("user");
    ///
    /// let server = WsServer::bind("127.0.0.1:0").on_upgrade(|request| async move {
    ///     match request.headers().get("authorization") {
    ///         Some(token) if token == "Bearer open sesame" => {
    ///             // `session.get(&USER)` has it from the beginning.
    ///             request.set(&USER, 1);
    ///             Ok(Accept::new())
    ///         }
    ///         _ => Err(Reject::new(StatusCode::UNAUTHORIZED).text("who are you?")),
    ///     }
    /// });
    /// ```
    ///
    /// There is one such hook: the last one set.
    pub fn on_upgrade<H, Fut>(mut self, hook: H) -> Self
    where
        H: Fn(UpgradeRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Accept, Reject>> + Send + 'static,
    {
        self.rules.on_upgrade = Some(Box::new(move |request| Box::pin(hook(request))));
        self
    }

    /// Answers plain HTTP GET requests on the same port: a health check, a page. HEAD requests get the same answer, less its
    /// body. They may be of HTTP/1.0, and then without `Host`. Each connection gets one answer. Default: they get 426, and those
    /// of HTTP/1.0 get 505. Runs within the handshake budget, which is also the time the answer has to leave: no place for
    /// downloads. A panic, or a mistake in making the answer, is reported and answered with 500. There is one such hook: the last
    /// one set.
    ///
    /// ```
    /// use storm_server::{HttpResponse, StatusCode, WsServer};
    ///
    /// let server = WsServer::bind("127.0.0.1:0").on_http(|request| async move {
    ///     let answer = match request.path() {
    ///         "/health" => HttpResponse::new(StatusCode::OK).text("ok"),
    ///         "/version" => HttpResponse::new(StatusCode::OK)
    ///             .header("content-type", "application/json")?
    ///             .body(r#"{"version": 1}"#),
    ///         _ => HttpResponse::new(StatusCode::NOT_FOUND),
    ///     };
    ///     Ok(answer)
    /// });
    /// ```
    pub fn on_http<H, Fut>(mut self, hook: H) -> Self
    where
        H: Fn(HttpRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoHttpResponse> + Send + 'static,
    {
        self.rules.on_http = Some(Box::new(move |request| {
            let answer = hook(request);
            Box::pin(async move { answer.await.into_response() })
        }));
        self
    }

    /// Adds a middleware; hooks run in the order of registration, before the handlers.
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware.push(middleware);
        self
    }

    fn and<N>(self, next: N) -> WsServer<Chain<E, N>> {
        let Self { addrs, options, ws, middleware, origins, rules, events } = self;
        WsServer { addrs, options, ws, middleware, origins, rules, events: Chain(events, next) }
    }

    storm_core::event_setters!(WsServer<[]>, WsSession, on_message(Message), on_message_ref(MessageRef<'_>, OnMessageRef), WsHandler,
        /// Runs for each message, text or binary. One that is kept keeps the read buffer it was cut from, 65 to 520 KiB: copy
        /// what is small and stays.
        #[doc(alias = "on_data")]
    );
}

impl<E: Events<WsSession, Message>> WsServer<E> {
    /// Binds, listens and accepts in the background. Needs a tokio runtime.
    ///
    /// # Errors
    /// The options do not go together, certificates or keys cannot be used, a worker thread cannot be had, or an address cannot
    /// be listened on. Nothing is left behind.
    pub async fn start(self) -> Result<ServerHandle, StartError> {
        let Self { addrs, options, ws, middleware, origins, mut rules, events } = self;
        ws.validate()?;
        rules.validate()?;
        if let Some(origins) = origins {
            let list = OriginList::new(origins).map_err(|_| {
                storm_core::ConfigError::new(
                    "allow_origins",
                    "an origin is scheme://host, with a port if not usual",
                )
            })?;
            rules.origins = Some(list);
        }
        start(addrs, &options, middleware, WsEndpoint { ws, rules, events: Arc::new(events) }).await
    }

    /// [`start`](Self::start), then waits until the server is shut down, which without a handle is never.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn run(self) -> Result<(), StartError> {
        self.start().await?.stopped().await;
        Ok(())
    }
}

impl<E> std::fmt::Debug for WsServer<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WsServer")
            .field("addrs", &self.addrs)
            .field("options", &self.options)
            .field("ws", &self.ws)
            .finish_non_exhaustive()
    }
}

struct WsEndpoint<E> {
    ws: WsOptions,
    rules: Rules,
    events: Arc<E>,
}

impl<E: Events<WsSession, Message>> Endpoint for WsEndpoint<E> {
    fn serve(self: &Arc<Self>, stream: Stream, remote: Option<SocketAddr>, shared: &Arc<Shared>, slot: Slot) {
        let (endpoint, shared) = (self.clone(), shared.clone());
        let handshake = Box::pin({
            let (endpoint, shared) = (endpoint.clone(), shared.clone());
            async move {
                let upgrading = Box::pin(endpoint.upgrade(stream, remote, &shared));
                within_budget(&shared, remote, upgrading).await
            }
        });
        let then = move |upgraded: Option<Upgraded>| endpoint.connection(upgraded?, &shared, slot);
        tokio::spawn(Stages::new(handshake, then));
    }

    fn serve_upgraded(
        &self,
        (stream, peer, agreed): (Stream, Peer, Agreed),
        shared: &Shared,
        slot: Slot,
    ) -> Result<(), Slot> {
        let upgraded = Upgraded { stream, peer, agreed, early: BytesMut::new() };
        if let Some(connection) = self.connection(upgraded, shared, slot) {
            tokio::spawn(connection);
        }
        Ok(())
    }

    async fn report(&self, error: &Error) {
        self.events.error(None, error).await;
    }
}

/// A connection that is ready to become a session.
struct Upgraded {
    stream: Stream,
    peer: Peer,
    agreed: Agreed,
    /// Bytes that came behind the request.
    early: BytesMut,
}

impl<E: Events<WsSession, Message>> WsEndpoint<E> {
    /// What comes before the upgrade, and the upgrade.
    async fn upgrade<'a>(
        &self,
        stream: Stream,
        remote: Option<SocketAddr>,
        shared: &'a Shared,
    ) -> Result<Upgraded, Ended<'a>> {
        let (stream, peer) = prepare(stream, remote, shared, self).await?;
        let (stream, agreed, early) = handshake(stream, &peer, &self.rules, &self.ws, shared, self).await?;
        Ok(Upgraded { stream, peer, agreed, early })
    }

    /// The connection, to run in a task; `None` if it is one too many.
    fn connection(
        &self,
        upgraded: Upgraded,
        shared: &Shared,
        mut slot: Slot,
    ) -> Option<impl Future<Output = ()> + Send + use<E>> {
        let Upgraded { stream, peer, agreed, early } = upgraded;
        if !shared.established(&mut slot, peer.addr) {
            return None;
        }
        let (stream, writer) = stream.share();
        let (protocol, driver) =
            WsProtocol::register(&shared.hub, Role::Server, peer, agreed, &self.ws, writer);
        shared.admit(driver.session());
        let connection = Connection::new(stream, protocol, driver, early);
        let session = connection.session().clone();
        let running = connection.run(self.events.clone());
        Some(slot.held_by(traced(&session, "ws", running)))
    }
}
