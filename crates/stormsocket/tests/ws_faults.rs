//! What user code does wrong, or in the middle of things, on WebSocket: it ends one session at most, and never deadlocks.

mod ws_support;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use storm_core::SessionOptions;
use storm_core::metrics::Ending;
use stormsocket::{
    BoxError, CloseCode, DisconnectReason, Error, ErrorKind, Message, Middleware, RateLimit,
    ReconnectOptions, Role, SendError, ServerHandle, Session, StartError, WsClient, WsHandler, WsOptions,
    WsServer, WsSession,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use ws_support::*;

/// A middleware that panics in one hook, for the sessions that ask for it.
struct Panicking {
    place: &'static str,
    end: Arc<AtomicUsize>,
}

impl Panicking {
    fn act(&self, here: &str, session: &Session) {
        let asked = WsSession::of(session).is_some_and(|session| session.path() == "/panic");
        assert!(self.place != here || !asked, "panic in {here}");
    }
}

impl Middleware for Panicking {
    async fn on_connected(&self, session: &Session) -> Result<(), BoxError> {
        self.act("connected", session);
        Ok(())
    }

    async fn on_data_received(&self, session: &Session, data: Bytes) -> Result<Option<Bytes>, BoxError> {
        self.act("received", session);
        if data == "fail" { Err("so that there is an error".into()) } else { Ok(Some(data)) }
    }

    fn on_data_sending(&self, session: &Session, data: Bytes) -> Option<Bytes> {
        self.act("sending", session);
        Some(data)
    }

    async fn on_disconnected(&self, session: &Session, _: DisconnectReason) -> Result<(), BoxError> {
        self.end.fetch_add(1, Ordering::SeqCst);
        self.act("disconnected", session);
        Ok(())
    }

    async fn on_error(&self, session: Option<&Session>, _: &Error) {
        self.act("error", session.expect("a session"));
    }
}

#[tokio::test]
async fn a_panic_in_any_hook_of_a_middleware_ends_its_session_with_1011_and_no_other() {
    for place in ["connected", "received", "sending", "disconnected", "error"] {
        let (handler, mut observed) = echo();
        let end = Arc::new(AtomicUsize::new(0));
        let server = WsServer::bind("127.0.0.1:0")
            .middleware(Panicking { place, end: end.clone() })
            .handler(handler)
            .start()
            .await
            .unwrap();
        let mut bystander = Peer::connect(&server).await;
        observed.connected().await;
        let mut peer = Peer::dial(&server).await;
        peer.write(format!("{}\r\n", request().replace("/chat?room=1", "/panic"))).await;
        assert_eq!(peer.response().await.status, 101);
        peer.send(0x81, if place == "error" { "fail" } else { "x" }).await;
        if place == "disconnected" {
            assert_eq!(peer.frame().await.text(), "x");
            peer.send(0x88, goodbye(1000, "")).await;
            assert_eq!(peer.closes().await, Some(1000));
        } else {
            assert_eq!(peer.closes().await, Some(1011), "{place}");
            peer.send(0x88, goodbye(1011, "")).await;
        }
        peer.end().await;
        drop(peer);
        until(|| server.connections() == 1).await;
        assert_eq!(end.load(Ordering::SeqCst), 1, "{place}: told of its end, once");
        // The bystander is not disturbed, and neither is whoever comes next.
        for session in [&mut bystander, &mut Peer::connect(&server).await] {
            session.send(0x81, "y").await;
            assert_eq!(session.frame().await.text(), "y");
        }
        let errors = if place == "error" { 2 } else { 1 };
        assert_eq!(server.metrics().error_count, errors, "{place}");
        drop(bystander);
        stop(server).await;
        // The handlers heard of an end for each connect they had heard of.
        let (mut connects, mut ends, mut panics) = (1, 0, 0);
        while let Some(event) = soon(observed.next()).await {
            match event {
                Event::Connected(_) => connects += 1,
                Event::Disconnected(_) => ends += 1,
                Event::Error(ErrorKind::Panic, _) => panics += 1,
                Event::Error(..) | Event::Message(_) => {}
            }
        }
        assert_eq!((connects, panics), (ends, u32::from(place != "error")), "{place}");
    }
}

#[tokio::test]
async fn a_hook_that_panics_over_a_send_from_elsewhere_ends_the_session_with_1011() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .middleware(Panicking { place: "sending", end: Arc::default() })
        .handler(handler)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::dial(&server).await;
    peer.write(format!("{}\r\n", request().replace("/chat?room=1", "/panic"))).await;
    assert_eq!(peer.response().await.status, 101);
    let session = observed.connected().await;
    let sent = session.send("x").await;
    assert!(matches!(sent, Err(SendError::Panicked)), "{sent:?}");
    assert_eq!(peer.closes().await, Some(1011));
    peer.send(0x88, goodbye(1011, "")).await;
    peer.end().await;
    drop(peer);
    stop(server).await;
    let Some(Event::Error(ErrorKind::Panic, text)) = soon(observed.next()).await else { panic!() };
    assert!(text.contains("panic in sending"), "{text}");
    let Some(Event::Disconnected(reason)) = soon(observed.next()).await else { panic!() };
    assert_eq!(reason, DisconnectReason::Aborted);
}

