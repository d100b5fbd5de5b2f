//! Framers at and over their limits, and framers that misbehave.

mod support;

use bytes::{Bytes, BytesMut};
use stormsocket::{
    DelimiterFramer, DisconnectReason, ErrorKind, FramingError, LengthPrefixFramer, MessageFramer, SendError,
    ServerHandle, Wire,
};
use support::*;

const LIMIT: u32 = 1000;

async fn limited(recorder: Recorder) -> ServerHandle {
    local_server()
        .framer(LengthPrefixFramer::new().max_message(LIMIT))
        .handler(recorder)
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn lengths_zero_and_limit_are_delivered_however_they_are_split() {
    let (recorder, mut log) = recorder();
    let server = limited(recorder).await;
    let largest = vec![5; LIMIT as usize];
    let wire = [frame(b""), frame(&largest), frame(b"x")].concat();
    for split in [1, 2, 3, 4, 5, 6, 7, 8, 9, 500, 1007, 1008, 1009, 1010, 1011, 1012] {
        let mut peer = Peer::connect(addr_of(&server)).await;
        peer.0.set_nodelay(true).unwrap();
        let session = log.connected().await;
        peer.send(&wire[..split]).await;
        // The rest comes when the server has seen the first part.
        until(|| session.metrics().bytes_received == split as u64).await;
        peer.send(&wire[split..]).await;
        assert_eq!(log.data().await, "");
        assert_eq!(log.data().await, largest);
        assert_eq!(log.data().await, "x");
        drop(peer);
        assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    }
    stop(&server).await;
    assert_eq!(server.metrics().error_count, 0);
}

#[tokio::test]
async fn a_length_over_the_limit_ends_the_session_before_the_body() {
    let (recorder, mut log) = recorder();
    let server = limited(recorder).await;
    for length in [LIMIT + 1, u32::MAX] {
        for split in 0..4 {
            let mut peer = Peer::connect(addr_of(&server)).await;
            peer.0.set_nodelay(true).unwrap();
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
        }
    }
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn a_body_behind_a_refused_length_is_neither_kept_nor_understood() {
    let (recorder, mut log) = recorder();
    let server = limited(recorder).await;
    let mut peer = Peer::connect(addr_of(&server)).await;
    // The body looks like frames.
    let body: Vec<u8> = (0..200_000).flat_map(|_| frame(b"looks like a frame")).collect();
    peer.send(&u32::MAX.to_be_bytes()).await;
    peer.send(&body).await;
    peer.half_close().await;
    peer.expect_end().await;
    log.connected().await;
    assert_eq!(log.error().await, ErrorKind::Protocol);
    assert_eq!(log.disconnected().await, DisconnectReason::MessageTooBig);
    stop(&server).await;
    log.assert_quiet();
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

#[tokio::test]
async fn a_framer_that_misbehaves_ends_its_session_and_no_other() {
    let (recorder, mut log) = recorder();
    let server =
        local_server().framer(Misbehaving { failed: false }).handler(recorder).start().await.unwrap();
    let mut bystander = Peer::connect(addr_of(&server)).await;
    let bystander_session = log.connected().await;
    let cases = [
        ("e", ErrorKind::Protocol, DisconnectReason::ProtocolError),
        ("n", ErrorKind::Protocol, DisconnectReason::ProtocolError),
        ("g", ErrorKind::Protocol, DisconnectReason::ProtocolError),
        ("p", ErrorKind::Panic, DisconnectReason::ProtocolError),
    ];
    for (byte, kind, reason) in cases {
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
