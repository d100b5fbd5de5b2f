//! A scripted WebSocket peer, and an observer of what a server or client makes of it.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use storm_core::events::Adapter;
use storm_core::middleware::MiddlewareChain;
pub(crate) use storm_testing::clock::LIMIT;
use storm_testing::ws;
pub(crate) use storm_testing::ws::{ACCEPT, Frame, KEY, Response, goodbye, head, masked, plain};
pub(crate) use storm_testing::{soon, until};
use storm_transport::stream::Foreign;
use storm_transport::ws::{Agreed, WsProtocol};
use storm_transport::{Connection, Protocol};
use stormsocket::{
    BoxError, DisconnectReason, Error, ErrorKind, Hub, Message, Role, ServerHandle, SessionOptions,
    WsHandler, WsOptions, WsSession,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// An upgrade request without its final empty line.
pub(crate) fn request() -> String {
    ws::request("/chat?room=1")
}

/// The sample request with one thing changed.
pub(crate) fn with(from: &str, to: &str) -> String {
    let request = request();
    assert!(request.contains(from), "{from}");
    format!("{}\r\n", request.replacen(from, to, 1))
}

pub(crate) fn plus(line: &str) -> String {
    format!("{}{line}\r\n\r\n", request())
}

/// The scripted peer, at the servers and listeners of these tests.
#[derive(Debug)]
pub(crate) struct Peer<S = TcpStream>(ws::Peer<S>);

impl Peer {
    /// A TCP connection to `server`.
    pub(crate) async fn dial(server: &ServerHandle) -> Self {
        Self(ws::Peer::connect(server.local_addr().expect("it listens on TCP")).await)
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
        let (stream, _) = soon(listener.accept()).await.expect("a connection");
        Self(ws::Peer::accept_upgrade(stream).await)
    }

    pub(crate) async fn accept_raw(listener: &TcpListener) -> Self {
        Self(ws::Peer::accept(listener).await)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self(ws::Peer::over(stream))
    }

    /// With paused time: waits as long as it takes.
    pub(crate) fn patient(stream: S, is_client: bool) -> Self {
        let peer = ws::Peer::over(stream).patient();
        Self(if is_client { peer } else { peer.as_server() })
    }
}

impl<S> Deref for Peer<S> {
    type Target = ws::Peer<S>;

    fn deref(&self) -> &ws::Peer<S> {
        &self.0
    }
}

impl<S> DerefMut for Peer<S> {
    fn deref_mut(&mut self) -> &mut ws::Peer<S> {
        &mut self.0
    }
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
    let (session, running) = over(hub, role, ws, ours, handler);
    (session, Peer::patient(theirs, role == Role::Server), running)
}

/// A session over any stream, and its task.
pub(crate) fn over<S>(
    hub: &Arc<Hub>,
    role: Role,
    ws: &WsOptions,
    stream: S,
    handler: impl WsHandler,
) -> (WsSession, JoinHandle<DisconnectReason>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (protocol, driver) = WsProtocol::register(hub, role, None, Agreed::default(), ws, None);
    let session = WsProtocol::session(driver.session());
    let connection = Connection::new(Foreign(stream), protocol, driver, BytesMut::new());
    let running = tokio::spawn(async move { connection.run(&Adapter(handler)).await });
    (session, running)
}
