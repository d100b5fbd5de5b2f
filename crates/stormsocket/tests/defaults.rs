//! The defaults that are promised, each by its number. `docs/defaults.md` says why.
#![cfg(all(feature = "server", feature = "client"))]

mod support;

use std::time::Duration;

use stormsocket::{
    ClientOptions, DelimiterFramer, KeepAlive, LengthPrefixFramer, MessageFramer, ReconnectOptions,
    ServerOptions, SessionOptions, SlowConsumerPolicy, SocketOptions, TcpClient, TcpServer,
};
use support::*;

const MIB: usize = 1024 * 1024;

#[test]
fn addresses() {
    let shown = format!("{:?}", TcpServer::default());
    assert!(shown.contains("0.0.0.0:5000"), "{shown}");
    let shown = format!("{:?}", TcpClient::default());
    assert!(shown.contains("127.0.0.1:5000"), "{shown}");
    #[cfg(feature = "ws")]
    {
        let shown = format!("{:?}", stormsocket::WsServer::default());
        assert!(shown.contains("0.0.0.0:5000"), "{shown}");
        let shown = format!("{:?}", stormsocket::WsClient::default());
        assert!(shown.contains("ws://localhost:8080"), "{shown}");
    }
}

#[test]
fn sessions() {
    let options = SessionOptions::default();
    assert_eq!(options.max_pending_send_bytes, Some(MIB));
    assert_eq!(options.max_pending_receive_bytes, Some(MIB));
    assert_eq!(options.slow_consumer_policy, SlowConsumerPolicy::Wait);
    assert_eq!(options.close_deadline, Duration::from_secs(5));
    assert_eq!(options.idle_timeout, None);
    assert!(options.send_budget.is_none());
}

#[test]
fn sockets() {
    let options = SocketOptions::default();
    assert!(!options.no_delay);
    assert_eq!(options.keep_alive, Some(KeepAlive::default()));
    let KeepAlive { idle, interval, count, .. } = KeepAlive::default();
    assert_eq!((idle, interval, count), (None, None, None));
    assert_eq!((options.recv_buffer_size, options.send_buffer_size), (Some(64 * 1024), Some(64 * 1024)));
}

#[test]
fn servers() {
    let options = ServerOptions::default();
    assert_eq!(options.backlog, 128);
    assert_eq!((options.worker_threads, options.reuse_port), (None, false));
    assert_eq!(options.max_connections, None);
    assert_eq!((options.max_connections_per_ip, options.max_handshakes_per_ip), (None, None));
    assert_eq!(options.ipv6_prefix, 64);
    assert_eq!(options.handshake_timeout, Some(Duration::from_secs(5)));
    assert!(options.proxy_protocol_from.is_empty());
    #[cfg(feature = "tls")]
    assert!(options.tls.is_none());
}

#[test]
fn clients() {
    let options = ClientOptions::default();
    assert_eq!(options.connect_timeout, Duration::from_secs(10));
    assert_eq!(options.connection_attempt_delay, Some(Duration::from_millis(250)));
    assert!(options.proxy.is_none());
    assert!(options.reconnect.is_none());
    #[cfg(feature = "tls")]
    assert!(options.tls.is_none());

    let reconnect = ReconnectOptions::default();
    assert_eq!(reconnect.delay, Duration::from_secs(2));
    assert!(reconnect.backoff.is_none());
    assert_eq!((reconnect.max_first_attempts, reconnect.max_attempts), (Some(1), None));
    assert_eq!(reconnect.max_retry_after, Some(Duration::from_secs(60)));
    assert_eq!(reconnect.max_queued_bytes, None);
}

#[test]
fn session_options_are_set_one_by_one_or_at_once() {
    let session = SessionOptions::default().idle_timeout(Duration::from_secs(9));
    let server = ServerOptions::default().session(session.clone()).max_pending_send_bytes(None);
    assert_eq!(server.session, session.clone().max_pending_send_bytes(None));
    let client = ClientOptions::default().close_deadline(Duration::from_secs(1)).session(session.clone());
    assert_eq!(client.session, session);
    for shown in [
        format!("{:?}", TcpServer::default().session(session.clone())),
        format!("{:?}", TcpClient::default().session(session)),
    ] {
        assert!(shown.contains("idle_timeout: Some(9s)"), "{shown}");
    }
}

#[cfg(feature = "ws")]
#[test]
fn websocket() {
    let options = stormsocket::WsOptions::default();
    assert_eq!(options.heartbeat.interval, Some(Duration::from_secs(30)));
    assert_eq!(options.heartbeat.max_missed_pongs, 3);
    assert!(options.heartbeat.auto_pong);
    assert_eq!(options.limits.max_frame_size, Some(1 << 20));
    assert_eq!(options.limits.max_message_size, Some(4 << 20));
    assert_eq!(options.limits.max_fragments, Some(16_384));
    assert_eq!((options.head_limits.max_bytes, options.head_limits.max_headers), (16 * 1024, 100));
    #[cfg(feature = "deflate")]
    assert!(options.deflate.is_none());
}

#[test]
fn framers() {
    let mut wire = bytes::BytesMut::new();
    LengthPrefixFramer::default().encode("ab".into(), &mut wire).unwrap();
    DelimiterFramer::default().encode("cd".into(), &mut wire).unwrap();
    assert_eq!(wire, &b"\0\0\0\x02abcd\n"[..], "four bytes, big-endian; a line feed");
}

/// The only test here with sessions: it wants the first of the process.
#[tokio::test]
async fn ids_are_counted_from_one_over_servers_and_clients() {
    let (recorder, mut log) = recorder();
    let servers = [local_server().handler(recorder.clone()), local_server().handler(recorder.clone())];
    let mut ids = Vec::new();
    let mut open = Vec::new();
    for server in servers {
        let server = server.start().await.unwrap();
        let client = TcpClient::new(addr_of(&server)).handler(recorder.clone()).connect().await.unwrap();
        for _ in 0..2 {
            ids.push(log.connected().await.id().get());
        }
        open.push((server, client));
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4]);
    for (server, client) in open {
        client.disconnect().await;
        stop(&server).await;
    }
}
