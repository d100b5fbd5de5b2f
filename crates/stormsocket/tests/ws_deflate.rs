//! Compression and broadcasts: what leaves for many is made once, and every message inflates at its peer.
#![cfg(all(feature = "server", feature = "client", feature = "deflate"))]

mod ws_support;

use std::collections::HashMap;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use storm_ws_proto::handshake::{Accept, ClientRequest, HeadLimits};
use storm_ws_proto::{
    DeflateParams, Incoming, Limits as ProtoLimits, MessageKind, Receiver, Role as ProtoRole, Sender,
};
use stormsocket::{
    DeflateOptions, DisconnectReason, ErrorKind, Limits, Message, Middleware, ServerHandle, Session,
    WsClient, WsServer, WsSession,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use ws_support::*;

/// A client made of the protocol core: it inflates what it gets, and keeps its window.
struct Inflating {
    stream: TcpStream,
    wire: BytesMut,
    receiver: Receiver,
    sender: Sender,
    /// Messages and wire bytes that came.
    bytes: usize,
}

impl Inflating {
    async fn connect(server: &ServerHandle, offer: Option<DeflateOptions>) -> Self {
        let addr = server.local_addr().unwrap();
        let mut stream = soon(TcpStream::connect(addr)).await.unwrap();
        let mut request = ClientRequest::new(&format!("ws://{addr}/").parse().unwrap()).unwrap();
        if let Some(options) = offer {
            request = request.deflate(options);
        }
        let (head, mut handshake) = request.encode([7; 16], HeadLimits::default());
        stream.write_all(&head).await.unwrap();
        let mut wire = BytesMut::new();
        let connected = loop {
            assert_ne!(soon(stream.read_buf(&mut wire)).await.unwrap(), 0);
            if let Some((connected, len)) = handshake.read(&wire).unwrap() {
                drop(wire.split_to(len));
                break connected;
            }
        };
        assert_eq!(connected.deflate.is_some(), offer.is_some());
        let (receiver, sender) =
            (Receiver::new(ProtoRole::Client, ProtoLimits::default()), Sender::client(|| [1, 2, 3, 4]));
        let (receiver, sender) = match (&connected.deflate, offer) {
            (Some(params), Some(options)) => (receiver.deflate(params), sender.deflate(params, &options)),
            _ => (receiver, sender),
        };
        Self { stream, wire, receiver, sender, bytes: 0 }
    }

    async fn incoming(&mut self) -> Incoming {
        loop {
            if let Some(incoming) = self.receiver.receive(&mut self.wire).expect("every message inflates") {
                return incoming;
            }
            let read = soon(self.stream.read_buf(&mut self.wire)).await.unwrap();
            assert_ne!(read, 0, "it ended before the message");
            self.bytes += read;
        }
    }

    async fn message(&mut self) -> storm_ws_proto::Message {
        match self.incoming().await {
            Incoming::Message(message) => message,
            other => panic!("a message expected, not {other:?}"),
        }
    }

    async fn send(&mut self, kind: MessageKind, data: impl Into<Bytes>) {
        let mut wire = BytesMut::new();
        self.sender.message(kind, data.into(), true, &mut wire).unwrap();
        soon(self.stream.write_all(&wire)).await.unwrap();
    }
}

fn eager() -> DeflateOptions {
    DeflateOptions::default().min_size(0)
}

/// Text that compresses, different for each number.
fn text(number: usize) -> String {
    format!("message {number}: {}", format!("the same words again and again {} ", number % 7).repeat(20))
}

async fn start(options: Option<DeflateOptions>) -> (ServerHandle, Observed) {
    let (handler, observed) = observer();
    let server = WsServer::bind("127.0.0.1:0").deflate(options).handler(handler).start().await.unwrap();
    (server, observed)
}

async fn abort_all(server: ServerHandle) {
    for session in server.sessions().iter() {
        session.abort();
    }
    stop(server).await;
}

#[tokio::test]
async fn private_and_broadcast_messages_take_turns_and_all_inflate() {
    for no_takeover in [false, true] {
        let (server, mut observed) = start(Some(eager().server_no_context_takeover(no_takeover))).await;
        let mut peers = Vec::new();
        for offer in [
            Some(eager()),
            Some(eager().server_max_window_bits(9)),
            Some(eager().server_max_window_bits(12)),
            Some(eager().server_no_context_takeover(true)),
            None,
        ] {
            let peer = Inflating::connect(&server, offer).await;
            peers.push((peer, observed.connected().await));
        }
        for number in 0..30 {
            for (_, session) in &peers {
                session.send(text(number)).await.unwrap();
            }
            let report = server.broadcast_text(text(number + 1000)).await;
            assert_eq!(report.sent, peers.len());
            if number % 3 == 0 {
                assert_eq!(server.broadcast(text(number + 2000).into_bytes()).await.sent, peers.len());
            }
            if number % 5 == 0 {
                for (_, session) in &peers {
                    session.send(text(number + 3000)).uncompressed().await.unwrap();
                }
            }
        }
        for (peer, _) in &mut peers {
            for number in 0..30 {
                assert_eq!(peer.message().await.text(), Some(&*text(number)));
                assert_eq!(peer.message().await.text(), Some(&*text(number + 1000)));
                if number % 3 == 0 {
                    let message = peer.message().await;
                    assert!(!message.is_text());
                    assert_eq!(message.data(), text(number + 2000).as_bytes());
                }
                if number % 5 == 0 {
                    assert_eq!(peer.message().await.text(), Some(&*text(number + 3000)));
                }
            }
        }
        let plain = peers.last().unwrap().0.bytes;
        for (peer, _) in &peers[..4] {
            assert!(peer.bytes * 2 < plain, "{} of {plain} bytes", peer.bytes);
        }
        abort_all(server).await;
    }
}

#[tokio::test]
async fn uncompressed_and_small_messages_are_plain_on_the_wire() {
    let (server, mut observed) = start(Some(DeflateOptions::default())).await;
    let headers = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let (mut peer, response) = Peer::connect_with(&server, headers).await;
    assert!(response.header("sec-websocket-extensions").unwrap().starts_with("permessage-deflate"));
    let session = observed.connected().await;
    session.send(text(1)).await.unwrap();
    assert_eq!(peer.frame().await.first, 0xC1, "compressed");
    session.send(text(1)).uncompressed().await.unwrap();
    let frame = peer.frame().await;
    assert_eq!((frame.first, frame.payload), (0x81, text(1).into_bytes()));
    session.send("short").await.unwrap();
    assert_eq!(peer.frame().await.text(), "short");
    server.broadcast_text("short").await;
    assert_eq!(peer.frame().await.text(), "short");
    server.broadcast_text(text(2)).await;
    assert_eq!(peer.frame().await.first, 0xC1);
    let mut writer = session.text_writer();
    writer.write(text(3)).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(peer.frame().await.first, 0x41, "RSV1 on the first frame only");
    assert_eq!(peer.frame().await.first, 0x80);
    abort_all(server).await;
}

/// Rewrites what is sent to the same, which makes it each receiver's own.
struct Rewriting;

impl Middleware for Rewriting {
    fn on_data_sending(&self, _: &Session, data: Bytes) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&data))
    }
}

