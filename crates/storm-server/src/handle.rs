//! The handle to a running server.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
#[cfg(feature = "ws")]
use storm_core::Peer;
use storm_core::metrics::{Ending, HandshakeFailure};
use storm_core::{
    Broadcast, ConnectionState, DisconnectReason, Groups, Hub, Message, ServerMetrics, Sessions,
};
use storm_transport::Stream;
#[cfg(feature = "tls")]
use storm_transport::tls::TlsConfigError;
#[cfg(feature = "ws")]
use storm_transport::ws::Agreed;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::shared::{Phase, Serve, Shared, say_goodbye};
use crate::slots::Slot;

/// A running server. Cloning is cheap; dropping every handle leaves the server running.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    local_addrs: Arc<[SocketAddr]>,
}

/// What became of connections from the beginning of a shutdown to its return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Sessions that ended in an orderly way: everything queued has left, and both sides have ended their streams.
    pub closed: usize,
    /// Sessions cut by this side, at the deadline or by an abort: what was still queued is lost.
    pub aborted: usize,
    /// Sessions whose transport failed, or whose peer reset it, before they had ended: what was still queued is lost.
    pub lost: usize,
    /// Connections in a handshake that were answered with 503, or cut at the deadline.
    pub refused: usize,
    /// Connections whose handlers were still running when the shutdown returned.
    pub unfinished: usize,
}

/// Why a server does not serve a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It is stopping, or has stopped.
    #[error("the server is stopping")]
    Stopping,
    /// It has as many connections as it takes, of this address or at all.
    #[error("the server has as many connections as it takes")]
    Full,
    /// The system does not let the worker thread it fell to watch the stream's socket.
    #[error("no worker thread can take the stream over: {0}")]
    Transfer(std::io::ErrorKind),
    /// An upgraded connection, and the server speaks no WebSocket.
    #[error("the server speaks no websocket")]
    NotWebSocket,
}

impl ServerHandle {
    pub(crate) fn new(shared: Arc<Shared>, local_addrs: Vec<SocketAddr>) -> Self {
        Self { shared, local_addrs: local_addrs.into() }
    }

