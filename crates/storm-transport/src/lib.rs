//! Sockets, and the one connection loop that serves every protocol in either role.
//!
//! A part of StormSocket: programs depend on `stormsocket`, which has what they need of this at its top.
//!
//! ```text
//!             ┌────────────────────────── connection task ───────────────────────────┐
//!  Stream ──> │ poll_read ── Protocol::receive ── middleware ── Events::message      │ foreground
//!  Stream <── │ poll_write <── Driver::sync (the session's outbox)                   │ background
//!             │ deadlines (protocol, idle, close), wishes (close, abort), read-ahead │ background
//!             └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`connection`] | the loop |
//! | [`protocol`] | what the loop asks of a protocol |
//! | [`framed`] | framed TCP as a protocol |
//! | [`mod@connect`] | connecting sockets |
//! | `ws` | WebSocket as a protocol (feature `ws`) |
//! | [`transport`] | what the loop asks of a stream |
//! | [`stream`] | the kinds of stream |
//! | [`shared_tcp`] | TCP sockets that broadcasts write to, too |
//! | [`fault`] | which errors networks bring about by themselves |
//! | [`listener`] | listening sockets and the addresses they bind |
//! | [`socket`] | socket options |
//! | `tls` | TLS under any stream (feature `tls`) |
//!
//! Further features: `deflate` adds permessage-deflate to `ws`, `metrics` the OpenTelemetry instruments.

pub mod connect;
pub mod connection;
pub mod fault;
pub mod framed;
pub mod listener;
#[doc(hidden)]
pub mod net;
pub mod protocol;
pub mod shared_tcp;
pub mod socket;
pub mod stream;
#[cfg(feature = "tls")]
pub mod tls;
pub mod transport;
#[cfg(feature = "ws")]
pub mod ws;

pub use connect::{ConnectAddr, Dialer};
pub use connection::Connection;
pub use framed::{Framed, FramedEncode};
pub use listener::{BindAddr, Families, Listener, Listening, OpenListener, SPREADS_CONNECTIONS};
pub use protocol::{End, Protocol};
pub use shared_tcp::TcpWriter;
pub use socket::{KeepAlive, SocketOptions};
pub use stream::{Link, Stream};
#[cfg(feature = "tls")]
pub use tls::{ClientTlsOptions, TlsOptions};
pub use transport::Transport;
#[cfg(feature = "ws")]
pub use ws::{WsOptions, WsProtocol, WsSession};
