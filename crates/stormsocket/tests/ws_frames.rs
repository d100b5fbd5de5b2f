//! What each rule of RFC 6455 that a peer can break comes to at the public face, in both roles: the close code the
//! peer reads, the reason the application gets, the order of the end.
#![cfg(all(feature = "server", feature = "client", feature = "ws"))]

mod ws_support;

use storm_core::Events;
use stormsocket::{
    ClientHandle, DisconnectReason, ErrorKind, HeartbeatOptions, Limits, Message, Role, SessionOptions,
    WsClient, WsOptions, WsServer, WsSession,
};
use tokio::net::TcpListener;
use ws_support::*;

use DisconnectReason::{MessageTooBig, ProtocolError};

/// Small limits, so that rows about them are cheap.
fn limits() -> Limits {
    Limits::default().max_frame_size(1000).max_message_size(2500).max_fragments(100)
}

/// Wire bytes that end a connection, and how. `frame` writes a good frame as the sender's role does.
fn violations(frame: fn(u8, &[u8]) -> Vec<u8>, mask_bit: u8) -> Vec<(&'static str, Vec<u8>, u16)> {
    let key: &[u8] = if mask_bit == 0 { &[] } else { &[0; 4] };
    let raw = |head: &[u8]| [head, key].concat();
    // 100 bytes announced, three sent: the third can follow no second.
    let hopeless = frame(0x81, &[&b"a\xE2\x28"[..], &[b'x'; 97]].concat());
    vec![
        ("RSV2", frame(0xA1, b"x"), 1002),
        ("RSV3", frame(0x91, b"x"), 1002),
        ("RSV1 without an extension", frame(0xC1, b"x"), 1002),
        ("opcode 0x3 with a declared 1 GiB", raw(&[0x83, mask_bit | 127, 0, 0, 0, 0, 0x40, 0, 0, 0]), 1002),
        ("opcode 0xB with a declared 1 GiB", raw(&[0x8B, mask_bit | 127, 0, 0, 0, 0, 0x40, 0, 0, 0]), 1002),
        ("126 for 5 bytes", raw(&[0x82, mask_bit | 126, 0, 5]), 1002),
        ("127 for 300 bytes", raw(&[0x82, mask_bit | 127, 0, 0, 0, 0, 0, 0, 1, 44]), 1002),
        ("the top bit of a length", raw(&[0x82, mask_bit | 127, 0x80, 0, 0, 0, 0, 0, 0, 0]), 1002),
        ("a frame one byte too big, its head only", raw(&head(0x82, mask_bit, 1001)), 1009),
        ("a frame of 8 EiB, its head only", raw(&head(0x82, mask_bit, u64::MAX >> 1)), 1009),
        ("a ping of 126 bytes, its head only", raw(&[0x89, mask_bit | 126, 0, 126]), 1002),
        ("a fragmented ping", frame(0x09, b""), 1002),
        ("a fragmented close", frame(0x08, &goodbye(1000, "")), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a new text inside a message", [frame(0x01, b"a"), frame(0x81, b"b")].concat(), 1002),
        ("a new binary inside a message", [frame(0x02, b"a"), frame(0x82, b"b")].concat(), 1002),
        ("invalid UTF-8", frame(0x81, b"a\xFFb"), 1007),
        ("invalid UTF-8 in the first of more fragments", frame(0x01, b"a\xFFb"), 1007),
        ("invalid UTF-8 in an unfinished frame", hopeless[..2 + key.len() + 3].to_vec(), 1007),
        ("UTF-8 cut off at the end", frame(0x81, b"a\xE2\x82"), 1007),
        ("UTF-8 cut off at the last fragment", [frame(0x01, b"a\xE2"), frame(0x80, b"\x82")].concat(), 1007),
        ("a surrogate", frame(0x81, b"\xED\xA0\x80"), 1007),
        ("an overlong form", frame(0x81, b"\xC0\x80"), 1007),
        ("a close of one byte", frame(0x88, b"\x03"), 1002),
        ("a close reason that is not UTF-8", frame(0x88, b"\x03\xE8\xC0\x80"), 1007),
        (
            "a message too big by its last fragment",
            [frame(0x02, &[0; 1000]), frame(0x00, &[0; 1000]), frame(0x80, &[0; 501])].concat(),
            1009,
        ),
        ("too many fragments", [frame(0x02, b""), frame(0x00, b"").repeat(100)].concat(), 1008),
    ]
}

fn reason_for(code: u16) -> DisconnectReason {
    if code == 1009 { MessageTooBig } else { ProtocolError }
}

#[tokio::test]
async fn a_server_closes_with_the_code_of_the_broken_rule() {
    let (handler, mut observed) = echo();
    let server = WsServer::bind("127.0.0.1:0").limits(limits()).handler(handler).start().await.unwrap();
    let mut rows = violations(masked, 0x80);
    rows.push(("unmasked data", plain(0x81, b"x"), 1002));
    rows.push(("an unmasked ping", plain(0x89, b""), 1002));
    rows.push(("an unmasked close", plain(0x88, b""), 1002));
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        rows.push(("a close code that is not for the wire", masked(0x88, &goodbye(code, "")), 1002));
    }
    let violations = rows.len() as u64;
    for (name, wire, code) in rows {
        let mut peer = Peer::connect(&server).await;
        let session = observed.connected().await;
        peer.write([masked(0x81, b"good"), wire].concat()).await;
        assert_eq!(observed.message().await.text(), Some("good"), "{name}");
        assert_eq!(peer.frame().await.text(), "good", "{name}: what came before is answered");
        assert_eq!(peer.closes().await, Some(code), "{name}");
        // RFC 6455 §7.1.1: the server ends TCP first, whatever we do.
        peer.end().await;
        drop(peer);
        assert_eq!(observed.error().await.0, ErrorKind::Protocol, "{name}");
        assert_eq!(observed.disconnected().await, reason_for(code), "{name}");
        assert_eq!(session.disconnect_reason(), Some(reason_for(code)), "{name}");
    }
    assert_eq!(server.metrics().error_count, violations);
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn a_client_closes_with_the_code_of_the_broken_rule() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("ws://{}", listener.local_addr().unwrap());
    let mut rows = violations(plain, 0);
    rows.push(("masked data", masked(0x81, b"x"), 1002));
    rows.push(("a masked ping", masked(0x89, b""), 1002));
    rows.push(("a masked close", masked(0x88, b""), 1002));
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        rows.push(("a close code that is not for the wire", plain(0x88, &goodbye(code, "")), 1002));
    }
    for (name, wire, code) in rows {
        let (handler, mut observed) = echo();
        let connecting = WsClient::new(&uri).limits(limits()).handler(handler).connect();
        let (client, mut peer) = tokio::join!(soon(connecting), Peer::accept(&listener));
        let client = client.unwrap();
        observed.connected().await;
        peer.write([plain(0x81, b"good"), wire].concat()).await;
        assert_eq!(observed.message().await.text(), Some("good"), "{name}");
        let answer = peer.frame().await;
        assert!(answer.masked, "{name}: clients mask");
        assert_eq!(answer.text(), "good", "{name}: what came before is answered");
        let goodbye = peer.frame().await;
        assert!(goodbye.masked, "{name}: close frames, too");
        assert_eq!(goodbye.code(), Some(code), "{name}");
        drop(peer);
        assert_eq!(observed.error().await.0, ErrorKind::Protocol, "{name}");
        assert_eq!(observed.disconnected().await, reason_for(code), "{name}");
        soon(client.closed()).await;
        assert_eq!(client.hub().metrics().error_count, 1, "{name}");
        drop(client);
        observed.finished().await;
    }
}

