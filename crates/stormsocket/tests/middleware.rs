//! Hooks around sessions: order, rewriting, suppression, both directions, servers and clients.

mod support;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stormsocket::{
    BoxError, DisconnectReason, Error, LengthPrefixFramer, Middleware, SendOutcome, Session, TcpClient,
};
use support::*;

type Calls = Arc<Mutex<Vec<String>>>;

/// Writes down its calls, puts its name behind what passes, and suppresses what says so.
struct Named(&'static str, Calls);

impl Named {
    fn note(&self, what: &str) {
        self.1.lock().unwrap().push(format!("{} {what}", self.0));
    }

    fn pass(&self, what: &str, data: &Bytes) -> Option<Bytes> {
        self.note(&format!("{what} {}", data.escape_ascii()));
        if data.starts_with(format!("drop at {}", self.0).as_bytes()) {
            return None;
        }
        if data.starts_with(format!("empty at {}", self.0).as_bytes()) {
            return Some(Bytes::new());
        }
        Some([data, self.0.as_bytes()].concat().into())
    }
}

impl Middleware for Named {
    async fn on_connected(&self, _: &Session) -> Result<(), BoxError> {
        self.note("connected");
        Ok(())
    }

    async fn on_data_received(&self, _: &Session, data: Bytes) -> Result<Option<Bytes>, BoxError> {
        tokio::task::yield_now().await;
        Ok(self.pass("received", &data))
    }

    fn on_data_sending(&self, _: &Session, data: Bytes) -> Option<Bytes> {
        self.pass("sending", &data)
    }

    async fn on_disconnected(&self, _: &Session, reason: DisconnectReason) -> Result<(), BoxError> {
        self.note(&format!("disconnected {reason}"));
        Ok(())
    }

    async fn on_error(&self, session: Option<&Session>, error: &Error) {
        self.note(&format!("error {} {}", session.is_some(), error.cause()));
    }
}

#[tokio::test]
async fn hooks_run_in_order_see_what_the_one_before_returned_and_end_in_reverse() {
    let calls = Calls::default();
    let (recorder, mut log) = recorder();
    let note = |what: &'static str| {
        let calls = calls.clone();
        move || calls.lock().unwrap().push(what.to_owned())
    };
    let (connected, disconnected) = (note("handler connected"), note("handler disconnected"));
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .middleware(Named("a", calls.clone()))
        .middleware(Named("b", calls.clone()))
        .on_connected(move |_| {
            connected();
            async {}
        })
        .on_disconnected(move |_, _| {
            disconnected();
            async {}
        })
        .handler(recorder)
        .on_data(|session, data| async move {
            session.send(data).await?;
            Err::<(), BoxError>("oh".into())
        })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(&frame(b"x")).await;
    assert_eq!(peer.frame().await, b"xabab");
    drop(peer);
    log.connected().await;
    assert_eq!(log.data().await, "xab");
    log.error().await;
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;
    assert_eq!(
        *calls.lock().unwrap(),
        [
            "a connected",
            "b connected",
            "handler connected",
            "a received x",
            "b received xa",
            "a sending xab",
            "b sending xaba",
            "a error true oh",
            "b error true oh",
            "b disconnected closed_by_client",
            "a disconnected closed_by_client",
            "handler disconnected",
        ]
    );
}

#[tokio::test]
async fn what_a_hook_drops_or_empties_goes_no_further() {
    let calls = Calls::default();
    let (recorder, mut log) = recorder();
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .middleware(Named("a", calls.clone()))
        .middleware(Named("b", calls.clone()))
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    for text in ["drop at a", "empty at a", "passes"] {
        peer.send(&frame(text.as_bytes())).await;
    }
    assert_eq!(log.data().await, "passesab");
    for text in ["drop at a", "empty at a"] {
        assert_eq!(session.send(text).await.unwrap(), SendOutcome::Suppressed);
    }
    let report = server.broadcast("drop at a").await;
    assert_eq!((report.sent, report.suppressed), (0, 1));
    assert_eq!(server.broadcast("to all").await.sent, 1);
    assert_eq!(peer.frame().await, b"to allab");
    assert!(!calls.lock().unwrap().iter().any(|call| call.starts_with("b") && call.contains("at a")));
    drop(peer);
    stop(&server).await;
    assert_eq!(server.metrics().messages_sent, 1);
}

#[tokio::test]
async fn clients_have_middleware_too() {
    let calls = Calls::default();
    let (recorder, mut log) = recorder();
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .on_data(|session, data| async move { session.send(data).await })
        .start()
        .await
        .unwrap();
    let client = TcpClient::new(addr_of(&server))
        .framer(LengthPrefixFramer::new())
        .middleware(Named("c", calls.clone()))
        .handler(recorder)
        .connect()
        .await
        .unwrap();
    log.connected().await;
    client.send("x").await.unwrap();
    assert_eq!(log.data().await, "xcc");
    soon(client.disconnect()).await;
    assert_eq!(
        *calls.lock().unwrap(),
        ["c connected", "c sending x", "c received xc", "c disconnected closed_by_client"]
    );
    stop(&server).await;
}

/// Rewrites each message for its receiver.
struct Addressed;

impl Middleware for Addressed {
    fn on_data_sending(&self, session: &Session, data: Bytes) -> Option<Bytes> {
        Some([session.id().to_string().as_bytes(), b": ", &data].concat().into())
    }
}

#[tokio::test]
async fn a_broadcast_is_rewritten_for_each_receiver() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .middleware(Addressed)
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut members = Vec::new();
    for _ in 0..3 {
        let peer = Peer::connect(addr_of(&server)).await;
        members.push((peer, log.connected().await.id()));
    }
    assert_eq!(server.broadcast("hello").await.sent, 3);
    for (peer, id) in &mut members {
        assert_eq!(peer.frame().await, format!("{id}: hello").as_bytes());
    }
    drop(members);
    stop(&server).await;
}
