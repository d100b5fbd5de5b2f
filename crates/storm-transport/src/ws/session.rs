//! The session as WebSocket handlers see it.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use parking_lot::Mutex;
use storm_core::outbox::{Control, Part};
use storm_core::{ConnectionState, DisconnectReason, SendError, Session};
use storm_ws_proto::http::HeaderMap;
use storm_ws_proto::{CloseCode, CloseFrame, MAX_CONTROL};

const NO_ROUND_TRIP: u64 = u64::MAX;

/// A [`Session`] with the WebSocket verbs. Cloning is cheap; it is the same session.
///
/// `send` takes a [`Message`](storm_core::Message), text or binary; see [`Session::send`] for what happens when the
/// peer reads slowly.
#[derive(Clone, PartialEq, Eq)]
pub struct WsSession(Session);

/// What a WebSocket session keeps besides.
#[derive(Debug)]
pub(super) struct Details {
    /// `None` for no subprotocol and the target `/`, which is what most sessions of a server have.
    agreed: Option<Box<Agreement>>,
    /// Microseconds.
    round_trip: AtomicU64,
    /// What most sessions never have, or only at their end: boxed, since an idle session pays for every byte.
    rare: Mutex<Option<Box<Rare>>>,
}

#[derive(Debug)]
struct Agreement {
    protocol: Option<Box<str>>,
    target: Box<str>,
    response: Option<Box<HeaderMap>>,
}

#[derive(Debug, Default)]
struct Rare {
    /// The newest ping the user sent, until its pong is here.
    ping: Option<Ping>,
    /// Pings the user has begun to send.
    pings: u64,
    close_frame: Option<CloseFrame>,
}

#[derive(Debug)]
struct Ping {
    payload: Bytes,
    sent: Instant,
    /// Which one it is: two may leave in the same instant.
    number: u64,
}

impl Details {
    pub(super) fn new(protocol: Option<String>, target: String, response: Option<Box<HeaderMap>>) -> Self {
        Self {
            agreed: (protocol.is_some() || target != "/" || response.is_some()).then(|| {
                let protocol = protocol.map(String::into_boxed_str);
                Box::new(Agreement { protocol, target: target.into_boxed_str(), response })
            }),
            round_trip: AtomicU64::new(NO_ROUND_TRIP),
            rare: Mutex::new(None),
        }
    }

    fn target(&self) -> &str {
        self.agreed.as_ref().map_or("/", |agreed| &agreed.target)
    }

    pub(super) fn pong(&self, payload: &[u8], now: Instant) {
        let mut rare = self.rare.lock();
        let ping = rare.as_mut().and_then(|rare| rare.ping.take_if(|ping| ping.payload[..] == *payload));
        drop(rare);
        if let Some(ping) = ping {
            self.measured(now.saturating_duration_since(ping.sent));
        }
    }

    /// Notes a ping that is about to leave, since its pong may be here before the sender runs on; returns its
    /// number, and the one before.
    fn ping(&self, payload: Bytes, sent: Instant) -> (u64, Option<Ping>) {
        let mut rare = self.rare.lock();
        let rare = rare.get_or_insert_default();
        let number = rare.pings;
        rare.pings += 1;
        (number, rare.ping.replace(Ping { payload, sent, number }))
    }

    /// Ping `number` has not left: the one `before` it is the newest, unless there is another one by now.
    fn take_back(&self, number: u64, before: Option<Ping>) {
        let mut rare = self.rare.lock();
        let ping = rare.as_mut().map(|rare| &mut rare.ping);
        let ours = ping.filter(|ping| ping.as_ref().is_some_and(|ping| ping.number == number));
        let refused = ours.map(|ping| std::mem::replace(ping, before));
        // Payloads may be the user's: not under the lock.
        drop(rare);
        drop(refused);
    }

    pub(super) fn measured(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(NO_ROUND_TRIP - 1);
        self.round_trip.store(micros, Ordering::Relaxed);
    }