#[tokio::test]
async fn limits_are_inclusive_and_characters_may_be_split() {
    let (handler, mut observed) = echo();
    let server = WsServer::bind("127.0.0.1:0").limits(limits()).handler(handler).start().await.unwrap();
    let mut peer = Peer::connect(&server).await;
    observed.connected().await;
    peer.send(0x82, [7; 1000]).await;
    assert_eq!(observed.message().await.len(), 1000);
    peer.write([masked(0x02, &[1; 1000]), masked(0x00, &[2; 1000]), masked(0x80, &[3; 500])].concat()).await;
    assert_eq!(observed.message().await.len(), 2500);
    peer.write([masked(0x01, b"gr\xC3"), masked(0x89, b"between"), masked(0x80, b"\xBCn")].concat()).await;
    assert_eq!(observed.message().await.text(), Some("grün"));
    peer.write([masked(0x02, b""), masked(0x00, b"").repeat(98), masked(0x80, b"")].concat()).await;
    assert_eq!(observed.message().await, Message::binary(b"".to_vec()));
    assert_eq!(peer.frame().await.payload, [7; 1000]);
    assert_eq!(peer.frame().await.payload.len(), 2500);
    // The pong may leave before or after the echo of the message it came in the middle of.
    let (one, two) = (peer.frame().await, peer.frame().await);
    let (pong, text) = if one.first == 0x8A { (one, two) } else { (two, one) };
    assert_eq!((pong.first, &pong.payload[..]), (0x8A, &b"between"[..]));
    assert_eq!(text.text(), "grün");
    assert_eq!(peer.frame().await, Frame { first: 0x82, masked: false, payload: vec![] });
    stop_with(peer, server).await;
}