#[tokio::test]
async fn broadcasts_and_messages_in_parts_can_be_left_as_they_are() {
    for rewriting in [false, true] {
        let (handler, mut observed) = observer();
        let mut server = WsServer::bind("127.0.0.1:0").deflate(eager()).handler(handler);
        if rewriting {
            server = server.middleware(Rewriting);
        }
        let server = server.start().await.unwrap();
        let headers = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        let (mut peer, _) = Peer::connect_with(&server, headers).await;
        let session = observed.connected().await;
        session.join("room");

        for number in 0..3 {
            server.broadcast_text(text(number)).uncompressed().await;
            assert_eq!(peer.frame().await.text(), text(number));
            server.groups().broadcast("room", text(number)).uncompressed().latest("feed").await;
            assert_eq!(peer.frame().await.text(), text(number));
            server.broadcast_text(text(number)).await;
            assert_eq!(peer.frame().await.first, 0xC1, "compressed");
        }

        let mut writer = session.text_writer().uncompressed();
        writer.write("one ").await.unwrap();
        writer.write("message").await.unwrap();
        writer.finish().await.unwrap();
        let frames = [peer.frame().await, peer.frame().await, peer.frame().await];
        assert_eq!(
            frames.map(|frame| (frame.first, frame.payload)),
            [(0x01, b"one ".to_vec()), (0x00, b"message".to_vec()), (0x80, Vec::new()),]
        );
        abort_all(server).await;
    }
}

