//! Threads of a server's own: which connection is served in which, and when they end.

mod support;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use bytes::Bytes;
use stormsocket::{
    BoxError, ConfigError, DisconnectReason, Handled, ServeError, ServerHandle, Session, SessionId,
    StartError, TcpHandler, TcpServer,
};
use support::*;
use tokio::sync::{Notify, mpsc};

thread_local! {
    /// Dropped with the thread.
    static MARK: RefCell<Option<Arc<()>>> = const { RefCell::new(None) };
}

/// Tells in which thread each handler runs, and answers.
struct Located {
    tell: mpsc::UnboundedSender<(SessionId, ThreadId)>,
    mark: Arc<()>,
}

/// What [`Located`] tells.
struct Locations {
    told: mpsc::UnboundedReceiver<(SessionId, ThreadId)>,
    mark: Arc<()>,
}

fn located() -> (Located, Locations) {
    let (tell, told) = mpsc::unbounded_channel();
    let mark = Arc::new(());
    (Located { tell, mark: mark.clone() }, Locations { told, mark })
}

impl Located {
    fn note(&self, session: &Session) {
        MARK.with(|mark| mark.replace(Some(self.mark.clone())));
        let _ = self.tell.send((session.id(), std::thread::current().id()));
    }
}

impl TcpHandler for Located {
    async fn on_connected(&self, session: &Session) -> Result<(), BoxError> {
        self.note(session);
        Ok(())
    }

    fn on_data_ref(&self, session: &Session, _: &[u8]) -> Handled {
        self.note(session);
        Handled::Pass
    }

    async fn on_data(&self, session: &Session, data: Bytes) -> Result<(), BoxError> {
        self.note(session);
        tokio::task::yield_now().await;
        self.note(session);
        session.send(data).await?;
        Ok(())
    }

    async fn on_disconnected(&self, session: &Session, _: DisconnectReason) -> Result<(), BoxError> {
        self.note(session);
        Ok(())
    }
}

impl Locations {
    /// The sessions by thread, each of which was in one only.
    fn by_thread(&mut self) -> HashMap<ThreadId, HashSet<SessionId>> {
        let mut threads = HashMap::<_, HashSet<_>>::new();
        let mut homes = HashMap::new();
        while let Ok((session, thread)) = self.told.try_recv() {
            assert_eq!(*homes.entry(session).or_insert(thread), thread, "{session:?} has moved");
            threads.entry(thread).or_default().insert(session);
        }
        threads
    }

    /// All threads in which handlers ran are gone: nothing else holds a mark but these two.
    fn assert_threads_gone(&self) {
        assert!(Arc::strong_count(&self.mark) <= 2, "{} threads are left", Arc::strong_count(&self.mark) - 2);
    }
}

/// A server that answers what it gets, with `threads` of its own.
async fn start(server: TcpServer, threads: usize) -> (ServerHandle, Locations) {
    let (handler, locations) = located();
    (server.worker_threads(threads).handler(handler).start().await.unwrap(), locations)
}

async fn converse(peer: &mut Peer) {
    for _ in 0..3 {
        peer.send(b"where am I?").await;
        peer.expect(b"where am I?").await;
    }
}

#[tokio::test]
async fn connections_are_spread_evenly_and_stay_where_they_are() {
    let (server, mut locations) = start(local_server(), 3).await;
    let mut peers = Vec::new();
    for _ in 0..12 {
        peers.push(Peer::connect(addr_of(&server)).await);
    }
    for _ in 0..2 {
        for peer in &mut peers {
            converse(peer).await;
        }
    }
    assert_eq!(server.sessions().len(), 12);
    stop(&server).await;
    let threads = locations.by_thread();
    assert!(!threads.contains_key(&std::thread::current().id()), "none is served here");
    let mut sizes: Vec<_> = threads.values().map(HashSet::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [4, 4, 4]);
    locations.assert_threads_gone();
}

