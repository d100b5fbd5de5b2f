//! A session over an in-memory stream, for tests with a paused clock.

use std::sync::Arc;

use bytes::BytesMut;
use storm_core::driver::Driver;
use storm_core::middleware::MiddlewareChain;
use storm_core::{Events, Hub, Role, SessionOptions};
use storm_testing::{Faults, Faulty};
use storm_transport::stream::Foreign;
use storm_transport::{Connection, Framed, FramedEncode};
use stormsocket::{DisconnectReason, MessageFramer, Session};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

/// A running connection without a socket.
pub struct InMemory {
    pub session: Session,
    pub peer: DuplexStream,
    /// What may be wrong with the stream.
    pub faults: Faults,
    /// Ends with the connection.
    pub task: JoinHandle<DisconnectReason>,
}

/// Runs a server's connection over a stream that holds `capacity` bytes in each direction.
pub fn in_memory<E, F>(capacity: usize, options: SessionOptions, framer: F, events: E) -> InMemory
where
    E: Events<Session, bytes::Bytes>,
    F: MessageFramer + Clone + Sync,
{
    in_memory_as(Role::Server, capacity, options, framer, events)
}

/// As [`in_memory`], for either side.
pub fn in_memory_as<E, F>(
    role: Role,
    capacity: usize,
    options: SessionOptions,
    framer: F,
    events: E,
) -> InMemory
where
    E: Events<Session, bytes::Bytes>,
    F: MessageFramer + Clone + Sync,
{
    let hub: Arc<Hub> = Hub::new(options, MiddlewareChain::default()).expect("valid options");
    let (peer, stream) = tokio::io::duplex(capacity);
    let (stream, faults) = Faulty::new(stream);
    let driver = Driver::register(&hub, role, None, FramedEncode::new(framer.clone(), None));
    let session = driver.session().clone();
    let connection = Connection::new(Foreign(stream), Framed::new(framer), driver, BytesMut::new());
    let task = tokio::spawn(async move { connection.run(&events).await });
    InMemory { session, peer, faults, task }
}
