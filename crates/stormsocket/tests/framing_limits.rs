//! Framers at and over their limits, and framers that misbehave.

mod support;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use stormsocket::{
    ClientHandle, DelimiterFramer, DisconnectReason, ErrorKind, FramingError, LengthPrefixFramer,
    MessageFramer, ReconnectOptions, Role, SendError, ServerHandle, TcpClient, Wire,
};
use support::*;
use tokio::net::TcpListener;

const LIMIT: u32 = 1000;

fn limit() -> LengthPrefixFramer {
    LengthPrefixFramer::new().max_message(LIMIT)
}

async fn limited(recorder: Recorder) -> ServerHandle {
    local_server().framer(limit()).handler(recorder).start().await.unwrap()
}

/// A server, or a client that connects anew after each end.
enum Side {
    Server(ServerHandle),
    Client(ClientHandle, TcpListener),
}

impl Side {
    async fn start<F: MessageFramer + Clone + Sync>(role: Role, framer: F, recorder: Recorder) -> Self {
        if role == Role::Server {
            return Self::Server(local_server().framer(framer).handler(recorder).start().await.unwrap());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpClient::new(listener.local_addr().unwrap())
            .framer(framer)
            .reconnect(ReconnectOptions::default().delay(Duration::from_millis(1)))
            .handler(recorder);
        Self::Client(client.connect().await.unwrap(), listener)
    }

    /// The scripted peer of its next session.
    async fn peer(&self) -> Peer {
        let peer = match self {
            Self::Server(server) => Peer::connect(addr_of(server)).await,
            Self::Client(_, listener) => Peer(soon(listener.accept()).await.unwrap().0),
        };
        peer.0.set_nodelay(true).unwrap();
        peer
    }

    fn ended_by_peer(&self) -> DisconnectReason {
        match self {
            Self::Server(_) => DisconnectReason::ClosedByClient,
            Self::Client(..) => DisconnectReason::ClosedByServer,
        }
    }

    /// Nothing else has happened, but that a client has connected once more; returns how many errors there were.
    async fn finish(self, mut log: Log) -> u64 {
        let metrics = match &self {
            Self::Server(server) => {
                stop(server).await;
                server.metrics()
            }
            Self::Client(client, _) => {
                let _peer = self.peer().await;
                log.connected().await;
                client.abort();
                soon(client.closed()).await;
                assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
                client.hub().metrics()
            }
        };
        log.assert_quiet();
        metrics.error_count
    }
}

#[tokio::test]
async fn lengths_zero_and_limit_are_delivered_however_they_are_split() {
    let largest = vec![5; LIMIT as usize];
    let wire = [frame(b""), frame(&largest), frame(b"x")].concat();
    for role in [Role::Server, Role::Client] {
        let (recorder, mut log) = recorder();
        let side = Side::start(role, limit(), recorder).await;
        for split in [1, 2, 3, 4, 5, 6, 7, 8, 9, 500, 1007, 1008, 1009, 1010, 1011, 1012] {
            let mut peer = side.peer().await;
            let session = log.connected().await;
            peer.send(&wire[..split]).await;
            // The rest comes when the other side has seen the first part.
            until(|| session.metrics().bytes_received == split as u64).await;
            peer.send(&wire[split..]).await;
            assert_eq!(log.data().await, "");
            assert_eq!(log.data().await, largest);
            assert_eq!(log.data().await, "x");
            drop(peer);
            assert_eq!(log.disconnected().await, side.ended_by_peer());
        }
        assert_eq!(side.finish(log).await, 0);
    }
}

#[tokio::test]
async fn a_length_over_the_limit_ends_the_session_before_the_body() {
    for role in [Role::Server, Role::Client] {
        let (recorder, mut log) = recorder();
        let side = Side::start(role, limit(), recorder).await;
        let mut rows = 0;
        for length in [LIMIT + 1, u32::MAX] {
            for split in 0..4 {
                let mut peer = side.peer().await;
                let session = log.connected().await;
                peer.send(&frame(b"before")).await;
                assert_eq!(log.data().await, "before");
                let prefix = length.to_be_bytes();
                peer.send(&prefix[..split]).await;
                until(|| session.metrics().bytes_received == 10 + split as u64).await;
                assert_eq!(session.disconnect_reason(), None);
                peer.send(&prefix[split..]).await;
                // Not one byte of the body is needed.
                peer.expect_end().await;
                assert_eq!(log.error().await, ErrorKind::Protocol);
                drop(peer);
                assert_eq!(log.disconnected().await, DisconnectReason::MessageTooBig);
                assert_eq!(session.metrics().bytes_received, 14);
                rows += 1;
            }
        }
        assert_eq!(side.finish(log).await, rows);
    }
}

#[tokio::test]
async fn a_body_behind_a_refused_length_is_neither_kept_nor_understood() {
    // The body looks like frames.
    let body: Vec<u8> = (0..200_000).flat_map(|_| frame(b"looks like a frame")).collect();
    for role in [Role::Server, Role::Client] {
        let (recorder, mut log) = recorder();
        let side = Side::start(role, limit(), recorder).await;
        let mut peer = side.peer().await;
        peer.send(&u32::MAX.to_be_bytes()).await;
        peer.send(&body).await;
        peer.half_close().await;
        peer.expect_end().await;
        log.connected().await;
        assert_eq!(log.error().await, ErrorKind::Protocol);
        assert_eq!(log.disconnected().await, DisconnectReason::MessageTooBig);
        assert_eq!(side.finish(log).await, 1);
    }
}

#[tokio::test]
async fn a_line_over_the_limit_ends_the_session_before_its_end() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .framer(DelimiterFramer::default().max_message(LIMIT as usize))
        .on_data(|session, data| async move { session.send(data).await })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let longest = [&[b'x'; LIMIT as usize][..], b"\n"].concat();
    peer.send(&longest).await;
    peer.expect(&longest).await;
    peer.send(&[b'y'; LIMIT as usize]).await;
    let session = log.connected().await;
    until(|| session.metrics().bytes_received == 2 * u64::from(LIMIT) + 1).await;
    assert_eq!(session.disconnect_reason(), None);
    peer.send(b"y").await;
    peer.expect_end().await;
    // It goes on regardless; nothing of that is looked at.
    peer.send(&b"z\n".repeat(10_000)).await;
    drop(peer);
    log.data().await;
    assert_eq!(log.error().await, ErrorKind::Protocol);
    assert_eq!(log.disconnected().await, DisconnectReason::MessageTooBig);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn answers_before_a_broken_frame_still_leave() {
    let server = local_server()
        .framer(DelimiterFramer::default().max_message(10))
        .on_data(|session, data| async move { session.send(data).await })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(b"one\ntwo\nthis line is far too long").await;
    assert_eq!(peer.rest().await, b"one\ntwo\n");
    drop(peer);
    stop(&server).await;
}

#[tokio::test]
async fn a_message_the_framer_cannot_carry_is_the_callers_error_and_ends_nothing() {
    let (recorder, mut log) = recorder();
    let server = limited(recorder).await;
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    let sent = session.send(vec![0; LIMIT as usize + 1]).await;
    assert!(matches!(sent, Err(SendError::TooLarge { len: 1001, limit: 1000 })), "{sent:?}");
    let report = server.broadcast(vec![0; LIMIT as usize + 1]).await;
    assert_eq!((report.sent, report.failed), (0, 1));
    session.send("fits").await.unwrap();
    assert_eq!(peer.frame().await, b"fits");
    assert_eq!(session.metrics().messages_sent, 1);
    drop(peer);
    stop(&server).await;
}

/// Does what the first byte says.
#[derive(Debug, Clone)]
struct Misbehaving {
    failed: bool,
}

impl MessageFramer for Misbehaving {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        assert!(!self.failed, "asked again after an error");
        match buffer.first() {
            None => Ok(None),
            Some(b'e') => {
                self.failed = true;
                Err(FramingError::malformed("an e"))
            }
            Some(b'p') => panic!("a p"),
            Some(b'n') => Ok(Some(Bytes::from_static(b"took nothing"))),
            Some(b'g') => {
                buffer.extend_from_slice(b"grown");
                Ok(Some(Bytes::from_static(b"took less than nothing")))
            }
            Some(_) => Ok(Some(buffer.split().freeze())),
        }
    }

    fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
        wire.put_slice(b"[");
        wire.put_bytes(message.clone());
        assert!(!message.ends_with(b"panic"), "told to panic");
        if message.ends_with(b"error") {
            return Err(FramingError::malformed("an error"));
        }
        wire.put_slice(b"]");
        Ok(())
    }
}

/// What to send to make it misbehave, the error that is, and how the session ends.
const MISBEHAVIOURS: [(&str, ErrorKind, DisconnectReason); 4] = [
    ("e", ErrorKind::Protocol, DisconnectReason::ProtocolError),
    ("n", ErrorKind::Protocol, DisconnectReason::ProtocolError),
    ("g", ErrorKind::Protocol, DisconnectReason::ProtocolError),
    ("p", ErrorKind::Panic, DisconnectReason::ProtocolError),
];

#[tokio::test]
async fn a_framer_that_misbehaves_ends_its_connection_and_a_client_opens_another() {
    let (recorder, mut log) = recorder();
    let side = Side::start(Role::Client, Misbehaving { failed: false }, recorder).await;
    for (byte, kind, reason) in MISBEHAVIOURS {
        let mut peer = side.peer().await;
        log.connected().await;
        peer.send(b"fine").await;
        assert_eq!(log.data().await, "fine", "before {byte}");
        peer.send(byte.as_bytes()).await;
        assert_eq!(log.error().await, kind, "{byte}");
        drop(peer);
        assert_eq!(log.disconnected().await, reason, "{byte}");
    }
    assert_eq!(side.finish(log).await, 4);
}

