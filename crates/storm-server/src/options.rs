//! What a server is configured with.

use std::io;
use std::time::Duration;

use storm_core::{ConfigError, SessionOptions};
use storm_transport::{BindAddr, SocketOptions};

use crate::proxied::Proxies;

/// Options of a server. Each has a setter of the same name here and on the server's builder.
///
/// ```
/// use storm_server::ServerOptions;
///
/// let options = ServerOptions::default().max_connections(10_000).max_pending_send_bytes(256 * 1024);
/// assert_eq!(options.backlog, 128);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use = "a setter returns the changed options"]
pub struct ServerOptions {
    /// Connections the kernel completes before we accept them. Default 128; the system may cap it
    /// (`net.core.somaxconn` on Linux). A longer queue rides out longer bursts of connects. Listeners that were opened
    /// elsewhere keep theirs.
    pub backlog: u32,
    /// Serves connections in threads of the server's own, each with a current-thread runtime (`std::thread::available_parallelism()`
    /// of them for one per core). Default `None`: in the runtime the server is started in.
    ///
    /// A connection stays in its thread: its task, handlers and socket are never moved to, nor woken from, another one for what
    /// its own peer sends. In return no other thread helps out: a handler that computes for long, or blocks, holds up all
    /// connections of its thread, while others may be idle. The server accepts in the
    /// runtime it was started in and gives each connection to the thread that has the fewest, unless
    /// [`reuse_port`](Self::reuse_port) lets the threads accept for themselves. Streams given to
    /// [`serve`](crate::ServerHandle::serve) are served in these threads as well.
    ///
    /// Nothing else changes: sessions, groups, limits and the handle are those of one server. Handlers are shared by all threads and
    /// must be `Send` and `Sync` as ever. What a handler spawns with `tokio::spawn` runs in the thread of its connection, and
    /// is dropped when the server has stopped and its threads end; give longer work a `tokio::runtime::Handle` of your own.
    /// The threads end with [`shutdown`](crate::ServerHandle::shutdown), which waits for that, or with the runtime the
    /// server was started in.
    ///
    /// ```
    /// use storm_server::TcpServer;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = TcpServer::bind("127.0.0.1:0")
    ///     .worker_threads(std::thread::available_parallelism()?.get())
    ///     .on_data(|session, data| async move { session.send(data).await })
    ///     .start()
    ///     .await?;
    /// server.shutdown(std::time::Duration::from_secs(1)).await;
    /// # Ok(())
    /// # }
    /// ```
    pub worker_threads: Option<usize>,
    /// Listens with `SO_REUSEPORT`. Default `false`. Linux then spreads new connections, by a hash of their addresses, over all
    /// sockets that listen on the address with it: with [`worker_threads`](Self::worker_threads) each thread has one of its
    /// own, with a `backlog` of its own, and accepts without the others; and other processes of the same user may listen on
    /// the address, too, so that starting a program twice by mistake is no error any more.
    ///
    /// The hash knows nothing of load: with few connections one thread easily has twice as many as another, and a thread that is
    /// held up keeps those waiting that fall to it. Worth it for many short connections. No effect on unix sockets, on listeners
    /// that were opened elsewhere, and on other systems, where such sockets do not share connections.
    pub reuse_port: bool,
    /// Connections at a time, those still in a handshake included; `None` is no limit of ours. Default `None`. Sockets
    /// above it are closed before anything is read.
    pub max_connections: Option<usize>,
    /// Connections of one address at a time, those still in a handshake included; `None` is no limit of ours. Default `None`:
    /// behind a proxy all connections have its address, unless
    /// [`proxy_protocol_from`](Self::proxy_protocol_from) lists it. Sockets above it are closed before anything is read; those
    /// that a listed proxy passes on, when their handshake is over. Unix sockets have no address.
    pub max_connections_per_ip: Option<usize>,
    /// Connections of one address that are still in a handshake; `None` is no limit of ours. Default `None`. Whoever
    /// is answered without a session (plain HTTP, a refusal) counts until it has ended its side, which the budget bounds. What
    /// has no handshake here (plain TCP, [`serve_upgraded`](crate::ServerHandle::serve_upgraded)) does not count, nor what a
    /// listed proxy passes on. Sockets above it are closed before anything is read.
    pub max_handshakes_per_ip: Option<usize>,
    /// Leading bits of an IPv6 address that count as one address for these two. Default 64, what one customer has at least;
    /// 128 tells every address apart.
    pub ipv6_prefix: u8,
    /// Budget from accept to the end of the handshake: PROXY header, TLS, the upgrade and its hook together. Default 5 s;
    /// `None` waits for ever, and so lets anyone hold a slot for nothing. Plain TCP has no handshake.
    pub handshake_timeout: Option<Duration>,
    /// Addresses and networks (`10.0.0.0/8`) of load balancers that speak the PROXY protocol, version 1 or 2. Their
    /// connections must begin with its header, and have the client's address for their `remote_addr`; connections from
    /// anywhere else are taken as they are, so that nobody can choose an address. Peers on a unix socket have no address
    /// to be listed by. Default: none.
    ///
    /// ```
    /// use storm_server::TcpServer;
    ///
    /// let server = TcpServer::bind("0.0.0.0:5000").proxy_protocol_from(["10.0.0.0/8", "2001:db8::5"]);
    /// # let _ = server;
    /// ```
    pub proxy_protocol_from: Vec<String>,
    /// Speaks TLS on every connection. Default `None`: none.
    #[cfg(feature = "tls")]
    pub tls: Option<storm_transport::TlsOptions>,
    /// Options of each TCP socket that is accepted here; streams given to [`serve`](crate::ServerHandle::serve) stay as they are.
    pub socket: SocketOptions,
    /// Limits and deadlines of each session.
    pub session: SessionOptions,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            backlog: 128,
            worker_threads: None,
            reuse_port: false,
            max_connections: None,
            max_connections_per_ip: None,
            max_handshakes_per_ip: None,
            ipv6_prefix: 64,
            handshake_timeout: Some(Duration::from_secs(5)),
            proxy_protocol_from: Vec::new(),
            #[cfg(feature = "tls")]
            tls: None,
            socket: SocketOptions::default(),
            session: SessionOptions::default(),
        }
    }
}

