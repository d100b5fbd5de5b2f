//! For tests of programs that speak over streams: peers that say what a script has them say, streams that fail on cue,
//! and waits that end.
//!
//! ```text
//!                      script: send, expect
//!                              │
//!  program under test <──> Faulty <──> stream <──> Peer / ws::Peer
//!                            ^
//!      Faults: stall, split, end, reset
//! ```
//!
//! Nothing here knows the servers and clients of StormSocket (feature `ws` has frames and upgrades from `storm-ws-proto`): a
//! peer is bytes and a stream, so it can break any rule, and whatever it is pointed at may be any program. The stream is a
//! socket or one half of [`tokio::io::duplex`], which needs no port and goes with a paused clock (see [`clock`]). Programs that
//! use `stormsocket` have all of this as `stormsocket::testing`.
//!
//! Peers, [`soon`] and [`until`] fail after [`clock::LIMIT`], [`within`] after a limit of its own, and say where they were
//! called; only most methods of `ws::Peer` say no more than what they waited for.
//!
//! ```
//! use storm_testing::Peer;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let (mut ours, theirs) = tokio::io::duplex(64);
//! let program = tokio::spawn(async move {
//!     let mut line = [0; 6];
//!     ours.read_exact(&mut line).await.unwrap();
//!     ours.write_all(&line).await.unwrap();
//! });
//!
//! let mut peer = Peer(theirs);
//! peer.send(b"hello\n").await;
//! peer.expect(b"hello\n").await;
//! peer.expect_end().await;
//! # program.await.unwrap();
//! # }
//! ```

pub mod clock;
mod faults;
mod peer;
#[cfg(feature = "ws")]
pub mod ws;

pub use clock::{soon, until, within};
pub use faults::{Faults, Faulty};
pub use peer::{Peer, splits};
