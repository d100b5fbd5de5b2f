//! What makes a test read as a transcript: a server on port 0, a scripted peer, a log of events, deadlines.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses its own part")]

pub mod log;
pub mod peer;
pub mod virtual_time;

use std::net::SocketAddr;
use std::panic::Location;
use std::time::Duration;

pub use log::{Event, Log, Recorder, recorder};
pub use peer::{Peer, frame};
use stormsocket::{ServerHandle, TcpServer};

/// Much longer than anything here takes; a test that gets here hangs.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits `future`, and fails if that takes longer than `duration`.
#[track_caller]
pub fn within<F: Future>(duration: Duration, future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        match tokio::time::timeout(duration, future).await {
            Ok(output) => output,
            Err(_) => panic!("not within {duration:?}, at {caller}"),
        }
    }
}

/// [`within`] the usual [`DEADLINE`].
#[track_caller]
pub fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    within(DEADLINE, future)
}

/// Lets other tasks run until `condition` holds: for what a peer cannot see and no event announces.
#[track_caller]
pub fn until(mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    soon(async move {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
}

/// A server to be, on a port the system chooses.
pub fn local_server() -> TcpServer {
    TcpServer::bind("127.0.0.1:0")
}

/// Where it listens.
pub fn addr_of(server: &ServerHandle) -> SocketAddr {
    server.local_addr().expect("a tcp address")
}

/// Stops a server whose sessions are expected to end by themselves, or to be cut.
pub async fn stop(server: &ServerHandle) {
    let report = soon(server.shutdown(Duration::from_millis(200))).await;
    assert_eq!(report.unfinished, 0, "handlers still run");
    assert_eq!(server.connections(), 0);
    assert!(server.sessions().is_empty());
}
