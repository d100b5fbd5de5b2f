//! One message to many sessions, some of which do not read.

mod support;

use std::future::IntoFuture;
use std::time::Duration;

use stormsocket::{
    BroadcastReport, LengthPrefixFramer, ServerHandle, Session, SlowConsumerPolicy, SocketOptions,
};
use support::*;

const LIMIT: usize = 32 * 1024;

async fn server(policy: SlowConsumerPolicy, recorder: Recorder) -> ServerHandle {
    local_server()
        .framer(LengthPrefixFramer::new())
        .socket(SocketOptions::default().send_buffer_size(4096))
        .max_pending_send_bytes(LIMIT)
        .slow_consumer_policy(policy)
        .on_connected(|session| async move { session.join("everyone") })
        .handler(recorder)
        .start()
        .await
        .unwrap()
}

/// A session whose outbox is full, and its peer, which does not read.
async fn stalled(server: &ServerHandle, log: &mut Log) -> (Peer, Session) {
    let peer = Peer::connect_narrow(addr_of(server)).await;
    let session = log.connected().await;
    while !session.is_backpressured() {
        session.send(vec![0; 4000]).await.unwrap();
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    (peer, session)
}

fn counts(report: BroadcastReport) -> [usize; 5] {
    [report.sent, report.dropped, report.disconnected, report.suppressed, report.failed]
}

#[tokio::test]
async fn members_that_read_get_it_whatever_becomes_of_the_stalled() {
    const MEMBERS: usize = 100;
    const STALLED: usize = 10;
    for policy in [SlowConsumerPolicy::Wait, SlowConsumerPolicy::Drop, SlowConsumerPolicy::Disconnect] {
        let (recorder, mut log) = recorder();
        let server = server(policy, recorder).await;
        let mut stuck = Vec::new();
        for _ in 0..STALLED {
            stuck.push(stalled(&server, &mut log).await);
        }
        let mut readers = Vec::new();
        for _ in 0..MEMBERS - STALLED {
            readers.push(Peer::connect(addr_of(&server)).await);
            log.connected().await;
        }
        let broadcast = tokio::spawn({
            let server = server.clone();
            async move { server.groups().broadcast("everyone", "hello").await }
        });
        // Nobody here waits for the stalled: under `Wait` the broadcast itself is not done yet.
        for reader in &mut readers {
            assert_eq!(reader.frame().await, b"hello");
        }
        let live = MEMBERS - STALLED;
        match policy {
            SlowConsumerPolicy::Wait => {
                assert!(!broadcast.is_finished());
                for (peer, _) in &mut stuck {
                    while peer.frame().await != b"hello" {}
                }
                assert_eq!(counts(soon(broadcast).await.unwrap()), [MEMBERS, 0, 0, 0, 0]);
            }
            SlowConsumerPolicy::Drop => {
                assert_eq!(counts(soon(broadcast).await.unwrap()), [live, STALLED, 0, 0, 0]);
                assert!(stuck.iter().all(|(_, session)| session.metrics().messages_dropped == 1));
            }
            _ => {
                assert_eq!(counts(soon(broadcast).await.unwrap()), [live, 0, STALLED, 0, 0]);
                for (peer, _) in &mut stuck {
                    peer.expect_reset().await;
                }
            }
        }
        drop((readers, stuck));
        stop(&server).await;
    }
}

#[tokio::test]
async fn a_broadcast_that_is_given_up_is_taken_back_from_those_it_waits_for() {
    let (recorder, mut log) = recorder();
    let server = server(SlowConsumerPolicy::Wait, recorder).await;
    let (mut stuck, session) = stalled(&server, &mut log).await;
    let mut reader = Peer::connect(addr_of(&server)).await;
    log.connected().await;
    let given_up = tokio::time::timeout(Duration::from_millis(1), server.broadcast("given up")).await;
    assert!(given_up.is_err());
    assert_eq!(reader.frame().await, b"given up");
    let later = tokio::spawn(async move { session.send("later").await.unwrap() });
    loop {
        let frame = stuck.frame().await;
        assert_ne!(frame, b"given up");
        if frame == b"later" {
            break;
        }
    }
    soon(later).await.unwrap();
    drop((stuck, reader));
    stop(&server).await;
}

#[tokio::test]
async fn except_leaves_one_out_on_server_sessions_and_groups() {
    let (recorder, mut log) = recorder();
    let server = server(SlowConsumerPolicy::Wait, recorder).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let peer = Peer::connect(addr_of(&server)).await;
        peers.push((peer, log.connected().await));
    }
    let left_out = peers[1].1.id();
    assert_eq!(server.broadcast("1").except(left_out).await.sent, 2);
    assert_eq!(server.broadcast_text("2").except(left_out).await.sent, 2);
    assert_eq!(server.sessions().broadcast("3").except(left_out).await.sent, 2);
    assert_eq!(server.sessions().broadcast_text("4").except(left_out).await.sent, 2);
    assert_eq!(server.groups().broadcast("everyone", "5").except(left_out).await.sent, 2);
    assert_eq!(server.groups().broadcast_text("everyone", "6").except(left_out).await.sent, 2);
    let others = server.broadcast("to nobody");
    let others = peers.iter().fold(others, |others, (_, session)| others.except(session.id()));
    assert_eq!(others.await.sent, 0);
    assert_eq!(server.broadcast("to all").await.sent, 3);
    for (peer, session) in &mut peers {
        if session.id() != left_out {
            for text in ["1", "2", "3", "4", "5", "6"] {
                assert_eq!(peer.frame().await, text.as_bytes());
            }
        }
        assert_eq!(peer.frame().await, b"to all");
    }
    drop(peers);
    stop(&server).await;
}

