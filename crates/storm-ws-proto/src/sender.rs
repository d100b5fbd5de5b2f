//! The send half of a connection: messages and control frames in, wire bytes out.
//!
//! Owns: the mask source, the deflater, whether a fragmented message is open and whether we closed.
//! In:   messages, fragments, pings, pongs, a close.
//! Out:  whole frames appended to a [`Wire`], in call order.
//! Not here: queues and their bounds, the socket, deciding what to answer.

use std::fmt;

use bytes::Bytes;

use crate::close::CloseCode;
use crate::close_frame::fit_reason;
use crate::deflate::Deflater;
use crate::frame::{FrameHead, MAX_CONTROL, MAX_HEAD, Opcode, plain_head};
use crate::mask::{self, MaskSource};
use crate::message::MessageKind;
use crate::role::Role;
use crate::shared::{DeflateKey, SharedFrame, SharedKey};
use crate::utf8::Utf8Check;
use crate::wire::Wire;

/// Our own caller asked for a frame that cannot be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A close frame has been sent; nothing may follow it (RFC 6455 §5.5.1).
    #[error("a close frame was already sent")]
    Closed,
    /// Another message is being sent in fragments (RFC 6455 §5.4). Wait for its last one.
    #[error("a fragmented message is still open")]
    MessageOpen,
    /// A fragment of another kind than the message it continues.
    #[error("fragment is not of the kind its message began with")]
    KindChanged,
    /// A ping or pong payload above 125 bytes (RFC 6455 §5.5).
    #[error("control payload of {len} bytes is larger than {max}")]
    ControlTooLong {
        /// The payload's length.
        len: usize,
        /// What is allowed: 125.
        max: usize,
    },
    /// Text in fragments that is not UTF-8.
    #[error("text is not valid UTF-8")]
    InvalidUtf8,
    /// A shared frame for a client, whose frames must be masked one by one.
    #[error("a client cannot send shared frames")]
    SharedByClient,
    /// A shared frame compressed for other parameters than this connection's.
    #[error("shared frame was compressed for other parameters")]
    SharedKeyMismatch,
}

/// Encodes what one side sends.
///
/// A frame is written whole or, on an error, not at all. Calls may come from any task as long as one at
/// a time does and the bytes leave in call order: compression and the open fragmented message depend on
/// it. Control frames may be sent between fragments.
///
/// Text payloads must be valid UTF-8; [`message`](Self::message) trusts its caller, the peer will not.
///
/// ```
/// use bytes::BytesMut;
/// use storm_ws_proto::{CloseCode, MessageKind, Sender};
///
/// let mut wire = BytesMut::new();
/// let mut sender = Sender::server();
/// sender.message_slice(MessageKind::Text, b"Hello", true, &mut wire)?;
/// sender.close(Some((CloseCode::NORMAL, "")), &mut wire)?;
/// assert_eq!(&wire[..], b"\x81\x05Hello\x88\x02\x03\xE8");
/// # Ok::<(), storm_ws_proto::SendError>(())
/// ```
pub struct Sender {
    /// Boxed: a server without compression has none of it, and its idle sessions are many.
    extra: Option<Box<Extra>>,
    open: Option<Box<OpenMessage>>,
    closed: bool,
}

#[derive(Default)]
struct Extra {
    /// `Some` in a client: RFC 6455 §5.3 wants a fresh key for each of its frames.
    masks: Option<Box<dyn MaskSource + Send>>,
    deflater: Option<Box<Deflater>>,
}

#[derive(Debug)]
struct OpenMessage {
    kind: MessageKind,
    compressed: bool,
    utf8: Utf8Check,
}

/// A payload that is ours to share, or one to copy.
enum Payload<'a> {
    Shared(Bytes),
    Slice(&'a [u8]),
}