#[tokio::test]
async fn an_uncompressed_broadcast_that_waits_leaves_uncompressed() {
    let (server, mut observed) = start(Some(eager())).await;
    let headers = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let (mut peer, _) = Peer::connect_with(&server, headers).await;
    observed.connected().await;
    // In one poll, so that the second finds the first still waiting.
    let first = server.broadcast_text(text(1)).into_future();
    let second = server.broadcast_text(text(2)).uncompressed().latest("feed").into_future();
    let (first, second) = tokio::join!(biased; first, second);
    assert_eq!((first.sent, second.sent), (1, 1));
    assert_eq!(peer.frame().await.first, 0xC1);
    assert_eq!(peer.frame().await.text(), text(2));
    abort_all(server).await;
}

#[tokio::test]
async fn broadcasts_leave_out_whom_they_are_told_to() {
    let (server, mut observed) = start(None).await;
    let mut peers = Vec::new();
    for _ in 0..5 {
        let peer = Inflating::connect(&server, None).await;
        let session = observed.connected().await;
        peers.push((peer, session));
    }
    for (index, (_, session)) in peers.iter().enumerate() {
        session.join("all");
        session.join(if index % 2 == 0 { "even" } else { "odd" });
    }
    let id = peers[0].1.id();
    assert_eq!(server.broadcast_text("server").await.sent, 5);
    assert_eq!(server.broadcast_text("server").except(id).await.sent, 4);
    assert_eq!(server.sessions().broadcast(vec![1, 2]).except(id).await.sent, 4);
    assert_eq!(server.groups().broadcast_text("even", "group").except(id).await.sent, 2);
    assert_eq!(server.groups().broadcast("odd", vec![3]).await.sent, 2);
    assert_eq!(server.groups().broadcast_text("none", "nobody").await, Default::default());
    assert_eq!(server.broadcast_text("end").await.sent, 5);
    for (index, (peer, _)) in peers.iter_mut().enumerate() {
        let mut expected = vec![Message::from("server")];
        if index != 0 {
            expected.extend([Message::from("server"), Message::binary(vec![1, 2])]);
        }
        if index % 2 == 1 {
            expected.push(Message::binary(vec![3]));
        } else if index != 0 {
            expected.push(Message::from("group"));
        }
        expected.push(Message::from("end"));
        for message in expected {
            let came = peer.message().await;
            assert_eq!(
                (came.is_text(), &came.data()[..]),
                (message.is_text(), message.data()),
                "peer {index}"
            );
        }
    }
    abort_all(server).await;
}

