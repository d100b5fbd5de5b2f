//! Errors and panics of handlers and middlewares: reported, and nobody else's business.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use stormsocket::{
    BoxError, DisconnectReason, Error, ErrorKind, Middleware, ReconnectOptions, SendError, ServerHandle,
    Session, SlowConsumerPolicy, TcpClient,
};
use support::*;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// The server still serves: a new session echoes.
async fn assert_alive(server: &ServerHandle) {
    let mut peer = Peer::connect(addr_of(server)).await;
    peer.send(b"ping").await;
    peer.expect(b"ping").await;
}

/// Panics where told to, in sessions that have said so; echoes otherwise.
async fn panicking(place: &'static str) -> (ServerHandle, mpsc::UnboundedReceiver<(&'static str, String)>) {
    let (notes, noted) = mpsc::unbounded_channel();
    let is_first = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let first = move |session: &Session| {
        let id = usize::try_from(session.id().get()).unwrap();
        let _ = is_first.compare_exchange(
            0,
            id,
            std::sync::atomic::Ordering::SeqCst,
            std::sync::atomic::Ordering::SeqCst,
        );
        is_first.load(std::sync::atomic::Ordering::SeqCst) == id
    };
    let (c, d, e, m) = (first.clone(), first.clone(), first.clone(), first);
    let (error_notes, end_notes) = (notes.clone(), notes);
    let server = local_server()
        .on_connected(move |session| {
            let panics = place == "connected" && c(&session);
            async move { assert!(!panics, "panic in connected") }
        })
        .on_data(move |session, data| {
            let panics = place == "data" && m(&session);
            let fails = place == "error" && m(&session);
            async move {
                tokio::task::yield_now().await;
                assert!(!panics, "panic in data");
                if fails {
                    return Err::<(), BoxError>("so that there is an error".into());
                }
                session.send(data).await?;
                Ok(())
            }
        })
        .on_disconnected(move |session, reason| {
            if d(&session) {
                end_notes.send(("disconnected", reason.to_string())).unwrap();
            }
            let panics = place == "disconnected" && d(&session);
            async move { assert!(!panics, "panic in disconnected") }
        })
        .on_error(move |session, error| {
            let cause = error.cause().to_string();
            error_notes
                .send((if error.kind() == ErrorKind::Panic { "panic" } else { "error" }, cause))
                .unwrap();
            let panics = place == "error" && e(&session.expect("a session"));
            async move { assert!(!panics, "panic in error") }
        })
        .start()
        .await
        .unwrap();
    (server, noted)
}

#[tokio::test]
async fn a_panic_in_any_handler_ends_its_session_and_no_other() {
    for place in ["connected", "data", "disconnected", "error"] {
        let (server, mut noted) = panicking(place).await;
        let mut peer = Peer::connect(addr_of(&server)).await;
        // A write that met the reset would be the one to see it.
        if place != "connected" {
            peer.send(b"x").await;
        }
        if place == "disconnected" {
            peer.half_close().await;
        } else {
            peer.expect_reset().await;
        }
        let mut notes = vec![soon(noted.recv()).await.unwrap(), soon(noted.recv()).await.unwrap()];
        if place == "error" {
            notes.push(soon(noted.recv()).await.unwrap());
        }
        let panic = |text: &str| ("panic", text.to_owned());
        let end = |reason: DisconnectReason| ("disconnected", reason.to_string());
        let expected = match place {
            "connected" => vec![panic("panic in connected"), end(DisconnectReason::Aborted)],
            "data" => vec![panic("panic in data"), end(DisconnectReason::Aborted)],
            "disconnected" => vec![end(DisconnectReason::ClosedByClient), panic("panic in disconnected")],
            // The panic of the error handler is reported to the error handler, and that is all.
            _ => vec![
                ("error", "so that there is an error".to_owned()),
                panic("panic in error"),
                end(DisconnectReason::Aborted),
            ],
        };
        assert_eq!(notes, expected, "{place}");
        drop(peer);
        assert_alive(&server).await;
        stop(&server).await;
        assert_eq!(server.metrics().error_count, expected.len() as u64 - 1, "{place}");
    }
}

