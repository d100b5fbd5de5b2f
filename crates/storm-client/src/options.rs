//! What a client is configured with.

use std::io;
use std::time::Duration;

use storm_core::{ConfigError, SessionOptions};
use storm_transport::connect::{DialError, Dialer, Proxy, ProxyError, Purpose, Resolver};
use storm_transport::{SocketOptions, fault};

use crate::ReconnectOptions;

/// Options of a client. Each has a setter of the same name here and on the client's builder.
///
/// ```
/// use std::time::Duration;
/// use storm_client::{ClientOptions, ReconnectOptions};
///
/// let options = ClientOptions::default()
///     .connect_timeout(Duration::from_secs(3))
///     .reconnect(ReconnectOptions::default().max_attempts(10));
/// assert_eq!(options.reconnect.unwrap().delay, Duration::from_secs(2));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use = "a setter returns the changed options"]
pub struct ClientOptions {
    /// One budget for an attempt to connect, from the name lookup on. Default 10 s.
    pub connect_timeout: Duration,
    /// How long an attempt to one address of a name may take before the next one is tried beside it (RFC 8305, Happy
    /// Eyeballs: families take turns, the first connection wins). Default 250 ms; from 10 ms to 2 s. Short: more
    /// connections are begun than are needed. Long: a dead address delays the connection by that. `None` waits until the
    /// attempt has failed, which may use up the budget.
    pub connection_attempt_delay: Option<Duration>,
    /// Who looks up names. Default: the system.
    pub resolver: Resolver,
    /// The way out: through a proxy (HTTP CONNECT or SOCKS 5), which looks up the server's name. Default `None`: directly,
    /// whatever the environment says; [`Proxy::from_env`] asks it. A session's `remote_addr` is the proxy's then.
    pub proxy: Option<Proxy>,
    /// Whether and how lost connections are replaced. Default `None`: they are not.
    pub reconnect: Option<ReconnectOptions>,
    /// Speaks TLS. Default `None`: none; `wss://` URIs do in any case, with
    /// [default options](storm_transport::ClientTlsOptions) if there are none.
    #[cfg(feature = "tls")]
    pub tls: Option<storm_transport::ClientTlsOptions>,
    /// Options of the TCP socket. A given stream stays as it is.
    pub socket: SocketOptions,
    /// Limits and deadlines of the session.
    pub session: SessionOptions,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            connection_attempt_delay: Some(Duration::from_millis(250)),
            resolver: Resolver::default(),
            proxy: None,
            reconnect: None,
            #[cfg(feature = "tls")]
            tls: None,
            socket: SocketOptions::default(),
            session: SessionOptions::default(),
        }
    }
}

impl ClientOptions {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.connect_timeout.is_zero() {
            return Err(ConfigError::new("connect_timeout", "must be longer than zero"));
        }
        // RFC 8305 §8.
        let range = Duration::from_millis(10)..=Duration::from_secs(2);
        if self.connection_attempt_delay.is_some_and(|delay| !range.contains(&delay)) {
            return Err(ConfigError::new(
                "connection_attempt_delay",
                "must be from 10 ms to 2 s; None tries one address after the other",
            ));
        }
        if let Some(reconnect) = &self.reconnect {
            reconnect.validate()?;
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.validate()?;
        }
        if let Some(proxy) = &self.proxy {
            proxy.validate()?;
        }
        self.socket.validate()?;
        self.session.validate()
    }

    /// What opens the streams of connections.
    pub(crate) fn dialer(&self, purpose: Purpose) -> Dialer<'_> {
        Dialer {
            socket: &self.socket,
            resolver: &self.resolver,
            attempt_delay: self.connection_attempt_delay,
            proxy: self.proxy.as_ref(),
            purpose,
        }
    }
}