#[tokio::test]
async fn a_panic_in_any_handler_of_a_client_closes_with_1011_and_another_connection_follows() {
    for place in ["connected", "message", "disconnected", "error"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (handler, mut observed) = observer();
        let first = Arc::new(AtomicBool::new(true));
        let act = move |here: &'static str| {
            let panics = here == place && first.swap(false, Ordering::SeqCst);
            async move { assert!(!panics, "panic in {here}") }
        };
        let (c, m, d, e) = (act.clone(), act.clone(), act.clone(), act);
        let client = WsClient::new(format!("ws://{}", listener.local_addr().unwrap()))
            .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
            .handler(handler)
            .on_connected(move |_| c("connected"))
            .on_message(move |_, message| {
                let act = m("message");
                async move {
                    act.await;
                    if message.text() == Some("fail") { Err("so that there is an error") } else { Ok(()) }
                }
            })
            .on_disconnected(move |_, _| d("disconnected"))
            .on_error(move |_, _| e("error"));
        let (client, mut peer) = tokio::join!(soon(client.connect()), Peer::accept(&listener));
        let client = client.unwrap();
        let session = observed.connected().await;
        if place != "connected" {
            peer.send(0x81, "fail").await;
            assert_eq!(observed.message().await.text(), Some("fail"));
        }
        if matches!(place, "disconnected" | "error") {
            assert_eq!(observed.error().await.0, ErrorKind::Handler);
        }
        if place == "disconnected" {
            peer.send(0x88, goodbye(1000, "")).await;
            assert_eq!(peer.closes().await, Some(1000));
            drop(peer);
            assert_eq!(observed.disconnected().await, DisconnectReason::ClosedByServer);
        } else {
            assert_eq!(peer.closes().await, Some(1011), "{place}");
            peer.send(0x88, goodbye(1011, "")).await;
            drop(peer);
        }
        let (kind, text) = observed.error().await;
        assert_eq!(kind, ErrorKind::Panic);
        assert!(text.contains(&format!("panic in {place}")), "{text}");
        if place != "disconnected" {
            assert_eq!(observed.disconnected().await, DisconnectReason::Aborted, "{place}");
        }
        let mut next = Peer::accept(&listener).await;
        assert_ne!(observed.connected().await.id(), session.id());
        next.send(0x81, "fine").await;
        assert_eq!(observed.message().await.text(), Some("fine"));
        client.abort();
        soon(client.closed()).await;
        assert_eq!(observed.disconnected().await, DisconnectReason::Aborted);
        let errors = if matches!(place, "disconnected" | "error") { 2 } else { 1 };
        assert_eq!(client.hub().metrics().error_count, errors, "{place}");
        observed.finished().await;
    }
}

