//! Framers that lie or panic, wherever they are asked: the session ends for it, and nothing else does.

mod support;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use stormsocket::{
    ConnectionState, DisconnectReason, ErrorKind, FramingError, Handled, Located, MessageFramer, Session,
    Wire,
};
use support::*;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

/// Finds no message, except as its name says.
#[derive(Debug, Clone)]
struct Lying(&'static str);

impl MessageFramer for Lying {
    fn decode(&mut self, _: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        Ok(None)
    }

    fn locate(&mut self, buffer: &[u8]) -> Option<Located> {
        match self.0 {
            // It is asked before anything has come, too.
            _ if buffer.is_empty() => None,
            "an empty one" => Some(Located { payload: 0..0, len: 0 }),
            "one that is not all there" => Some(Located { payload: 0..1, len: buffer.len() + 1 }),
            "a payload behind its message" => Some(Located { payload: 2..3, len: 1 }),
            "a payload that ends behind its message" => Some(Located { payload: 0..3, len: 2 }),
            "a panic" => panic!("told to"),
            _ => None,
        }
    }

    fn wanted(&self, _: &[u8]) -> Option<usize> {
        assert_ne!(self.0, "a panic over what is wanted");
        None
    }

    fn decode_eof(&mut self, _: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        match self.0 {
            "the same one for ever" => Ok(Some(Bytes::from_static(b"again"))),
            "a panic at the end" => panic!("told to"),
            _ => Ok(None),
        }
    }

    fn encode(&mut self, _: Bytes, _: &mut dyn Wire) -> Result<(), FramingError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_framer_that_lies_ends_its_session() {
    for lie in [
        "an empty one",
        "one that is not all there",
        "a payload behind its message",
        "a payload that ends behind its message",
        "a panic",
        "a panic over what is wanted",
        "the same one for ever",
        "a panic at the end",
    ] {
        let (recorder, mut log) = recorder();
        let server = local_server()
            .framer(Lying(lie))
            .on_data_ref(|_, _| Handled::Pass)
            .handler(recorder)
            .start()
            .await
            .unwrap();
        let mut peer = Peer::connect(addr_of(&server)).await;
        let session = log.connected().await;
        peer.send(b"abc").await;
        until(|| session.metrics().bytes_received == 3).await;
        // Of most it has been reset by now.
        let _ = peer.0.shutdown().await;
        let panics = lie.starts_with("a panic");
        assert_eq!(log.error().await, if panics { ErrorKind::Panic } else { ErrorKind::Protocol }, "{lie}");
        assert_eq!(log.disconnected().await, DisconnectReason::ProtocolError, "{lie}");
        assert_eq!(server.metrics().error_count, 1);
        stop(&server).await;
        log.assert_quiet();
    }
}

/// A byte is a message; `e` is an error, `p` a panic.
#[derive(Debug, Clone)]
struct Bytewise;

impl MessageFramer for Bytewise {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        match buffer.first() {
            None => Ok(None),
            Some(b'e') => Err(FramingError::malformed("an e")),
            Some(b'p') => panic!("a p"),
            Some(_) => Ok(Some(buffer.split_to(1).freeze())),
        }
    }

    fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
        wire.put_bytes(message);
        Ok(())
    }
}

#[tokio::test]
async fn what_came_before_is_handled_and_answered_whether_a_handler_is_busy_or_not() {
    for (last, kind, busy) in [
        ("e", ErrorKind::Protocol, true),
        ("p", ErrorKind::Panic, true),
        ("e", ErrorKind::Protocol, false),
        ("p", ErrorKind::Panic, false),
    ] {
        let gate = Arc::new(Semaphore::new(0));
        let (recorder, mut log) = recorder();
        let server = local_server()
            .framer(Bytewise)
            .handler(recorder)
            .on_data({
                let gate = gate.clone();
                move |session: Session, data: Bytes| {
                    let gate = gate.clone();
                    async move {
                        gate.acquire().await.expect("it stays open").forget();
                        session.send(data).await
                    }
                }
            })
            .start()
            .await
            .unwrap();
        let mut peer = Peer::connect(addr_of(&server)).await;
        let session = log.connected().await;
        if busy {
            peer.send(b"a").await;
            assert_eq!(log.data().await, "a");
            peer.send(format!("b{last}").as_bytes()).await;
            until(|| session.metrics().bytes_received == 3).await;
            gate.add_permits(2);
        } else {
            gate.add_permits(2);
            peer.send(format!("ab{last}").as_bytes()).await;
            assert_eq!(log.data().await, "a");
        }
        assert_eq!(log.data().await, "b");
        peer.expect(b"ab").await;
        assert_eq!(log.error().await, kind);
        drop(peer);
        assert_eq!(log.disconnected().await, DisconnectReason::ProtocolError, "{last}");
        stop(&server).await;
        log.assert_quiet();
    }
}

#[tokio::test]
async fn a_panic_over_what_comes_during_a_close_is_reported_and_cuts_nothing() {
    let (recorder, mut log) = recorder();
    let server = local_server().framer(Bytewise).handler(recorder).start().await.unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    let large = vec![b'x'; 900_000];
    session.try_send(large.clone()).unwrap();
    let closing = tokio::spawn({
        let session = session.clone();
        async move { session.close().await }
    });
    until(|| session.state() == ConnectionState::Closing).await;
    peer.send(b"p").await;
    until(|| session.metrics().bytes_received == 1).await;
    peer.expect(&large).await;
    peer.expect_end().await;
    drop(peer);
    soon(closing).await.unwrap();
    assert_eq!(log.error().await, ErrorKind::Panic);
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
    assert_eq!(server.metrics().error_count, 1);
    stop(&server).await;
    log.assert_quiet();
}

/// Echoes; panics when it is cloned for the first time.
struct Unwilling(Arc<std::sync::atomic::AtomicBool>);

impl Clone for Unwilling {
    fn clone(&self) -> Self {
        assert!(self.0.swap(true, std::sync::atomic::Ordering::Relaxed), "told to");
        Self(self.0.clone())
    }
}

impl MessageFramer for Unwilling {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        Ok((!buffer.is_empty()).then(|| buffer.split().freeze()))
    }

    fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
        wire.put_bytes(message);
        Ok(())
    }
}

#[tokio::test]
async fn a_framer_that_panics_when_it_is_cloned_costs_one_connection_and_accepting_goes_on() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .framer(Unwilling(Arc::default()))
        .on_data(|session, data| async move { session.send(data).await })
        .handler(recorder)
        .start()
        .await
        .expect("it starts");
    Peer::connect(addr_of(&server)).await.expect_end().await;
    assert_eq!(log.next().await, Event::Error(None, ErrorKind::Panic));
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(b"hello").await;
    peer.expect(b"hello").await;
    drop(peer);
    stop(&server).await;
}
