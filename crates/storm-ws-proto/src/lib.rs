//! RFC 6455 WebSocket and RFC 7692 permessage-deflate without I/O, clock or randomness.
//!
//! Bytes, instants and random keys are handed in; events, bytes and deadlines come out. A driver of any
//! kind, asynchronous or not, moves them to and from a socket.
//!
//! A part of StormSocket, and of use without it. Programs that depend on `stormsocket` have there what its servers and clients
//! show of this: options, errors, close codes.
//!
//! ```text
//!                handshake::RequestReader      handshake::ClientHandshake
//!                read -> Request -> accept     encode -> read -> Connected
//!                             |                               |
//!                             +----- DeflateParams, protocol -+
//!                                             |
//!            +--------------------------------+---------------------------------+
//!            |                                                                  |
//!   read     v                    Incoming::Message, Ping, Pong, Close          |
//!  socket -> BytesMut -> Receiver::receive -----------------------> application |
//!                        frame, mask, utf8, assembler, inflate          |       |
//!                                                                       v       v
//!  socket <- Wire <----- Sender::{message, fragment, ping, pong, close, put_shared}
//!   write                deflate, mask, frame
//!
//!   clock -> Heartbeat::handle_timeout -> ping, or dead      Heartbeat::poll_timeout -> timer
//! ```
//!
//! The two halves share nothing, so the receive half can belong to a connection's task and the send half
//! live behind the lock of its outgoing queue.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `deflate` | yes | permessage-deflate: `DeflateOptions`, `DeflateParams` and the methods that take them |
//!
//! # Stricter than the RFC
//!
//! Lengths in more bytes than they need are refused (1002); a bad text fails at its first hopeless byte,
//! not at the end of its frame; compressed data that does not inflate is answered with 1007; a request
//! head with bare line feeds is refused.

mod assembler;
mod close;
mod close_frame;
#[cfg_attr(not(feature = "deflate"), path = "deflate_off.rs")]
mod deflate;
mod error;
mod extension;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod handshake;
mod heartbeat;
mod limits;
mod mask;
mod message;
mod receiver;
mod role;
mod sender;
mod shared;
mod utf8;
mod wire;

pub use close::CloseCode;
pub use close_frame::CloseFrame;
#[cfg(feature = "deflate")]
pub use deflate::{DeflateOptions, DeflateParams};
pub use error::ProtocolError;
pub use frame::{FrameHead, MAX_CONTROL, Opcode};
pub use heartbeat::{Heartbeat, HeartbeatAction, HeartbeatOptions};
pub use limits::Limits;
pub use mask::MaskSource;
pub use message::{Message, MessageKind, MessageRef};
pub use receiver::{Incoming, Look, Receiver};
pub use role::Role;
pub use sender::{SendError, Sender, put_plain};
pub use shared::{SharedFrame, SharedKey};
pub use wire::Wire;

// The types of other crates that stand in this one's signatures.
pub use bytes;
pub use bytestring;
pub use http;
