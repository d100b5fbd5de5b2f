//! Clients: what happens around a connection on the connecting side.
//!
//! ```text
//!  connect ──> [ dial (one budget) ──> storm_transport::Connection::run ──> ended ]
//!                 ^                                                           │ auto-reconnect
//!                 └── on_reconnecting(attempt, delay) <── delay <─────────────┘
//! ```
//!
//! Not here: the connection loop (`storm-transport`), sessions (`storm-core`).

mod handle;
mod options;
mod supervise;
mod tcp;

pub use handle::ClientHandle;
pub use options::{ClientOptions, ConnectError, ReconnectOptions};
pub use tcp::TcpClient;