async fn meddle(session: &WsSession, deed: usize) {
    match deed {
        0 => session.close().await,
        1 => session.close_with(CloseCode::GOING_AWAY, "bye").await,
        2 => session.abort(),
        3 => {
            session.join("room");
            session.leave("room");
            session.join("room");
            assert_eq!(session.server().groups().member_count("room") > 0, !session.groups().is_empty());
        }
        4 => {
            session.server().broadcast_text("to all").await;
            session.server().groups().broadcast("room", "to the room").await;
        }
        5 => session.server().sessions().close_all().await,
        6 => {
            let _ = session.ping("x");
            let _ = session.send_text("y").await;
            // Dropped before its last part: that is an end, too.
            let _ = session.text_writer().write("z").await;
        }
        _ => {
            session.close().await;
            session.abort();
            session.close().await;
        }
    }
}

#[tokio::test]
async fn nothing_a_handler_does_to_its_session_deadlocks() {
    for deed in 0..8 {
        for place in ["connected", "message", "disconnected", "error"] {
            let (ended, mut end) = mpsc::unbounded_channel();
            let did = Arc::new(Mutex::new(false));
            let act = move |session: WsSession, here: &'static str| {
                let did = did.clone();
                async move {
                    if here == place {
                        meddle(&session, deed).await;
                        *did.lock().unwrap() = true;
                    }
                    *did.lock().unwrap()
                }
            };
            let (a, b, c, d) = (act.clone(), act.clone(), act.clone(), act);
            let server = WsServer::bind("127.0.0.1:0")
                .close_deadline(Duration::from_millis(500))
                .on_connected(move |session| {
                    let act = a(session, "connected");
                    async move {
                        act.await;
                    }
                })
                .on_message(move |session, _| {
                    let act = b(session, "message");
                    async move {
                        act.await;
                        Err::<(), _>("so that there is an error")
                    }
                })
                .on_error(move |session, _| c(session.expect("a session"), "error"))
                .on_disconnected(move |session, reason| {
                    let (act, ended) = (d(session, "disconnected"), ended.clone());
                    async move { ended.send((act.await, reason)).unwrap() }
                })
                .start()
                .await
                .unwrap();
            let mut peer = Peer::connect(&server).await;
            // It may be gone already.
            let frames = [masked(0x81, b"x"), masked(0x88, &goodbye(1000, ""))].concat();
            let _ = peer.stream.write_all(&frames).await;
            let _ = soon(peer.stream.read_to_end(&mut Vec::new())).await;
            drop(peer);
            let (did, reason) = soon(end.recv()).await.unwrap();
            assert!(did, "deed {deed} in {place}: {reason}");
            assert!(end.try_recv().is_err(), "once");
            stop(server).await;
        }
    }
}

/// A client's handler that meddles with its session in one place.
struct Meddling {
    deed: usize,
    place: &'static str,
    did: Arc<AtomicBool>,
}

impl Meddling {
    async fn act(&self, session: &WsSession, here: &str) {
        if here == self.place {
            meddle(session, self.deed).await;
            assert!(!self.did.swap(true, Ordering::SeqCst), "once");
        }
    }
}

impl WsHandler for Meddling {
    async fn on_connected(&self, session: &WsSession) -> Result<(), BoxError> {
        self.act(session, "connected").await;
        Ok(())
    }

    async fn on_message(&self, session: &WsSession, _: Message) -> Result<(), BoxError> {
        self.act(session, "message").await;
        Err("so that there is an error".into())
    }

    async fn on_disconnected(&self, session: &WsSession, _: DisconnectReason) -> Result<(), BoxError> {
        self.act(session, "disconnected").await;
        Ok(())
    }

    async fn on_error(&self, session: Option<&WsSession>, _: &Error) {
        self.act(session.expect("a session"), "error").await;
    }
}