impl Payload<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Slice(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("role", &self.role())
            .field("deflater", &self.extra.as_ref().and_then(|extra| extra.deflater.as_ref()))
            .field("open", &self.open)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Sender {
    /// The send half of a server: frames are not masked.
    #[must_use]
    pub fn server() -> Self {
        Self { extra: None, open: None, closed: false }
    }

    /// The send half of a client: each frame takes a key from `masks`.
    #[must_use]
    pub fn client(masks: impl MaskSource + Send + 'static) -> Self {
        let extra = Extra { masks: Some(Box::new(masks)), deflater: None };
        Self { extra: Some(Box::new(extra)), ..Self::server() }
    }

    /// Compresses messages as agreed. A window of 8 bits agreed for this side is kept to by never
    /// compressing.
    #[cfg(feature = "deflate")]
    #[must_use]
    pub fn deflate(mut self, params: &crate::DeflateParams, options: &crate::DeflateOptions) -> Self {
        if let Some(deflater) = Deflater::new(self.role(), params, options) {
            self.extra.get_or_insert_default().deflater = Some(Box::new(deflater));
        }
        self
    }

    /// Which side this is.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.extra {
            Some(extra) if extra.masks.is_some() => Role::Client,
            _ => Role::Server,
        }
    }

    /// Whether messages are compressed, so that each depends on what was sent before.
    #[must_use]
    pub fn compresses(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.deflater.is_some())
    }

    #[inline]
    fn deflater(&mut self) -> Option<&mut Deflater> {
        self.extra.as_mut()?.deflater.as_deref_mut()
    }

    /// Whether a fragmented message waits for its last fragment.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.open.is_some()
    }

    /// Whether a close frame was sent.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Sends a whole message in one frame. `compress: false` sends it as it is.
    ///
    /// # Errors
    /// [`SendError::Closed`], [`SendError::MessageOpen`].
    #[inline]
    pub fn message<W: Wire + ?Sized>(
        &mut self,
        kind: MessageKind,
        payload: Bytes,
        compress: bool,
        wire: &mut W,
    ) -> Result<(), SendError> {
        self.whole(kind, Payload::Shared(payload), compress, wire)
    }

    /// Like [`message`](Self::message), for a payload that is only borrowed and so always copied.
    ///
    /// # Errors
    /// [`SendError::Closed`], [`SendError::MessageOpen`].
    #[inline]
    pub fn message_slice<W: Wire + ?Sized>(
        &mut self,
        kind: MessageKind,
        payload: &[u8],
        compress: bool,
        wire: &mut W,
    ) -> Result<(), SendError> {
        self.whole(kind, Payload::Slice(payload), compress, wire)
    }

    #[inline]
    fn whole<W: Wire + ?Sized>(
        &mut self,
        kind: MessageKind,
        payload: Payload<'_>,
        compress: bool,
        wire: &mut W,
    ) -> Result<(), SendError> {
        self.check_may_begin()?;
        if let Some(deflater) = self.deflater()
            && compress
            && deflater.wants(payload.as_slice().len())
            && let Some(compressed) = deflater.message(payload.as_slice())
        {
            self.put(true, true, kind.into(), Payload::Shared(compressed.into()), wire);
            return Ok(());
        }
        self.put(true, false, kind.into(), payload, wire);
        Ok(())
    }

    /// Sends the next fragment of a message: the first call begins it, `fin` ends it, `kind` stays the
    /// same. `compress` counts on the first; a streamed message has no known size, so the minimum size
    /// does not apply.
    ///
    /// # Errors
    /// [`SendError::Closed`], [`SendError::KindChanged`]; [`SendError::InvalidUtf8`] for text that
    /// stops being valid or, with `fin`, is incomplete. None of them sends anything; the message stays open.
    pub fn fragment<W: Wire + ?Sized>(
        &mut self,
        kind: MessageKind,
        payload: &[u8],
        fin: bool,
        compress: bool,
        wire: &mut W,
    ) -> Result<(), SendError> {
        if self.closed {
            return Err(SendError::Closed);
        }
        let begins = self.open.is_none();
        let compressed = compress && self.compresses();
        let mut open = self
            .open
            .take()
            .unwrap_or_else(|| Box::new(OpenMessage { kind, compressed, utf8: Utf8Check::default() }));
        let checked = open.check(kind, payload, fin);
        let compressed = open.compressed;
        if checked.is_err() || !fin {
            self.open = Some(open).filter(|_| checked.is_ok() || !begins);
        }
        checked?;
        let opcode = if begins { kind.into() } else { Opcode::Continuation };
        match self.deflater().filter(|_| compressed) {
            Some(deflater) => {
                let piece = if fin { deflater.last_piece(payload) } else { deflater.piece(payload) };
                // RFC 7692 §6.1: RSV1 only on the first frame.
                self.put(fin, begins, opcode, Payload::Shared(piece.into()), wire);
            }
            None => self.put(fin, false, opcode, Payload::Slice(payload), wire),
        }
        Ok(())
    }

    /// Sends a ping.
    ///
    /// # Errors
    /// [`SendError::Closed`], [`SendError::ControlTooLong`].
    pub fn ping<W: Wire + ?Sized>(&mut self, payload: &[u8], wire: &mut W) -> Result<(), SendError> {
        self.control(Opcode::Ping, payload, wire)
    }

    /// Sends a pong.
    ///
    /// # Errors
    /// [`SendError::Closed`], [`SendError::ControlTooLong`].
    pub fn pong<W: Wire + ?Sized>(&mut self, payload: &[u8], wire: &mut W) -> Result<(), SendError> {
        self.control(Opcode::Pong, payload, wire)
    }

    /// Sends a close frame, the last frame of this half. A reason above 123 bytes is cut between
    /// characters; `None` sends no code (the peer sees 1005).
    ///
    /// # Errors
    /// [`SendError::Closed`].
    pub fn close<W: Wire + ?Sized>(
        &mut self,
        frame: Option<(CloseCode, &str)>,
        wire: &mut W,
    ) -> Result<(), SendError> {
        let mut payload = Vec::new();
        if let Some((code, reason)) = frame {
            payload.extend_from_slice(&u16::from(code).to_be_bytes());
            payload.extend_from_slice(fit_reason(reason).as_bytes());
        }
        self.control(Opcode::Close, &payload, wire)?;
        self.closed = true;
        Ok(())
    }

    /// What a broadcast must encode for to reach this connection.
    #[must_use]
    pub fn shared_key(&self) -> SharedKey {
        let deflater = self.extra.as_ref().and_then(|extra| extra.deflater.as_ref());
        SharedKey(deflater.map(|deflater| DeflateKey {
            window_bits: deflater.window_bits(),
            level: deflater.level(),
            min_size: deflater.min_size(),
        }))
    }

    /// Sends a frame that others send, too.
    ///
    /// A compressed one was made from an empty window and moves the peer's, so this connection's own
    /// deflater starts over: its next message must not refer to a window the peer no longer has.
    ///
    /// # Errors
    /// [`SendError::Closed`], [`SendError::MessageOpen`], [`SendError::SharedByClient`],
    /// [`SendError::SharedKeyMismatch`].
    pub fn put_shared<W: Wire + ?Sized>(
        &mut self,
        frame: &SharedFrame,
        wire: &mut W,
    ) -> Result<(), SendError> {
        self.check_may_begin()?;
        if self.role() == Role::Client {
            return Err(SendError::SharedByClient);
        }
        if let Some(bits) = frame.window_bits() {
            match self.deflater() {
                // A smaller window than agreed is within the agreement.
                Some(deflater) if bits <= deflater.window_bits() => deflater.forget(),
                _ => return Err(SendError::SharedKeyMismatch),
            }
        }
        let bytes = frame.as_bytes();
        if bytes.len() < wire.share_threshold() {
            wire.put_slice(bytes);
        } else {
            wire.put_bytes(bytes.clone());
        }
        Ok(())
    }

    #[inline]
    fn check_may_begin(&self) -> Result<(), SendError> {
        match (self.closed, &self.open) {
            (true, _) => Err(SendError::Closed),
            (_, Some(_)) => Err(SendError::MessageOpen),
            _ => Ok(()),
        }
    }

    fn control<W: Wire + ?Sized>(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        wire: &mut W,
    ) -> Result<(), SendError> {
        if self.closed {
            return Err(SendError::Closed);
        }
        let max = usize::from(MAX_CONTROL);
        if payload.len() > max {
            return Err(SendError::ControlTooLong { len: payload.len(), max });
        }
        self.put(true, false, opcode, Payload::Slice(payload), wire);
        Ok(())
    }

    /// Writes one frame.
    #[inline]
    fn put<W: Wire + ?Sized>(
        &mut self,
        fin: bool,
        rsv1: bool,
        opcode: Opcode,
        payload: Payload<'_>,
        wire: &mut W,
    ) {
        let masks = self.extra.as_mut().and_then(|extra| extra.masks.as_mut());
        let mask = masks.map(|masks| masks.next_key());
        let len = payload.as_slice().len();
        let head = FrameHead { fin, rsv1, opcode, mask, len: len as u64 };
        let mut head_bytes = [0; MAX_HEAD];
        let size = head.write(&mut head_bytes);
        wire.put_slice(&head_bytes[..size]);
        match (mask, payload) {
            (Some(key), payload) => put_masked(key, payload.as_slice(), wire),
            (None, Payload::Shared(bytes)) if len >= wire.share_threshold() => wire.put_bytes(bytes),
            (None, payload) => wire.put_slice(payload.as_slice()),
        }
    }
}