    pub(super) fn peer_closed(&self, frame: Option<CloseFrame>) {
        if frame.is_some() {
            self.rare.lock().get_or_insert_default().close_frame = frame;
        }
    }
}

impl WsSession {
    pub(super) const fn new(session: Session) -> Self {
        Self(session)
    }

    /// The WebSocket view of a session found by other means (by id, in a group); `None` if it is no WebSocket session.
    ///
    /// ```
    /// use storm_core::Hub;
    /// use storm_transport::ws::WsSession;
    ///
    /// fn ping_everyone(hub: &Hub) {
    ///     for session in hub.sessions().iter().filter_map(|session| WsSession::of(&session)) {
    ///         let _full_or_closed = session.ping("");
    ///     }
    /// }
    /// ```
    pub fn of(session: &Session) -> Option<Self> {
        session.attachment::<Details>().is_some().then(|| Self(session.clone()))
    }

    fn details(&self) -> &Details {
        self.0.attachment().expect("every websocket session is made with its details")
    }

    /// The subprotocol that was agreed.
    pub fn protocol(&self) -> Option<&str> {
        self.details().agreed.as_ref()?.protocol.as_deref()
    }

    /// The path of the request, without the query.
    pub fn path(&self) -> &str {
        let target = self.details().target();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    /// The query of the request, if it had one.
    pub fn query(&self) -> Option<&str> {
        self.details().target().split_once('?').map(|(_, query)| query)
    }

    /// All headers of the server's answer to the upgrade; `None` on the server's side.
    ///
    /// ```
    /// use storm_transport::ws::WsSession;
    ///
    /// fn cookie(session: &WsSession) -> Option<&str> {
    ///     session.response_headers()?.get("set-cookie")?.to_str().ok()
    /// }
    /// ```
    pub fn response_headers(&self) -> Option<&HeaderMap> {
        self.details().agreed.as_ref()?.response.as_deref()
    }

    /// How long the peer took to answer the newest ping that it has answered: a heartbeat's, or one of
    /// [`ping`](Self::ping). To the microsecond.
    pub fn round_trip(&self) -> Option<Duration> {
        let micros = self.details().round_trip.load(Ordering::Relaxed);
        (micros != NO_ROUND_TRIP).then(|| Duration::from_micros(micros))
    }

    /// The close frame the peer has sent, if it has and if there was a code in it.
    pub fn close_frame(&self) -> Option<CloseFrame> {
        self.details().rare.lock().as_ref()?.close_frame.clone()
    }

    /// Sends a ping; its answer sets [`round_trip`](Self::round_trip) if the payload (at most 125 bytes) comes back
    /// before the next ping is sent. Does not wait for room.
    ///
    /// # Errors
    /// [`SendError::TooLarge`]; [`SendError::Full`] while the session is backpressured; [`SendError::Closed`].
    pub fn ping(&self, payload: impl Into<Bytes>) -> Result<(), SendError> {
        let payload = payload.into();
        let limit = usize::from(MAX_CONTROL);
        if payload.len() > limit {
            return Err(SendError::TooLarge { len: payload.len(), limit });
        }
        if self.state() != ConnectionState::Connected {
            return Err(SendError::Closed(self.disconnect_reason()));
        }
        let now = tokio::time::Instant::now().into_std();
        let (number, before) = self.details().ping(payload.clone(), now);
        if self.control(Control::Ping(payload)) {
            return Ok(());
        }
        self.details().take_back(number, before);
        // It was connected: if it still is, that was for want of room.
        match self.state() {
            ConnectionState::Connected => Err(SendError::Full),
            _ => Err(SendError::Closed(self.disconnect_reason())),
        }
    }

    /// Closes with a code and a reason (cut to 123 bytes); otherwise as [`Session::close`], which sends code 1000.
    ///
    /// # Cancel safety
    /// The close begins with the first poll and goes on if the future is dropped.
    pub async fn close_with(&self, code: CloseCode, reason: impl Into<ByteString>) {
        self.start_close_with(self.role().closed_by_us(), Some((code.into(), reason.into())));
        self.closed().await;
    }

    /// Begins a text message that is sent in parts as they come to be.
    pub fn text_writer(&self) -> MessageWriter<'_> {
        MessageWriter { session: self, is_text: true, compress: true, state: WriterState::Fresh }
    }