#[tokio::test]
async fn a_framer_that_misbehaves_ends_its_session_and_no_other() {
    let (recorder, mut log) = recorder();
    let server =
        local_server().framer(Misbehaving { failed: false }).handler(recorder).start().await.unwrap();
    let mut bystander = Peer::connect(addr_of(&server)).await;
    let bystander_session = log.connected().await;
    for (byte, kind, reason) in MISBEHAVIOURS {
        let mut peer = Peer::connect(addr_of(&server)).await;
        log.connected().await;
        peer.send(byte.as_bytes()).await;
        assert_eq!(log.error().await, kind, "{byte}");
        let _ = soon(tokio::io::AsyncReadExt::read(&mut peer.0, &mut [0])).await;
        // More of it must not reach the framer.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut peer.0, b"more").await;
        drop(peer);
        assert_eq!(log.disconnected().await, reason, "{byte}");
        bystander.send(byte.replace(byte, "still here").as_bytes()).await;
        assert_eq!(log.data().await, "still here");
    }
    assert_eq!(bystander_session.disconnect_reason(), None);
    assert_eq!(server.metrics().error_count, 4);
    drop(bystander);
    stop(&server).await;
}

#[tokio::test]
async fn a_framer_that_fails_or_panics_while_encoding_leaves_the_session_usable() {
    let (recorder, mut log) = recorder();
    let server =
        local_server().framer(Misbehaving { failed: false }).handler(recorder).start().await.unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    // Nothing of them leaves, not even what was put before, small or large.
    for padding in [0, 100_000] {
        session.try_send("before").unwrap();
        let message = |end: &str| "x".repeat(padding) + end;
        let sending = tokio::spawn({
            let (session, panics) = (session.clone(), message("panic"));
            async move { session.send(panics).await }
        });
        assert!(soon(sending).await.unwrap_err().is_panic());
        let refused = session.try_send(message("error"));
        assert!(matches!(refused, Err(SendError::Encode(_))), "{refused:?}");
        soon(session.send("after")).await.unwrap();
        peer.expect(b"[before][after]").await;
    }
    drop(peer);
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;
}

#[tokio::test]
async fn a_slow_trickle_of_prefix_bytes_costs_nothing() {
    let (recorder, mut log) = recorder();
    let server = limited(recorder).await;
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.0.set_nodelay(true).unwrap();
    let session = log.connected().await;
    for (seen, byte) in frame(b"slow").into_iter().enumerate() {
        assert_eq!(session.metrics().messages_received, 0);
        peer.send(&[byte]).await;
        until(|| session.metrics().bytes_received == seen as u64 + 1).await;
    }
    assert_eq!(log.data().await, "slow");
    drop(peer);
    stop(&server).await;
}
