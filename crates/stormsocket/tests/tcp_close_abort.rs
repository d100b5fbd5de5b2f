//! Close and abort: what the peer sees, deadlines, and calls from every place at once.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storm_core::SessionOptions;
use storm_core::events::{Adapter, Chain, OnMessage};
use stormsocket::{
    BoxError, ConnectionState, DisconnectReason, Error, LengthPrefixFramer, RawFramer, Role, SendError,
    Session, SessionKey, TcpClient, TcpHandler,
};
use support::virtual_time::{in_memory, in_memory_as};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

#[tokio::test]
async fn close_lets_everything_leave_first() {
    let (recorder, mut log) = recorder();
    let server = local_server().max_pending_send_bytes(None).handler(recorder).start().await.unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    let closing = tokio::spawn(async move {
        session.send(vec![1; 2 << 20]).await.unwrap();
        session.send("the end").await.unwrap();
        session.close().await;
        session
    });
    let rest = peer.rest().await;
    assert_eq!(rest.len(), (2 << 20) + 7);
    assert!(rest.ends_with(b"the end"));
    drop(peer);
    let session = soon(closing).await.unwrap();
    assert_eq!(session.state(), ConnectionState::Closed);
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn nothing_is_admitted_once_a_close_has_begun() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    session.start_close(DisconnectReason::ClosedByServer);
    assert_eq!(session.state(), ConnectionState::Closing);
    assert!(matches!(
        session.send("late").await,
        Err(SendError::Closed(Some(DisconnectReason::ClosedByServer)))
    ));
    // What the peer says meanwhile is nobody's any more.
    peer.send(b"ignored").await;
    peer.expect_end().await;
    drop(peer);
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn abort_is_a_reset_and_nothing_queued_leaves() {
    let (recorder, mut log) = recorder();
    let server = local_server().max_pending_send_bytes(None).handler(recorder).start().await.unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    session.send(vec![1; 32 << 20]).await.unwrap();
    session.abort();
    session.abort();
    peer.expect_reset().await;
    soon(session.closed()).await;
    session.abort();
    soon(session.close()).await;
    assert_eq!(session.pending_send_bytes(), 0);
    assert_eq!(session.disconnect_reason(), Some(DisconnectReason::Aborted));
    assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
    assert!(session.send("x").await.is_err());
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn a_client_that_aborts_resets_its_server() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let client = TcpClient::new(addr_of(&server)).connect().await.unwrap();
    log.connected().await;
    client.session().abort();
    soon(client.closed()).await;
    assert_eq!(client.disconnect_reason(), Some(DisconnectReason::Aborted));
    assert_eq!(log.disconnected().await, DisconnectReason::TransportError);
    stop(&server).await;
}

#[tokio::test]
async fn waiting_sends_fail_when_the_session_is_aborted() {
    let (recorder, mut log) = recorder();
    let server = local_server().max_pending_send_bytes(1000).handler(recorder).start().await.unwrap();
    let peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    session.send(vec![1; 32 << 20]).await.unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.send("waiting").await })
        })
        .collect();
    tokio::task::yield_now().await;
    session.abort();
    for send in waiting {
        let sent = soon(send).await.unwrap();
        assert!(matches!(sent, Err(SendError::Closed(Some(DisconnectReason::Aborted)))), "{sent:?}");
    }
    assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
    drop(peer);
    stop(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_and_abort_from_many_tasks_end_it_once() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    for _ in 0..20 {
        let peer = Peer::connect(addr_of(&server)).await;
        let session = log.connected().await;
        let all: Vec<_> = (0..8)
            .map(|n| {
                let session = session.clone();
                tokio::spawn(async move {
                    if n % 2 == 0 {
                        session.close().await;
                    } else {
                        session.abort();
                        session.closed().await;
                    }
                })
            })
            .collect();
        for one in all {
            soon(one).await.unwrap();
        }
        let reason = log.disconnected().await;
        assert!(matches!(reason, DisconnectReason::Aborted | DisconnectReason::ClosedByServer), "{reason}");
        assert_eq!(session.disconnect_reason(), Some(reason));
        drop(peer);
    }
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn close_on_a_dead_peer_completes() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    peer.reset();
    soon(session.close()).await;
    let reason = log.disconnected().await;
    assert!(
        matches!(reason, DisconnectReason::TransportError | DisconnectReason::ClosedByServer),
        "{reason}"
    );
    stop(&server).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_is_cut_at_the_close_deadline() {
    let (recorder, mut log) = recorder();
    let mut connection = in_memory(64, SessionOptions::default(), RawFramer, Adapter(recorder));
    let session = log.connected().await;
    session.send(vec![1; 1000]).await.unwrap();
    let began = Instant::now();
    session.close().await;
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    let mut read = Vec::new();
    connection.peer.read_to_end(&mut read).await.unwrap();
    assert_eq!(read.len(), 64);
    connection.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_ended_its_stream_and_reads_nothing_is_cut_at_the_close_deadline() {
    for (role, reason) in
        [(Role::Server, DisconnectReason::ClosedByClient), (Role::Client, DisconnectReason::ClosedByServer)]
    {
        let (recorder, mut log) = recorder();
        let mut connection = in_memory_as(role, 64, SessionOptions::default(), RawFramer, Adapter(recorder));
        let session = log.connected().await;
        session.send(vec![1; 1000]).await.unwrap();
        let began = Instant::now();
        connection.peer.shutdown().await.unwrap();
        session.closed().await;
        assert_eq!(began.elapsed(), Duration::from_secs(5), "{role:?}");
        assert_eq!(log.disconnected().await, reason);
        let mut read = Vec::new();
        connection.peer.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 64);
        assert_eq!(connection.task.await.unwrap(), reason);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_ends_its_stream_is_cut_at_the_close_deadline() {
    let (recorder, mut log) = recorder();
    let connection = in_memory(64, SessionOptions::default(), RawFramer, Adapter(recorder));
    let session = log.connected().await;
    let (mut read, mut write) = tokio::io::split(connection.peer);
    // It goes on talking, which must not put the end off.
    let talking = tokio::spawn(async move {
        while write.write_all(b"blah").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    session.send("goodbye").await.unwrap();
    let began = Instant::now();
    session.close().await;
    assert!(began.elapsed() >= Duration::from_secs(5) && began.elapsed() < Duration::from_secs(6));
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"goodbye");
    talking.await.unwrap();
    while log.next().await != Event::Disconnected(session.clone(), DisconnectReason::ClosedByServer) {}
}

#[tokio::test(start_paused = true)]
async fn abort_ends_a_close_that_hangs() {
    let (recorder, mut log) = recorder();
    let connection = in_memory(64, SessionOptions::default(), RawFramer, Adapter(recorder));
    let session = log.connected().await;
    session.send(vec![1; 1000]).await.unwrap();
    let closing = tokio::spawn({
        let session = session.clone();
        async move { session.close().await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    session.abort();
    closing.await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    // The reason that was first stays.
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    drop(connection);
}

#[tokio::test(start_paused = true)]
async fn a_close_whose_future_is_dropped_goes_on() {
    let (recorder, mut log) = recorder();
    let mut connection = in_memory(64, SessionOptions::default(), RawFramer, Adapter(recorder));
    let session = log.connected().await;
    assert!(tokio::time::timeout(Duration::ZERO, session.close()).await.is_err());
    let mut rest = Vec::new();
    connection.peer.read_to_end(&mut rest).await.unwrap();
    drop(connection.peer);
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
}

#[tokio::test(start_paused = true)]
async fn a_busy_handler_holds_up_neither_its_sends_nor_a_close() {
    let (recorder, mut log) = recorder();
    let options = SessionOptions::default();
    let handler = OnMessage(|session: Session, _: bytes::Bytes| async move {
        session.send("queued by the handler").await.unwrap();
        // Longer than the close deadline: it is dropped before it has ended.
        std::future::pending::<()>().await;
    });
    let events = Chain(handler, Adapter(recorder));
    let mut connection = in_memory(1 << 16, options, RawFramer, events);
    log.connected().await;
    connection.peer.write_all(b"go").await.unwrap();
    let mut read = [0; 21];
    connection.peer.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"queued by the handler");
    connection.session.send("by another task").await.unwrap();
    let mut read = [0; 15];
    connection.peer.read_exact(&mut read).await.unwrap();
    connection.session.start_close(DisconnectReason::ClosedByServer);
    assert_eq!(connection.peer.read(&mut read).await.unwrap(), 0);
    let began = Instant::now();
    drop(connection.peer);
    // The handler may go on for one close deadline.
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert_eq!(connection.task.await.unwrap(), DisconnectReason::ClosedByServer);
}

#[tokio::test(start_paused = true)]
async fn abort_acts_while_a_handler_is_busy() {
    let (busy, started) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (busy, started) = (busy.clone(), started.clone());
        OnMessage(move |_: Session, _: bytes::Bytes| {
            let (busy, started) = (busy.clone(), started.clone());
            async move {
                started.notify_one();
                busy.notified().await;
            }
        })
    };
    let mut connection = in_memory(64, SessionOptions::default(), RawFramer, handler);
    connection.peer.write_all(b"go").await.unwrap();
    started.notified().await;
    connection.session.abort();
    connection.session.closed().await;
    // The transport is gone although the handler is not done; `disconnected` waits for it.
    assert_eq!(connection.peer.read(&mut [0]).await.unwrap(), 0);
    assert!(!connection.task.is_finished());
    busy.notify_one();
    assert_eq!(connection.task.await.unwrap(), DisconnectReason::Aborted);
}

#[tokio::test]
async fn close_awaited_inside_the_handler_of_the_same_session() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .on_data(|session, _| async move {
            session.send("bye").await.unwrap();
            session.close().await;
            assert_eq!(session.state(), ConnectionState::Closed);
        })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    peer.send(b"x").await;
    assert_eq!(peer.rest().await, b"bye");
    drop(peer);
    assert_eq!(log.data().await, "x");
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn no_message_is_dispatched_after_a_handler_has_closed_or_aborted() {
    for abort in [false, true] {
        let (recorder, mut log) = recorder();
        let server = local_server()
            .framer(LengthPrefixFramer::new())
            .on_data(move |session, _| async move {
                if abort { session.abort() } else { session.start_close(DisconnectReason::ClosedByServer) }
            })
            .handler(recorder)
            .start()
            .await
            .unwrap();
        let mut peer = Peer::connect(addr_of(&server)).await;
        log.connected().await;
        peer.send(&[frame(b"first"), frame(b"second")].concat()).await;
        assert_eq!(log.data().await, "first");
        drop(peer);
        let reason = log.disconnected().await;
        assert_eq!(reason, if abort { DisconnectReason::Aborted } else { DisconnectReason::ClosedByServer });
        stop(&server).await;
        log.assert_quiet();
    }
}

/// What a handler does with its own session, from inside.
async fn meddle(session: &Session, deed: usize) {
    static KEY: SessionKey<u32> = SessionKey::new("key");
    match deed {
        0 => session.close().await,
        1 => session.abort(),
        2 => {
            session.join("room");
            session.leave("room");
            session.join("room");
        }
        3 => {
            session.server().broadcast("to all").await;
            session.server().groups().broadcast("room", "to the room").await;
        }
        4 => {
            session.set(&KEY, 1);
            assert_eq!(session.get(&KEY), Some(1));
            let _ =
                (session.metrics(), session.server().metrics(), session.groups(), session.is_backpressured());
        }
        5 => session.server().sessions().close_all().await,
        _ => {
            session.close().await;
            session.abort();
            session.close().await;
        }
    }
}

#[tokio::test]
async fn nothing_a_handler_does_to_its_session_deadlocks() {
    for deed in 0..7 {
        for place in ["connected", "data", "disconnected", "error"] {
            let (ended, mut end) = mpsc::unbounded_channel();
            let did = Arc::new(Mutex::new(false));
            let act = move |session: Session, here: &'static str| {
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
            let server = local_server()
                .close_deadline(Duration::from_millis(500))
                .on_connected(move |session| {
                    let act = a(session, "connected");
                    async move {
                        act.await;
                    }
                })
                .on_data(move |session, _| {
                    let act = b(session, "data");
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
            let mut peer = Peer::connect(addr_of(&server)).await;
            // It may be gone already.
            let _ = peer.0.write_all(b"x").await;
            let _ = peer.0.shutdown().await;
            let _ = soon(peer.0.read_to_end(&mut Vec::new())).await;
            let (did, reason) = soon(end.recv()).await.unwrap();
            assert!(did, "deed {deed} in {place}: {reason}");
            assert!(end.try_recv().is_err(), "once");
            stop(&server).await;
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
    async fn act(&self, session: &Session, here: &str) {
        if here == self.place {
            meddle(session, self.deed).await;
            assert!(!self.did.swap(true, Ordering::SeqCst), "once");
        }
    }
}

impl TcpHandler for Meddling {
    async fn on_connected(&self, session: &Session) -> Result<(), BoxError> {
        self.act(session, "connected").await;
        Ok(())
    }

    async fn on_data(&self, session: &Session, _: bytes::Bytes) -> Result<(), BoxError> {
        self.act(session, "data").await;
        Err("so that there is an error".into())
    }

    async fn on_disconnected(&self, session: &Session, _: DisconnectReason) -> Result<(), BoxError> {
        self.act(session, "disconnected").await;
        Ok(())
    }

    async fn on_error(&self, session: Option<&Session>, _: &Error) {
        self.act(session.expect("a session"), "error").await;
    }
}

#[tokio::test]
async fn nothing_a_clients_handler_does_to_its_session_deadlocks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for deed in 0..7 {
        for place in ["connected", "data", "disconnected", "error"] {
            let did = Arc::new(AtomicBool::new(false));
            let client = TcpClient::new(listener.local_addr().unwrap())
                .close_deadline(Duration::from_millis(500))
                .handler(Meddling { deed, place, did: did.clone() })
                .connect()
                .await
                .unwrap();
            let mut peer = Peer(soon(listener.accept()).await.unwrap().0);
            // It may be gone already.
            let _ = peer.0.write_all(b"x").await;
            let _ = peer.0.shutdown().await;
            let _ = soon(peer.0.read_to_end(&mut Vec::new())).await;
            soon(client.closed()).await;
            assert!(did.load(Ordering::SeqCst), "deed {deed} in {place}: {:?}", client.disconnect_reason());
        }
    }
}
