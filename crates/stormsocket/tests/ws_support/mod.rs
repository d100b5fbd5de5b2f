//! A scripted WebSocket peer, and an observer of what a server or client makes of it.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use storm_core::events::Adapter;
use storm_core::middleware::MiddlewareChain;
use storm_transport::stream::Foreign;
use storm_transport::ws::{Agreed, WsProtocol};
use storm_transport::{Connection, Protocol};
use storm_ws_proto::handshake::{HeadLimits as ProtoHeadLimits, RequestReader};
use stormsocket::{
    Accept, BoxError, DisconnectReason, Error, ErrorKind, Hub, Message, Role, ServerHandle, SessionOptions,
    WsHandler, WsOptions, WsSession,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Longer than anything here takes; a test that waits for it has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// RFC 6455 §1.3: the sample key and its answer.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(LIMIT, what).await.expect("in time")
}

/// Lets other tasks run until `done`.
pub(crate) async fn until(done: impl Fn() -> bool) {
    soon(async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// An upgrade request without its final empty line.
pub(crate) fn request() -> String {
    format!(
        "GET /chat?room=1 HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
    )
}

/// One frame as it stood on the wire, its mask taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) masked: bool,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn code(&self) -> Option<u16> {
        assert_eq!(self.first, 0x88, "a close frame: {self:?}");
        self.payload.first_chunk().map(|code| u16::from_be_bytes(*code))
    }

    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.first, 0x81, "a text frame: {self:?}");
        std::str::from_utf8(&self.payload).expect("utf-8")
    }
}

/// Head and payload as a server sends them.
pub(crate) fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    [head(first, 0, payload.len() as u64), payload.to_vec()].concat()
}

/// Head, key and payload as a client sends them.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = head(first, 0x80, payload.len() as u64);
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// The first bytes of a frame, its length in the shortest form.
pub(crate) fn head(first: u8, mask_bit: u8, len: u64) -> Vec<u8> {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => vec![first, mask_bit | len],
        (_, Ok(len)) => [&[first, mask_bit | 126][..], &len.to_be_bytes()].concat(),
        _ => [&[first, mask_bit | 127][..], &len.to_be_bytes()].concat(),
    }
}

/// A close payload.
pub(crate) fn goodbye(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

/// An HTTP answer, its header names in lower case.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) line: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The other end of a connection, byte by byte.
#[derive(Debug)]
pub(crate) struct Peer<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) wire: BytesMut,
    /// How long it waits for anything.
    limit: Duration,
    /// It sends masked frames.
    is_client: bool,
}

impl Peer {
    /// A TCP connection to `server`.
    pub(crate) async fn dial(server: &ServerHandle) -> Self {
        let addr = server.local_addr().expect("it listens on TCP");
        Self::over(soon(TcpStream::connect(addr)).await.expect("it listens"))
    }

    /// A client that has been upgraded.
    pub(crate) async fn connect(server: &ServerHandle) -> Self {
        Self::connect_with(server, "").await.0
    }

    /// A client that has been upgraded with more header lines.
    pub(crate) async fn connect_with(server: &ServerHandle, headers: &str) -> (Self, Response) {
        let mut peer = Self::dial(server).await;
        peer.write(format!("{}{headers}\r\n", request())).await;
        let response = peer.response().await;
        assert_eq!(response.status, 101, "{response:?}");
        (peer, response)
    }

    /// The answer to a request head, after which the server ends the connection.
    pub(crate) async fn refused(server: &ServerHandle, head: impl AsRef<[u8]>) -> Response {
        let mut peer = Self::dial(server).await;
        peer.write(head).await;
        let response = peer.response().await;
        peer.end().await;
        response
    }

    /// The server's side of the next connection to `listener`, upgraded.
    pub(crate) async fn accept(listener: &TcpListener) -> Self {
        let mut peer = Self::accept_raw(listener).await;
        let upgrade = peer.upgrade_request().await;
        let accepted = upgrade.accept(&Accept::new()).expect("nothing chosen");
        peer.write(&accepted.response).await;
        peer
    }