/// 100 tasks, each with 1000 messages of its own; the peer must see each task's in order.
async fn hundred_senders(session: &WsSession, mut receive: impl AsyncFnMut() -> String) {
    const TASKS: usize = 100;
    const EACH: usize = 1000;
    let senders: Vec<_> = (0..TASKS)
        .map(|task| {
            let session = session.clone();
            tokio::spawn(async move {
                for number in 0..EACH {
                    let message = format!("{task}:{number}:{}", "x".repeat(number % 50));
                    session.send(message).await.unwrap();
                }
            })
        })
        .collect();
    let mut next: HashMap<usize, usize> = HashMap::new();
    for _ in 0..TASKS * EACH {
        let message = receive().await;
        let mut parts = message.split(':');
        let task = parts.next().unwrap().parse().unwrap();
        let number: usize = parts.next().unwrap().parse().unwrap();
        assert_eq!(parts.next().unwrap().len(), number % 50);
        let expected = next.entry(task).or_default();
        assert_eq!(number, *expected, "task {task}");
        *expected += 1;
    }
    for sender in senders {
        soon(sender).await.unwrap();
    }
    assert_eq!(session.metrics().messages_sent, 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tasks_keep_their_order_compressed_or_not() {
    for offer in [None, Some(eager().level(1))] {
        let (server, mut observed) = start(offer).await;
        let mut peer = Inflating::connect(&server, offer).await;
        let session = observed.connected().await;
        hundred_senders(&session, async || peer.message().await.text().unwrap().to_owned()).await;
        abort_all(server).await;
    }
}

#[tokio::test]
async fn our_own_client_and_server_understand_each_other_compressed() {
    let (handler, mut at_server) = echo();
    let server = WsServer::bind("127.0.0.1:0").deflate(eager()).handler(handler).start().await.unwrap();
    let (handler, mut at_client) = observer();
    let client =
        WsClient::new(format!("ws://{}", server.local_addr().unwrap())).deflate(eager()).handler(handler);
    let client = soon(client.connect()).await.unwrap();
    at_client.connected().await;
    at_server.connected().await;
    for number in 0..100 {
        client.send_text(text(number)).await.unwrap();
        assert_eq!(at_server.message().await.text(), Some(&*text(number)));
        assert_eq!(at_client.message().await.text(), Some(&*text(number)));
    }
    let (sent, plain) = (client.metrics().bytes_sent, text(0).len() as u64 * 100);
    assert!(sent * 3 < plain, "{sent} of {plain} bytes");
    soon(client.disconnect()).await;
    assert_eq!(at_client.disconnected().await, DisconnectReason::ClosedByClient);
    assert_eq!(at_server.disconnected().await, DisconnectReason::ClosedByClient);
    stop(server).await;
}

#[tokio::test]
async fn a_bomb_is_closed_with_1009_and_corrupt_data_with_1007() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0")
        .deflate(DeflateOptions::default())
        .limits(Limits::default().max_message_size(1 << 20))
        .handler(handler)
        .start()
        .await
        .unwrap();
    let mut bomber = Inflating::connect(&server, Some(eager())).await;
    observed.connected().await;
    bomber.send(MessageKind::Binary, vec![0; 1 << 20]).await;
    assert_eq!(observed.message().await.len(), 1 << 20, "as much as is allowed");
    let mut wire = BytesMut::new();
    bomber.sender.message(MessageKind::Binary, vec![0; 10 << 20].into(), true, &mut wire).unwrap();
    assert!(wire.len() < 20_000, "{}", wire.len());
    // And a malformed block behind it: still one clean close.
    wire.extend_from_slice(&masked(0xC2, &[0xFF; 20]));
    soon(bomber.stream.write_all(&wire)).await.unwrap();
    match bomber.incoming().await {
        Incoming::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1009),
        other => panic!("{other:?}"),
    }
    assert_eq!(soon(bomber.stream.read(&mut [0; 10])).await.unwrap(), 0);
    drop(bomber);
    assert_eq!(observed.error().await.0, ErrorKind::Protocol);
    assert_eq!(observed.disconnected().await, DisconnectReason::MessageTooBig);

    let headers = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    for (frames, code) in [
        (masked(0xC2, &[0xFF; 20]), 1007),
        (masked(0xC9, b"ping"), 1002),
        ([masked(0x41, b""), masked(0xC0, b"")].concat(), 1002),
        (masked(0xE1, b"x"), 1002),
    ] {
        let (mut peer, _) = Peer::connect_with(&server, headers).await;
        observed.connected().await;
        peer.write(frames).await;
        assert_eq!(peer.closes().await, Some(code));
        peer.end().await;
        drop(peer);
        observed.error().await;
        assert_eq!(observed.disconnected().await, DisconnectReason::ProtocolError);
    }
    tokio::time::timeout(Duration::from_secs(10), stop(server)).await.unwrap();
    observed.finished().await;
}

