//! WebSocket as a protocol of the connection loop.
//!
//! ```text
//!  Receiver ──> WsProtocol::receive ──> handlers        pings, pongs and the closing handshake stay here
//!  Session::send ──> WsEncode ──> Sender ──> SendQueue   pongs in their place; a peer that is far behind gets the newest
//! ```
//!
//! Not here: frames and rules (`storm-ws-proto`), the upgrade's I/O (`upgrade`), accept and connect (`storm-server`,
//! `storm-client`).

mod encode;
mod handler;
mod options;
mod protocol;
mod refusal;
mod session;
pub mod upgrade;

pub use encode::WsEncode;
pub use handler::WsHandler;
pub use options::WsOptions;
pub use protocol::{Agreed, WsProtocol};
pub use session::{MessageWriter, WsSession};