impl ServerOptions {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.backlog == 0 {
            return Err(ConfigError::new("backlog", "must be at least 1"));
        }
        if self.worker_threads == Some(0) {
            return Err(ConfigError::new("worker_threads", "must be at least 1; None has none"));
        }
        if self.max_connections == Some(0) {
            return Err(ConfigError::new("max_connections", "must be at least 1; None removes the limit"));
        }
        const PER_IP: &str = "must be at least 1; None removes the limit";
        if self.max_connections_per_ip == Some(0) {
            return Err(ConfigError::new("max_connections_per_ip", PER_IP));
        }
        if self.max_handshakes_per_ip == Some(0) {
            return Err(ConfigError::new("max_handshakes_per_ip", PER_IP));
        }
        if !(1..=128).contains(&self.ipv6_prefix) {
            return Err(ConfigError::new("ipv6_prefix", "must be from 1 to 128 bits"));
        }
        if self.handshake_timeout == Some(Duration::ZERO) {
            return Err(ConfigError::new(
                "handshake_timeout",
                "must be longer than zero; None removes the limit",
            ));
        }
        Proxies::parse(&self.proxy_protocol_from)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.validate()?;
        }
        self.socket.validate()?;
        self.session.validate()
    }
}

/// Setters for every option, on whatever has them at `$options`.
macro_rules! option_setters {
    ($($options:ident)?) => {
        /// Sets [`ServerOptions::backlog`](crate::ServerOptions::backlog).
        pub fn backlog(mut self, connections: u32) -> Self {
            self.$($options.)?backlog = connections;
            self
        }

        /// Sets [`ServerOptions::worker_threads`](crate::ServerOptions::worker_threads): serves connections in threads of the
        /// server's own, one runtime each.
        pub fn worker_threads(mut self, threads: impl Into<Option<usize>>) -> Self {
            self.$($options.)?worker_threads = threads.into();
            self
        }

        /// Sets [`ServerOptions::reuse_port`](crate::ServerOptions::reuse_port): `SO_REUSEPORT`.
        pub fn reuse_port(mut self, on: bool) -> Self {
            self.$($options.)?reuse_port = on;
            self
        }

        /// Sets [`ServerOptions::max_connections`](crate::ServerOptions::max_connections).
        pub fn max_connections(mut self, connections: impl Into<Option<usize>>) -> Self {
            self.$($options.)?max_connections = connections.into();
            self
        }

        /// Sets [`ServerOptions::max_connections_per_ip`](crate::ServerOptions::max_connections_per_ip).
        pub fn max_connections_per_ip(mut self, connections: impl Into<Option<usize>>) -> Self {
            self.$($options.)?max_connections_per_ip = connections.into();
            self
        }

        /// Sets [`ServerOptions::max_handshakes_per_ip`](crate::ServerOptions::max_handshakes_per_ip).
        pub fn max_handshakes_per_ip(mut self, connections: impl Into<Option<usize>>) -> Self {
            self.$($options.)?max_handshakes_per_ip = connections.into();
            self
        }

        /// Sets [`ServerOptions::ipv6_prefix`](crate::ServerOptions::ipv6_prefix).
        pub fn ipv6_prefix(mut self, bits: u8) -> Self {
            self.$($options.)?ipv6_prefix = bits;
            self
        }

        /// Sets [`ServerOptions::proxy_protocol_from`](crate::ServerOptions::proxy_protocol_from): these, and none that were
        /// listed before.
        pub fn proxy_protocol_from<T: Into<String>>(mut self, peers: impl IntoIterator<Item = T>) -> Self {
            self.$($options.)?proxy_protocol_from = peers.into_iter().map(Into::into).collect();
            self
        }

        /// Sets [`ServerOptions::handshake_timeout`](crate::ServerOptions::handshake_timeout).
        pub fn handshake_timeout(mut self, timeout: impl Into<Option<std::time::Duration>>) -> Self {
            self.$($options.)?handshake_timeout = timeout.into();
            self
        }

        /// Sets [`ServerOptions::tls`](crate::ServerOptions::tls).
        #[cfg(feature = "tls")]
        pub fn tls(mut self, tls: impl Into<Option<storm_transport::TlsOptions>>) -> Self {
            self.$($options.)?tls = tls.into();
            self
        }

        /// Sets [`ServerOptions::socket`](crate::ServerOptions::socket).
        pub fn socket(mut self, socket: storm_transport::SocketOptions) -> Self {
            self.$($options.)?socket = socket;
            self
        }

        /// Sets [`SocketOptions::no_delay`](storm_transport::SocketOptions::no_delay).
        pub fn no_delay(mut self, on: bool) -> Self {
            self.$($options.)?socket.no_delay = on;
            self
        }

        /// Sets [`ServerOptions::session`](crate::ServerOptions::session): replaces all of them.
        pub fn session(mut self, session: storm_core::SessionOptions) -> Self {
            self.$($options.)?session = session;
            self
        }

        storm_core::session_setters!($($options.)?session);
    };
}
pub(crate) use option_setters;

impl ServerOptions {
    option_setters!();
}

/// Why a server did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The options do not go together.
    #[error("the configuration is not valid")]
    Config(#[from] ConfigError),
    /// A certificate, its key or roots cannot be used.
    #[cfg(feature = "tls")]
    #[error("tls cannot be set up")]
    Tls(#[from] storm_transport::tls::TlsConfigError),
    /// An address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: BindAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A worker thread or its runtime cannot be had.
    #[error("cannot start a worker thread")]
    Worker(#[source] io::Error),
}