#[tokio::test]
async fn a_client_closes_for_a_bomb_and_for_illegal_compression() {
    let bomb = {
        let mut wire = BytesMut::new();
        let mut sender = Sender::server().deflate(&DeflateParams::default(), &eager());
        sender.message(MessageKind::Binary, vec![0; 10 << 20].into(), true, &mut wire).unwrap();
        wire.extend_from_slice(&plain(0xC2, &[0xFF; 20]));
        wire.to_vec()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("ws://{}", listener.local_addr().unwrap());
    for (wire, code) in [
        (bomb, 1009),
        (plain(0xC2, &[0xFF; 20]), 1007),
        (plain(0xC9, b"ping"), 1002),
        ([plain(0x41, b""), plain(0xC0, b"")].concat(), 1002),
        (plain(0xE1, b"x"), 1002),
    ] {
        let (handler, mut observed) = observer();
        let limits = Limits::default().max_message_size(1 << 20);
        let client = WsClient::new(&uri).deflate(eager()).limits(limits).handler(handler);
        let connecting = tokio::spawn(client.connect());
        let mut peer = Peer::accept_raw(&listener).await;
        let accepted = peer.upgrade_request().await.accept(&Accept::new().deflate(eager())).unwrap();
        assert!(accepted.deflate.is_some());
        // Right behind the answer, in the same segment.
        peer.write([&accepted.response, &wire[..]].concat()).await;
        let client = soon(connecting).await.unwrap().unwrap();
        observed.connected().await;
        assert_eq!(peer.closes().await, Some(code));
        drop(peer);
        observed.error().await;
        let expected = match code {
            1009 => DisconnectReason::MessageTooBig,
            _ => DisconnectReason::ProtocolError,
        };
        assert_eq!(observed.disconnected().await, expected);
        soon(client.closed()).await;
        drop(client);
        observed.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tasks_of_a_client_keep_their_order_masked_and_compressed() {
    let (handler, mut at_server) = observer();
    let server = WsServer::bind("127.0.0.1:0").deflate(eager()).handler(handler).start().await.unwrap();
    let (handler, mut at_client) = observer();
    let uri = format!("ws://{}", server.local_addr().unwrap());
    let client = WsClient::new(uri).deflate(eager().level(1)).handler(handler).connect();
    let client = soon(client).await.unwrap();
    let session = at_client.connected().await;
    at_server.connected().await;
    hundred_senders(&session, async || at_server.message().await.text().unwrap().to_owned()).await;
    client.session().abort();
    soon(client.closed()).await;
    stop(server).await;
}

#[tokio::test]
async fn an_upgrade_hook_has_the_last_word_on_compression() {
    let as_stored = eager().level(0);
    for (of_server, by_hook, granted) in [
        (Some(eager()), Some(as_stored), true),
        (None, Some(as_stored), true),
        (Some(eager()), None, false),
        (None, None, false),
    ] {
        let (handler, mut observed) = observer();
        let server = WsServer::bind("127.0.0.1:0")
            .deflate(of_server)
            .on_upgrade(move |_| std::future::ready(Ok(Accept::new().deflate(by_hook))))
            .handler(handler)
            .start()
            .await
            .unwrap();
        let headers = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        let (mut peer, response) = Peer::connect_with(&server, headers).await;
        assert_eq!(response.header("sec-websocket-extensions").is_some(), granted);
        observed.connected().await.send(text(0)).await.unwrap();
        let frame = peer.frame().await;
        assert_eq!(frame.first, if granted { 0xC1 } else { 0x81 });
        // The hook's level compresses nothing.
        assert!(frame.payload.len() >= text(0).len(), "{} bytes", frame.payload.len());
        abort_all(server).await;
    }
}
