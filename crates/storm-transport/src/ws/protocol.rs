//! The receive half of a WebSocket session.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use rand::rngs::StdRng;
use rand::{Rng, make_rng};
use storm_core::driver::Driver;
use storm_core::outbox::Control;
use storm_core::{BoxError, DisconnectReason, EarlyItems, Hub, Message, MessageRef, Peer, Role, Session};
use storm_ws_proto::handshake::{Accepted, Upgrade};
use storm_ws_proto::http::HeaderMap;
use storm_ws_proto::{
    CloseCode, CloseFrame, Heartbeat, HeartbeatAction, Incoming, ProtocolError, Receiver, Sender,
};

use super::encode::{NO_STATUS, WsEncode};
use super::options::WsOptions;
use super::session::{Details, WsSession};
use crate::protocol::{End, Look, MessageKind, Protocol};
use crate::shared_tcp::TcpWriter;

/// Takes frames, answers pings and the closing handshake, and times the heartbeat.
// Boxed, as an idle session is cheaper in small pieces: a task is rounded up to a multiple of 128 bytes.
#[derive(Debug)]
pub struct WsProtocol(Box<State>);

#[derive(Debug)]
struct State {
    receiver: Receiver,
    heartbeat: Heartbeat,
    auto_pong: bool,
    role: Role,
    /// The peer has said its last: a close frame, or something it must not say.
    peer_is_done: bool,
}

/// What an upgrade agreed on, whichever side asked for it.
///
/// For a connection that another HTTP stack has upgraded (`serve_upgraded` of a server's handle), with what that stack knows
/// of its user:
///
/// ```
/// use storm_core::SessionKey;
/// use storm_transport::ws::Agreed;
/// use storm_ws_proto::handshake::{Accepted, Upgrade};
///
/// static USER: SessionKey<String> = SessionKey::new("user");
///
/// fn agreed(upgrade: &Upgrade, accepted: &Accepted, user: String) -> Agreed {
///     let mut agreed = Agreed::new(upgrade, accepted);
///     agreed.items.set(&USER, user); // `session.get(&USER)` has it in `on_connected`
///     agreed
/// }
/// # let _ = agreed;
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Agreed {
    /// The subprotocol.
    pub protocol: Option<String>,
    /// Path and query of the request.
    pub target: String,
    /// The compression.
    #[cfg(feature = "deflate")]
    pub deflate: Option<storm_ws_proto::DeflateParams>,
    /// How this side compresses, if that is not what its options say.
    #[cfg(feature = "deflate")]
    pub deflate_options: Option<storm_ws_proto::DeflateOptions>,
    /// Values the session is to carry from the beginning.
    pub items: EarlyItems,
    /// All headers of the server's answer, on the client's side.
    pub response_headers: Option<Box<HeaderMap>>,
}

impl Agreed {
    /// What a server has agreed to.
    pub fn new(upgrade: &Upgrade, accepted: &Accepted) -> Self {
        Self {
            protocol: accepted.protocol.clone(),
            target: match upgrade.query() {
                Some(query) => format!("{}?{query}", upgrade.path()),
                None => upgrade.path().to_owned(),
            },
            #[cfg(feature = "deflate")]
            deflate: accepted.deflate,
            #[cfg(feature = "deflate")]
            deflate_options: accepted.deflate_options,
            items: EarlyItems::default(),
            response_headers: None,
        }
    }
}

