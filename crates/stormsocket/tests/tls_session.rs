//! Sessions over TLS behave as those without: orderly ends, resets, limits, policies.

mod support;
mod tls_support;

use std::sync::Arc;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use stormsocket::{
    ClientHandle, DisconnectReason, SendError, SendOutcome, SlowConsumerPolicy, TcpClient, WsClient, WsServer,
};
use support::*;
use tls_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A client that lets 1000 bytes wait, and the scripted server it is connected to.
async fn client_and_peer(recorder: Recorder) -> (ClientHandle, AcceptedPeer) {
    let ca = Ca::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&ca.issue(&["localhost"]))));
    let client = TcpClient::new(format!("localhost:{}", listener.local_addr().unwrap().port()))
        .tls(ca.client_options())
        .max_pending_send_bytes(1000)
        .handler(recorder);
    let accepting = async { acceptor.accept(listener.accept().await.unwrap().0).await };
    let (client, peer) = soon(async { tokio::join!(client.connect(), accepting) }).await;
    (client.unwrap(), peer.unwrap())
}

#[tokio::test]
async fn large_and_small_messages_in_both_directions() {
    let ca = Ca::new();
    let server = local_server()
        .tls(ca.issue(&["localhost"]).options())
        .framer(stormsocket::LengthPrefixFramer::new())
        .on_data(|session, data| async move { session.send(data).await })
        .start()
        .await
        .unwrap();
    let (recorder, mut log) = recorder();
    let client = TcpClient::new(format!("localhost:{}", addr_of(&server).port()))
        .tls(ca.client_options())
        .framer(stormsocket::LengthPrefixFramer::new())
        .handler(recorder)
        .connect();
    let client = soon(client).await.unwrap();
    log.connected().await;
    const LENGTHS: [usize; 8] = [0, 1, 32, 4095, 16_384, 16_385, 200_000, 3];
    let messages: Vec<Vec<u8>> =
        (0..400).map(|n| vec![u8::try_from(n % 100).unwrap(); LENGTHS[n % 8]]).collect();
    let sending = async {
        for message in &messages {
            assert_eq!(client.send(message.clone()).await.unwrap(), SendOutcome::Sent);
        }
    };
    let receiving = async {
        for message in &messages {
            assert!(log.data().await == *message, "the same bytes");
        }
    };
    soon(async { tokio::join!(sending, receiving) }).await;
    soon(client.disconnect()).await;
    stop(&server).await;
}

#[tokio::test]
async fn a_close_lets_everything_leave_and_ends_with_a_close_notify() {
    let ca = Ca::new();
    for version in [&TLS12, &TLS13] {
        let (recorder, mut log) = recorder();
        let server = local_server()
            .tls(ca.issue(&["localhost"]).options())
            .max_pending_send_bytes(None)
            .handler(recorder)
            .start()
            .await
            .unwrap();
        let mut peer =
            tls_peer_with(addr_of(&server), client_config(&ca, &[version]), "localhost").await.unwrap();
        let session = log.connected().await;
        session.send(vec![1; 2 << 20]).await.unwrap();
        session.send("the end").await.unwrap();
        session.start_close(DisconnectReason::ClosedByServer);
        let mut rest = Vec::new();
        // An end without `close_notify` would be an error here.
        soon(peer.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest.len(), (2 << 20) + 7);
        assert!(rest.ends_with(b"the end"));
        // Our peer ends without one, as many do: we were done, so that is no error, and no reset.
        drop(peer);
        assert_eq!(log.disconnected().await, DisconnectReason::ClosedByServer);
        stop(&server).await;
        log.assert_quiet();
    }
}

#[tokio::test]
async fn the_peers_close_notify_is_an_orderly_end() {
    let ca = Ca::new();
    let (recorder, mut log) = recorder();
    let server = local_server()
        .tls(ca.issue(&["localhost"]).options())
        .on_data(|session, data| async move { session.send(data).await })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = tls_peer(addr_of(&server), &ca).await;
    log.connected().await;
    peer.write_all(b"last words").await.unwrap();
    soon(peer.shutdown()).await.unwrap();
    // What was said before the end is answered after it.
    let mut rest = Vec::new();
    soon(peer.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"last words");
    assert_eq!(log.data().await, "last words");
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;
    log.assert_quiet();
}