    /// Begins a binary message that is sent in parts as they come to be.
    pub fn binary_writer(&self) -> MessageWriter<'_> {
        MessageWriter { session: self, is_text: false, compress: true, state: WriterState::Fresh }
    }
}

impl Deref for WsSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl AsRef<Session> for WsSession {
    fn as_ref(&self) -> &Session {
        &self.0
    }
}

impl fmt::Debug for WsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One message sent in parts, so that it never is in memory as a whole. Middleware does not see it.
///
/// Other messages of the session wait from the first part to the last. A writer dropped in between has sent half a
/// message, which nothing can mend: the session is closed with code 1011.
///
/// ```no_run
/// # async fn example(session: storm_transport::WsSession) -> Result<(), storm_core::SendError> {
/// let mut message = session.text_writer();
/// for line in 0..1_000_000 {
///     message.write(format!("line {line}\n")).await?;
/// }
/// message.finish().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a message ends with `finish`"]
pub struct MessageWriter<'a> {
    session: &'a WsSession,
    is_text: bool,
    compress: bool,
    state: WriterState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriterState {
    Fresh,
    Begun,
    Finished,
}

impl MessageWriter<'_> {
    /// Sends the message as it is, where compression was agreed. Counts before the first part.
    pub fn uncompressed(mut self) -> Self {
        self.compress = false;
        self
    }

    /// Sends the next part as one frame; waits while the outbox is full.
    ///
    /// # Cancel safety
    /// A dropped future has queued the part whole or not at all.
    ///
    /// # Errors
    /// [`SendError::InvalidUtf8`] if a text stops being UTF-8 here (a character may be divided between two parts);
    /// [`SendError::Closed`].
    pub async fn write(&mut self, part: impl Into<Bytes>) -> Result<(), SendError> {
        self.put(part.into(), false).await
    }

    /// Ends the message.
    ///
    /// # Cancel safety
    /// A future that is dropped before it is ready drops the writer: a message that has begun has no end then, and the
    /// session is closed with code 1011.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn finish(mut self) -> Result<(), SendError> {
        self.put(Bytes::new(), true).await
    }

    async fn put(&mut self, data: Bytes, last: bool) -> Result<(), SendError> {
        let first = self.state == WriterState::Fresh;
        let part = Part { is_text: self.is_text, data, first, last, compress: self.compress };
        self.session.send_part(part).await?;
        self.state = if last { WriterState::Finished } else { WriterState::Begun };
        Ok(())
    }
}

impl Drop for MessageWriter<'_> {
    fn drop(&mut self) {
        if self.state == WriterState::Begun {
            let goodbye =
                (CloseCode::INTERNAL_ERROR.into(), ByteString::from_static("a message was not finished"));
            self.session.start_close_with(DisconnectReason::Aborted, Some(goodbye));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_that_has_not_left_takes_nothing_back_but_itself() {
        let details = Details::new(None, "/".to_owned(), None);
        let round_trip = || details.round_trip.swap(NO_ROUND_TRIP, Ordering::Relaxed);
        let now = Instant::now();
        let ping = |payload: &'static str| details.ping(Bytes::from_static(payload.as_bytes()), now);
        // Two in the same instant: the first one is refused when the second one has left.
        let (first, before) = ping("first");
        let _first = ping("second");
        details.take_back(first, before);
        details.pong(b"second", now + Duration::from_micros(7));
        assert_eq!(round_trip(), 7);
        // The newest one is refused: the one before it is waited for again.
        ping("third");
        let (fourth, third) = ping("fourth");
        details.take_back(fourth, third);
        details.pong(b"fourth", now);
        assert_eq!(round_trip(), NO_ROUND_TRIP);
        details.pong(b"third", now + Duration::from_micros(9));
        assert_eq!(round_trip(), 9);
    }
}