/// Setters for every option, on whatever has them at `$options`.
macro_rules! option_setters {
    ($($options:ident)?) => {
        /// Sets [`ClientOptions::connect_timeout`](crate::ClientOptions::connect_timeout).
        pub fn connect_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.$($options.)?connect_timeout = timeout;
            self
        }

        /// Sets [`ClientOptions::connection_attempt_delay`](crate::ClientOptions::connection_attempt_delay).
        pub fn connection_attempt_delay(mut self, delay: impl Into<Option<std::time::Duration>>) -> Self {
            self.$($options.)?connection_attempt_delay = delay.into();
            self
        }

        /// Sets [`ClientOptions::resolver`](crate::ClientOptions::resolver) to an async function of host and port that
        /// says addresses.
        pub fn resolver<R, Fut>(mut self, resolve: R) -> Self
        where
            R: Fn(String, u16) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = std::io::Result<Vec<std::net::SocketAddr>>> + Send + 'static,
        {
            self.$($options.)?resolver = storm_transport::connect::Resolver::new(resolve);
            self
        }

        /// Sets [`ClientOptions::proxy`](crate::ClientOptions::proxy).
        pub fn proxy(mut self, proxy: impl Into<Option<storm_transport::connect::Proxy>>) -> Self {
            self.$($options.)?proxy = proxy.into();
            self
        }

        /// Sets [`ClientOptions::reconnect`](crate::ClientOptions::reconnect).
        pub fn reconnect(mut self, reconnect: impl Into<Option<crate::ReconnectOptions>>) -> Self {
            self.$($options.)?reconnect = reconnect.into();
            self
        }

        /// Sets [`ClientOptions::tls`](crate::ClientOptions::tls).
        #[cfg(feature = "tls")]
        pub fn tls(mut self, tls: impl Into<Option<storm_transport::ClientTlsOptions>>) -> Self {
            self.$($options.)?tls = tls.into();
            self
        }

        /// Sets [`ClientOptions::socket`](crate::ClientOptions::socket).
        pub fn socket(mut self, socket: storm_transport::SocketOptions) -> Self {
            self.$($options.)?socket = socket;
            self
        }

        /// Sets [`SocketOptions::no_delay`](storm_transport::SocketOptions::no_delay).
        pub fn no_delay(mut self, on: bool) -> Self {
            self.$($options.)?socket.no_delay = on;
            self
        }

        /// Sets [`ClientOptions::session`](crate::ClientOptions::session): replaces all of them.
        pub fn session(mut self, session: storm_core::SessionOptions) -> Self {
            self.$($options.)?session = session;
            self
        }

        storm_core::session_setters!($($options.)?session);
    };
}
pub(crate) use option_setters;

impl ClientOptions {
    option_setters!();
}

