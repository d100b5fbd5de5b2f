//! For tests of your program: scripted peers, streams that fail on cue, and waits that end. All of it is the crate
//! `storm-testing`; the repository's `docs/testing.md` is the guide.
//!
//! A handler against a peer that sends byte by byte:
//!
//! ```
//! # #[cfg(feature = "server")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), stormsocket::BoxError> {
//! use stormsocket::testing::Peer;
//! use stormsocket::{DelimiterFramer, TcpServer};
//!
//! let server = TcpServer::bind("127.0.0.1:0")
//!     .framer(DelimiterFramer::default())
//!     .on_data(|session, line| async move { session.send(line).await })
//!     .start()
//!     .await?;
//!
//! let mut peer = Peer::connect(server.local_addr().expect("a TCP address")).await;
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
//! A WebSocket server against a client that breaks a rule:
//!
//! ```
//! # #[cfg(all(feature = "server", feature = "ws"))]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), stormsocket::BoxError> {
//! use stormsocket::WsServer;
//! use stormsocket::testing::soon;
//! use stormsocket::testing::ws::{Frame, Peer};
//! use tokio::net::TcpStream;
//!
//! let server = WsServer::bind("127.0.0.1:0").start().await?;
//! let stream = soon(TcpStream::connect(server.local_addr().expect("a TCP address"))).await?;
//! let (mut peer, response) = Peer::upgrade(stream, "/", "").await;
//! assert_eq!(response.status, 101);
//! peer.send_frame(Frame::text_message("no mask").unmasked()).await;
//! assert_eq!(peer.closes().await, Some(1002));
//! peer.end().await;
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "server", feature = "ws")))]
//! # fn main() {}
//! ```

pub use storm_testing::*;
