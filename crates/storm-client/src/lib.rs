//! Clients: what happens around a connection on the connecting side.
//!
//! A part of StormSocket: programs depend on `stormsocket`, which has all of this at its top; read `stormsocket::` for
//! `storm_client::`, `storm_core::` and so on in examples.
//!
//! ```text
//!  connect ──> [ dial, TLS, upgrade (one budget) ──> storm_transport::Connection::run ──> ended ]
//!                 ^                                                                         │ reconnect
//!                 └── on_reconnecting(attempt, delay) <── delay <───────────────────────────┘
//! ```
//!
//! Features: `ws` adds `WsClient`, `deflate` its compression, `tls` `.tls(..)` and `wss://`, `metrics` the OpenTelemetry
//! instruments.
//!
//! Not here: the connection loop (`storm-transport`), sessions (`storm-core`).

mod handle;
mod options;
mod queue;
mod reconnect;
#[cfg(feature = "tls")]
mod secure;
mod sending;
mod supervise;
mod tcp;
mod way;
#[cfg(feature = "ws")]
mod ws;

pub use handle::ClientHandle;
pub use options::{ClientOptions, ConnectError};
pub use reconnect::{Backoff, ReconnectOptions};
pub use sending::ClientSending;
#[cfg(feature = "ws")]
pub use storm_ws_proto::handshake::{ClientRequest, RequestError, ResponseError};
pub use tcp::TcpClient;
#[cfg(feature = "ws")]
pub use ws::WsClient;