impl WsProtocol {
    /// Registers a session for an upgraded connection, and makes its receive half. Broadcasts may write to its socket by
    /// `writer`.
    pub fn register(
        hub: &Arc<Hub>,
        role: Role,
        peer: impl Into<Peer>,
        agreed: Agreed,
        options: &WsOptions,
        writer: Option<TcpWriter>,
    ) -> (Self, Driver) {
        let sender = match role {
            Role::Server => Sender::server(),
            Role::Client => Sender::client(mask_source()),
        };
        let receiver = Receiver::new(proto_role(role), options.limits);
        #[cfg(feature = "deflate")]
        let (sender, receiver) = match &agreed.deflate {
            Some(params) => {
                let deflate = agreed.deflate_options.or(options.deflate).unwrap_or_default();
                (sender.deflate(params, &deflate), receiver.deflate(params))
            }
            None => (sender, receiver),
        };
        let details = Box::new(Details::new(agreed.protocol, agreed.target, agreed.response_headers));
        let encoder = WsEncode::new(sender, writer);
        let driver = Driver::register_with(hub, role, peer, encoder, Some(details), agreed.items);
        let state = State {
            receiver,
            heartbeat: Heartbeat::new(options.heartbeat, now()),
            auto_pong: options.heartbeat.auto_pong,
            role,
            peer_is_done: false,
        };
        (Self(Box::new(state)), driver)
    }
}

impl State {
    /// What is no message is answered here; a close frame is the end.
    #[inline(never)]
    fn control(&mut self, incoming: Incoming, session: &Session) -> Result<(), End> {
        match incoming {
            Incoming::Message(_) => {}
            Incoming::Ping(payload) => {
                if self.auto_pong {
                    // Refused only when the session is closing, and no pong is owed.
                    let _ = session.control(Control::Pong(payload));
                }
            }
            Incoming::Pong(payload) => {
                let now = now();
                let before = self.heartbeat.round_trip();
                self.heartbeat.pong_received(now, &payload);
                let details = details(session);
                match self.heartbeat.round_trip() {
                    Some(round_trip) if before != Some(round_trip) => details.measured(round_trip),
                    _ => details.pong(&payload, now),
                }
            }
            Incoming::Close(frame) => return Err(self.peer_closes(frame, session)),
        }
        Ok(())
    }

    #[cold]
    fn violated(&mut self, error: ProtocolError) -> End {
        self.peer_is_done = true;
        violation(error)
    }

    fn peer_closes(&mut self, frame: Option<CloseFrame>, session: &Session) -> End {
        self.peer_is_done = true;
        let reason = match &frame {
            Some(frame) if frame.code == CloseCode::GOING_AWAY => DisconnectReason::GoingAway,
            _ => session.role().closed_by_peer(),
        };
        // RFC 6455 §5.5.1: the answer repeats the code.
        let code = frame.as_ref().map_or(NO_STATUS, |frame| frame.code.into());
        details(session).peer_closed(frame);
        End::goodbye(reason, Some((code, ByteString::new())))
    }
}

impl Protocol for WsProtocol {
    type Session = WsSession;
    type Message = Message;

    fn session(session: &Session) -> WsSession {
        WsSession::new(session.clone())
    }

    #[inline]
    fn receive(&mut self, wire: &mut BytesMut, session: &Session) -> Result<Option<Message>, End> {
        loop {
            match self.0.receiver.receive(wire) {
                Ok(Some(Incoming::Message(message))) => return Ok(Some(own(message))),
                Ok(None) => return Ok(None),
                Ok(Some(other)) => self.0.control(other, session)?,
                Err(error) => return Err(self.0.violated(error)),
            }
        }
    }

