#![doc = include_str!("../../../README.md")]

#[cfg(feature = "client")]
pub use storm_client::{ClientHandle, ClientOptions, ConnectError, ReconnectOptions, TcpClient};
pub use storm_core::events::TcpHandler;
pub use storm_core::{
    BoxError, Broadcast, BroadcastReport, ConfigError, ConnectionMetrics, ConnectionState, DisconnectReason,
    Error, ErrorKind, Groups, Hub, IntoHandlerOutcome, Items, Message, Middleware, Role, SendError,
    SendOutcome, ServerMetrics, Session, SessionId, SessionKey, SessionOptions, Sessions, SlowConsumerPolicy,
};
#[cfg(feature = "codec")]
pub use storm_framing::CodecFramer;
pub use storm_framing::{DelimiterFramer, FramingError, LengthPrefixFramer, MessageFramer, RawFramer, Wire};
#[cfg(feature = "server")]
pub use storm_server::{ServerHandle, ServerOptions, ShutdownReport, StartError, TcpServer};
pub use storm_transport::{BindAddr, ConnectAddr, KeepAlive, SocketOptions};