#[tokio::test]
async fn a_panic_in_any_handler_of_a_client_ends_its_connection_and_another_follows() {
    for place in ["connected", "data", "disconnected", "error"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (recorder, mut log) = recorder();
        let first = Arc::new(AtomicBool::new(true));
        let act = move |here: &'static str| {
            let panics = here == place && first.swap(false, Ordering::SeqCst);
            async move { assert!(!panics, "panic in {here}") }
        };
        let (c, m, d, e) = (act.clone(), act.clone(), act.clone(), act);
        let client = TcpClient::new(listener.local_addr().unwrap())
            .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
            .handler(recorder)
            .on_connected(move |_| c("connected"))
            .on_data(move |_, data| {
                let act = m("data");
                async move {
                    act.await;
                    if data == "fail" { Err("so that there is an error") } else { Ok(()) }
                }
            })
            .on_disconnected(move |_, _| d("disconnected"))
            .on_error(move |_, _| e("error"))
            .connect()
            .await
            .unwrap();
        let mut peer = Peer(soon(listener.accept()).await.unwrap().0);
        let session = log.connected().await;
        // A write would swallow the reset that comes without it.
        if place != "connected" {
            peer.send(b"fail").await;
        }
        if place == "disconnected" {
            peer.half_close().await;
        } else {
            peer.expect_reset().await;
        }
        let data = || Event::Data(session.clone(), Bytes::from_static(b"fail"));
        let error = |kind| Event::Error(Some(session.clone()), kind);
        let end = |reason| Event::Disconnected(session.clone(), reason);
        let expected = match place {
            "connected" => vec![error(ErrorKind::Panic), end(DisconnectReason::Aborted)],
            "data" => vec![data(), error(ErrorKind::Panic), end(DisconnectReason::Aborted)],
            "disconnected" => vec![
                data(),
                error(ErrorKind::Handler),
                end(DisconnectReason::ClosedByServer),
                error(ErrorKind::Panic),
            ],
            _ => vec![
                data(),
                error(ErrorKind::Handler),
                error(ErrorKind::Panic),
                end(DisconnectReason::Aborted),
            ],
        };
        for event in &expected {
            assert_eq!(&log.next().await, event, "{place}");
        }
        let mut next = Peer(soon(listener.accept()).await.unwrap().0);
        assert_ne!(log.connected().await, session);
        next.send(b"fine").await;
        assert_eq!(log.data().await, "fine", "{place}");
        client.abort();
        soon(client.closed()).await;
        assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
        log.assert_quiet();
        let errors = expected.iter().filter(|event| matches!(event, Event::Error(..))).count();
        assert_eq!(client.hub().metrics().error_count, errors as u64, "{place}");
    }
}

#[tokio::test]
async fn a_panic_while_the_future_is_made_is_one_of_the_handler() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .on_data(|_, _| -> std::future::Ready<()> { panic!("before there is a future") })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    peer.send(b"x").await;
    peer.expect_reset().await;
    assert_eq!(log.error().await, ErrorKind::Panic);
    assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn an_error_in_any_handler_is_reported_and_ends_nothing() {
    let (errors, mut reported) = mpsc::unbounded_channel();
    let server = local_server()
        .on_connected(|_| async { Err::<(), _>("connected failed") })
        .on_data(|session, data| async move {
            session.send(data).await?;
            Err::<(), BoxError>("data failed".into())
        })
        .on_disconnected(|_, _| async { Err::<(), _>("disconnected failed") })
        .on_error(move |session, error| {
            let _ = errors.send((session.is_some(), error.kind(), error.cause().to_string()));
            async {}
        })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    for _ in 0..2 {
        peer.send(b"x").await;
        peer.expect(b"x").await;
    }
    drop(peer);
    for cause in ["connected failed", "data failed", "data failed", "disconnected failed"] {
        let report = soon(reported.recv()).await.unwrap();
        assert_eq!(report, (true, ErrorKind::Handler, cause.to_owned()));
    }
    stop(&server).await;
    assert_eq!(server.metrics().error_count, 4);
}

/// Panics or fails in one hook.
struct Bad {
    place: &'static str,
    panics: bool,
}

impl Bad {
    fn act(&self, here: &str) -> Result<(), BoxError> {
        if self.place == here {
            assert!(!self.panics, "the middleware panics");
            return Err("the middleware fails".into());
        }
        Ok(())
    }
}