    pub(crate) async fn accept_raw(listener: &TcpListener) -> Self {
        let (stream, _) = soon(listener.accept()).await.expect("a connection");
        Self { is_client: false, ..Self::over(stream) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, wire: BytesMut::new(), limit: LIMIT, is_client: true }
    }

    /// With paused time: waits as long as it takes.
    pub(crate) fn patient(stream: S, is_client: bool) -> Self {
        Self { limit: Duration::from_secs(1 << 30), is_client, ..Self::over(stream) }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).await.expect("the peer takes it");
    }

    pub(crate) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let limit = self.limit;
        tokio::time::timeout(limit, self.stream.write_all(bytes.as_ref())).await.expect("in time")
    }

    /// Sends one frame, masked if this is a client.
    pub(crate) async fn send(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        let frame = self.frame_of(first, payload);
        self.write(frame).await;
    }

    pub(crate) fn frame_of(&self, first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
        if self.is_client { masked(first, payload.as_ref()) } else { plain(first, payload.as_ref()) }
    }

    async fn more(&mut self) -> io::Result<usize> {
        let limit = self.limit;
        let read = self.stream.read_buf(&mut self.wire);
        tokio::time::timeout(limit, read).await.expect("in time")
    }

    /// The request of a client.
    pub(crate) async fn upgrade_request(&mut self) -> storm_ws_proto::handshake::Upgrade {
        let mut reader = RequestReader::new(ProtoHeadLimits::default());
        loop {
            if let Some((request, len)) = reader.read(&self.wire).expect("a good head") {
                self.wire.advance(len);
                return request.upgrade().expect("a good request");
            }
            assert_ne!(self.more().await.expect("a head"), 0, "it ended in the head");
        }
    }

    pub(crate) async fn response(&mut self) -> Response {
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
    pub(crate) async fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = take_frame(&mut self.wire) {
                return frame;
            }
            let read = self.more().await.expect("a frame, not a reset");
            assert_ne!(read, 0, "it ended before the frame: {:?}", self.wire);
        }
    }

    /// The next frame, which closes: its code.
    pub(crate) async fn closes(&mut self) -> Option<u16> {
        self.frame().await.code()
    }

    /// The stream ends here, in an orderly way.
    pub(crate) async fn end(&mut self) {
        assert_eq!(&self.wire[..], b"", "nothing left unread");
        let read = self.more().await.expect("an end, not a reset");
        assert_eq!((read, &self.wire[..]), (0, &b""[..]));
    }

    /// The stream ends with a reset; what came before is thrown away.
    pub(crate) async fn is_reset(&mut self) {
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
    pub(crate) async fn gone(&mut self) {
        while matches!(self.more().await, Ok(1..)) {
            self.wire.clear();
        }
    }

    /// A ping that has come back: everything sent before has been dealt with. Returns the frames before the pong.
    pub(crate) async fn settle(&mut self) -> Vec<Frame> {
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

/// Takes one whole frame off the front.
pub(crate) fn take_frame(wire: &mut BytesMut) -> Option<Frame> {
    let &[first, second, ..] = &wire[..] else { return None };
    let (extended, masked) = (second & 0x7F, second & 0x80 != 0);
    let len_size = match extended {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let head = 2 + len_size + if masked { 4 } else { 0 };
    if wire.len() < head {
        return None;
    }
    let len = match extended {
        126 | 127 => wire[2..2 + len_size].iter().fold(0, |len, byte| len << 8 | usize::from(*byte)),
        len => len.into(),
    };
    if wire.len() < head + len {
        return None;
    }
    let frame = wire.split_to(head + len);
    let mut payload = frame[head..].to_vec();
    if masked {
        let key = &frame[head - 4..head];
        payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    }
    Some(Frame { first, masked, payload })
}

/// What a session went through.
#[derive(Debug)]
pub(crate) enum Event {
    Connected(WsSession),
    Message(Message),
    Disconnected(DisconnectReason),
    Error(ErrorKind, String),
}

/// Handlers that tell [`Observed`] and, if wanted, echo.
#[derive(Debug)]
pub(crate) struct Observer {
    events: mpsc::UnboundedSender<Event>,
    echo: bool,
}

/// The events, in order.
#[derive(Debug)]
pub(crate) struct Observed(mpsc::UnboundedReceiver<Event>);

/// A handler that records.
pub(crate) fn observer() -> (Observer, Observed) {
    let (events, observed) = mpsc::unbounded_channel();
    (Observer { events, echo: false }, Observed(observed))
}

/// A handler that records and echoes.
pub(crate) fn echo() -> (Observer, Observed) {
    let (observer, observed) = observer();
    (Observer { echo: true, ..observer }, observed)
}

impl Observer {
    fn tell(&self, event: Event) {
        // A test that looks at no events has dropped the other end.
        let _ = self.events.send(event);
    }
}

impl WsHandler for Observer {
    async fn on_connected(&self, session: &WsSession) -> Result<(), BoxError> {
        self.tell(Event::Connected(session.clone()));
        Ok(())
    }

    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
        self.tell(Event::Message(message.clone()));
        if self.echo {
            session.send(message).await?;
        }
        Ok(())
    }

    async fn on_disconnected(&self, _: &WsSession, reason: DisconnectReason) -> Result<(), BoxError> {
        self.tell(Event::Disconnected(reason));
        Ok(())
    }

    async fn on_error(&self, _: Option<&WsSession>, error: &Error) {
        self.tell(Event::Error(error.kind(), error.cause().to_string()));
    }
}

impl Observed {
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }

    pub(crate) async fn connected(&mut self) -> WsSession {
        match soon(self.next()).await {
            Some(Event::Connected(session)) => session,
            event => panic!("connected expected, {event:?} came"),
        }
    }

    pub(crate) async fn message(&mut self) -> Message {
        match soon(self.next()).await {
            Some(Event::Message(message)) => message,
            event => panic!("a message expected, {event:?} came"),
        }
    }

    pub(crate) async fn disconnected(&mut self) -> DisconnectReason {
        match soon(self.next()).await {
            Some(Event::Disconnected(reason)) => reason,
            event => panic!("disconnected expected, {event:?} came"),
        }
    }

    pub(crate) async fn error(&mut self) -> (ErrorKind, String) {
        match soon(self.next()).await {
            Some(Event::Error(kind, text)) => (kind, text),
            event => panic!("an error expected, {event:?} came"),
        }
    }

    /// Nothing has happened that was not asked for.
    pub(crate) fn quiet(&mut self) {
        assert!(matches!(self.0.try_recv(), Err(mpsc::error::TryRecvError::Empty)));
    }

    /// The server is gone, and nothing more has happened.
    pub(crate) async fn finished(mut self) {
        let event = soon(self.next()).await;
        assert!(event.is_none(), "{event:?}");
    }
}

/// Stops a server, which must leave nothing behind.
pub(crate) async fn stop(server: ServerHandle) {
    let report = soon(server.shutdown(Duration::from_secs(5))).await;
    assert_eq!((report.unfinished, server.connections(), server.sessions().len()), (0, 0, 0), "{report:?}");
}

/// A hub for sessions over memory.
pub(crate) fn hub(options: SessionOptions) -> Arc<Hub> {
    Hub::new(options, MiddlewareChain::default()).expect("valid options")
}

/// A session over a pipe that holds `room` bytes in each direction; its peer, and its task.
pub(crate) fn piped(
    hub: &Arc<Hub>,
    role: Role,
    ws: &WsOptions,
    room: usize,
    handler: impl WsHandler,
) -> (WsSession, Peer<DuplexStream>, JoinHandle<DisconnectReason>) {
    let (ours, theirs) = tokio::io::duplex(room);
    let (protocol, driver) = WsProtocol::register(hub, role, None, Agreed::default(), ws);
    let session = WsProtocol::session(driver.session());
    let connection = Connection::new(Foreign(ours), protocol, driver, BytesMut::new());
    let running = tokio::spawn(async move { connection.run(&Adapter(handler)).await });
    (session, Peer::patient(theirs, role == Role::Server), running)
}
