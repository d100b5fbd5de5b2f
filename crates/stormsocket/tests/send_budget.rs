//! Peers that never read, of several servers and a client that share one budget for what waits.

mod support;

use std::time::Duration;

use stormsocket::{
    ConfigError, ConnectError, DisconnectReason, LengthPrefixFramer, SendBudget, SendError, SendOutcome,
    ServerHandle, Session, SlowConsumerPolicy, SocketOptions, TcpClient,
};
use support::*;

const MESSAGE: usize = 8000;

async fn server(budget: &SendBudget, recorder: Recorder) -> ServerHandle {
    local_server()
        .framer(LengthPrefixFramer::new())
        .socket(SocketOptions::default().send_buffer_size(4096))
        .max_pending_send_bytes(None)
        .send_budget(budget.clone())
        .handler(recorder)
        .start()
        .await
        .unwrap()
}

/// A session whose peer does not read, with at least `pending` bytes waiting.
async fn stalled(server: &ServerHandle, log: &mut Log, pending: usize) -> (Peer, Session) {
    let peer = Peer::connect_narrow(addr_of(server)).await;
    let session = log.connected().await;
    while session.pending_send_bytes() < pending {
        session.send(vec![0; MESSAGE]).await.unwrap();
        tokio::task::yield_now().await;
    }
    (peer, session)
}

fn is_shed(session: &Session) -> bool {
    session.disconnect_reason() == Some(DisconnectReason::SlowConsumer)
}

#[tokio::test]
async fn servers_share_it_and_readers_get_all_they_were_sent() {
    const COUNT: u32 = 500;
    let budget = SendBudget::new(1 << 20);
    let (recorder_of_one, mut log_of_one) = recorder();
    let (recorder_of_other, mut log_of_other) = recorder();
    let one = server(&budget, recorder_of_one).await;
    let other = server(&budget, recorder_of_other).await;
    let mut reader = Peer::connect(addr_of(&one)).await;
    let to_reader = log_of_one.connected().await;
    let (_small, small) = stalled(&one, &mut log_of_one, 300_000).await;
    let (mut large, large_session) = stalled(&other, &mut log_of_other, 500_000).await;
    assert_eq!(budget.shed_sessions(), 0);
    assert!(budget.used() >= 800_000, "{budget:?}");
    // What is sent to a third one has the largest of the other server cut.
    let (_third, third) = stalled(&one, &mut log_of_one, 300_000).await;
    assert_eq!(log_of_other.disconnected().await, DisconnectReason::SlowConsumer);
    soon(large_session.closed()).await;
    large.expect_reset_behind_data().await;
    assert!(!is_shed(&small) && !is_shed(&third) && budget.shed_sessions() == 1);
    let sending = tokio::spawn({
        let session = to_reader.clone();
        async move {
            for count in 0..COUNT {
                let mut message = count.to_be_bytes().to_vec();
                message.resize(MESSAGE, 0);
                // It paces itself, as its reader does: less than the floor waits for it at any time.
                until(|| session.pending_send_bytes() < SendBudget::FLOOR / 2).await;
                assert_eq!(session.send(message).await.unwrap(), SendOutcome::Sent);
            }
        }
    });
    for count in 0..COUNT {
        let frame = reader.frame().await;
        assert_eq!((frame.len(), &frame[..4]), (MESSAGE, &count.to_be_bytes()[..]));
    }
    soon(sending).await.unwrap();
    assert_eq!(budget.shed_sessions(), 1, "{budget:?}");
    drop(reader);
    stop(&one).await;
    stop(&other).await;
    assert_eq!(budget.used(), 0);
}

trait Behind {
    /// The connection is cut behind what the kernel had already.
    async fn expect_reset_behind_data(&mut self);
}

impl Behind for Peer {
    async fn expect_reset_behind_data(&mut self) {
        use tokio::io::AsyncReadExt;
        let mut buffer = [0; 4096];
        let error = loop {
            match soon(self.0.read(&mut buffer)).await {
                Ok(0) => panic!("an orderly end"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn what_may_go_again_goes_and_the_session_stays() {
    let budget = SendBudget::new(400_000);
    let (recorder, mut log) = recorder();
    let server = server(&budget, recorder).await;
    let (mut peer, session) = stalled(&server, &mut log, 100_000).await;
    let firm = session.metrics().messages_sent;
    let mut droppable = 0;
    while budget.shed_messages() == 0 {
        let send = session.send(vec![1; MESSAGE]).policy(SlowConsumerPolicy::DropOldest);
        assert_eq!(send.await.unwrap(), SendOutcome::Sent);
        droppable += 1;
    }
    assert_eq!((budget.shed_messages(), budget.shed_sessions()), (droppable, 0));
    assert_eq!(session.metrics().messages_dropped, droppable);
    session.send("the end").await.unwrap();
    for _ in 0..firm {
        assert_eq!(peer.frame().await, vec![0; MESSAGE]);
    }
    assert_eq!(peer.frame().await, b"the end");
    until(|| budget.used() == 0).await;
    drop(peer);
    stop(&server).await;
}

#[tokio::test]
async fn a_client_is_shed_like_any_other_and_its_send_says_so() {
    let budget = SendBudget::new(400_000);
    // The listener accepts in the kernel and nobody ever reads.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpClient::new(listener.local_addr().unwrap().to_string())
        .socket(SocketOptions::default().send_buffer_size(4096))
        .max_pending_send_bytes(None)
        .send_budget(budget.clone())
        .connect();
    let client = soon(client).await.unwrap();
    let failed = soon(async {
        loop {
            if let Err(error) = client.send(vec![0; MESSAGE]).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    });
    let failed = failed.await;
    assert!(matches!(failed, SendError::Closed(Some(DisconnectReason::SlowConsumer))), "{failed:?}");
    until(|| budget.used() == 0).await;
    assert_eq!(budget.shed_sessions(), 1);
}

#[tokio::test]
async fn a_broadcast_to_stalled_peers_stays_within_it() {
    const MEMBERS: usize = 20;
    let budget = SendBudget::new(2 * MEMBERS * SendBudget::FLOOR);
    let (recorder, mut log) = recorder();
    let server = server(&budget, recorder).await;
    let mut peers = Vec::new();
    for _ in 0..MEMBERS {
        peers.push(Peer::connect_narrow(addr_of(&server)).await);
        log.connected().await;
    }
    let overshoot = MEMBERS * (MESSAGE + 4);
    let enough = async {
        while budget.shed_sessions() == 0 {
            server.broadcast(vec![0; MESSAGE]).await;
            assert!(budget.used() <= budget.limit() + overshoot, "{budget:?}");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), enough).await.expect("the budget is used up");
    assert!(budget.used() <= budget.limit());
    drop(peers);
    stop(&server).await;
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_budget_of_zero_is_refused() {
    let zero = SendBudget::new(0);
    let error = local_server().send_budget(zero.clone()).start().await.unwrap_err();
    assert!(format!("{error:?}").contains("send_budget"), "{error:?}");
    let error = TcpClient::new("127.0.0.1:1").send_budget(zero).connect().await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Config(ConfigError::Invalid { option: "send_budget", .. })),
        "{error}"
    );
}