impl Middleware for Bad {
    async fn on_connected(&self, _: &Session) -> Result<(), BoxError> {
        self.act("connected")
    }

    async fn on_data_received(&self, _: &Session, data: Bytes) -> Result<Option<Bytes>, BoxError> {
        self.act("received").map(|()| Some(data))
    }

    fn on_data_sending(&self, _: &Session, data: Bytes) -> Option<Bytes> {
        self.act("sending").ok().map(|()| data)
    }

    async fn on_disconnected(&self, _: &Session, _: DisconnectReason) -> Result<(), BoxError> {
        self.act("disconnected")
    }

    async fn on_error(&self, _: Option<&Session>, _: &Error) {
        drop(self.act("error"));
    }
}

async fn with_bad_middleware(place: &'static str, panics: bool, recorder: Recorder) -> ServerHandle {
    local_server()
        .middleware(Bad { place, panics })
        .on_data(|session, data| async move {
            session.send(data).await?;
            Ok::<_, BoxError>(())
        })
        .handler(recorder)
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_panic_in_any_hook_of_a_middleware_ends_its_session_once() {
    for place in ["received", "sending", "disconnected"] {
        let (recorder, mut log) = recorder();
        let server = with_bad_middleware(place, true, recorder).await;
        let mut peer = Peer::connect(addr_of(&server)).await;
        let session = log.connected().await;
        peer.send(b"x").await;
        if place == "disconnected" {
            peer.expect(b"x").await;
            log.data().await;
            peer.half_close().await;
        } else {
            peer.expect_reset().await;
        }
        if place == "sending" {
            // The handler's send has failed, and the other handlers have their turn.
            log.data().await;
        }
        // The panic is reported and the handlers hear of the end, whichever comes first.
        let reason = if place == "disconnected" {
            DisconnectReason::ClosedByClient
        } else {
            DisconnectReason::Aborted
        };
        let error = Event::Error(Some(session.clone()), ErrorKind::Panic);
        let end = Event::Disconnected(session, reason);
        let events = [log.next().await, log.next().await];
        assert!(events.contains(&error) && events.contains(&end), "{place}: {events:?}");
        stop(&server).await;
        log.assert_quiet();
    }
}

/// Panics over the second "to all" that is to be sent, whoever is to get it.
#[derive(Default)]
struct PanicsOverSecond(AtomicUsize);

impl Middleware for PanicsOverSecond {
    fn on_data_sending(&self, _: &Session, data: Bytes) -> Option<Bytes> {
        let earlier = if data == "to all" { self.0.fetch_add(1, Ordering::SeqCst) } else { 0 };
        assert!(earlier != 1, "panic in sending");
        Some(data)
    }
}

/// Broadcasts "to all" to three members, from a handler of a fourth session or from a task of no session.
async fn broadcast_with_a_panic_in_the_middle(from_handler: bool) {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .middleware(PanicsOverSecond::default())
        .on_data(|session, _| async move {
            let report = session.server().broadcast("to all").except(session.id()).await;
            session.send(format!("{} {}", report.sent, report.failed)).await?;
            Ok::<_, BoxError>(())
        })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut sender = Peer::connect(addr_of(&server)).await;
    let sender_id = log.connected().await.id();
    let mut members = Vec::new();
    for _ in 0..3 {
        let peer = Peer::connect(addr_of(&server)).await;
        members.push((peer, log.connected().await));
    }
    if from_handler {
        sender.send(b"go").await;
        sender.expect(b"2 1").await;
        assert_eq!(server.sessions().get(sender_id).unwrap().disconnect_reason(), None);
    } else {
        let report = server.broadcast("to all").except(sender_id).await;
        assert_eq!((report.sent, report.failed), (2, 1));
    }
    let mut ended = Vec::new();
    for (peer, session) in &mut members {
        match session.disconnect_reason() {
            None => peer.expect(b"to all").await,
            Some(reason) => {
                peer.expect_reset().await;
                ended.push((session.clone(), reason));
            }
        }
    }
    let [(panicked, DisconnectReason::Aborted)] = &ended[..] else { panic!("{ended:?}") };
    let mut events = Vec::new();
    while events.len() < 2 {
        events.push(log.next().await);
        events.retain(|event| !matches!(event, Event::Data(..)));
    }
    let expected = [
        Event::Error(Some(panicked.clone()), ErrorKind::Panic),
        Event::Disconnected(panicked.clone(), DisconnectReason::Aborted),
    ];
    assert_eq!(events, expected);
    stop(&server).await;
    assert_eq!(server.metrics().error_count, 1);
}

#[tokio::test]
async fn a_panic_of_a_hook_in_a_broadcast_is_one_of_the_member_it_ran_for() {
    broadcast_with_a_panic_in_the_middle(false).await;
    broadcast_with_a_panic_in_the_middle(true).await;
}

#[tokio::test]
async fn a_send_from_elsewhere_fails_if_its_hook_panics_and_the_session_ends() {
    for way in ["send", "policy", "try_send", "try_send_ref"] {
        let (recorder, mut log) = recorder();
        let server = with_bad_middleware("sending", true, recorder).await;
        let mut peer = Peer::connect(addr_of(&server)).await;
        let session = log.connected().await;
        let sent = match way {
            "send" => session.send("x").await,
            "policy" => session.send("x").policy(SlowConsumerPolicy::Drop).await,
            "try_send" => session.try_send("x"),
            _ => session.try_send_ref("x"),
        };
        assert!(matches!(sent, Err(SendError::Panicked)), "{way}: {sent:?}");
        assert!(matches!(session.try_send("y"), Err(SendError::Closed(Some(DisconnectReason::Aborted)))));
        peer.expect_reset().await;
        assert_eq!(log.error().await, ErrorKind::Panic);
        assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
        stop(&server).await;
        log.assert_quiet();
    }
}

#[tokio::test]
async fn a_hook_that_panics_over_a_farewell_to_who_has_left_is_reported() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .middleware(Bad { place: "sending", panics: true })
        .on_disconnected(|session, _| async move {
            let report = session.server().broadcast("it left").await;
            assert_eq!((report.sent, report.failed), (0, 1));
        })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let peer = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    drop(peer);
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    assert_eq!(log.error().await, ErrorKind::Panic);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn handlers_that_were_never_told_of_a_connect_are_not_told_of_its_end() {
    let (recorder, mut log) = recorder();
    let server = with_bad_middleware("connected", true, recorder).await;
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.expect_reset().await;
    assert_eq!(log.error().await, ErrorKind::Panic);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn an_error_in_a_hook_is_reported_and_ends_nothing() {
    for place in ["connected", "received", "disconnected"] {
        let (recorder, mut log) = recorder();
        let server = with_bad_middleware(place, false, recorder).await;
        let mut peer = Peer::connect(addr_of(&server)).await;
        peer.send(b"x").await;
        if place == "connected" {
            assert_eq!(log.error().await, ErrorKind::Handler);
        }
        let session = log.connected().await;
        if place == "received" {
            assert_eq!(log.error().await, ErrorKind::Handler);
        } else {
            assert_eq!(log.data().await, "x");
            peer.expect(b"x").await;
        }
        assert_eq!(session.disconnect_reason(), None);
        drop(peer);
        let mut events = vec![log.next().await];
        if place == "disconnected" {
            events.push(log.next().await);
        }
        assert!(
            events.contains(&Event::Disconnected(session, DisconnectReason::ClosedByClient)),
            "{events:?}"
        );
        stop(&server).await;
        assert_eq!(server.metrics().error_count, 1);
        log.assert_quiet();
    }
}

#[tokio::test]
async fn every_handler_hears_of_the_end_although_one_panics() {
    let (ended, mut end) = mpsc::unbounded_channel();
    let server = local_server()
        .on_disconnected(|_, _| -> std::future::Ready<()> { panic!("the first handler panics") })
        .on_disconnected(move |_, reason| {
            let _ = ended.send(reason);
            async {}
        })
        .start()
        .await
        .unwrap();
    drop(Peer::connect(addr_of(&server)).await);
    assert_eq!(within(Duration::from_secs(5), end.recv()).await, Some(DisconnectReason::ClosedByClient));
    stop(&server).await;
    assert_eq!(server.metrics().error_count, 1);
}