#[tokio::test]
async fn a_thread_that_has_lost_its_connections_gets_the_next_ones() {
    let (server, mut locations) = start(local_server(), 2).await;
    let mut peers = Vec::new();
    for _ in 0..6 {
        let mut peer = Peer::connect(addr_of(&server)).await;
        converse(&mut peer).await;
        peers.push(peer);
    }
    let threads = locations.by_thread();
    let (lonely, sessions) = threads.iter().next().unwrap();
    for session in sessions {
        server.sessions().get(*session).unwrap().abort();
    }
    until(|| server.connections() == 3).await;
    locations.by_thread();
    for _ in 0..3 {
        let mut peer = Peer::connect(addr_of(&server)).await;
        converse(&mut peer).await;
        peers.push(peer);
    }
    let now = locations.by_thread();
    assert_eq!(now.keys().collect::<Vec<_>>(), [lonely], "{now:?}");
    drop(peers);
    stop(&server).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn with_reuse_port_every_thread_accepts() {
    let (server, mut locations) = start(local_server().reuse_port(true), 3).await;
    let (mut peers, mut threads) = (Vec::new(), HashMap::<ThreadId, HashSet<SessionId>>::new());
    // The kernel chooses by a hash of the ports. That 300 of them leave one out has a chance of 3 * (2/3)^300.
    while threads.len() < 3 {
        assert!(peers.len() < 300, "{threads:?}");
        let mut peer = Peer::connect(addr_of(&server)).await;
        converse(&mut peer).await;
        peers.push(peer);
        for (thread, sessions) in locations.by_thread() {
            threads.entry(thread).or_default().extend(sessions);
        }
    }
    assert!(!threads.contains_key(&std::thread::current().id()));
    assert_eq!(server.local_addrs().len(), 1);
    assert_eq!(threads.values().map(HashSet::len).sum::<usize>(), peers.len());
    stop(&server).await;
    locations.assert_threads_gone();
    // Whatever was bound is free.
    let again = TcpServer::bind(addr_of(&server)).start().await.unwrap();
    stop(&again).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn with_reuse_port_all_threads_have_the_port_that_was_found_and_several_servers_may() {
    let addrs = local_server().also_bind("[::1]:0").reuse_port(true);
    let (server, mut locations) = start(addrs, 4).await;
    let [v4, v6] = *server.local_addrs() else { panic!("{:?}", server.local_addrs()) };
    assert!(v4.port() != 0 && v6.port() != 0);
    for addr in [v4, v6] {
        // As many as there are listeners: one on another port would have refused some.
        for _ in 0..32 {
            converse(&mut Peer::connect(addr).await).await;
        }
    }
    assert_eq!(locations.by_thread().values().map(HashSet::len).sum::<usize>(), 64);
    let second = TcpServer::bind(v4).reuse_port(true).start().await.unwrap();
    assert_eq!(second.local_addr(), Some(v4));
    stop(&second).await;
    match TcpServer::bind(v4).start().await {
        Err(StartError::Bind { source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse),
        other => panic!("{other:?}"),
    }
    stop(&server).await;
}

#[tokio::test]
async fn what_does_not_start_leaves_no_thread_and_no_port() {
    assert!(matches!(
        local_server().worker_threads(0).start().await,
        Err(StartError::Config(ConfigError::Invalid { option: "worker_threads", .. }))
    ));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for reuse_port in [false, true] {
        let server = TcpServer::bind(free).also_bind(taken.local_addr().unwrap());
        match server.reuse_port(reuse_port).worker_threads(2).start().await {
            Err(StartError::Bind { addr, source }) => {
                assert_eq!(addr, taken.local_addr().unwrap().into());
                assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
            }
            other => panic!("{other:?}"),
        }
        let (again, _) = start(TcpServer::bind(free).reuse_port(reuse_port), 2).await;
        converse(&mut Peer::connect(free).await).await;
        stop(&again).await;
    }
}

/// A server whose sessions cannot end before `gate` opens.
async fn gated(gate: &Arc<Notify>) -> (ServerHandle, Locations) {
    let gate = gate.clone();
    let server = local_server().close_deadline(Duration::from_millis(10)).on_disconnected(move |_, _| {
        let gate = gate.clone();
        async move { gate.notified().await }
    });
    let (handler, locations) = located();
    (server.worker_threads(2).handler(handler).start().await.unwrap(), locations)
}

#[tokio::test]
async fn threads_end_with_the_last_handler_that_outlives_a_shutdown() {
    let gate = Arc::new(Notify::new());
    let (server, locations) = gated(&gate).await;
    let mut peers = Vec::new();
    for _ in 0..2 {
        let mut peer = Peer::connect(addr_of(&server)).await;
        converse(&mut peer).await;
        peers.push(peer);
    }
    let report = soon(server.shutdown(Duration::ZERO)).await;
    assert_eq!((report.aborted, report.unfinished), (2, 2));
    assert!(Arc::strong_count(&locations.mark) > 2, "handlers are not dropped in the middle");
    gate.notify_waiters();
    soon(server.stopped()).await;
    locations.assert_threads_gone();
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_shutdown_in_a_thread_of_the_server_gets_its_report() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let handle = Arc::new(std::sync::OnceLock::<ServerHandle>::new());
    let (handler, locations) = located();
    let server = local_server()
        .worker_threads(2)
        .handler(handler)
        .on_data({
            let handle = handle.clone();
            move |_, _| {
                let (handle, tell) = (handle.get().unwrap().clone(), tell.clone());
                tokio::spawn(async move {
                    let report = handle.shutdown(Duration::from_secs(5)).await;
                    tell.send(report).unwrap();
                });
                async {}
            }
        })
        .start()
        .await
        .unwrap();
    handle.set(server.clone()).unwrap();
    let (mut first, mut second) =
        (Peer::connect(addr_of(&server)).await, Peer::connect(addr_of(&server)).await);
    until(|| server.sessions().len() == 2).await;
    first.send(b"stop").await;
    first.expect(b"stop").await;
    first.expect_end().await;
    second.expect_end().await;
    drop((first, second));
    let report = soon(told.recv()).await.unwrap();
    assert_eq!((report.closed, report.unfinished), (2, 0));
    soon(server.stopped()).await;
    locations.assert_threads_gone();
}

#[tokio::test]
async fn every_caller_of_shutdown_and_stopped_sees_the_end() {
    let (server, locations) = start(local_server(), 2).await;
    let mut peer = Peer::connect(addr_of(&server)).await;
    converse(&mut peer).await;
    let second = Duration::from_secs(1);
    let all = async { tokio::join!(server.shutdown(second), server.stopped(), server.shutdown(second)) };
    let (first, (), other) = soon(async { tokio::join!(all, peer.half_close()).0 }).await;
    assert_eq!((first.unfinished, other.unfinished), (0, 0));
    locations.assert_threads_gone();
    soon(server.stopped()).await;
    soon(server.shutdown(second)).await;
    let (ours, _theirs) = tokio::io::duplex(16);
    assert_eq!(server.serve(ours), Err(ServeError::Stopping));
}

#[test]
fn without_a_shutdown_threads_end_with_the_runtime_of_the_server() {
    for reuse_port in [false, true] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (addr, mut peer, locations, dropped) = runtime.block_on(async {
            let (server, locations) = start(local_server().reuse_port(reuse_port), 2).await;
            let mut peer = Peer::connect(addr_of(&server)).await;
            converse(&mut peer).await;
            // A session that is in the middle of things.
            let dropped = Arc::new(());
            let session = server.sessions().iter().next().unwrap();
            session.items().set(&stormsocket::SessionKey::new("held"), dropped.clone());
            let addr = addr_of(&server);
            // A handle nobody ever drops changes nothing.
            std::mem::forget(server);
            let peer = peer.0.into_std().unwrap();
            (addr, peer, locations, dropped)
        });
        drop(runtime);
        locations.assert_threads_gone();
        assert_eq!(Arc::strong_count(&dropped), 1, "the session is gone, with what it held");
        peer.set_nonblocking(false).unwrap();
        peer.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(std::io::Read::read(&mut peer, &mut [0; 8]).unwrap_or(0), 0, "it has ended");
        drop(std::net::TcpListener::bind(addr).unwrap());
    }
}

#[tokio::test]
async fn a_server_without_a_handle_goes_on() {
    let (server, _locations) = start(local_server(), 2).await;
    let addr = addr_of(&server);
    let first = server.clone();
    drop(server);
    converse(&mut Peer::connect(addr).await).await;
    drop(first);
    converse(&mut Peer::connect(addr).await).await;
}

#[tokio::test]
async fn a_server_may_be_started_and_stopped_in_a_multi_threaded_runtime_in_a_task() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.spawn(async {
        let (server, locations) = start(local_server(), 2).await;
        converse(&mut Peer::connect(addr_of(&server)).await).await;
        stop(&server).await;
        locations.assert_threads_gone();
    });
    soon(done).await.unwrap();
    runtime.shutdown_background();
}
