//! What the connection loop asks of a protocol.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use storm_core::error::PanicMessage;
use storm_core::{BoxError, DisconnectReason, MessageRef, Session};

/// The receive half of a protocol, without I/O or clock. (The send half is [`storm_core::outbox::Encode`].)
///
/// Rule of use: after bytes have come, [`receive`](Self::receive) until it returns `None`.
pub trait Protocol: Send + 'static {
    /// What handlers get as the session.
    type Session: Clone + Send + Sync + 'static;
    /// What handlers get as a message.
    type Message: Clone + Send + 'static;

    /// The session as handlers see it.
    fn session(session: &Session) -> Self::Session;

    /// Takes the next message off the front of `wire`, answering control frames on the way through `session`; `None`
    /// if more bytes are needed.
    ///
    /// # Errors
    /// The peer said goodbye, or broke the protocol. Nothing is received afterwards.
    fn receive(&mut self, wire: &mut BytesMut, session: &Session) -> Result<Option<Self::Message>, End>;

    /// As [`receive`](Self::receive), but shows messages to `look` where they lie in `wire`, if they lie there as they are,
    /// and takes those it is done with at once.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    #[inline]
    fn receive_each(
        &mut self,
        wire: &mut BytesMut,
        session: &Session,
        look: impl FnMut(MessageRef<'_>) -> Look,
    ) -> Result<Option<Self::Message>, End> {
        let _ = look;
        self.receive(wire, session)
    }

    /// As [`receive`](Self::receive), after the peer has ended its stream.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    fn receive_eof(&mut self, wire: &mut BytesMut, session: &Session) -> Result<Option<Self::Message>, End>;

    /// How many more bytes complete what is at the front of `wire`, if that is known.
    fn wanted(&self, wire: &[u8]) -> Option<usize>;

    /// Whether bytes that completed no message were application data all the same.
    fn is_mid_message(&self) -> bool {
        true
    }

    /// The reason to end for if the peer's stream ends now.
    fn end_of_stream(&self, session: &Session) -> DisconnectReason {
        session.role().closed_by_peer()
    }

    /// Whether this side may end its stream: a protocol with a closing handshake holds back until it is complete.
    fn may_shut_down(&self, peer_has_ended: bool) -> bool {
        let _ = peer_has_ended;
        true
    }

    /// A message of its own as one that lies somewhere.
    fn view(message: &Self::Message) -> MessageRef<'_>;

    /// The payload, for the middlewares, and how to make a message of what they return.
    fn split(message: Self::Message) -> (Bytes, MessageKind);

    /// A message like the one [`split`](Self::split) took apart, with other bytes.
    ///
    /// # Errors
    /// The bytes are not valid for that kind.
    fn join(data: Bytes, kind: MessageKind) -> Result<Self::Message, BoxError>;

    /// Whether the panic that has just been caught was one of its own; asked once for each.
    fn is_to_blame(&mut self) -> bool {
        false
    }

    /// Bytes of payload.
    fn size(message: &Self::Message) -> usize;

    /// Close code and text for an end that the idle timeout brings.
    fn goodbye_when_idle(&self) -> Option<(u16, ByteString)> {
        None
    }

    /// The next moment at which [`handle_timeout`](Self::handle_timeout) has something to do. It may move later at any time, and
    /// earlier only in `handle_timeout`.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Tells the time; `reading` is false while a busy handler keeps the loop from reading.
    ///
    /// # Errors
    /// The connection is to be aborted, for this reason.
    fn handle_timeout(
        &mut self,
        now: Instant,
        session: &Session,
        reading: bool,
    ) -> Result<(), DisconnectReason> {
        let _ = (now, session, reading);
        Ok(())
    }
}

/// What whoever looked at a message in place makes of it; see [`Protocol::receive_each`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Done with it; go on.
    Done,
    /// Done with it, and with looking.
    Stop,
    /// Wants it as a message of its own, or has not been shown it: return it.
    Pass,
}

/// Whether a message was text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// Why nothing more is received: the peer said goodbye, or it (or the installed framer) broke a rule. One word, so that
/// the usual message travels without it.
#[derive(Debug)]
pub struct End(Box<Parts>);

#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) reason: DisconnectReason,
    pub(crate) error: Option<BoxError>,
    pub(crate) goodbye: Option<(u16, ByteString)>,
}

impl End {
    /// A broken rule: ends the session for `reason`, tells `on_error` of `error`, and the peer of `goodbye` (close code
    /// and text) if the protocol has such a thing.
    pub fn violation(
        reason: DisconnectReason,
        error: impl Into<BoxError>,
        goodbye: Option<(u16, ByteString)>,
    ) -> Self {
        Self(Box::new(Parts { reason, error: Some(error.into()), goodbye }))
    }

    /// The peer's goodbye: ends the session for `reason`, once the messages before it are handled, and answers with
    /// `goodbye`.
    pub fn goodbye(reason: DisconnectReason, goodbye: Option<(u16, ByteString)>) -> Self {
        Self(Box::new(Parts { reason, error: None, goodbye }))
    }

    pub(crate) fn is_goodbye(&self) -> bool {
        self.0.error.is_none()
    }

    /// The panic that is the reason, if it is one.
    pub(crate) fn into_panic(self) -> Option<PanicMessage> {
        self.0.error?.downcast().ok().map(|panic| *panic)
    }

    pub(crate) fn into_parts(self) -> Parts {
        *self.0
    }
}
