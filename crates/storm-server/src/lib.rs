//! Servers: what happens around a connection on the accepting side.
//!
//! A part of StormSocket: programs depend on `stormsocket`, which has all of this at its top; read `stormsocket::` for
//! `storm_server::`, `storm_core::` and so on in examples.
//!
//! ```text
//!  Listener ── accept ──> slot (max_connections) ──> handshake (PROXY header, TLS, upgrade; one budget), if any
//!                 └ errors: back off, report, go on     └──> connection task ── storm_transport::Connection::run
//!                                                                 └ slot released when the task ends
//!  ServerHandle ── shutdown(deadline) ──> stop accepting, close all, wait, abort, report
//! ```
//!
//! Features: `ws` adds `WsServer`, `deflate` its compression, `tls` `.tls(..)`, `signal` `shutdown_signal`, `metrics` the
//! OpenTelemetry instruments.
//!
//! Not here: the connection loop (`storm-transport`), sessions and groups (`storm-core`).

mod accept;
mod budget;
mod handle;
#[cfg(feature = "ws")]
mod handshake;
mod options;
mod per_ip;
mod prepare;
mod proxied;
#[cfg(feature = "tls")]
mod secure;
mod shared;
#[cfg(feature = "signal")]
mod signal;
mod slots;
mod stages;
mod start;
mod tcp;
mod worker;
mod workers;
#[cfg(feature = "ws")]
mod ws;

pub use handle::{ServeError, ServerHandle, ShutdownReport};
#[cfg(feature = "ws")]
pub use handshake::{HttpRequest, HttpResponse, IntoHttpResponse, UpgradeRequest};
pub use options::{ServerOptions, StartError};
#[cfg(feature = "signal")]
pub use signal::shutdown_signal;
#[cfg(feature = "ws")]
pub use storm_transport::ws::Agreed;
#[cfg(feature = "ws")]
pub use storm_ws_proto::handshake::{Accept, AnswerError, Reject};
#[cfg(feature = "ws")]
pub use storm_ws_proto::http::{HeaderMap, StatusCode};
pub use tcp::TcpServer;
#[cfg(feature = "ws")]
pub use ws::WsServer;