#[tokio::test]
async fn an_unknown_group_has_nobody_in_it() {
    let server = local_server().start().await.unwrap();
    assert_eq!(counts(server.groups().broadcast("nowhere", "hello").await), [0; 5]);
    assert!(server.groups().names().is_empty());
    stop(&server).await;
}

#[tokio::test]
async fn members_that_are_closing_are_counted_as_failed() {
    let (recorder, mut log) = recorder();
    let server = server(SlowConsumerPolicy::Wait, recorder).await;
    let peer = Peer::connect(addr_of(&server)).await;
    let session = log.connected().await;
    session.start_close(stormsocket::DisconnectReason::ClosedByServer);
    assert_eq!(counts(server.broadcast("too late").await), [0, 0, 0, 0, 1]);
    drop(peer);
    stop(&server).await;
}

#[tokio::test]
async fn close_all_closes_everyone_and_waits() {
    let (recorder, mut log) = recorder();
    let server = server(SlowConsumerPolicy::Wait, recorder).await;
    let mut peers = Vec::new();
    for _ in 0..5 {
        peers.push(Peer::connect(addr_of(&server)).await);
        log.connected().await;
    }
    let closing = tokio::spawn({
        let server = server.clone();
        async move { server.sessions().close_all().await }
    });
    for mut peer in peers {
        peer.expect_end().await;
    }
    soon(closing).await.unwrap();
    for _ in 0..5 {
        assert_eq!(log.disconnected().await, stormsocket::DisconnectReason::ClosedByServer);
    }
    stop(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_sees_the_broadcasts_of_one_task_in_order() {
    let (recorder, mut log) = recorder();
    let server = server(SlowConsumerPolicy::Wait, recorder).await;
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut peer = Peer::connect(addr_of(&server)).await;
        log.connected().await;
        readers.push(tokio::spawn(async move {
            for count in 0..500_u32 {
                assert_eq!(peer.frame().await, count.to_be_bytes());
            }
        }));
    }
    for count in 0..500_u32 {
        assert_eq!(soon(server.broadcast(count.to_be_bytes().to_vec()).into_future()).await.sent, 20);
    }
    for reader in readers {
        soon(reader).await.unwrap();
    }
    stop(&server).await;
}
