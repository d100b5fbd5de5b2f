//! The TCP server.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use storm_core::driver::Driver;
use storm_core::events::{Chain, NoEvents, TcpHandler};
use storm_core::middleware::{Middleware, MiddlewareChain};
use storm_core::trace::traced;
use storm_core::{Error, Events, Peer, Role, Session};
use storm_framing::{MessageFramer, RawFramer};
use storm_transport::{BindAddr, Connection, Framed, FramedEncode, Stream};

use crate::budget::within_budget;
use crate::options::option_setters;
use crate::prepare::prepare;
use crate::shared::{Endpoint, Shared};
use crate::slots::Slot;
use crate::stages::Stages;
use crate::start::start;
use crate::{ServerHandle, ServerOptions, StartError};

/// A TCP server to be: subscribe to events, set options, [`start`](Self::start).
///
/// ```
/// use storm_server::TcpServer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = TcpServer::bind("127.0.0.1:0")
///     .on_data(|session, data| async move { session.send(data).await })
///     .start()
///     .await?;
/// println!("echoing on {}", server.local_addr().expect("a tcp address"));
/// server.shutdown(std::time::Duration::from_secs(1)).await;
/// # Ok(())
/// # }
/// ```
///
/// Handlers of one session run one at a time, in order. Several handlers may be added for an event; they run in the
/// order they were added. A handler's error reaches `on_error`; a panic does, too, and aborts its session.
#[must_use = "a server does nothing until it is started"]
pub struct TcpServer<E = NoEvents, F = RawFramer> {
    addrs: Vec<BindAddr>,
    options: ServerOptions,
    middleware: MiddlewareChain,
    framer: F,
    events: E,
}

impl Default for TcpServer {
    /// A server for `0.0.0.0:5000`.
    fn default() -> Self {
        Self::bind("0.0.0.0:5000")
    }
}

impl TcpServer {
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
            middleware: MiddlewareChain::default(),
            framer: RawFramer,
            events: NoEvents,
        }
    }
}

impl<E, F> TcpServer<E, F> {
    /// Listens on `addr`, too. `[::]` takes IPv4 connections as well, unless an IPv4 address with the same port is there.
    pub fn also_bind(mut self, addr: impl Into<BindAddr>) -> Self {
        self.addrs.push(addr.into());
        self
    }

    /// Replaces all options.
    pub fn options(mut self, options: ServerOptions) -> Self {
        self.options = options;
        self
    }

    option_setters!(options);

    /// Sets how messages are told apart in the stream of bytes. Default [`RawFramer`]: not at all.
    pub fn framer<G>(self, framer: G) -> TcpServer<E, G>
    where
        G: MessageFramer + Clone + Sync,
    {
        let Self { addrs, options, middleware, events, .. } = self;
        TcpServer { addrs, options, middleware, framer, events }
    }

    /// Adds a middleware; hooks run in the order of registration, before the handlers.
    pub fn middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware.push(middleware);
        self
    }

    fn and<N>(self, next: N) -> TcpServer<Chain<E, N>, F> {
        let Self { addrs, options, middleware, framer, events } = self;
        TcpServer { addrs, options, middleware, framer, events: Chain(events, next) }
    }

    storm_core::event_setters!(TcpServer<[F]>, Session, on_data(Bytes), on_data_ref(&[u8], OnDataRef), TcpHandler,
        /// Runs for each message: one frame, or with the raw framer what one read brought. Data that is kept keeps the read
        /// buffer it was cut from, 65 to 520 KiB: copy what is small and stays (`Bytes::copy_from_slice`).
        #[doc(alias = "on_message")]
    );
}

impl<E, F> TcpServer<E, F>
where
    E: Events<Session, Bytes>,
    F: MessageFramer + Clone + Sync,
{
    /// Binds, listens and accepts in the background. Needs a tokio runtime.
    ///
    /// # Errors
    /// The options do not go together, certificates or keys cannot be used, a worker thread cannot be had, or an address cannot
    /// be listened on. Nothing is left behind.
    pub async fn start(self) -> Result<ServerHandle, StartError> {
        let Self { addrs, options, middleware, framer, events } = self;
        start(addrs, &options, middleware, TcpEndpoint { framer, events: Arc::new(events) }).await
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

impl<E, F> std::fmt::Debug for TcpServer<E, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpServer")
            .field("addrs", &self.addrs)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

struct TcpEndpoint<E, F> {
    framer: F,
    events: Arc<E>,
}

impl<E, F> Endpoint for TcpEndpoint<E, F>
where
    E: Events<Session, Bytes>,
    F: MessageFramer + Clone + Sync,
{
    fn serve(self: &Arc<Self>, stream: Stream, remote: Option<SocketAddr>, shared: &Arc<Shared>, slot: Slot) {
        if !shared.has_handshake(remote) {
            if let Some(connection) = self.connection(stream, remote.into(), shared, slot) {
                tokio::spawn(connection);
            }
            return;
        }
        let (endpoint, shared) = (self.clone(), shared.clone());
        let handshake = Box::pin({
            let (endpoint, shared) = (endpoint.clone(), shared.clone());
            async move {
                let prepared = Box::pin(prepare(stream, remote, &shared, &*endpoint));
                within_budget(&shared, remote, prepared).await
            }
        });
        let then = move |prepared: Option<(Stream, Peer)>| {
            let (stream, peer) = prepared?;
            endpoint.connection(stream, peer, &shared, slot)
        };
        tokio::spawn(Stages::new(handshake, then));
    }

    fn has_handshake(&self, shared: &Shared, remote: Option<SocketAddr>) -> bool {
        shared.has_handshake(remote)
    }

    async fn report(&self, error: &Error) {
        self.events.error(None, error).await;
    }
}

impl<E, F> TcpEndpoint<E, F>
where
    E: Events<Session, Bytes>,
    F: MessageFramer + Clone + Sync,
{
    /// The connection, to run in a task; `None` if it is one too many.
    fn connection(
        &self,
        stream: Stream,
        peer: Peer,
        shared: &Shared,
        mut slot: Slot,
    ) -> Option<impl Future<Output = ()> + Send + use<E, F>> {
        if !shared.established(&mut slot, peer.addr) {
            return None;
        }
        let (stream, writer) = stream.share();
        let encoder = FramedEncode::new(self.framer.clone(), writer);
        let driver = Driver::register(&shared.hub, Role::Server, peer, encoder);
        shared.admit(driver.session());
        let connection = Connection::new(stream, Framed::new(self.framer.clone()), driver, BytesMut::new());
        let session = connection.session().clone();
        let running = connection.run(self.events.clone());
        Some(slot.held_by(traced(&session, "tcp", running)))
    }
}
