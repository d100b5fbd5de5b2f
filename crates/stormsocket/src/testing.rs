//! For tests of your program: scripted peers, streams that fail on cue, and waits that end. All of it is the crate
//! `storm-testing`; the repository's `docs/testing.md` is the guide.
//!
//! A handler against a peer that sends byte by byte, without a port:
//!
//! ```
//! # #[cfg(feature = "server")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), stormsocket::BoxError> {
//! use stormsocket::testing::Peer;
//! use stormsocket::{DelimiterFramer, TcpServer};
//!
//! let server = TcpServer::unbound()
//!     .framer(DelimiterFramer::default())
//!     .on_data(|session, line| async move { session.send(line).await })
//!     .start()
//!     .await?;
//! let (here, there) = tokio::io::duplex(1024);
//! server.serve(there)?;
//!
//! let mut peer = Peer(here);
//! peer.send_in_pieces(b"hello\nworld\n", 1).await;
//! peer.expect(b"hello\nworld\n").await;
//! peer.half_close().await;
//! peer.expect_end().await;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "server"))]
//! # fn main() {}
//! ```
//!
//! A client and a server in memory, on a connection that is reset in the middle of a message:
//!
//! ```
//! # #[cfg(all(feature = "server", feature = "client"))]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), stormsocket::BoxError> {
//! use stormsocket::testing::{Faulty, soon};
//! use stormsocket::{DisconnectReason, LengthPrefixFramer, TcpClient, TcpServer};
//!
//! let server = TcpServer::unbound().framer(LengthPrefixFramer::new()).start().await?;
//! let (here, there) = tokio::io::duplex(1024);
//! let (there, faults) = Faulty::new(there);
//! server.serve(there)?;
//! let client = TcpClient::default().framer(LengthPrefixFramer::new()).connect_over(here).await?;
//! let session = server.sessions().iter().next().expect("it is served");
//!
//! faults.reset_after_reading(6);
//! client.send("hello").await?;
//! soon(session.closed()).await;
//! assert_eq!(session.disconnect_reason(), Some(DisconnectReason::TransportError));
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "server", feature = "client")))]
//! # fn main() {}
//! ```
//!
//! A WebSocket server against a client that breaks a rule, and one that falls silent, which takes two minutes of a clock
//! that is not the wall's:
//!
//! ```
//! # #[cfg(all(feature = "server", feature = "ws"))]
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), stormsocket::BoxError> {
//! use stormsocket::WsServer;
//! use stormsocket::testing::clock::timed;
//! use stormsocket::testing::ws::{Frame, Peer};
//!
//! let server = WsServer::unbound().start().await?;
//! let (here, there) = tokio::io::duplex(1024);
//! server.serve(there)?;
//! let (mut peer, response) = Peer::upgrade(here, "/", "").await;
//! assert_eq!(response.status, 101);
//! peer.send_frame(Frame::text_message("no mask").unmasked()).await;
//! assert_eq!(peer.closes().await, Some(1002));
//!
//! let (here, there) = tokio::io::duplex(1024);
//! server.serve(there)?;
//! let (peer, _) = Peer::upgrade(here, "/", "").await;
//! let mut peer = peer.patient();
//! let ((), took) = timed(peer.gone()).await;
//! assert_eq!(took.as_secs(), 120);
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "server", feature = "ws")))]
//! # fn main() {}
//! ```

pub use storm_testing::*;
