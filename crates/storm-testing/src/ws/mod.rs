//! A scripted WebSocket peer, frame by frame.
//!
//! ```
//! use storm_testing::ws::{Frame, Peer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let (ours, theirs) = tokio::io::duplex(1024);
//! // Both ends are scripts here; in a test one of them is the program.
//! let server = tokio::spawn(async move {
//!     let mut server = Peer::accept_upgrade(ours).await;
//!     assert_eq!(server.frame().await.payload, b"hel");
//!     assert_eq!(server.frame().await.payload, b"lo");
//!     server.send_frame(Frame::close(1000, "bye")).await;
//! });
//!
//! let (mut client, response) = Peer::upgrade(theirs, "/chat", "").await;
//! assert_eq!(response.status, 101);
//! client.send_frame(Frame::text_message("hel").not_final()).await;
//! // A rule is broken: clients mask.
//! client.send_frame(Frame::continuation("lo").unmasked()).await;
//! assert_eq!(client.closes().await, Some(1000));
//! # server.await.unwrap();
//! # }
//! ```

mod frame;
mod http;
mod peer;

pub use frame::{Frame, FrameBuilder, LengthForm, goodbye, head, masked, plain};
pub use http::{ACCEPT, KEY, Response, request};
pub use peer::Peer;
