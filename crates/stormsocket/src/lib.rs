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
/// What a [`MessageFramer`] reads from, and binary messages may be built in.
///
/// ```
/// use stormsocket::{Buf, BufMut, BytesMut, Message};
///
/// let mut buffer = BytesMut::new();
/// buffer.put_u64(7);
/// buffer.put_slice(b"hello");
/// let message = Message::from(buffer); // and so `session.send(buffer)`
///
/// let mut data = message.into_data();
/// assert_eq!(data.try_get_u64().ok(), Some(7));
/// assert_eq!(&data[..], b"hello");
/// ```
pub use bytes::BytesMut;
/// The methods that read numbers off [`Bytes`], and those that put them into [`BytesMut`].
pub use bytes::{Buf, BufMut};
/// The type of texts: UTF-8 in [`Bytes`].
pub use bytestring::ByteString;
#[cfg(feature = "client")]
pub use storm_client::{
    Backoff, ClientHandle, ClientOptions, ClientSending, ConnectError, ReconnectOptions, TcpClient,
};
#[cfg(all(feature = "client", feature = "ws"))]
pub use storm_client::{ClientRequest, RequestError, ResponseError, WsClient};
pub use storm_core::error::PanicMessage;
/// Handlers by type: what the parameter of a server or client that is not running yet is made of.
///
/// ```
/// # #[cfg(feature = "client")] {
/// use stormsocket::events::{Adapter, Chain, NoEvents};
/// use stormsocket::{Bytes, Session, TcpClient, TcpHandler};
///
/// struct Prints;
///
/// impl TcpHandler for Prints {
///     async fn on_data(&self, _: &Session, data: Bytes) -> Result<(), stormsocket::BoxError> {
///         println!("{data:?}");
///         Ok(())
///     }
/// }
///
/// struct Settings {
///     client: TcpClient<Chain<NoEvents, Adapter<Prints>>>,
/// }
///
/// let settings = Settings { client: TcpClient::new("127.0.0.1:5000").handler(Prints) };
/// # drop(settings.client);
/// # }
/// ```
pub use storm_core::events;
pub use storm_core::events::{Failures, TcpHandler};
pub use storm_core::middleware::MiddlewareChain;
pub use storm_core::{
    BoxError, Broadcast, BroadcastReport, ConfigError, ConnectionMetrics, ConnectionState, DisconnectReason,
    EarlyItems, Error, ErrorKind, Events, Groups, Handled, HandlerOutcome, Hub, IntoHandlerOutcome, Items,
    LatestKey, Message, MessageRef, Middleware, Peer, RateLimit, RateLimitAction, Role, SendBudget,
    SendError, SendOutcome, Sending, SendingWith, ServerMetrics, Session, SessionId, SessionKey,
    SessionOptions, Sessions, SlowConsumerPolicy,
};
#[cfg(feature = "tls")]
pub use storm_core::{TlsInfo, TlsVersion};
#[cfg(feature = "codec")]
pub use storm_framing::{CodecError, CodecFramer};
pub use storm_framing::{
    DelimiterFramer, FramingError, LengthPrefixFramer, Located, MessageFramer, RawFramer, Wire,
};
#[cfg(all(feature = "server", feature = "signal"))]
pub use storm_server::shutdown_signal;
#[cfg(all(feature = "server", feature = "ws"))]
pub use storm_server::{
    Accept, Agreed, AnswerError, HttpRequest, HttpResponse, IntoHttpResponse, Reject, UpgradeRequest,
    WsServer,
};
#[cfg(feature = "server")]
pub use storm_server::{ServeError, ServerHandle, ServerOptions, ShutdownReport, StartError, TcpServer};
#[cfg(feature = "client")]
pub use storm_transport::connect::{
    AddressesFailed, HttpConnectError, LookupFailed, Proxy, ProxyError, Reply as Socks5Reply, Resolver,
    Socks5Error, TargetError,
};
#[cfg(feature = "tls")]
pub use storm_transport::tls::{
    self, ClientCertificates, ClientTlsOptions, Identity, Roots, TlsConfigError, TlsError, TlsErrorKind,
    TlsOptions,
};
#[cfg(feature = "ws")]
pub use storm_transport::ws::{MessageWriter, WsHandler, WsOptions, WsSession};
pub use storm_transport::{BindAddr, ConnectAddr, KeepAlive, OpenListener, SocketOptions};
#[cfg(feature = "ws")]
pub use storm_ws_proto::handshake::{self, HeadLimits};
/// The crate of the types of HTTP: of requests, answers and errors of WebSocket's handshake.
#[cfg(feature = "ws")]
pub use storm_ws_proto::http::{self, HeaderMap, StatusCode};
#[cfg(feature = "ws")]
pub use storm_ws_proto::{CloseCode, CloseFrame, HeartbeatOptions, Limits, ProtocolError};
#[cfg(feature = "deflate")]
pub use storm_ws_proto::{DeflateOptions, DeflateParams};

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

/// The futures of methods and builders, for those that keep them.
pub mod future {
    #[cfg(feature = "client")]
    pub use storm_client::ClientSending;
    pub use storm_core::broadcast::Broadcasting;
    pub use storm_core::delivery::Delivering;
    pub use storm_core::session::Closed;
    pub use storm_core::{Sending, SendingWith};
}

#[cfg(feature = "testing")]
pub mod testing;
