//! The handle to a client.

use std::net::SocketAddr;
use std::sync::Arc;

use bytestring::ByteString;
use storm_core::{
    ConnectionMetrics, ConnectionState, DisconnectReason, Error, Hub, Message, SendError, SendOutcome,
    Session,
};
use tokio::sync::watch;

use crate::sending::ClientSending;
use crate::supervise::Shared;

/// A connected client. Cloning is cheap; dropping every handle leaves the client running.
#[derive(Clone)]
pub struct ClientHandle {
    shared: Arc<Shared>,
    /// Closes when the client's task has ended.
    ended: watch::Receiver<()>,
}

impl ClientHandle {
    pub(crate) fn new(shared: Arc<Shared>, ended: watch::Receiver<()>) -> Self {
        Self { shared, ended }
    }

    /// The latest session: of the connection of the moment, or of the one that has just been lost.
    ///
    /// # Panics
    /// Never: a handle exists only once there has been a connection.
    pub fn session(&self) -> Session {
        self.shared.session().expect("a handle is made when the first session is there")
    }

    /// The latest session with the WebSocket verbs: pings, codes to close with, messages in parts. `None` if this is no
    /// WebSocket client.
    ///
    /// ```
    /// use storm_client::ClientHandle;
    /// use storm_core::SendError;
    ///
    /// fn measure(client: &ClientHandle) -> Result<(), SendError> {
    ///     client.ws_session().map_or(Ok(()), |session| session.ping(""))
    /// }
    /// ```
    #[cfg(feature = "ws")]
    pub fn ws_session(&self) -> Option<storm_transport::ws::WsSession> {
        storm_transport::ws::WsSession::of(&self.session())
    }

    /// Sends one message over the connection of the moment; see [`Session::send`]. Terms of its own are
    /// [`.policy(..)`](ClientSending::policy), [`.latest(..)`](ClientSending::latest) and
    /// [`.uncompressed()`](ClientSending::uncompressed).
    ///
    /// With [`max_queued_bytes`](crate::ReconnectOptions::max_queued_bytes) a message waits while there is none, and until
    /// the handlers of `on_connected` are done: not to be awaited in there, where the session itself sends, nor in
    /// `on_disconnected`, which comes before the next connection. Those that wait
    /// are sent in the order in which they came, and each send says what became of its own message. [`SendOutcome::Sent`]
    /// means queued on a connection: what that loses, it loses.
    ///
    /// # Cancel safety
    /// The message is queued whole or not at all; a dropped send has given up its place.
    ///
    /// # Errors
    /// [`SendError::Closed`] at once if there is no connection at the moment, or when there will be none any more if
    /// messages may wait; [`SendError::Full`] if too many do; others as [`Session::send`].
    #[doc(alias("write", "emit"))]
    pub fn send(&self, message: impl Into<Message>) -> ClientSending<'_> {
        ClientSending::new(&self.shared, Some(message.into()))
    }

    /// Sends one text message, from a string or from UTF-8 bytes; see [`Session::send_text`].
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    ///
    /// # Errors
    /// [`SendError::InvalidUtf8`], at once, if `text` is bytes that are not UTF-8; others as [`send`](Self::send).
    pub fn send_text(&self, text: impl TryInto<ByteString>) -> ClientSending<'_> {
        ClientSending::new(&self.shared, text.try_into().ok().map(Message::Text))
    }

    /// Queues one message on the connection of the moment if there is room now, and does not wait; see
    /// [`Session::try_send`].
    ///
    /// # Errors
    /// [`SendError::Full`] at the limit, whatever the policy, behind others that wait, and where it would have to wait for a
    /// connection.
    /// [`SendError::Closed`] if there is no connection and messages may not wait for one, or if there will be none any more.
    /// Others as [`send`](Self::send).
    pub fn try_send(&self, message: impl Into<Message>) -> Result<SendOutcome, SendError> {
        let Some(queue) = &self.shared.queue else { return self.session().try_send(message) };
        let Some(session) = queue.open_way() else { return Err(queue.end().unwrap_or(SendError::Full)) };
        match session.try_send(message) {
            // The next connection might take it.
            Err(SendError::Closed(_)) => Err(queue.end().unwrap_or(SendError::Full)),
            outcome => outcome,
        }
    }

    /// Where the client is in its life. Between two connections it is connecting; closed, once it will not connect
    /// again.
    pub fn state(&self) -> ConnectionState {
        self.shared.state()
    }

    /// Why the latest connection ended, `None` while nothing has ended it.
    pub fn disconnect_reason(&self) -> Option<DisconnectReason> {
        self.session().disconnect_reason()
    }

    /// Why the latest attempt to replace the connection failed: a [`ConnectError`](crate::ConnectError), found with a downcast of
    /// its [`cause`](Error::cause). `None` once an attempt has succeeded, and before one has failed. While the client goes on
    /// trying, this says what it is up against; once it has given up, why.
    ///
    /// ```
    /// use storm_client::{ClientHandle, ConnectError};
    ///
    /// fn is_too_slow(client: &ClientHandle) -> bool {
    ///     let error = client.last_error();
    ///     let error = error.as_ref().and_then(|error| error.cause().downcast_ref());
    ///     matches!(error, Some(ConnectError::TimedOut(_)))
    /// }
    /// ```
    pub fn last_error(&self) -> Option<Error> {
        self.shared.failure()
    }

    /// Counters of the latest connection.
    pub fn metrics(&self) -> ConnectionMetrics {
        self.session().metrics()
    }

    /// The peer's address, which is the proxy's if there is one between; `None` where the transport has none (unix sockets,
    /// in-memory streams).
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.session().remote_addr()
    }

    /// What this client's sessions have in common: counters over all its connections.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }

    /// Ends the client: closes the connection in an orderly way, does not reconnect, and waits until handlers are done.
    /// A wait for the next attempt ends at once. Not to be awaited inside a handler of the same client, which it waits
    /// for; close the session there.
    ///
    /// # Cancel safety
    /// The end begins with the first poll and goes on if the future is dropped.
    #[doc(alias("close"))]
    pub async fn disconnect(&self) {
        self.shared.disconnecting.send_replace(true);
        self.session().start_close(DisconnectReason::ClosedByClient);
        self.closed().await;
    }

    /// Ends the client at once: the connection is reset, nothing queued leaves, and no other follows. A wait for the next
    /// attempt ends, too.
    pub fn abort(&self) {
        self.shared.disconnecting.send_replace(true);
        self.session().abort();
    }

    /// Completes when the client will not connect again and its handlers are done. Not to be awaited inside a handler of
    /// the same client, which it waits for.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn closed(&self) {
        let mut ended = self.ended.clone();
        // The task holds the sender: an error is the end.
        while ended.changed().await.is_ok() {}
    }
}

impl std::fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientHandle")
            .field("state", &self.state())
            .field("session", &self.session())
            .finish()
    }
}