impl OpenMessage {
    fn check(&mut self, kind: MessageKind, payload: &[u8], fin: bool) -> Result<(), SendError> {
        if kind != self.kind {
            return Err(SendError::KindChanged);
        }
        if kind == MessageKind::Text {
            let mut utf8 = self.utf8.clone();
            utf8.feed(payload).map_err(|_| SendError::InvalidUtf8)?;
            if fin && !utf8.is_complete() {
                return Err(SendError::InvalidUtf8);
            }
            self.utf8 = utf8;
        }
        Ok(())
    }
}

/// Writes a whole message as one frame, neither masked nor compressed: what a server without compression does, and needs no
/// [`Sender`] for.
#[inline(always)]
pub fn put_plain<W: Wire + ?Sized>(kind: MessageKind, payload: &[u8], wire: &mut W) {
    let (head, size) = plain_head(Opcode::from(kind), payload.len() as u64);
    wire.put_framed(head, size, payload);
}

/// Writes a masked copy: in small steps over the stack, or in one piece that the wire may keep.
fn put_masked<W: Wire + ?Sized>(key: [u8; 4], payload: &[u8], wire: &mut W) {
    if payload.len() >= wire.share_threshold() {
        let mut copy = payload.to_vec();
        mask::apply(key, &mut copy);
        wire.put_bytes(copy.into());
        return;
    }
    // A multiple of four, so that each step starts with the key's first byte.
    let mut step = [0; 512];
    for piece in payload.chunks(step.len()) {
        let step = &mut step[..piece.len()];
        step.copy_from_slice(piece);
        mask::apply(key, step);
        wire.put_slice(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

    fn hello() -> Bytes {
        Bytes::from_static(b"Hello")
    }

    /// Shares everything; remembers how each part came.
    #[derive(Default)]
    struct Parts(Vec<(bool, Vec<u8>)>);

    impl Wire for Parts {
        fn put_slice(&mut self, bytes: &[u8]) {
            self.0.push((false, bytes.to_vec()));
        }

        fn put_bytes(&mut self, bytes: Bytes) {
            self.0.push((true, bytes.to_vec()));
        }

        fn share_threshold(&self) -> usize {
            4
        }
    }

    #[test]
    fn rfc6455_section_5_7_examples() {
        let mut wire = Vec::new();
        Sender::server().message(MessageKind::Text, hello(), true, &mut wire).unwrap();
        assert_eq!(wire, b"\x81\x05Hello");

        wire.clear();
        Sender::client(|| KEY).message(MessageKind::Text, hello(), true, &mut wire).unwrap();
        assert_eq!(wire, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");

        wire.clear();
        let mut sender = Sender::server();
        sender.fragment(MessageKind::Text, b"Hel", false, true, &mut wire).unwrap();
        sender.ping(b"Hello", &mut wire).unwrap();
        sender.fragment(MessageKind::Text, b"lo", true, true, &mut wire).unwrap();
        assert_eq!(wire, b"\x01\x03Hel\x89\x05Hello\x80\x02lo");

        wire.clear();
        sender.message(MessageKind::Binary, vec![0; 256].into(), true, &mut wire).unwrap();
        assert_eq!(wire[..4], [0x82, 0x7E, 0x01, 0x00]);
        wire.clear();
        sender.message(MessageKind::Binary, vec![0; 65_536].into(), true, &mut wire).unwrap();
        assert_eq!(wire[..10], [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn large_payloads_are_shared_and_small_ones_copied() {
        let mut parts = Parts::default();
        let mut sender = Sender::server();
        sender.message(MessageKind::Text, hello(), true, &mut parts).unwrap();
        sender.message(MessageKind::Text, Bytes::from_static(b"abc"), true, &mut parts).unwrap();
        sender.message_slice(MessageKind::Text, b"Hello", true, &mut parts).unwrap();
        let shared: Vec<bool> = parts.0.iter().map(|part| part.0).collect();
        assert_eq!(shared, [false, true, false, false, false, false]);
    }

    #[test]
    fn long_masked_payloads_keep_the_key_in_step() {
        let payload: Vec<u8> = (0..2000_u16).map(|n| n.to_be_bytes()[1]).collect();
        let mut wire = Vec::new();
        Sender::client(|| KEY).message(MessageKind::Binary, payload.clone().into(), true, &mut wire).unwrap();
        let mut body = wire.split_off(8);
        mask::apply(KEY, &mut body);
        assert_eq!(body, payload);
    }

    #[test]
    fn an_open_message_excludes_others_but_not_control_frames() {
        let mut wire = Vec::new();
        let mut sender = Sender::server();
        sender.fragment(MessageKind::Binary, b"a", false, true, &mut wire).unwrap();
        assert!(sender.is_mid_message());
        assert_eq!(sender.message(MessageKind::Text, hello(), true, &mut wire), Err(SendError::MessageOpen));
        let shared = SharedFrame::encode(MessageKind::Text, b"x", SharedKey::PLAIN);
        assert_eq!(sender.put_shared(&shared, &mut wire), Err(SendError::MessageOpen));
        assert_eq!(
            sender.fragment(MessageKind::Text, b"b", true, true, &mut wire),
            Err(SendError::KindChanged)
        );
        sender.pong(b"p", &mut wire).unwrap();
        sender.fragment(MessageKind::Binary, b"b", true, true, &mut wire).unwrap();
        assert_eq!(wire, b"\x02\x01a\x8A\x01p\x80\x01b");
    }

    #[test]
    fn streamed_text_is_checked_before_it_leaves() {
        let mut wire = Vec::new();
        let mut sender = Sender::server();
        let mut text = |piece: &[u8], fin| sender.fragment(MessageKind::Text, piece, fin, true, &mut wire);
        assert_eq!(text(b"\xFF", false), Err(SendError::InvalidUtf8));
        assert_eq!(text(b"\xE2\x82", false), Ok(()));
        assert_eq!(text(b"A", false), Err(SendError::InvalidUtf8));
        assert_eq!(text(b"", true), Err(SendError::InvalidUtf8));
        assert_eq!(text(b"\xAC", true), Ok(()));
        assert_eq!(wire, b"\x01\x02\xE2\x82\x80\x01\xAC");
    }

    #[test]
    fn nothing_after_close() {
        let mut wire = Vec::new();
        let mut sender = Sender::server();
        sender.close(None, &mut wire).unwrap();
        assert_eq!(wire, b"\x88\x00");
        assert_eq!(sender.message(MessageKind::Text, hello(), true, &mut wire), Err(SendError::Closed));
        assert_eq!(sender.fragment(MessageKind::Text, b"", true, true, &mut wire), Err(SendError::Closed));
        assert_eq!(sender.ping(b"", &mut wire), Err(SendError::Closed));
        assert_eq!(sender.pong(b"", &mut wire), Err(SendError::Closed));
        assert_eq!(sender.close(Some((CloseCode::NORMAL, "")), &mut wire), Err(SendError::Closed));
        assert_eq!(wire.len(), 2);
    }

    #[test]
    fn control_payloads_are_bounded() {
        let mut wire = Vec::new();
        let mut sender = Sender::server();
        sender.ping(&[0; 125], &mut wire).unwrap();
        let error = sender.ping(&[0; 126], &mut wire);
        assert_eq!(error, Err(SendError::ControlTooLong { len: 126, max: 125 }));
        sender.close(Some((CloseCode::NORMAL, &"é".repeat(200))), &mut wire).unwrap();
        assert_eq!(wire[127..129], [0x88, 124]);
    }

    #[test]
    fn clients_share_nothing() {
        let shared = SharedFrame::encode(MessageKind::Text, b"x", SharedKey::PLAIN);
        let error = Sender::client(|| KEY).put_shared(&shared, &mut Vec::new());
        assert_eq!(error, Err(SendError::SharedByClient));
    }

    #[test]
    fn senders_move_between_tasks() {
        fn is_send<T: Send>() {}
        is_send::<Sender>();
        is_send::<crate::Receiver>();
    }
}