#[tokio::test]
async fn an_end_without_close_notify_is_a_transport_error() {
    let ca = Ca::new();
    let (recorder, mut log) = recorder();
    let server =
        local_server().tls(ca.issue(&["localhost"]).options()).handler(recorder).start().await.unwrap();
    let mut peer = tls_peer(addr_of(&server), &ca).await;
    log.connected().await;
    peer.write_all(b"cut of").await.unwrap();
    // The end of the TCP stream, with which anyone in between can pretend that this was all.
    soon(peer.get_mut().0.shutdown()).await.unwrap();
    assert_eq!(log.data().await, "cut of");
    assert_eq!(log.disconnected().await, DisconnectReason::TransportError);
    stop(&server).await;
    // An end, not an error.
    log.assert_quiet();
}

#[tokio::test]
async fn a_client_tells_a_servers_orderly_end_from_one_without_close_notify() {
    for orderly in [true, false] {
        let (recorder, mut log) = recorder();
        let (client, mut peer) = client_and_peer(recorder).await;
        log.connected().await;
        peer.write_all(b"last words").await.unwrap();
        peer.flush().await.unwrap();
        if orderly {
            soon(peer.shutdown()).await.unwrap();
        } else {
            soon(peer.get_mut().0.shutdown()).await.unwrap();
        }
        assert_eq!(log.data().await, "last words");
        let expected =
            if orderly { DisconnectReason::ClosedByServer } else { DisconnectReason::TransportError };
        assert_eq!(log.disconnected().await, expected);
        soon(client.closed()).await;
        // Either is an end, not an error.
        log.assert_quiet();
        assert_eq!(client.hub().metrics().error_count, 0);
    }
}

