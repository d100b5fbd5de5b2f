//! The rate limiting middleware, over sockets. Windows last an hour: what resets a count here is a bug.

mod support;

use std::sync::Arc;
use std::time::Duration;

use stormsocket::{ConfigError, DisconnectReason, RateLimit, RateLimitAction, SessionId};
use support::*;
use tokio::sync::mpsc;

const HOUR: Duration = Duration::from_secs(3600);

/// A server that echoes frames within `limit`, and who was over it.
async fn limited(limit: RateLimit) -> (stormsocket::ServerHandle, Log, mpsc::UnboundedReceiver<SessionId>) {
    let (recorder, log) = recorder();
    let (tell, told) = mpsc::unbounded_channel();
    let limit = limit.on_limited(move |session| {
        let _ = tell.send(session.id());
    });
    let server = local_server()
        .framer(stormsocket::LengthPrefixFramer::new())
        .middleware(limit)
        .on_data(|session, data| async move { session.send(data).await })
        .handler(recorder)
        .start()
        .await
        .unwrap();
    (server, log, told)
}

async fn echoes(peer: &mut Peer, times: usize) {
    for _ in 0..times {
        peer.send(&frame(b"x")).await;
        assert_eq!(peer.frame().await, b"x");
    }
}

#[tokio::test]
async fn a_session_above_its_limit_is_aborted_and_no_other() {
    let (server, mut log, mut told) = limited(RateLimit::per_session(3, HOUR).unwrap()).await;
    let mut offender = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    let mut other = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    echoes(&mut other, 2).await;
    echoes(&mut offender, 3).await;
    offender.send(&frame(b"one too many")).await;
    offender.expect_reset().await;
    assert_eq!(soon(told.recv()).await, Some(session.id()));
    assert_eq!(session.disconnect_reason(), Some(DisconnectReason::RateLimited));
    echoes(&mut other, 1).await;
    // It comes back as another session, with a count of its own.
    let mut again = Peer::connect(addr_of(&server)).await;
    echoes(&mut again, 3).await;
    stop(&server).await;
    assert_eq!(server.metrics().disconnects.get(DisconnectReason::RateLimited), 1);
    assert_eq!(server.metrics().error_count, 0);
    assert!(told.try_recv().is_err(), "once");
}

#[tokio::test]
async fn messages_above_the_limit_are_dropped_and_whose_is_told_once() {
    let limit = RateLimit::per_session(3, HOUR).unwrap().action(RateLimitAction::Drop);
    let (server, mut log, mut told) = limited(limit).await;
    let mut peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    echoes(&mut peer, 3).await;
    for _ in 0..100 {
        peer.send(&frame(b"dropped")).await;
    }
    assert_eq!(soon(told.recv()).await, Some(session.id()));
    peer.half_close().await;
    assert_eq!(peer.rest().await, b"", "nothing is echoed");
    for _ in 0..3 {
        assert_eq!(log.data().await, "x");
    }
    assert_eq!(log.disconnected().await, DisconnectReason::ClosedByClient);
    stop(&server).await;
    assert!(told.try_recv().is_err(), "once in a window");
}

#[tokio::test]
async fn the_sessions_of_an_address_share_a_count_that_no_end_resets() {
    let (server, mut log, mut told) = limited(RateLimit::per_ip(10, HOUR).unwrap()).await;
    let mut quiet = Peer::connect(addr_of(&server)).await;
    let quiet_id = log.connected().await.id();
    echoes(&mut quiet, 1).await;
    let mut offender = Peer::connect(addr_of(&server)).await;
    log.data().await;
    let offender_id = log.connected().await.id();
    echoes(&mut offender, 9).await;
    offender.send(&frame(b"x")).await;
    offender.expect_reset().await;
    assert_eq!(soon(told.recv()).await, Some(offender_id));
    // Neither the abort nor a new connection takes anything off the count of the address.
    let mut again = Peer::connect(addr_of(&server)).await;
    again.send(&frame(b"x")).await;
    again.expect_reset().await;
    assert!(soon(told.recv()).await > Some(offender_id));
    quiet.send(&frame(b"x")).await;
    quiet.expect_reset().await;
    assert_eq!(soon(told.recv()).await, Some(quiet_id));
    stop(&server).await;
}

#[cfg(unix)]
#[tokio::test]
async fn sessions_without_an_address_are_counted_by_themselves() {
    let path = std::env::temp_dir().join(format!("stormsocket-rate-limit-{}", std::process::id()));
    let server = stormsocket::TcpServer::bind(path.as_path())
        .middleware(RateLimit::per_ip(2, HOUR).unwrap())
        .on_data(|session, data| async move { session.send(data).await })
        .start()
        .await
        .unwrap();
    for _ in 0..3 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut peer = tokio::net::UnixStream::connect(&path).await.unwrap();
        for _ in 0..2 {
            peer.write_all(b"x").await.unwrap();
            assert_eq!(soon(peer.read_u8()).await.unwrap(), b'x');
        }
    }
    stop(&server).await;
}

#[tokio::test]
async fn limits_of_nothing_are_refused_and_nothing_is_kept_of_those_who_left() {
    for (limit, name) in
        [(RateLimit::per_session(0, HOUR), "count"), (RateLimit::per_ip(1, Duration::ZERO), "window")]
    {
        match limit {
            Err(ConfigError::Invalid { option, .. }) => assert_eq!(option, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    // Windows that are over at once: each message finds the ones before gone.
    let limit = Arc::new(RateLimit::per_ip(1, Duration::from_nanos(1)).unwrap().ipv6_prefix(128));
    struct Shared(Arc<RateLimit>);
    impl stormsocket::Middleware for Shared {
        async fn on_data_received(
            &self,
            session: &stormsocket::Session,
            data: bytes::Bytes,
        ) -> Result<Option<bytes::Bytes>, stormsocket::BoxError> {
            self.0.on_data_received(session, data).await
        }
    }
    let server = local_server()
        .middleware(Shared(limit.clone()))
        .on_data(|session, data| async move { session.send(data).await })
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(addr_of(&server)).await;
    for _ in 0..10 {
        peer.send(b"x").await;
        peer.expect(b"x").await;
        assert_eq!(limit.addresses(), 1);
    }
    stop(&server).await;
}
