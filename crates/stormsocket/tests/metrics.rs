//! Counters of connections and servers, without any exporter.

mod support;

use stormsocket::LengthPrefixFramer;
use support::*;

#[tokio::test]
async fn counters_are_exact_during_and_after_the_sessions() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .framer(LengthPrefixFramer::new().max_message(100))
        .on_data(|session, data| async move { session.send(data).await })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    for _ in 0..10 {
        peer.send(&frame(b"hello")).await;
        assert_eq!(peer.frame().await, b"hello");
        log.data().await;
    }
    until(|| session.metrics().bytes_sent == 90 && session.metrics().bytes_received == 90).await;
    let of_session = session.metrics();
    assert_eq!((of_session.messages_sent, of_session.messages_received), (10, 10));
    assert!(!of_session.uptime.is_zero());
    let of_server = server.metrics();
    assert_eq!((of_server.active_connections, of_server.total_connections), (1, 1));
    assert_eq!((of_server.messages_sent, of_server.messages_received), (10, 10));
    assert_eq!((of_server.bytes_sent_total, of_server.bytes_received_total), (90, 90));
    drop(peer);
    log.disconnected().await;

    // A broken frame is an error; the connection counts all the same.
    let mut broken = Peer::connect(addr_of(&server)).await;
    broken.send(&[0xff; 4]).await;
    broken.expect_end().await;
    drop(broken);
    log.connected().await;
    log.error().await;
    log.disconnected().await;
    stop(&server).await;
    let after = server.metrics();
    assert_eq!((after.active_connections, after.total_connections), (0, 2));
    assert_eq!((after.messages_sent, after.messages_received), (10, 10));
    assert_eq!((after.bytes_sent_total, after.bytes_received_total), (90, 94));
    assert_eq!((after.error_count, after.messages_dropped), (1, 0));
}

#[tokio::test]
async fn what_a_handler_received_before_it_panicked_counts() {
    let (recorder, mut log) = recorder();
    let server = local_server()
        .framer(LengthPrefixFramer::new())
        .on_data(|_, data| async move { assert_ne!(data, "panic", "told to panic") })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    peer.send(&[frame(b"fine"), frame(b"panic")].concat()).await;
    peer.expect_reset().await;
    let session = log.connected().await;
    stop(&server).await;
    assert_eq!((session.metrics().bytes_received, session.metrics().messages_received), (17, 2));
}