#[tokio::test]
async fn a_client_takes_what_is_allowed_and_answers_pings_unchanged() {
    let (handler, mut observed) = echo();
    let (client, mut peer) = client_and_server(|client| client.limits(limits()).handler(handler)).await;
    observed.connected().await;
    peer.send(0x82, [7; 1000]).await;
    assert_eq!(peer.frame().await.payload, [7; 1000]);
    peer.write([plain(0x02, &[1; 1000]), plain(0x00, &[2; 1000]), plain(0x80, &[3; 500])].concat()).await;
    assert_eq!(peer.frame().await.payload.len(), 2500);
    peer.write([plain(0x01, b"gr\xC3"), plain(0x80, b"\xBCn")].concat()).await;
    assert_eq!(peer.frame().await.text(), "grün");
    peer.write([plain(0x02, b""), plain(0x00, b"").repeat(98), plain(0x80, b"")].concat()).await;
    assert_eq!(peer.frame().await, Frame { first: 0x82, masked: true, payload: vec![] });
    for payload in [vec![], vec![0xFF; 125], b"ping".to_vec()] {
        peer.send(0x89, &payload).await;
        assert_eq!(peer.frame().await, Frame { first: 0x8A, masked: true, payload });
    }
    client.session().abort();
    soon(client.closed()).await;
}

#[tokio::test]
async fn a_client_echoes_codes_for_the_wire_and_leaves_the_end_of_tcp_to_the_server() {
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999] {
        let (handler, mut observed) = observer();
        let (client, mut peer) = client_and_server(|client| client.handler(handler)).await;
        let session = observed.connected().await;
        let after = [plain(0x81, b"after"), plain(0x89, b"after"), plain(0x88, &goodbye(1001, ""))].concat();
        peer.write([plain(0x88, &goodbye(code, "so long")), after].concat()).await;
        let echoed = peer.frame().await;
        assert_eq!((echoed.masked, echoed.code()), (true, Some(code)));
        // RFC 6455 §7.1.1: only when the server has ended TCP, the client is done.
        drop(peer);
        let expected = match code {
            1001 => DisconnectReason::GoingAway,
            _ => DisconnectReason::ClosedByServer,
        };
        assert_eq!(observed.disconnected().await, expected, "{code}");
        let frame = session.close_frame().expect("the peer gave a code");
        assert_eq!((u16::from(frame.code), &*frame.reason), (code, "so long"));
        soon(client.closed()).await;
        assert_eq!(client.hub().metrics().error_count, 0, "{code}");
        drop((client, session));
        observed.finished().await;
    }
}

