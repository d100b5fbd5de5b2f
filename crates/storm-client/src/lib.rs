//! Clients: what happens around a connection on the connecting side.
//!
//! ```text
//!  connect ──> [ dial, TLS, upgrade (one budget) ──> storm_transport::Connection::run ──> ended ]
//!                 ^                                                                         │ auto-reconnect
//!                 └── on_reconnecting(attempt, delay) <── delay <───────────────────────────┘
//! ```
//!
//! Not here: the connection loop (`storm-transport`), sessions (`storm-core`).

mod events;
mod handle;
mod options;
mod queue;
mod reconnect;
#[cfg(feature = "tls")]
mod secure;
mod supervise;
mod tcp;
mod way;
#[cfg(feature = "ws")]
mod ws;

pub use handle::ClientHandle;
pub use options::{ClientOptions, ConnectError};
pub use reconnect::{Backoff, ReconnectOptions};
#[cfg(feature = "ws")]
pub use storm_ws_proto::handshake::{ClientRequest, RequestError, ResponseError};
pub use tcp::TcpClient;
#[cfg(feature = "ws")]
pub use ws::WsClient;
