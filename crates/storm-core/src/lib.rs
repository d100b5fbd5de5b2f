//! The vocabulary StormSocket's layers share: sessions and what they send, groups, backpressure,
//! metrics, middleware and events. It opens no socket and knows no wire format.
//!
//! A part of StormSocket: programs depend on `stormsocket`, which has what they need of this at its top; read `stormsocket::`
//! for `storm_core::` in examples.
//!
//! ```text
//!  any task ── Session::send ──> Outbox ── Encode::encode ──> SendQueue
//!                                  │  (one short lock)            │
//!                                  │                       Driver::sync
//!  Sessions / Groups ── broadcast ─┘                              v
//!                                             the connection task (storm-transport)
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`session`] | the cloneable handle and what it can do |
//! | [`outbox`] | bytes that wait for the socket, the byte bound, the waiting senders |
//! | [`driver`] | the connection task's side of a session |
//! | [`hub`] | what the sessions of one server or client have in common |
//! | [`sessions`], [`groups`], [`broadcast`] | many sessions at once |
//! | [`delivery`] | writing what broadcasts have queued |
//! | [`events`] | handlers, kept by type, several per event |
//! | [`middleware`] | hooks around every session |
//! | [`send_budget`] | the byte bound over all sessions of a process |
//! | [`rate_limit`] | a middleware that bounds messages per time |
//! | [`message`], [`items`] | what is sent, text or binary; what a session carries for its user |
//! | [`options`], [`error`] | how sessions are configured; what fails, by whose fault |
//! | [`state`], [`peer`] | where a connection is in its life; who is at its other end |
//! | [`buffer_pool`] | buffers that outlive the batch they served |
//! | [`isolation`] | panics of user code end one session |
//! | [`ip`] | who counts as one address |
//! | [`metrics`] | counters of a session and of a server |
//! | [`timer`] | what a session brings to a timer it shares with others |
//! | [`trace`] | what is logged, with which target and level |
//!
//! Features: `metrics` adds the OpenTelemetry instruments, `tls` what a session says about its TLS.

// The setters' docs link from here as from the crates above.
#[cfg(doc)]
extern crate self as storm_core;

mod attempt;
pub mod broadcast;
pub mod buffer_pool;
mod cork;
pub mod delivery;
pub mod driver;
pub mod error;
pub mod events;
pub mod groups;
pub mod hub;
pub mod ip;
pub mod isolation;
pub mod items;
pub mod message;
pub mod metrics;
pub mod middleware;
pub mod options;
pub mod outbox;
pub mod peer;
pub mod rate_limit;
pub mod send_budget;
mod sending;
mod sending_with;
pub mod session;
mod session_id;
pub mod sessions;
mod setters;
pub mod state;
pub mod timer;
pub mod trace;

pub use broadcast::{Broadcast, BroadcastReport};
pub use error::{BoxError, ConfigError, Error, ErrorKind, SendError};
pub use events::{Events, Handled, HandlerOutcome, IntoHandlerOutcome};
pub use groups::Groups;
pub use hub::Hub;
pub use items::{EarlyItems, Items, SessionKey};
pub use message::{Message, MessageRef};
pub use metrics::{ConnectionMetrics, ServerMetrics};
pub use middleware::Middleware;
pub use options::{SessionOptions, SlowConsumerPolicy};
pub use outbox::{LatestKey, SendOutcome};
pub use peer::Peer;
#[cfg(feature = "tls")]
pub use peer::{TlsInfo, TlsVersion};
pub use rate_limit::{RateLimit, RateLimitAction};
pub use send_budget::SendBudget;
pub use sending::Sending;
pub use sending_with::SendingWith;
pub use session::Session;
pub use session_id::SessionId;
pub use sessions::Sessions;
pub use state::{ConnectionState, DisconnectReason, Role};