/// A client that has been upgraded, and the server's side of its connection.
async fn client_and_server<E>(options: impl FnOnce(WsClient) -> WsClient<E>) -> (ClientHandle, Peer)
where
    E: Events<WsSession, Message>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = options(WsClient::new(format!("ws://{}", listener.local_addr().unwrap())));
    let (client, peer) = tokio::join!(soon(client.connect()), Peer::accept(&listener));
    (client.unwrap(), peer)
}

/// Ends a session from its peer's side and stops the server.
async fn stop_with(mut peer: Peer, server: stormsocket::ServerHandle) {
    peer.send(0x88, goodbye(1000, "")).await;
    assert_eq!(peer.closes().await, Some(1000));
    peer.end().await;
    drop(peer);
    stop(server).await;
}

#[tokio::test]
async fn codes_for_the_wire_are_echoed_and_the_server_ends_tcp_first() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0").handler(handler).start().await.unwrap();
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999] {
        let mut peer = Peer::connect(&server).await;
        let session = observed.connected().await;
        peer.send(0x88, goodbye(code, "so long")).await;
        assert_eq!(peer.closes().await, Some(code));
        peer.end().await;
        drop(peer);
        let expected = match code {
            1001 => DisconnectReason::GoingAway,
            _ => DisconnectReason::ClosedByClient,
        };
        assert_eq!(observed.disconnected().await, expected, "{code}");
        let frame = session.close_frame().expect("the peer gave a code");
        assert_eq!((u16::from(frame.code), &*frame.reason), (code, "so long"));
    }
    let mut peer = Peer::connect(&server).await;
    let session = observed.connected().await;
    peer.send(0x88, b"").await;
    assert_eq!(
        peer.frame().await,
        Frame { first: 0x88, masked: false, payload: vec![] },
        "no code for no code"
    );
    peer.end().await;
    drop(peer);
    assert_eq!(observed.disconnected().await, DisconnectReason::ClosedByClient);
    assert_eq!(session.close_frame(), None);
    assert_eq!(server.metrics().error_count, 0);
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn nothing_counts_after_a_close_frame() {
    let (handler, mut observed) = echo();
    let server = WsServer::bind("127.0.0.1:0").handler(handler).start().await.unwrap();
    let mut peer = Peer::connect(&server).await;
    observed.connected().await;
    let wire = [
        masked(0x81, b"before"),
        masked(0x88, &goodbye(1000, "")),
        masked(0x81, b"after"),
        masked(0x89, b"after"),
        masked(0x88, &goodbye(1001, "")),
        b"\xFF\xFF\xFF nonsense".to_vec(),
    ];
    peer.write(wire.concat()).await;
    assert_eq!(peer.frame().await.text(), "before");
    assert_eq!(peer.closes().await, Some(1000));
    peer.end().await;
    drop(peer);
    assert_eq!(observed.message().await.text(), Some("before"));
    assert_eq!(observed.disconnected().await, DisconnectReason::ClosedByClient);
    stop(server).await;
    observed.finished().await;
}

#[tokio::test]
async fn messages_before_a_close_frame_reach_a_busy_handler() {
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let open = gate.clone();
    let (connected, mut sessions) = tokio::sync::mpsc::unbounded_channel();
    let server = WsServer::bind("127.0.0.1:0")
        .on_connected(move |session| std::future::ready(connected.send(session)))
        .on_message(move |session, message| {
            let (started, gate) = (started.clone(), gate.clone());
            async move {
                started.send(message.text().unwrap().to_owned()).unwrap();
                gate.acquire().await.unwrap().forget();
                session.send(message).await
            }
        })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(&server).await;
    peer.send(0x81, b"one").await;
    assert_eq!(soon(starts.recv()).await.as_deref(), Some("one"));
    let session = soon(sessions.recv()).await.unwrap();
    // The close is read ahead, while the handler is busy with the first message.
    peer.write([masked(0x81, b"two"), masked(0x81, b"three")].concat()).await;
    peer.settle().await;
    peer.send(0x88, goodbye(1000, "")).await;
    until(|| session.close_frame().is_some()).await;
    open.add_permits(3);
    assert_eq!(soon(starts.recv()).await.as_deref(), Some("two"));
    assert_eq!(soon(starts.recv()).await.as_deref(), Some("three"));
    for text in ["one", "two", "three"] {
        assert_eq!(peer.frame().await.text(), text);
    }
    assert_eq!(peer.closes().await, Some(1000));
    peer.end().await;
    drop(peer);
    stop(server).await;
}

