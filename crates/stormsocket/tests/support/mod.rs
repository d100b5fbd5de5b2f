//! What makes a test read as a transcript: a server on port 0, a scripted peer, a log of events, deadlines.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses its own part")]

pub mod log;
pub mod peer;
pub mod virtual_time;

use std::net::SocketAddr;
use std::time::Duration;

pub use log::{Event, Log, Recorder, recorder};
pub use peer::frame;
pub use storm_testing::clock::LIMIT as DEADLINE;
pub use storm_testing::{Peer, soon, until, within};
use stormsocket::{ServerHandle, TcpServer};

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
