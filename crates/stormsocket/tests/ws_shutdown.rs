//! WebSocket servers that stop: who gets 503, who gets 1001, who is counted as what.

mod ws_support;

use std::sync::Arc;
use std::time::Duration;

use stormsocket::metrics::{Ending, HandshakeFailure};
use stormsocket::{
    Accept, DisconnectReason, HeartbeatOptions, HttpResponse, Role, ServerHandle, SessionOptions,
    ShutdownReport, StatusCode, WsOptions, WsServer,
};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use ws_support::*;

fn shutdown(server: &ServerHandle, deadline: Duration) -> JoinHandle<ShutdownReport> {
    let server = server.clone();
    tokio::spawn(async move { server.shutdown(deadline).await })
}

fn counts(report: ShutdownReport) -> [usize; 5] {
    [report.closed, report.aborted, report.lost, report.refused, report.unfinished]
}

/// A hook that says when it has been entered, and waits to be let on.
#[derive(Clone)]
struct Gate {
    entered: Arc<Notify>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { entered: Arc::default(), open: Arc::new(Semaphore::new(0)) }
    }

    async fn pass(self) {
        self.entered.notify_one();
        self.open.acquire().await.unwrap().forget();
    }
}

#[tokio::test]
async fn upgrades_under_way_get_503_however_far_they_are() {
    let gate = Gate::new();
    let server = WsServer::bind("127.0.0.1:0")
        .handshake_timeout(Duration::from_secs(3600))
        .close_deadline(Duration::from_secs(3600))
        .on_upgrade({
            let gate = gate.clone();
            move |_| {
                let gate = gate.clone();
                async move {
                    gate.pass().await;
                    Ok(Accept::new())
                }
            }
        })
        .start()
        .await
        .unwrap();
    let silent = Peer::dial(&server).await;
    let mut half = Peer::dial(&server).await;
    half.write("GET /ch").await;
    let mut asking = Peer::dial(&server).await;
    asking.write(format!("{}\r\n", request())).await;
    soon(gate.entered.notified()).await;
    until(|| server.connections() == 3).await;
    let stopping = shutdown(&server, Duration::from_secs(3600));
    for mut peer in [silent, half, asking] {
        let response = peer.response().await;
        assert_eq!(response.status, 503, "{response:?}");
        assert_eq!(response.header("connection"), Some("close"));
        // What it was about to send makes no reset of the answer.
        peer.write("at?room=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        peer.end().await;
    }
    assert_eq!(counts(soon(stopping).await.unwrap()), [0, 0, 0, 3, 0]);
    assert_eq!(server.metrics().handshake_failures_by.get(HandshakeFailure::Stopping), 3);
    soon(server.stopped()).await;
}

#[tokio::test]
async fn peers_that_never_leave_after_their_503_hold_up_a_shutdown_for_a_second_at_most() {
    let server =
        WsServer::bind("127.0.0.1:0").handshake_timeout(Duration::from_secs(3600)).start().await.unwrap();
    let mut silent = Peer::dial(&server).await;
    until(|| server.connections() == 1).await;
    let report = soon(server.shutdown(Duration::from_secs(3600))).await;
    assert_eq!(counts(report), [0, 0, 0, 1, 0]);
    assert_eq!(silent.response().await.status, 503);
}

#[tokio::test]
async fn plain_http_is_answered_while_the_server_stops_and_cut_at_the_deadline() {
    let gate = Gate::new();
    let server = WsServer::bind("127.0.0.1:0")
        .handshake_timeout(None)
        .on_http({
            let gate = gate.clone();
            move |_| {
                let gate = gate.clone();
                async move {
                    gate.pass().await;
                    HttpResponse::new(StatusCode::OK).text("draining")
                }
            }
        })
        .start()
        .await
        .unwrap();
    let mut served = Peer::dial(&server).await;
    served.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    soon(gate.entered.notified()).await;
    let mut cut = Peer::dial(&server).await;
    cut.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    soon(gate.entered.notified()).await;
    let stopping = shutdown(&server, Duration::from_millis(200));
    // It has stopped listening: the shutdown is under way.
    let addr = server.local_addr().unwrap();
    soon(async { while tokio::net::TcpStream::connect(addr).await.is_ok() {} }).await;
    gate.open.add_permits(1);
    assert_eq!(served.response().await.body, "draining");
    drop(served);
    assert_eq!(counts(soon(stopping).await.unwrap()), [0, 0, 0, 1, 0]);
    cut.gone().await;
}

#[tokio::test]
async fn each_end_is_counted_as_what_it_was() {
    let (handler, mut observed) = observer();
    let server = WsServer::bind("127.0.0.1:0").handler(handler).start().await.unwrap();
    let mut polite = Peer::connect(&server).await;
    observed.connected().await.send("last words").await.unwrap();
    let mut rude = Peer::connect(&server).await;
    observed.connected().await;
    let mut failing = Peer::connect(&server).await;
    observed.connected().await;
    let mut before = Peer::connect(&server).await;
    observed.connected().await;
    before.send(0x88, goodbye(1000, "")).await;
    before.closes().await;
    before.end().await;
    drop(before);
    observed.disconnected().await;
    let both = [Duration::from_millis(500), LIMIT].map(|deadline| shutdown(&server, deadline));
    assert_eq!(polite.frame().await.text(), "last words");
    assert_eq!(polite.closes().await, Some(1001));
    polite.send(0x88, goodbye(1001, "")).await;
    polite.end().await;
    drop(polite);
    assert_eq!(failing.closes().await, Some(1001));
    socket2::SockRef::from(&failing.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(failing);
    assert_eq!(rude.closes().await, Some(1001));
    for report in both {
        assert_eq!(
            counts(soon(report).await.unwrap()),
            [1, 1, 1, 0, 0],
            "the shorter deadline cuts for both"
        );
    }
    rude.is_reset().await;
    assert_eq!(counts(soon(server.shutdown(LIMIT)).await), [0; 5], "all of it was reported");
    for _ in 0..3 {
        assert_eq!(observed.disconnected().await, DisconnectReason::GoingAway);
    }
    let disconnects = server.metrics().disconnects;
    assert_eq!(disconnects.get(DisconnectReason::GoingAway), 3);
    assert_eq!((disconnects.get(DisconnectReason::ClosedByClient), disconnects.total()), (1, 4));
    observed.finished().await;
}

#[tokio::test(start_paused = true)]
async fn the_shutdowns_deadline_takes_the_place_of_a_shorter_close_deadline() {
    let mut options = SessionOptions::default();
    options.close_deadline = Duration::from_secs(1);
    let hub = hub(options);
    let ws = WsOptions::default().heartbeat(HeartbeatOptions::default().interval(None));
    let (handler, _observed) = observer();
    let (early, mut early_peer, early_end) = piped(&hub, Role::Server, &ws, 4096, handler);
    early.start_close(DisconnectReason::ClosedByServer);
    assert_eq!(early_peer.closes().await, Some(1000));
    hub.extend_closes(Duration::from_secs(10));
    let (handler, _observed) = observer();
    let (late, mut late_peer, late_end) = piped(&hub, Role::Server, &ws, 4096, handler);
    late.start_close_with(DisconnectReason::GoingAway, Some((1001, "".into())));
    assert_eq!(late_peer.closes().await, Some(1001));
    // The one that was closing before keeps its second.
    let began = Instant::now();
    assert_eq!(early_end.await.unwrap(), DisconnectReason::ClosedByServer);
    assert_eq!(began.elapsed().as_secs(), 1);
    tokio::time::advance(Duration::from_secs(8)).await;
    late_peer.send(0x88, goodbye(1001, "")).await;
    late_peer.end().await;
    drop(late_peer);
    assert_eq!(late_end.await.unwrap(), DisconnectReason::GoingAway);
    assert_eq!((hub.endings().get(Ending::Cut), hub.endings().get(Ending::Orderly)), (1, 1));
}