#[tokio::test]
async fn messages_that_came_while_on_connected_ran_are_not_left_lying() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let open = gate.clone();
    let server = WsServer::bind("127.0.0.1:0")
        .on_connected(move |_| {
            let gate = gate.clone();
            async move { gate.acquire().await.unwrap().forget() }
        })
        .on_message(|session, message| async move { session.send(message).await })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(&server).await;
    peer.send(0x81, b"early").await;
    peer.settle().await;
    open.add_permits(1);
    assert_eq!(peer.frame().await.text(), "early");
    stop_with(peer, server).await;
}

#[tokio::test]
async fn a_violation_behind_messages_of_a_busy_handler_waits_for_them() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let open = gate.clone();
    let server = WsServer::bind("127.0.0.1:0")
        .on_message(move |session, message| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                session.send(message).await
            }
        })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(&server).await;
    peer.send(0x81, b"one").await;
    peer.settle().await;
    peer.write([masked(0x81, b"two"), masked(0x81, b"\xFF")].concat()).await;
    open.add_permits(2);
    assert_eq!(peer.frame().await.text(), "one");
    assert_eq!(peer.frame().await.text(), "two");
    assert_eq!(peer.closes().await, Some(1007));
    peer.end().await;
    drop(peer);
    stop(server).await;
}

#[tokio::test]
async fn an_end_without_a_close_frame_is_a_transport_error_and_no_error() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0").handler(handler).start().await.unwrap();
    // In the middle of nothing, of a head, of a payload, of a message.
    for cut in [vec![], vec![0x82], masked(0x82, b"half")[..8].to_vec(), masked(0x01, b"a")] {
        let mut peer = Peer::connect(&server).await;
        observed.connected().await;
        peer.write(cut).await;
        drop(peer);
        assert_eq!(observed.disconnected().await, DisconnectReason::TransportError);
    }
    stop(server).await;
    observed.finished().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_has_16384_fragments_at_most_unless_told_otherwise() {
    for role in [Role::Server, Role::Client] {
        let (handler, mut observed) = observer();
        let (_, mut peer, running) =
            piped(&hub(SessionOptions::default()), role, &WsOptions::default(), 1 << 16, handler);
        observed.connected().await;
        let [first, next, last] = [0x02, 0x00, 0x80].map(|first| peer.frame_of(first, b"x"));
        peer.write([&first, &next.repeat(16_382)[..], &last].concat()).await;
        assert_eq!(observed.message().await.len(), 16_384, "{role:?}");
        // One more; that it would have been the last does not help.
        peer.write([&first, &next.repeat(16_383)[..]].concat()).await;
        assert!(peer.settle().await.is_empty(), "{role:?}");
        peer.write(last).await;
        assert_eq!(peer.closes().await, Some(1008), "{role:?}");
        drop(peer);
        assert_eq!(running.await.unwrap(), ProtocolError);
        assert_eq!(observed.error().await.0, ErrorKind::Protocol);
        assert_eq!(observed.disconnected().await, ProtocolError);
        observed.finished().await;
    }
}

#[tokio::test]
async fn many_sessions_are_not_disturbed_by_one_that_breaks_rules() {
    let (handler, _observed) = echo();
    let server = WsServer::bind("127.0.0.1:0")
        .heartbeat(HeartbeatOptions::default().interval(None))
        .handler(handler)
        .start()
        .await
        .unwrap();
    let mut good = Peer::connect(&server).await;
    for wire in violations(masked, 0x80) {
        let mut bad = Peer::connect(&server).await;
        bad.write(wire.1).await;
        drop(bad);
        good.send(0x81, b"still here").await;
        assert_eq!(good.frame().await.text(), "still here");
    }
    stop_with(good, server).await;
}
