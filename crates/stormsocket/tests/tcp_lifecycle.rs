//! From connected to disconnected: order, states, reasons, several handlers, the handler trait, half-close.

mod support;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stormsocket::{
    BoxError, ConnectionState, DisconnectReason, LengthPrefixFramer, Role, SendError, SendOutcome, Session,
    TcpClient, TcpHandler,
};
use support::*;
use tokio::sync::{Notify, mpsc};

#[tokio::test]
async fn connected_first_messages_in_order_disconnected_last() {
    let (recorder, mut log) = recorder();
    let server = local_server().framer(LengthPrefixFramer::new()).handler(recorder).start().await.unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    assert_eq!((session.state(), session.disconnect_reason()), (ConnectionState::Connected, None));
    assert_eq!(session.role(), Role::Server);
    assert_eq!(session.remote_addr(), Some(peer.0.local_addr().unwrap()));
    peer.send(&[frame(b"one"), frame(b""), frame(b"three")].concat()).await;
    for message in ["one", "", "three"] {
        assert_eq!(log.data().await, message);
    }
    drop(peer);
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    soon(session.closed()).await;
    assert_eq!(session.state(), ConnectionState::Closed);
    assert_eq!(session.disconnect_reason(), Some(DisconnectReason::ClosedByClient));
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn several_handlers_per_event_run_in_the_order_they_were_added() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (done, mut ended) = mpsc::unbounded_channel();
    let note = |name: &'static str| {
        let calls = calls.clone();
        move || calls.lock().unwrap().push(name)
    };
    let (c1, c2) = (note("connected 1"), note("connected 2"));
    let (m1, m2) = (note("data 1"), note("data 2"));
    let (d1, d2) = (note("disconnected 1"), note("disconnected 2"));
    let (e1, e2) = (note("error 1"), note("error 2"));
    let server = local_server()
        .on_data(move |_, _| {
            m1();
            async { Err::<(), _>("the first handler failed") }
        })
        .on_connected(move |_| {
            c1();
            async {}
        })
        .on_error(move |_, error| {
            assert_eq!(error.cause().to_string(), "the first handler failed");
            e1();
            async {}
        })
        .on_data(move |_, _| {
            m2();
            async {}
        })
        .on_connected(move |_| {
            c2();
            async {}
        })
        .on_disconnected(move |_, _| {
            d1();
            async {}
        })
        .on_error(move |_, _| {
            e2();
            async {}
        })
        .on_disconnected(move |_, _| {
            d2();
            let _ = done.send(());
            async {}
        })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(b"x").await;
    peer.half_close().await;
    soon(ended.recv()).await.unwrap();
    assert_eq!(
        *calls.lock().unwrap(),
        [
            "connected 1",
            "connected 2",
            "data 1",
            "data 2",
            "error 1",
            "error 2",
            "disconnected 1",
            "disconnected 2"
        ]
    );
    stop(&server).await;
}

/// Counts its messages, echoes them, and says the count at the end.
struct Counting {
    counts: Mutex<usize>,
    end: mpsc::UnboundedSender<(usize, DisconnectReason)>,
}

impl TcpHandler for Counting {
    async fn on_connected(&self, session: &Session) -> Result<(), BoxError> {
        session.send("welcome").await?;
        Ok(())
    }

    async fn on_data(&self, session: &Session, data: Bytes) -> Result<(), BoxError> {
        *self.counts.lock().unwrap() += 1;
        session.send(data).await?;
        Ok(())
    }

    async fn on_disconnected(&self, _: &Session, reason: DisconnectReason) -> Result<(), BoxError> {
        let count = *self.counts.lock().unwrap();
        self.end.send((count, reason))?;
        Ok(())
    }
}

