//! Servers: what happens around a connection on the accepting side.
//!
//! ```text
//!  Listener ── accept ──> slot (max_connections) ──> connection task ── storm_transport::Connection::run
//!                 └ errors: back off, report, go on           └ slot released when the task ends
//!  ServerHandle ── shutdown(deadline) ──> stop accepting, close all, wait, abort, report
//! ```
//!
//! Not here: the connection loop (`storm-transport`), sessions and groups (`storm-core`).

mod accept;
mod handle;
mod options;
mod slots;
mod start;
mod tcp;

pub use handle::{ServerHandle, ShutdownReport};
pub use options::{ServerOptions, StartError};
pub use tcp::TcpServer;