#[tokio::test]
async fn a_clients_abort_is_a_reset_and_what_waits_fails() {
    let (recorder, mut log) = recorder();
    let (client, mut peer) = client_and_peer(recorder).await;
    let session = log.connected().await;
    session.send(vec![1; 32 << 20]).await.unwrap();
    let waiting = tokio::spawn({
        let session = session.clone();
        async move { session.send("waiting").await }
    });
    tokio::task::yield_now().await;
    session.abort();
    let sent = soon(waiting).await.unwrap();
    assert!(matches!(sent, Err(SendError::Closed(Some(DisconnectReason::Aborted)))), "{sent:?}");
    let error = soon(peer.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
    assert_eq!(session.pending_send_bytes(), 0);
    soon(client.closed()).await;
    log.assert_quiet();
}

#[tokio::test]
async fn abort_is_a_reset_and_nothing_queued_leaves() {
    let ca = Ca::new();
    let (recorder, mut log) = recorder();
    let server = local_server()
        .tls(ca.issue(&["localhost"]).options())
        .max_pending_send_bytes(None)
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = tls_peer(addr_of(&server), &ca).await;
    let session = log.connected().await;
    session.send(vec![1; 32 << 20]).await.unwrap();
    session.abort();
    let mut rest = Vec::new();
    let error = soon(peer.read_to_end(&mut rest)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(log.disconnected().await, DisconnectReason::Aborted);
    assert_eq!(session.pending_send_bytes(), 0);
    stop(&server).await;
}

#[tokio::test]
async fn what_waits_is_bounded_as_without_tls() {
    const LIMIT: usize = 1 << 20;
    let ca = Ca::new();
    for policy in [SlowConsumerPolicy::Wait, SlowConsumerPolicy::Drop, SlowConsumerPolicy::Disconnect] {
        let (recorder, mut log) = recorder();
        let server = local_server()
            .tls(ca.issue(&["localhost"]).options())
            .slow_consumer_policy(policy)
            .handler(recorder)
            .start()
            .await
            .unwrap();
        let mut peer = tls_peer(addr_of(&server), &ca).await;
        let session = log.connected().await;
        let message = vec![7; 64 * 1024];
        let mut sent = 0;
        // More than any kernel buffers.
        let outcome = loop {
            assert!(sent < 64 << 20, "{policy:?}: nothing ever fills up");
            assert!(session.pending_send_bytes() <= LIMIT + message.len());
            let sending = tokio::time::timeout(Duration::from_millis(500), session.send(message.clone()));
            match sending.await {
                Ok(Ok(SendOutcome::Sent)) => sent += message.len(),
                outcome => break outcome,
            }
        };
        match policy {
            SlowConsumerPolicy::Wait => assert!(outcome.is_err(), "it waits"),
            SlowConsumerPolicy::Drop => assert!(matches!(outcome, Ok(Ok(SendOutcome::Dropped)))),
            SlowConsumerPolicy::Disconnect => {
                assert!(matches!(outcome, Ok(Err(SendError::Closed(Some(DisconnectReason::SlowConsumer))))));
                assert_eq!(log.disconnected().await, DisconnectReason::SlowConsumer);
            }
            _ => unreachable!("all policies"),
        }
        if policy != SlowConsumerPolicy::Disconnect {
            assert!(session.is_backpressured());
            // Not a byte of what was admitted is lost, and not one of the rest leaves.
            let mut read = vec![0; sent];
            soon(peer.read_exact(&mut read)).await.unwrap();
            assert!(read.iter().all(|byte| *byte == 7));
            until(|| session.pending_send_bytes() == 0).await;
            assert!(!session.is_backpressured());
            session.send("more").await.unwrap();
            let mut more = [0; 4];
            soon(peer.read_exact(&mut more)).await.unwrap();
            assert_eq!(&more, b"more");
        }
        drop(peer);
        stop(&server).await;
    }
}

#[tokio::test]
async fn bytes_that_tls_holds_back_still_count_as_pending() {
    let ca = Ca::new();
    let (recorder, mut log) = recorder();
    let server =
        local_server().tls(ca.issue(&["localhost"]).options()).handler(recorder).start().await.unwrap();
    let mut peer = tls_peer(addr_of(&server), &ca).await;
    let session = log.connected().await;
    // Filled until nothing moves: what the kernel did not take is pending, in the outbox or in TLS.
    let mut sent = 0;
    while !session.is_backpressured() {
        session.send(vec![1; 1000]).await.unwrap();
        sent += 1000;
        tokio::task::yield_now().await;
    }
    let settled = async |mut last: usize| {
        for _ in 0..50 {
            tokio::task::yield_now().await;
            last = session.pending_send_bytes();
        }
        last
    };
    let pending = settled(0).await;
    // The peer gets what has left, and the counts agree to the byte.
    let left = || usize::try_from(session.metrics().bytes_sent).unwrap();
    assert_eq!(left() + pending, sent);
    let mut read = vec![0; sent];
    soon(peer.read_exact(&mut read)).await.unwrap();
    until(|| session.pending_send_bytes() == 0).await;
    assert_eq!(left(), sent);
    drop(peer);
    stop(&server).await;
}

#[tokio::test]
async fn a_websocket_conversation_and_both_closes() {
    let ca = Ca::new();
    let server = WsServer::bind("127.0.0.1:0")
        .tls(ca.issue(&["localhost"]).options())
        .on_message(|session, message| async move { session.send(message).await })
        .start()
        .await
        .unwrap();
    let uri = format!("wss://localhost:{}/", addr_of(&server).port());
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let connect = || {
        let said = said.clone();
        WsClient::new(uri.clone())
            .tls(ca.client_options())
            .on_message(move |_, message| {
                let said = said.clone();
                async move { said.send(message.into_data()).unwrap() }
            })
            .connect()
    };
    let client = soon(connect()).await.unwrap();
    for len in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        client.send(vec![3; len]).await.unwrap();
        assert_eq!(soon(heard.recv()).await.unwrap(), vec![3; len]);
    }
    soon(client.disconnect()).await;
    assert_eq!(client.disconnect_reason(), Some(DisconnectReason::ClosedByClient));
    let client = soon(connect()).await.unwrap();
    until(|| server.sessions().len() == 1).await;
    let session = server.sessions().iter().next().unwrap();
    soon(session.close()).await;
    soon(client.closed()).await;
    assert_eq!(client.disconnect_reason(), Some(DisconnectReason::ClosedByServer));
    assert_eq!(session.disconnect_reason(), Some(DisconnectReason::ClosedByServer));
    stop(&server).await;
}

#[tokio::test]
async fn shutdown_ends_sessions_and_handshakes_under_way() {
    let ca = Ca::new();
    let server = local_server().tls(ca.issue(&["localhost"]).options()).start().await.unwrap();
    let mut peer = tls_peer(addr_of(&server), &ca).await;
    until(|| server.sessions().len() == 1).await;
    let mut silent = Peer::connect(addr_of(&server)).await;
    until(|| server.connections() == 2).await;
    let reading = tokio::spawn(async move {
        let mut rest = Vec::new();
        soon(peer.read_to_end(&mut rest)).await.map(|_| drop(peer))
    });
    let report = soon(server.shutdown(Duration::from_secs(10))).await;
    assert_eq!((report.closed, report.aborted, report.unfinished), (1, 0, 0));
    soon(reading).await.unwrap().unwrap();
    silent.expect_end().await;
}