#[tokio::test]
async fn a_handler_with_state_serves_instead_of_closures() {
    let (end, mut ended) = mpsc::unbounded_channel();
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .handler(Counting { counts: Mutex::new(0), end })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    assert_eq!(peer.frame().await, b"welcome");
    for text in ["a", "b", "c"] {
        peer.send(&frame(text.as_bytes())).await;
        assert_eq!(peer.frame().await, text.as_bytes());
    }
    peer.half_close().await;
    peer.expect_end().await;
    assert_eq!(soon(ended.recv()).await, Some((3, DisconnectReason::ClosedByClient)));
    stop(&server).await;
}

#[tokio::test]
async fn data_for_a_peer_that_has_half_closed_still_leaves() {
    // 4 MiB: far more than the kernel's buffers hold, so most of it leaves after the peer's end was seen.
    const LEN: usize = 4 << 20;
    let (recorder, mut log) = recorder();
    let server = local_server()
        .max_pending_send_bytes(None)
        .on_data(|session, _| async move { session.send(vec![7; LEN]).await })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(b"all of it, please").await;
    peer.half_close().await;
    let rest = peer.rest().await;
    assert_eq!(rest.len(), LEN);
    assert!(rest.iter().all(|byte| *byte == 7));
    log.connected().await;
    assert_eq!(log.data().await, "all of it, please");
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;
}

#[tokio::test]
async fn what_a_client_has_queued_for_a_server_that_has_half_closed_still_leaves() {
    // As much as above, for the same reason.
    const LEN: usize = 4 << 20;
    let (recorder, mut log) = recorder();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpClient::new(listener.local_addr().unwrap())
        .max_pending_send_bytes(None)
        .handler(recorder)
        .connect()
        .await
        .unwrap();
    let mut peer = Peer(soon(listener.accept()).await.unwrap().0);
    let session = log.connected().await;
    session.send(vec![7; LEN]).await.unwrap();
    peer.half_close().await;
    until(|| session.state() == ConnectionState::Closing).await;
    assert!(session.pending_send_bytes() > 0);
    let rest = peer.rest().await;
    assert_eq!(rest.len(), LEN);
    assert!(rest.iter().all(|byte| *byte == 7));
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    soon(client.closed()).await;
    assert_eq!(client.hub().metrics().error_count, 0);
}

#[tokio::test]
async fn a_partial_frame_at_the_end_of_the_stream_is_no_message() {
    let (recorder, mut log) = recorder();
    let server = local_server().framer(LengthPrefixFramer::new()).handler(recorder).start().await.unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(&frame(b"whole")).await;
    peer.send(&frame(b"cut short")[..7]).await;
    peer.half_close().await;
    peer.expect_end().await;
    log.connected().await;
    assert_eq!(log.data().await, "whole");
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn a_reset_by_the_peer_is_a_reason_and_no_error() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let peer = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    peer.reset();
    assert_eq!(log.disconnected().await, DisconnectReason::TransportError);
    stop(&server).await;
    assert_eq!(server.metrics().error_count, 0);
    log.assert_quiet();
}

#[tokio::test]
async fn a_reset_while_a_handler_is_busy_is_noticed_and_its_send_fails_quietly() {
    let (recorder, mut log) = recorder();
    let (busy, outcome) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
    let server = local_server()
        .on_data({
            let (busy, outcome) = (busy.clone(), outcome.clone());
            move |session, _| {
                let (busy, outcome) = (busy.clone(), outcome.clone());
                async move {
                    busy.notify_one();
                    session.closed().await;
                    let sent = session.send("too late").await;
                    *outcome.lock().unwrap() = Some(format!("{sent:?}"));
                    sent.map(drop)
                }
            }
        })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(b"x").await;
    soon(busy.notified()).await;
    peer.reset();
    log.connected().await;
    assert_eq!(log.data().await, "x");
    assert_eq!(log.disconnected().await, DisconnectReason::TransportError);
    assert_eq!(outcome.lock().unwrap().as_deref(), Some("Err(Closed(Some(TransportError)))"));
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn a_session_that_has_ended_refuses_everything_quietly() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    drop(peer);
    log.disconnected().await;
    soon(session.closed()).await;
    until(|| server.sessions().is_empty()).await;
    assert!(matches!(
        soon(session.send("x")).await,
        Err(SendError::Closed(Some(DisconnectReason::ClosedByClient)))
    ));
    soon(session.close()).await;
    session.abort();
    session.join("ghosts");
    assert!(session.groups().is_empty());
    assert_eq!(server.groups().member_count("ghosts"), 0);
    assert_eq!(session.disconnect_reason(), Some(DisconnectReason::ClosedByClient));
    assert!(server.sessions().get(session.id()).is_none());
    stop(&server).await;
}