#[tokio::test]
async fn nothing_a_clients_handler_does_to_its_session_deadlocks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for deed in 0..8 {
        for place in ["connected", "message", "disconnected", "error"] {
            let did = Arc::new(AtomicBool::new(false));
            let client = WsClient::new(format!("ws://{}", listener.local_addr().unwrap()))
                .close_deadline(Duration::from_millis(500))
                .handler(Meddling { deed, place, did: did.clone() });
            let (client, mut peer) = tokio::join!(soon(client.connect()), Peer::accept(&listener));
            // It may be gone already.
            let frames = [plain(0x81, b"x"), plain(0x88, &goodbye(1000, ""))].concat();
            let _ = peer.stream.write_all(&frames).await;
            let _ = peer.stream.shutdown().await;
            let _ = soon(peer.stream.read_to_end(&mut Vec::new())).await;
            let client = client.unwrap();
            soon(client.closed()).await;
            assert!(did.load(Ordering::SeqCst), "deed {deed} in {place}: {:?}", client.disconnect_reason());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn joins_leaves_broadcasts_and_ends_race_without_ghosts_or_lost_joins() {
    joins_leaves_broadcasts_and_ends_race(WsServer::bind("127.0.0.1:0")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_are_there_any_when_the_sessions_live_in_threads_of_the_server() {
    joins_leaves_broadcasts_and_ends_race(WsServer::bind("127.0.0.1:0").worker_threads(2)).await;
}

async fn joins_leaves_broadcasts_and_ends_race(server: WsServer) {
    let (handler, mut observed) = observer();
    let server = server.handler(handler).start().await.unwrap();
    for round in 0..20 {
        let mut racing = tokio::task::JoinSet::new();
        let stays_peer = Peer::connect(&server).await;
        let stays = observed.connected().await;
        let mut peers = Vec::new();
        for _ in 0..6 {
            peers.push(Peer::connect(&server).await);
            let session = observed.connected().await;
            let server = server.clone();
            racing.spawn(async move {
                for _ in 0..20 {
                    session.join("room");
                    server.groups().broadcast_text("room", "x").await;
                    session.leave("room");
                    tokio::task::yield_now().await;
                    session.join("room");
                    server.broadcast_text("y").await;
                }
            });
        }
        racing.spawn({
            let stays = stays.clone();
            async move {
                for _ in 0..50 {
                    stays.leave("room");
                    stays.join("room");
                    tokio::task::yield_now().await;
                }
            }
        });
        for (number, mut peer) in peers.into_iter().enumerate() {
            if (number + round) % 2 == 0 {
                peer.send(0x88, goodbye(1000, "")).await;
                peer.gone().await;
            } else {
                socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        soon(racing.join_all()).await;
        until(|| server.sessions().len() == 1).await;
        let members = server.groups().members("room");
        assert_eq!(members.iter().map(Session::id).collect::<Vec<_>>(), [stays.id()], "round {round}");
        drop(stays_peer);
        until(|| server.sessions().is_empty()).await;
        assert!(server.groups().names().is_empty());
        for _ in 0..7 {
            observed.disconnected().await;
        }
    }
    assert_eq!(server.metrics().error_count, 0);
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn an_abort_resets_fails_what_waits_and_is_told_once_however_often_it_is_said() {
    let (handler, mut observed) = observer();
    let server: ServerHandle = WsServer::bind("127.0.0.1:0").handler(handler).start().await.unwrap();
    let peer = Peer::connect(&server).await;
    aborts_while_sending(peer, &mut observed).await;
    stop(server).await;
    observed.finished().await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (handler, mut observed) = observer();
    let client = WsClient::new(format!("ws://{}", listener.local_addr().unwrap())).handler(handler);
    let (client, peer) = tokio::join!(soon(client.connect()), Peer::accept(&listener));
    aborts_while_sending(peer, &mut observed).await;
    let client = client.unwrap();
    soon(client.closed()).await;
    drop(client);
    observed.finished().await;
}

async fn aborts_while_sending(mut peer: Peer, observed: &mut Observed) {
    let session = observed.connected().await;
    let sending = tokio::spawn({
        let session = session.clone();
        async move {
            loop {
                if let Err(error) = session.send(vec![0; 64 * 1024]).await {
                    return error;
                }
            }
        }
    });
    until(|| session.is_backpressured()).await;
    for _ in 0..3 {
        session.abort();
        session.start_close(session.role().closed_by_us());
    }
    let failed = soon(sending).await.unwrap();
    assert!(matches!(failed, SendError::Closed(Some(DisconnectReason::Aborted))), "{failed:?}");
    peer.is_reset().await;
    assert_eq!(observed.disconnected().await, DisconnectReason::Aborted);
    session.abort();
    soon(session.close()).await;
}

#[tokio::test]
async fn addresses_that_cannot_be_bound_are_errors_that_leave_nothing_behind() {
    let taken = WsServer::bind("127.0.0.1:0").start().await.unwrap();
    let addr = taken.local_addr().unwrap();
    for bad in
        [addr.to_string(), "256.0.0.1:80".to_owned(), "no port".to_owned(), "192.0.2.1:8080".to_owned()]
    {
        let started = WsServer::bind("127.0.0.1:0").also_bind(bad.as_str()).start().await;
        assert!(matches!(started, Err(StartError::Bind { .. })), "{bad}: {started:?}");
    }
    stop(taken).await;
    // The port is free again, and was never half taken.
    stop(WsServer::bind(addr).start().await.unwrap()).await;
}

#[tokio::test]
async fn a_session_above_its_rate_limit_is_reset_and_control_frames_do_not_count() {
    let (handler, mut observed) = echo();
    let hour = Duration::from_secs(3600);
    let server = WsServer::bind("127.0.0.1:0")
        .middleware(RateLimit::per_ip(3, hour).unwrap())
        .handler(handler)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(&server).await;
    observed.connected().await;
    for _ in 0..3 {
        assert!(peer.settle().await.is_empty());
        // One message, whatever number of frames it comes in.
        peer.send(0x01, "h").await;
        peer.send(0x80, "i").await;
        assert_eq!(peer.frame().await.text(), "hi");
        assert_eq!(observed.message().await.text(), Some("hi"));
    }
    peer.send(0x81, "one too many").await;
    peer.is_reset().await;
    assert_eq!(observed.disconnected().await, DisconnectReason::RateLimited);
    // Its address is over the limit, whatever session it comes with.
    let mut again = Peer::connect(&server).await;
    observed.connected().await;
    again.send(0x81, "hi").await;
    again.is_reset().await;
    assert_eq!(observed.disconnected().await, DisconnectReason::RateLimited);
    stop(server).await;
    observed.finished().await;
}

/// A stream that fails at once, and panics when it is dropped.
struct Brittle;

impl AsyncRead for Brittle {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

impl AsyncWrite for Brittle {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Brittle {
    fn drop(&mut self) {
        panic!("brittle");
    }
}

#[tokio::test]
async fn a_stream_that_panics_when_it_is_dropped_has_an_end_like_others() {
    let hub = hub(SessionOptions::default());
    let (observer, mut observed) = observer();
    let (_session, running) = over(&hub, Role::Server, &WsOptions::default(), Brittle, observer);
    observed.connected().await;
    assert_eq!(observed.error().await, (ErrorKind::Panic, "brittle".to_owned()));
    assert_eq!(observed.disconnected().await, DisconnectReason::TransportError);
    assert_eq!(running.await.expect("no panic goes further"), DisconnectReason::TransportError);
    assert_eq!((hub.endings().get(Ending::Lost), hub.endings().total()), (1, 1));
    assert!(hub.sessions().is_empty());
    observed.finished().await;
}
