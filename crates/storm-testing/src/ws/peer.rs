//! A scripted WebSocket peer.
//!
//! Owns: the stream, and what has been read of it too far.
//! Not here: what frames look like (`frame`), what the upgrade says (`http`).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use storm_ws_proto::handshake::{Accept, HeadLimits, RequestReader, Upgrade};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::frame::{Frame, FrameBuilder};
use super::http::{Response, request};
use crate::clock::{LIMIT, soon};

/// The other end of a WebSocket connection, before the upgrade or after it. It checks nothing and answers nothing by itself:
/// neither pings nor a close frame.
///
/// Every method fails if the other side does something else, or nothing for too long.
#[derive(Debug)]
pub struct Peer<S = TcpStream> {
    /// The stream.
    pub stream: S,
    /// What has been read and not looked at.
    pub wire: BytesMut,
    limit: Duration,
    is_client: bool,
}

impl Peer {
    /// A TCP connection to a server at `addr`; nothing has been said.
    ///
    /// # Panics
    /// Nobody accepts it.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::over(soon(TcpStream::connect(addr)).await.expect("it listens"))
    }

    /// The server's side of the next connection to `listener`; nothing has been said.
    ///
    /// # Panics
    /// None comes.
    pub async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = soon(listener.accept()).await.expect("a connection");
        Self::over(stream).as_server()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// A client over `stream`.
    pub fn over(stream: S) -> Self {
        Self { stream, wire: BytesMut::new(), limit: LIMIT, is_client: true }
    }

    /// Makes it a server: it sends frames without masks.
    pub fn as_server(self) -> Self {
        Self { is_client: false, ..self }
    }

    /// Waits as long as it takes. For a paused clock, which passes any limit while it waits for a deadline of the other side.
    pub fn patient(self) -> Self {
        Self { limit: Duration::from_secs(1 << 30), ..self }
    }

    /// A client over `stream` that has asked for an upgrade of `target`, with more header lines (each with its line
    /// break), and the answer.
    ///
    /// # Panics
    /// There is no answer.
    pub async fn upgrade(stream: S, target: &str, headers: &str) -> (Self, Response) {
        let mut peer = Self::over(stream);
        peer.write(format!("{}{headers}\r\n", request(target))).await;
        let response = peer.response().await;
        (peer, response)
    }

    /// A server over `stream` that has accepted an upgrade, without a subprotocol or an extension.
    ///
    /// # Panics
    /// None is asked for, or not as the rules have it.
    pub async fn accept_upgrade(stream: S) -> Self {
        let mut peer = Self::over(stream).as_server();
        let upgrade = peer.upgrade_request().await;
        let accepted = upgrade.accept(&Accept::new()).expect("nothing chosen");
        peer.write(&accepted.response).await;
        peer
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// The other side does not take them.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).await.expect("the peer takes it");
    }

    /// Sends bytes, if the other side takes them.
    ///
    /// # Errors
    /// What the stream says.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let limit = self.limit;
        tokio::time::timeout(limit, self.stream.write_all(bytes.as_ref())).await.expect("in time")
    }

    /// Sends one frame as its role has it, with this first byte: `0x81` is a whole text message.
    pub async fn send(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        self.send_frame(FrameBuilder::new(first, payload)).await;
    }

    /// Sends one frame, good or not.
    pub async fn send_frame(&mut self, frame: FrameBuilder) {
        self.write(frame.to_bytes(self.is_client)).await;
    }

    /// One frame as its role has it.
    pub fn frame_of(&self, first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
        FrameBuilder::new(first, payload).to_bytes(self.is_client)
    }

    async fn more(&mut self) -> io::Result<usize> {
        let limit = self.limit;
        let read = self.stream.read_buf(&mut self.wire);
        tokio::time::timeout(limit, read).await.expect("in time")
    }

    /// The request of a client, for an answer of one's own.
    ///
    /// # Panics
    /// It is none, or not as the rules have it.
    pub async fn upgrade_request(&mut self) -> Upgrade {
        let mut reader = RequestReader::new(HeadLimits::default());
        loop {
            if let Some((request, len)) = reader.read(&self.wire).expect("a good head") {
                self.wire.advance(len);
                return request.upgrade().expect("a good request");
            }
            assert_ne!(self.more().await.expect("a head"), 0, "it ended in the head");
        }
    }

    /// An HTTP answer.
    ///
    /// # Panics
    /// It is none, or the stream ends in it.
    pub async fn response(&mut self) -> Response {
        let end = loop {
            if let Some(at) = self.wire.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            let read = self.more().await.expect("a head");
            assert_ne!(read, 0, "it ended in the head: {:?}", self.wire);
        };
        let head = String::from_utf8(self.wire.split_to(end).to_vec()).expect("ascii");
        let mut lines = head.lines();
        let line = lines.next().expect("a status line").to_owned();
        let status = line.split(' ').nth(1).expect("a status").parse().expect("a number");
        let headers: HashMap<_, _> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let len = headers.get("content-length").map_or(0, |len| len.parse().expect("a length"));
        while self.wire.len() < len {
            assert_ne!(self.more().await.expect("a body"), 0, "it ended in the body");
        }
        let body = String::from_utf8(self.wire.split_to(len).to_vec()).expect("text");
        Response { status, line, headers, head, body }
    }

    /// The next frame.
    ///
    /// # Panics
    /// The stream ends before.
    pub async fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = Frame::take(&mut self.wire) {
                return frame;
            }
            let read = self.more().await.expect("a frame, not a reset");
            assert_ne!(read, 0, "it ended before the frame: {:?}", self.wire);
        }
    }

    /// The next frame, which closes: its code.
    ///
    /// # Panics
    /// It is another.
    pub async fn closes(&mut self) -> Option<u16> {
        self.frame().await.code()
    }

    /// The stream ends here, in an orderly way.
    ///
    /// # Panics
    /// It does not, or something comes before.
    pub async fn end(&mut self) {
        assert_eq!(&self.wire[..], b"", "nothing left unread");
        let read = self.more().await.expect("an end, not a reset");
        assert_eq!((read, &self.wire[..]), (0, &b""[..]));
    }

    /// The stream ends with a reset; what came before is thrown away.
    ///
    /// # Panics
    /// It ends in another way.
    pub async fn is_reset(&mut self) {
        loop {
            match self.more().await {
                Ok(0) => panic!("an orderly end instead of a reset"),
                Ok(_) => self.wire.clear(),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                    return;
                }
            }
        }
    }

    /// Reads to the end, orderly or not.
    pub async fn gone(&mut self) {
        while matches!(self.more().await, Ok(1..)) {
            self.wire.clear();
        }
    }

    /// Ends our stream; theirs may go on.
    ///
    /// # Panics
    /// The connection is gone.
    #[track_caller]
    pub fn half_close(&mut self) -> impl Future<Output = ()> {
        let caller = Location::caller();
        let ended = soon(self.stream.shutdown());
        async move { ended.await.unwrap_or_else(|error| panic!("cannot end: {error}, at {caller}")) }
    }

    /// A ping that has come back: everything sent before has been dealt with. Returns the frames before the pong.
    ///
    /// # Panics
    /// None comes back.
    pub async fn settle(&mut self) -> Vec<Frame> {
        self.send(0x89, b"settle").await;
        let mut frames = Vec::new();
        loop {
            match self.frame().await {
                Frame { first: 0x8A, payload, .. } if payload == b"settle" => return frames,
                frame => frames.push(frame),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_and_a_server_that_are_both_scripts() {
        let (ours, theirs) = tokio::io::duplex(1024);
        let server = tokio::spawn(async move {
            let mut server = Peer::accept_upgrade(ours).await;
            assert_eq!(server.frame().await, Frame { first: 0x01, masked: true, payload: b"he".to_vec() });
            assert_eq!(server.frame().await.payload, b"llo");
            assert_eq!(server.frame().await.first, 0x89);
            server.send_frame(Frame::pong("settle")).await;
            server.send(0x81, "late").await;
            server.half_close().await;
            assert_eq!(server.closes().await, Some(1000));
            server.end().await;
        });
        let (mut client, response) = Peer::upgrade(theirs, "/chat", "X-More: yes\r\n").await;
        assert_eq!(
            (response.status, response.header("sec-websocket-accept")),
            (101, Some(super::super::ACCEPT))
        );
        client.send_frame(Frame::text_message("he").not_final()).await;
        client.send_frame(Frame::continuation("llo")).await;
        assert!(client.settle().await.is_empty());
        let frame = client.frame().await;
        assert_eq!((frame.text(), frame.masked), ("late", false));
        client.end().await;
        client.send_frame(Frame::close(1000, "")).await;
        drop(client);
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn answers_with_a_body() {
        let (mut ours, theirs) = tokio::io::duplex(1024);
        ours.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n\x81").await.unwrap();
        let mut peer = Peer::over(theirs);
        let response = peer.response().await;
        assert_eq!((response.status, response.body.as_str(), &peer.wire[..]), (403, "no\n", &b"\x81"[..]));
    }
}