#[tokio::test]
async fn a_session_is_in_its_server_and_groups_until_on_disconnected_has_run() {
    let (seen, mut saw) = mpsc::unbounded_channel();
    let server = local_server()
        .on_connected(|session| async move { session.join("room") })
        .on_disconnected(move |session, _| {
            let server = session.server();
            let listed = server.sessions().get(session.id()).is_some();
            let _ = seen.send((listed, server.groups().member_count("room"), session.state()));
            async {}
        })
        .start()
        .await
        .unwrap();
    drop(Peer::connect(addr_of(&server)).await);
    assert_eq!(soon(saw.recv()).await, Some((true, 1, ConnectionState::Closed)));
    until(|| server.sessions().is_empty()).await;
    assert!(server.groups().names().is_empty());
    stop(&server).await;
}

#[tokio::test]
async fn a_client_and_a_server_see_the_same_conversation() {
    let (server_recorder, mut server_log) = recorder();
    let (client_recorder, mut client_log) = recorder();
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .on_data(|session, data| async move { session.send(data).await })
        .handler(server_recorder)
        .start()
        .await
        .unwrap();
    let client = TcpClient::new(addr_of(&server))
        .framer(LengthPrefixFramer::new())
        .handler(client_recorder)
        .connect()
        .await
        .unwrap();
    let session = client_log.connected().await;
    assert_eq!((session.role(), client.state()), (Role::Client, ConnectionState::Connected));
    assert_eq!(client.remote_addr(), server.local_addr());
    assert_eq!(soon(client.send("hello")).await.unwrap(), SendOutcome::Sent);
    assert_eq!(client_log.data().await, "hello");
    soon(client.disconnect()).await;
    assert_eq!(client_log.disconnected().await, DisconnectReason::ClosedByClient);
    assert_eq!(client.state(), ConnectionState::Closed);
    assert_eq!(client.disconnect_reason(), Some(DisconnectReason::ClosedByClient));
    server_log.connected().await;
    assert_eq!(server_log.data().await, "hello");
    assert_eq!(server_log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;
}

#[tokio::test]
async fn a_server_that_closes_is_the_reason_on_both_sides() {
    let (server_recorder, mut server_log) = recorder();
    let (client_recorder, mut client_log) = recorder();
    let server = local_server().handler(server_recorder).start().await.unwrap();
    let client = TcpClient::new(addr_of(&server)).handler(client_recorder).connect().await.unwrap();
    client_log.connected().await;
    let session = server_log.connected().await;
    soon(session.close()).await;
    assert_eq!(server_log.disconnected().await, DisconnectReason::ClosedByServer);
    assert_eq!(client_log.disconnected().await, DisconnectReason::ClosedByServer);
    soon(client.closed()).await;
    stop(&server).await;
}

#[tokio::test]
async fn ids_count_up_and_are_never_used_twice() {
    let (recorder, mut log) = recorder();
    let server = local_server().handler(recorder).start().await.unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let peer = Peer::connect(addr_of(&server)).await;
        let id = log.connected().await.id().get();
        assert!(id > last);
        last = id;
        drop(peer);
        log.disconnected().await;
    }
    stop(&server).await;
}