/// Why a client is not connected. Nothing is left behind.
///
/// Printed it says no more than its variant does; the status of a refusal, the name that does not resolve and the like are in its
/// sources. As an [`Error`](storm_core::Error), which is what `on_error` is given, it prints them, too:
///
/// ```
/// use storm_client::ConnectError;
/// use storm_core::{Error, ErrorKind};
///
/// fn tell(error: ConnectError) {
///     // connecting failed: the server did not upgrade the connection: server answered 401 Unauthorized
///     eprintln!("{:#}", Error::new(ErrorKind::Connect, error));
/// }
/// # tell(std::io::Error::other("nobody there").into());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The options do not go together.
    #[error("the configuration is not valid")]
    Config(#[from] ConfigError),
    /// The budget was used up.
    #[error("not connected within {0:?}")]
    TimedOut(Duration),
    /// The name did not resolve ([`LookupFailed`]), or no address of it took the connection: [`AddressesFailed`] has the error
    /// of each. Or the connection broke off before the handshakes were done.
    ///
    /// [`AddressesFailed`]: storm_transport::connect::AddressesFailed
    /// [`LookupFailed`]: storm_transport::connect::LookupFailed
    #[error("the connection could not be opened")]
    Io(#[source] io::Error),
    /// A certificate, its key or roots of ours cannot be used. Nothing was opened.
    #[cfg(feature = "tls")]
    #[error("tls cannot be set up")]
    TlsConfig(#[source] storm_transport::tls::TlsConfigError),
    /// The TLS handshake failed: the server's certificate is not to be trusted, say. Nothing else was sent.
    #[cfg(feature = "tls")]
    #[error("the tls handshake failed")]
    Tls(#[source] storm_transport::tls::TlsError),
    /// The proxy did not open a tunnel: it cannot be reached, or refuses, and then says why.
    #[error("the proxy did not open the connection")]
    Proxy(#[source] ProxyError),
    /// The request must not be sent as it was put together. Nothing was opened.
    #[cfg(feature = "ws")]
    #[error("the request is not valid")]
    Request(#[from] storm_ws_proto::handshake::RequestError),
    /// The hook before the attempt failed. (An error that says the request is not valid is a `Request`.)
    #[cfg(feature = "ws")]
    #[error("the hook before the attempt failed")]
    Hook(#[source] storm_core::BoxError),
    /// The hook before the attempt panicked, or the resolver.
    #[error("the hook before the attempt, or the resolver, panicked")]
    Panic(#[source] storm_core::error::PanicMessage),
    /// The server did not agree to the upgrade, or not in a valid way.
    #[cfg(feature = "ws")]
    #[error("the server did not upgrade the connection")]
    Refused {
        /// What it answered, with [status](storm_ws_proto::handshake::ResponseError::status) and
        /// [headers](storm_ws_proto::handshake::ResponseError::headers).
        #[source]
        error: Box<storm_ws_proto::handshake::ResponseError>,
        /// The body of its answer, up to 64 KiB of what comes within a second. Empty if the answer is not HTTP, or says 101, or
        /// if where the body ends cannot be told (a transfer coding other than `chunked`).
        body: bytes::Bytes,
    },
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        // With TLS 1.3 a server's refusal of our certificate comes after the handshake, and meets whoever reads first.
        #[cfg(feature = "tls")]
        if let Some(error) = storm_transport::tls::TlsError::of(&error) {
            return Self::Tls(error);
        }
        Self::Io(error)
    }
}

#[cfg(feature = "tls")]
impl From<storm_transport::tls::TlsConfigError> for ConnectError {
    fn from(error: storm_transport::tls::TlsConfigError) -> Self {
        match error {
            storm_transport::tls::TlsConfigError::Options(error) => Self::Config(error),
            error => Self::TlsConfig(error),
        }
    }
}

impl ConnectError {
    /// Whether trying again may help, which is what decides unless a client has a `retry_if` of its own.
    ///
    /// Networks and busy servers are worth another attempt: time that was up, a transport that failed or could not be
    /// opened, a name that did not resolve, a proxy that cannot reach the target, a hook that failed or panicked (or a
    /// resolver), and a refused upgrade (or tunnel) with status 408, 429, 500, 502, 503 or 504. Mistakes of this side and
    /// answers that will stay the same are not: options, TLS (a certificate that is not trusted), an address that is none, a
    /// permission, a request that must not be sent, any other status, a handshake that breaks the protocol.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Config(_) => false,
            // Whom it does not trust it will not trust in a moment.
            #[cfg(feature = "tls")]
            Self::TlsConfig(_) | Self::Tls(_) => false,
            Self::TimedOut(_) => true,
            Self::Proxy(ProxyError::Io(error)) | Self::Io(error) => !matches!(
                error.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::Unsupported
            ),
            Self::Proxy(error) => {
                error.is_target_unreachable() || error.status().is_some_and(is_retryable_status)
            }
            #[cfg(feature = "ws")]
            Self::Request(_) => false,
            #[cfg(feature = "ws")]
            Self::Hook(_) => true,
            Self::Panic(_) => true,
            #[cfg(feature = "ws")]
            Self::Refused { error, .. } => matches!(
                &**error,
                storm_ws_proto::handshake::ResponseError::Status { status, .. }
                    if is_retryable_status(status.as_u16())
            ),
        }
    }

    /// How long the server asked to be left alone: `Retry-After` of a refused upgrade, if it is in seconds.
    pub fn retry_after(&self) -> Option<Duration> {
        #[cfg(feature = "ws")]
        if let Self::Refused { error, .. } = self {
            let value = error.headers()?.get("retry-after")?.to_str().ok()?;
            return value.trim().parse().ok().map(Duration::from_secs);
        }
        None
    }

    #[cfg(feature = "ws")]
    pub(crate) fn from_hook(error: storm_core::BoxError) -> Self {
        match error.downcast() {
            Ok(request) => Self::Request(*request),
            Err(other) => Self::Hook(other),
        }
    }

    /// Whether networks bring it about by themselves, so that it is no error for `on_error`.
    pub(crate) fn is_expected(&self) -> bool {
        match self {
            Self::Config(_) => false,
            #[cfg(feature = "tls")]
            Self::TlsConfig(_) | Self::Tls(_) => false,
            #[cfg(feature = "ws")]
            Self::Request(_) | Self::Hook(_) | Self::Refused { .. } => false,
            Self::Panic(_) => false,
            Self::TimedOut(_) => true,
            Self::Proxy(ProxyError::Io(error)) | Self::Io(error) => fault::is_expected(error),
            Self::Proxy(error) => error.is_target_unreachable(),
        }
    }
}

impl From<DialError> for ConnectError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Io(error) => error.into(),
            DialError::Proxy(error) => Self::Proxy(error),
        }
    }
}

/// RFC 9110 §15: the server is busy, or something behind it is not there yet.
const fn is_retryable_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}