    /// The first address it listens on, with the port the system chose if 0 was asked for; `None` if it listens on
    /// unix sockets only, or nowhere.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addrs.first().copied()
    }

    /// Every address it listens on; unix sockets have none.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Sessions, groups and metrics in one: what [`Session::server`](storm_core::Session::server) leads to.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }

    /// The live sessions.
    #[doc(alias("connections", "clients"))]
    pub fn sessions(&self) -> &Sessions {
        self.shared.hub.sessions()
    }

    /// The groups.
    #[doc(alias("rooms", "topics", "channels"))]
    pub fn groups(&self) -> &Groups {
        self.shared.hub.groups()
    }

    /// Counters over all sessions so far.
    pub fn metrics(&self) -> ServerMetrics {
        self.shared.hub.metrics()
    }

    /// Connections at this moment, those in a handshake and those whose handlers are still finishing included.
    pub fn connections(&self) -> usize {
        self.shared.slots.used()
    }

    /// Sends `message` to every session; see [`Broadcast`].
    pub fn broadcast(&self, message: impl Into<Message>) -> Broadcast<'_> {
        self.shared.hub.broadcast(message)
    }

    /// Sends `text` to every session; see [`Broadcast`].
    pub fn broadcast_text(&self, text: impl Into<ByteString>) -> Broadcast<'_> {
        self.shared.hub.broadcast_text(text)
    }

    /// Serves a stream that came from elsewhere as if it had been accepted: within `max_connections`, with TLS and the upgrade
    /// if the server has them. An abort resets a TCP socket, and drops any other stream. Needs a tokio runtime, in which it is
    /// served unless the server has [`worker_threads`](crate::ServerOptions::worker_threads).
    ///
    /// ```
    /// use storm_server::TcpServer;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = TcpServer::unbound()
    ///     .on_data(|session, data| async move { session.send(data).await })
    ///     .start()
    ///     .await?;
    /// let (here, there) = tokio::io::duplex(1024);
    /// server.serve(there)?;
    /// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// # let mut here = here;
    /// # here.write_all(b"hello").await?;
    /// # let mut read = [0; 5];
    /// # here.read_exact(&mut read).await?;
    /// # assert_eq!(&read, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The server is stopping, or full, or no thread of it can take the stream; the stream is dropped.
    pub fn serve<S>(&self, stream: S) -> Result<(), ServeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = Stream::of(stream);
        let remote = stream.peer_addr();
        self.serve_from(stream, remote)
    }

    /// [`serve`](Self::serve), for a peer whose address is known by other means. If that address is listed in
    /// [`proxy_protocol_from`](crate::ServerOptions::proxy_protocol_from), the stream must begin with a PROXY header.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_from<S>(&self, stream: S, remote: Option<SocketAddr>) -> Result<(), ServeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let endpoint = self.endpoint()?;
        let slot = self.slot(remote, endpoint.has_handshake(&self.shared, remote))?;
        let serve = |stream, slot| endpoint.serve(stream, remote, &self.shared, slot);
        self.shared.place(Stream::of(stream), slot, serve).map_err(|error| ServeError::Transfer(error.kind()))
    }

    /// Serves a WebSocket connection that another HTTP stack has accepted and upgraded. What was agreed comes from the request that
    /// stack has read: [`Request::from_http`](storm_ws_proto::handshake::Request::from_http) checks it,
    /// [`Upgrade::accept`](storm_ws_proto::handshake::Upgrade::accept) answers,
    /// [`Accepted::to_http`](storm_ws_proto::handshake::Accepted::to_http) is the answer for it to send, and
    /// [`Agreed::new`] sums up, and what the session is to carry (its user, say) goes into [`Agreed::items`]. Hooks and origins of
    /// this server are passed over.
    ///
    /// # Errors
    /// The server is stopping, full, or none for WebSocket, or no thread of it can take the stream; the stream is dropped.
    #[cfg(feature = "ws")]
    pub fn serve_upgraded<S>(
        &self,
        stream: S,
        peer: impl Into<Peer>,
        agreed: Agreed,
    ) -> Result<(), ServeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let endpoint = self.endpoint()?;
        let peer = peer.into();
        let slot = self.slot(peer.addr, false)?;
        let serve = |stream, slot| endpoint.serve_upgraded((stream, peer, agreed), &self.shared, slot);
        match self.shared.place(Stream::of(stream), slot, serve) {
            Ok(served) => served.map_err(|_| ServeError::NotWebSocket),
            Err(error) => Err(ServeError::Transfer(error.kind())),
        }
    }

    fn slot(&self, remote: Option<SocketAddr>, half_open: bool) -> Result<Slot, ServeError> {
        let slot = self.shared.slot(remote, half_open).map_err(|limit| {
            self.shared.hub.count_refusal(limit, remote);
            ServeError::Full
        })?;
        // A shutdown that began before waits for no slot that was taken since: it may be over.
        if self.shared.is_stopping() { Err(ServeError::Stopping) } else { Ok(slot) }
    }

    fn endpoint(&self) -> Result<Arc<dyn Serve>, ServeError> {
        let endpoint = self.shared.endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        endpoint.clone().ok_or(ServeError::Stopping)
    }

    /// Reads the files of certificates, keys and roots anew, for new connections. Those that are there go on as they are.
    ///
    /// # Cancel safety
    /// The reload, once begun, goes on if the future is dropped.
    ///
    /// # Errors
    /// A file cannot be used, and the server goes on with what it has; or it speaks no TLS.
    #[cfg(feature = "tls")]
    pub async fn reload_tls(&self) -> Result<(), TlsConfigError> {
        let tls = self.shared.tls.clone().ok_or(TlsConfigError::Disabled)?;
        crate::secure::blocking(move || tls.reload()).await
    }

    /// Replaces certificates and all other TLS options (except
    /// [`watch_files`](storm_transport::TlsOptions::watch_files)) for new connections.
    ///
    /// # Cancel safety
    /// As [`reload_tls`](Self::reload_tls).
    ///
    /// # Errors
    /// As [`reload_tls`](Self::reload_tls).
    #[cfg(feature = "tls")]
    pub async fn replace_tls(&self, options: storm_transport::TlsOptions) -> Result<(), TlsConfigError> {
        let tls = self.shared.tls.clone().ok_or(TlsConfigError::Disabled)?;
        crate::secure::blocking(move || tls.replace(options)).await
    }

    /// Completes when a shutdown has begun, no connection is left, and the [worker
    /// threads](crate::ServerOptions::worker_threads), if there are any, have ended. In one of these it completes before they
    /// end, and holds up the end of them all until it has. Not to be awaited inside a handler of the same server, which it
    /// waits for.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn stopped(&self) {
        let stays = self.stay();
        self.shared.over().await;
        if let (Some(workers), None) = (&self.shared.workers, stays) {
            workers.idle().await;
            workers.join();
        }
    }

    /// Stops, in this order:
    ///
    /// 1. accepts no more, and answers upgrade requests that are under way with 503;
    /// 2. closes every session with reason [`DisconnectReason::GoingAway`]: what is queued leaves, then a close frame with
    ///    code 1001 on WebSocket, then the end of the stream;
    /// 3. waits for the ends, up to `deadline`, which takes the place of a shorter close deadline;
    /// 4. aborts what is left;
    /// 5. gives handlers that still run one close deadline to finish, and reports. Worker threads have ended by then, if no
    ///    handler is left.
    ///
    /// May be called again and together: every caller gets a report of what ended since its call, and the shortest deadline
    /// cuts. Not to be awaited inside a handler of the same server, which it waits for.
    ///
    /// # Cancel safety
    /// What has begun goes on if the future is dropped: the server has stopped accepting and sessions are closing.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        // The thread it runs in, if it is one of the server's, has to see the report.
        let _stays = self.stay();
        let before = self.ends();
        // Before anyone closes: a close keeps the deadline it began with.
        self.shared.hub.extend_closes(deadline);
        self.shared.enter(Phase::Stopping);
        tracing::info!(target: "stormsocket::server", sessions = self.sessions().len(), ?deadline, "stopping");
        for session in self.sessions().iter() {
            say_goodbye(&session);
        }
        if tokio::time::timeout(deadline, self.stopped()).await.is_err() {
            self.shared.enter(Phase::Cutting);
            for session in self.sessions().iter().filter(|session| session.state() != ConnectionState::Closed)
            {
                session.abort_for(DisconnectReason::GoingAway);
            }
            let grace = self.shared.hub.handler_grace() + Duration::from_millis(100);
            // Those that do not make it are counted below.
            let _ = tokio::time::timeout(grace, self.stopped()).await;
        }
        let after = self.ends();
        let report = ShutdownReport {
            closed: after.closed - before.closed,
            aborted: after.aborted - before.aborted,
            lost: after.lost - before.lost,
            refused: after.refused - before.refused,
            unfinished: self.shared.slots.used() + self.shared.listening.used(),
        };
        tracing::info!(target: "stormsocket::server", ?report, "stopped");
        report
    }

    /// Keeps the worker threads, if this runs in one of them.
    fn stay(&self) -> Option<Slot> {
        self.shared.workers.as_ref().and_then(|workers| workers.stay())
    }

    /// What has ended so far.
    fn ends(&self) -> ShutdownReport {
        let endings = self.shared.hub.endings();
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        ShutdownReport {
            closed: count(endings.get(Ending::Orderly)),
            aborted: count(endings.get(Ending::Cut)),
            lost: count(endings.get(Ending::Lost)),
            refused: count(self.shared.hub.handshake_failures().get(HandshakeFailure::Stopping)),
            unfinished: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use storm_core::SessionOptions;
    use storm_core::middleware::MiddlewareChain;

    use super::*;

    /// Has the server stop between the first look at it and the rest.
    #[derive(Default)]
    struct Late(AtomicUsize);

    impl Serve for Late {
        fn serve(&self, _: Stream, _: Option<SocketAddr>, _: &Arc<Shared>, _: Slot) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn has_handshake(&self, shared: &Shared, _: Option<SocketAddr>) -> bool {
            shared.enter(Phase::Stopping);
            true
        }

        #[cfg(feature = "ws")]
        fn serve_upgraded(&self, _: (Stream, Peer, Agreed), _: &Shared, slot: Slot) -> Result<(), Slot> {
            Err(slot)
        }
    }

    #[test]
    fn a_stream_that_comes_while_the_server_stops_is_not_served_behind_its_end() {
        let hub = Hub::new(SessionOptions::default(), MiddlewareChain::default()).expect("valid");
        let shared = Shared::unlimited(&hub);
        let late = Arc::new(Late::default());
        *shared.endpoint.lock().expect("not poisoned") = Some(late.clone());
        let server = ServerHandle::new(shared, Vec::new());
        assert_eq!(server.serve(tokio::io::duplex(1).0), Err(ServeError::Stopping));
        assert_eq!((late.0.load(Ordering::Relaxed), server.connections()), (0, 0));
    }
}
