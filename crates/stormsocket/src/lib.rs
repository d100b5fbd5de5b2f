#![cfg_attr(not(doctest), doc = include_str!("../README.md"))]

/// The README's examples, which use features that not every build has.
#[cfg(all(doctest, feature = "server", feature = "client", feature = "ws", feature = "tls"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The examples of `docs/howto.md`.
#[cfg(all(doctest, unix, feature = "server", feature = "client", feature = "ws", feature = "signal"))]
#[doc = include_str!("../howto.md")]
struct Howto;

/// The type of messages' bytes.
pub use bytes::Bytes;
/// The type of texts: UTF-8 in [`Bytes`].
pub use bytestring::ByteString;
#[cfg(feature = "client")]
pub use storm_client::{Backoff, ClientHandle, ClientOptions, ConnectError, ReconnectOptions, TcpClient};
#[cfg(all(feature = "client", feature = "ws"))]
pub use storm_client::{ClientRequest, RequestError, ResponseError, WsClient};
pub use storm_core::events::TcpHandler;
pub use storm_core::{
    BoxError, Broadcast, BroadcastReport, ConfigError, ConnectionMetrics, ConnectionState, DisconnectReason,
    EarlyItems, Error, ErrorKind, Groups, Handled, Hub, IntoHandlerOutcome, Items, LatestKey, Message,
    MessageRef, Middleware, Peer, RateLimit, RateLimitAction, Role, SendBudget, SendError, SendOutcome,
    Sending, SendingWith, ServerMetrics, Session, SessionId, SessionKey, SessionOptions, Sessions,
    SlowConsumerPolicy,
};
#[cfg(feature = "tls")]
pub use storm_core::{TlsInfo, TlsVersion};
#[cfg(feature = "codec")]
pub use storm_framing::CodecFramer;
pub use storm_framing::{
    DelimiterFramer, FramingError, LengthPrefixFramer, Located, MessageFramer, RawFramer, Wire,
};
#[cfg(all(feature = "server", feature = "signal"))]
pub use storm_server::shutdown_signal;
#[cfg(all(feature = "server", feature = "ws"))]
pub use storm_server::{
    Accept, Agreed, AnswerError, HeaderMap, HttpRequest, HttpResponse, IntoHttpResponse, Reject, StatusCode,
    UpgradeRequest, WsServer,
};
#[cfg(feature = "server")]
pub use storm_server::{ServeError, ServerHandle, ServerOptions, ShutdownReport, StartError, TcpServer};
#[cfg(feature = "client")]
pub use storm_transport::connect::{AddressesFailed, Proxy, ProxyError, Resolver};
#[cfg(feature = "tls")]
pub use storm_transport::tls::{
    self, ClientCertificates, ClientTlsOptions, Identity, Roots, TlsConfigError, TlsError, TlsErrorKind,
    TlsOptions,
};
#[cfg(feature = "ws")]
pub use storm_transport::ws::{MessageWriter, WsHandler, WsOptions, WsSession};
pub use storm_transport::{BindAddr, ConnectAddr, KeepAlive, SocketOptions};
#[cfg(feature = "deflate")]
pub use storm_ws_proto::DeflateOptions;
#[cfg(feature = "ws")]
pub use storm_ws_proto::handshake::{self, HeadLimits};
#[cfg(feature = "ws")]
pub use storm_ws_proto::{CloseCode, CloseFrame, HeartbeatOptions, Limits, ProtocolError};

/// What counters count by kind.
///
/// ```no_run
/// use stormsocket::ServerMetrics;
/// use stormsocket::metrics::{HandshakeFailure, Limit};
///
/// fn strangers(metrics: &ServerMetrics) -> u64 {
///     metrics.handshake_failures_by.get(HandshakeFailure::Malformed)
///         + metrics.refused.get(Limit::ConnectionsPerIp)
/// }
/// ```
pub mod metrics {
    pub use storm_core::metrics::{Ending, HandshakeFailure, Kind, Limit, Tally};
}

#[cfg(feature = "testing")]
pub mod testing;