    #[inline(always)]
    fn receive_each(
        &mut self,
        wire: &mut BytesMut,
        session: &Session,
        mut look: impl FnMut(MessageRef<'_>) -> Look,
    ) -> Result<Option<Message>, End> {
        loop {
            let received = self.0.receiver.receive_each(
                wire,
                #[inline(always)]
                |message| {
                    let look = look(match message {
                        storm_ws_proto::MessageRef::Text(text) => MessageRef::Text(text),
                        storm_ws_proto::MessageRef::Binary(data) => MessageRef::Binary(data),
                    });
                    match look {
                        Look::Done => storm_ws_proto::Look::Done,
                        Look::Stop => storm_ws_proto::Look::Stop,
                        Look::Pass => storm_ws_proto::Look::Pass,
                    }
                },
            );
            match received {
                Ok(Some(Incoming::Message(message))) => return Ok(Some(own(message))),
                Ok(None) => return Ok(None),
                Ok(Some(other)) => self.0.control(other, session)?,
                Err(error) => return Err(self.0.violated(error)),
            }
        }
    }

    fn receive_eof(&mut self, _: &mut BytesMut, _: &Session) -> Result<Option<Message>, End> {
        // An unfinished frame is no message.
        Ok(None)
    }

    fn wanted(&self, _: &[u8]) -> Option<usize> {
        Some(self.0.receiver.wanted())
    }

    fn end_of_stream(&self, _: &Session) -> DisconnectReason {
        // RFC 6455 §7.1.5: a stream that ends without a close frame was not closed cleanly.
        DisconnectReason::TransportError
    }

    fn may_shut_down(&self, peer_has_ended: bool) -> bool {
        // RFC 6455 §7.1.1: once both close frames are there the server closes the TCP connection first.
        peer_has_ended || (self.0.peer_is_done && self.0.role == Role::Server)
    }

    fn view(message: &Message) -> MessageRef<'_> {
        message.into()
    }

    fn split(message: Message) -> (Bytes, MessageKind) {
        let kind = if message.is_text() { MessageKind::Text } else { MessageKind::Binary };
        (message.into_data(), kind)
    }

    fn join(data: Bytes, kind: MessageKind) -> Result<Message, BoxError> {
        Ok(match kind {
            MessageKind::Text => {
                Message::Text(ByteString::try_from(data).map_err(|error| error.to_string())?)
            }
            MessageKind::Binary => Message::Binary(data),
        })
    }

    fn size(message: &Message) -> usize {
        message.len()
    }

    fn is_mid_message(&self) -> bool {
        self.0.receiver.is_mid_message()
    }

    fn goodbye_when_idle(&self) -> Option<(u16, ByteString)> {
        Some((CloseCode::GOING_AWAY.into(), ByteString::from_static("idle")))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.0.heartbeat.poll_timeout()
    }

    fn handle_timeout(
        &mut self,
        now: Instant,
        session: &Session,
        reading: bool,
    ) -> Result<(), DisconnectReason> {
        match self.0.heartbeat.handle_timeout(now, reading) {
            HeartbeatAction::None => {}
            HeartbeatAction::Ping(payload) => {
                let ping = Control::Ping(Bytes::copy_from_slice(&payload));
                // However much waits before it: else a peer that reads as fast as it can would be taken for dead. It is refused
                // where one before it waits in a full outbox, and its answer proves as much.
                let _ = session.control_when_full(ping);
            }
            HeartbeatAction::Dead => return Err(DisconnectReason::HeartbeatTimeout),
        }
        Ok(())
    }
}

#[inline]
fn own(message: storm_ws_proto::Message) -> Message {
    match message {
        storm_ws_proto::Message::Text(text) => Message::Text(text),
        storm_ws_proto::Message::Binary(data) => Message::Binary(data),
    }
}

fn violation(error: ProtocolError) -> End {
    let code = error.close_code();
    let reason = match code {
        CloseCode::MESSAGE_TOO_BIG => DisconnectReason::MessageTooBig,
        _ => DisconnectReason::ProtocolError,
    };
    End::violation(reason, error, Some((code.into(), error.to_string().into())))
}

fn details(session: &Session) -> &Details {
    session.attachment().expect("every websocket session is made with its details")
}

/// The clock of the runtime, so that paused time is time.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

const fn proto_role(role: Role) -> storm_ws_proto::Role {
    match role {
        Role::Server => storm_ws_proto::Role::Server,
        Role::Client => storm_ws_proto::Role::Client,
    }
}

/// Mask keys nobody can foretell (RFC 6455 §5.3), from a generator seeded by the system.
fn mask_source() -> impl FnMut() -> [u8; 4] + Send {
    let mut generator: StdRng = make_rng();
    move || generator.next_u32().to_ne_bytes()
}
