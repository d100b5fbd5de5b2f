//! The receive half of a connection: wire bytes in, messages and control frames out.
//!
//! Owns: the head and progress of the frame that is arriving, the open message, the inflater.
//! In:   the read buffer, appended to by the caller.
//! Out:  one [`Incoming`] at a time, or the rule the peer broke, after everything that came before it.
//! Not here: answering (`sender`), deadlines (`heartbeat`), the socket.

use bytes::{Buf, Bytes, BytesMut};

use crate::assembler::{Assembler, text};
use crate::close_frame::CloseFrame;
use crate::deflate::Inflater;
use crate::error::ProtocolError;
use crate::frame::{FrameHead, FrameStart, Opcode};
use crate::limits::Limits;
use crate::mask;
use crate::message::{Message, MessageKind, MessageRef};
use crate::role::Role;
use crate::utf8::Utf8Check;

/// Bytes a peer may make us reserve before it has sent any of them.
const READ_AHEAD: usize = 64 * 1024;

/// What the peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A whole message.
    Message(Message),
    /// A ping; answer it with a pong of the same payload.
    Ping(Bytes),
    /// A pong, asked for or not.
    Pong(Bytes),
    /// The peer closes; echo it unless we closed first. Nothing follows.
    Close(Option<CloseFrame>),
}

/// What whoever looked at a message in place makes of it; see [`Receiver::receive_each`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Done with it; go on.
    Done,
    /// Done with it, and with looking.
    Stop,
    /// Wants it as a message of its own.
    Pass,
}

/// Decodes what one peer sends.
///
/// One rule of use: append what was read to the end of the buffer, then call
/// [`receive`](Self::receive) with that same buffer until it returns `None`. It takes frames from the
/// front; an unfinished frame stays there and must be left untouched. Payloads of unfragmented, plain
/// frames are cut from the buffer without a copy and share its memory.
///
/// Work is linear in the bytes received, however they are split. Whole texts are validated once.
/// Texts that arrive in more than one read or frame are validated as they come, so that a bad one
/// fails at its first hopeless byte, and once more when complete.
///
/// ```
/// use bytes::BytesMut;
/// use storm_ws_proto::{Incoming, Limits, Message, Receiver, Role};
///
/// let mut receiver = Receiver::new(Role::Server, Limits::default());
/// let mut wire = BytesMut::from(&[0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58][..]);
/// let incoming = receiver.receive(&mut wire)?;
/// assert_eq!(incoming, Some(Incoming::Message(Message::from("Hello"))));
/// assert_eq!(receiver.receive(&mut wire)?, None);
/// # Ok::<(), storm_ws_proto::ProtocolError>(())
/// ```
#[derive(Debug)]
pub struct Receiver {
    role: Role,
    bounds: Bounds,
    phase: Phase,
    /// Boxed: most messages come in one frame, and idle connections are many.
    open: Option<Box<Assembler>>,
    inflater: Option<Box<Inflater>>,
}

/// [`Limits`] without options, for idle sessions are many: what is off is more than there can be. (Frames of a message are
/// counted up to the same.)
#[derive(Debug, Clone, Copy)]
struct Bounds {
    frame: u64,
    message: u64,
    fragments: u32,
}

impl Bounds {
    fn message_size(self) -> Option<u64> {
        (self.message != u64::MAX).then_some(self.message)
    }
}

impl From<Limits> for Bounds {
    fn from(limits: Limits) -> Self {
        Self {
            frame: limits.max_frame_size.unwrap_or(u64::MAX),
            message: limits.max_message_size.unwrap_or(u64::MAX),
            fragments: limits.max_fragments.unwrap_or(u32::MAX),
        }
    }
}

/// ```text
///            head complete               payload complete
///   Head ------------------> Payload ------------------------> Head
///     |                         |
///     +---- close or error -----+----> Ended
/// ```
#[derive(Debug)]
enum Phase {
    /// Waiting for a whole head.
    Head,
    /// The head is taken off the buffer, the payload is arriving.
    Payload(Partial),
    /// A close frame or an error came; what follows is thrown away.
    Ended,
}

/// A frame whose payload is not all here.
#[derive(Debug)]
struct Partial {
    head: FrameHead,
    /// Payload bytes unmasked (and, for text, checked) so far; `done <= head.len`.
    done: usize,
    utf8: Utf8Check,
}

impl Partial {
    /// Bytes of the whole payload.
    #[expect(clippy::cast_possible_truncation, reason = "`check_head` has seen that it is a `usize`")]
    const fn len(&self) -> usize {
        self.head.len as usize
    }
}

impl Receiver {
    /// A receiver for the side in `role`, without extensions.
    #[must_use]
    pub fn new(role: Role, limits: Limits) -> Self {
        Self { role, bounds: limits.into(), phase: Phase::Head, open: None, inflater: None }
    }

    /// Takes compressed messages as agreed.
    #[cfg(feature = "deflate")]
    #[must_use]
    pub fn deflate(mut self, params: &crate::DeflateParams) -> Self {
        self.inflater = Some(Box::new(Inflater::new(self.role, params)));
        self
    }

    /// The next thing the peer sent, or `None` until more bytes are appended to `wire`.
    ///
    /// After a close frame or an error, everything is discarded and the answer is always `None`.
    ///
    /// # Errors
    /// The rule the peer broke, once. Everything before the offending frame has been returned by then;
    /// close with [`ProtocolError::close_code`].
    #[inline]
    pub fn receive(&mut self, wire: &mut BytesMut) -> Result<Option<Incoming>, ProtocolError> {
        // Each way out builds its result in place: looking at a finished one here would copy it, and a copy
        // right behind the write stalls for longer than the whole head takes.
        loop {
            if !matches!(self.phase, Phase::Head) {
                match self.payload(wire) {
                    Ok(Step::Done(incoming)) => return Ok(Some(incoming)),
                    Ok(Step::NextFrame) => continue,
                    Ok(Step::NeedMore) => return Ok(None),
                    Err(error) => return Err(self.fail(error, wire)),
                }
            }
            let (head, size, len) = match self.head(wire) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.fail(error, wire)),
            };
            // The fast path: a whole message in one plain frame that is all here.
            if wire.len() - size >= len && head.fin && !head.rsv1 && head.opcode != Opcode::Continuation {
                // One cut per frame: the head goes with its payload and is skipped in the frozen part,
                // which is cheaper than advancing the buffer first.
                let mut frame = wire.split_to(size + len);
                if let Some(key) = head.mask {
                    mask::apply(key, &mut frame[size..]);
                }
                let mut payload = frame.freeze();
                payload.advance(size);
                if head.opcode == Opcode::Binary {
                    return Ok(Some(Incoming::Message(Message::Binary(payload))));
                }
                return self.text_or_control(head.opcode, payload, wire);
            }
            wire.advance(size);
            self.begin(head);
        }
    }

    /// As [`receive`](Self::receive), but shows messages to `look` where they lie, and takes those it is done with off the
    /// buffer at once.
    ///
    /// Only messages of one plain frame that is all here are shown. What is returned is the first thing that
    /// is none, or that `look` passes on; `None` if it said stop, or more bytes are needed.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    #[inline(always)]
    pub fn receive_each(
        &mut self,
        wire: &mut BytesMut,
        mut look: impl FnMut(MessageRef<'_>) -> Look,
    ) -> Result<Option<Incoming>, ProtocolError> {
        let mut seen = Seen { wire, bytes: 0 };
        while matches!(self.phase, Phase::Head) {
            let rest = &mut seen.wire[seen.bytes..];
            let (head, size, len) = match self.short_head(rest) {
                Some(found) => found,
                None => match self.head(rest) {
                    Ok(Some(found)) => found,
                    Ok(None) => return Ok(None),
                    Err(error) => return Err(self.fail(error, seen.take())),
                },
            };
            let is_plain = head.fin && !head.rsv1 && matches!(head.opcode, Opcode::Text | Opcode::Binary);
            let Some(payload) = rest.get_mut(size..size + len).filter(|_| is_plain) else {
                break;
            };
            if let Some(key) = head.mask {
                mask::apply(key, payload);
            }
            let message = match head.opcode {
                Opcode::Text => match simdutf8::basic::from_utf8(payload) {
                    Ok(text) => MessageRef::Text(text),
                    Err(_) => return Err(self.fail(ProtocolError::InvalidUtf8, seen.take())),
                },
                _ => MessageRef::Binary(payload),
            };
            // Seen to already while it is looked at: it is unmasked, and must not be found again.
            seen.bytes += size + len;
            match look(message) {
                Look::Done => {}
                Look::Stop => return Ok(None),
                Look::Pass => {
                    seen.bytes -= size + len;
                    let wire = seen.take();
                    let mut payload = wire.split_to(size + len).freeze();
                    payload.advance(size);
                    return self.text_or_binary(head.opcode, payload, wire);
                }
            }
        }
        self.receive(seen.take())
    }

    fn text_or_binary(
        &mut self,
        opcode: Opcode,
        payload: Bytes,
        wire: &mut BytesMut,
    ) -> Result<Option<Incoming>, ProtocolError> {
        match opcode {
            Opcode::Binary => Ok(Some(Incoming::Message(Message::Binary(payload)))),
            opcode => self.text_or_control(opcode, payload, wire),
        }
    }

    /// How many more bytes would complete what is arriving; a hint for reserving.
    ///
    /// Bounded by 64 KiB or what the frame has brought already, whichever is more, so that memory
    /// follows bytes received and not lengths announced.
    #[must_use]
    pub fn wanted(&self) -> usize {
        match &self.phase {
            Phase::Head => 2,
            Phase::Payload(partial) => (partial.len() - partial.done).min(partial.done.max(READ_AHEAD)),
            Phase::Ended => 0,
        }
    }

    /// Whether a frame or a fragmented message is incomplete.
    ///
    /// Bytes of an unfinished head do not count; those are still in the caller's buffer.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.open.is_some() || matches!(self.phase, Phase::Payload(_))
    }

    /// Whether a close frame or an error has ended this half.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// The next head with its size and the payload's length, if it is whole and breaks no rule.
    #[inline(always)]
    fn head(&self, wire: &[u8]) -> Result<Option<(FrameHead, usize, usize)>, ProtocolError> {
        let &[first, second, ..] = wire else {
            return Ok(None);
        };
        let start = FrameStart::parse(first, second)?;
        self.check_start(&start)?;
        let Some((head, size)) = start.complete(wire)? else {
            return Ok(None);
        };
        let len = self.check_head(&head)?;
        Ok(Some((head, size, len)))
    }

    /// What [`head`](Self::head) finds, for what a server mostly gets: one plain masked frame of up to 125 bytes, with
    /// no other message open. Three comparisons in registers; `None` is no verdict.
    #[inline(always)]
    fn short_head(&self, wire: &[u8]) -> Option<(FrameHead, usize, usize)> {
        let ([first, second], rest) = wire.split_first_chunk()?;
        let key = *rest.first_chunk()?;
        let opcode = match *first {
            0x81 => Opcode::Text,
            0x82 => Opcode::Binary,
            _ => return None,
        };
        let len = u64::from(second.checked_sub(0x80).filter(|len| *len <= 125)?);
        let plain = self.role == Role::Server && self.open.is_none();
        if !plain || len > self.bounds.frame || len > self.bounds.message {
            return None;
        }
        let head = FrameHead { fin: true, rsv1: false, opcode, mask: Some(key), len };
        Some((head, 6, usize::from(second & 0x7F)))
    }

    #[inline]
    fn text_or_control(
        &mut self,
        opcode: Opcode,
        payload: Bytes,
        wire: &mut BytesMut,
    ) -> Result<Option<Incoming>, ProtocolError> {
        if opcode == Opcode::Text {
            return match text(payload) {
                Ok(message) => Ok(Some(Incoming::Message(message))),
                Err(error) => Err(self.fail(error, wire)),
            };
        }
        match self.control(opcode, payload, wire) {
            Ok(incoming) => Ok(Some(incoming)),
            Err(error) => Err(self.fail(error, wire)),
        }
    }

    /// Rules that need our role and what came before, but not the frame's length.
    #[inline]
    fn check_start(&self, start: &FrameStart) -> Result<(), ProtocolError> {
        // RFC 6455 §5.1: clients mask, servers do not.
        match (self.role, start.masked) {
            (Role::Server, false) => return Err(ProtocolError::UnmaskedFrame),
            (Role::Client, true) => return Err(ProtocolError::MaskedFrame),
            _ => {}
        }
        // RFC 7692 §6.1: RSV1 marks the first frame of a message, once the extension is agreed.
        if start.rsv1 && (self.inflater.is_none() || start.opcode == Opcode::Continuation) {
            return Err(ProtocolError::ReservedBits { bits: 0b100 });
        }
        // RFC 6455 §5.4: fragments of one message are not interleaved with another's.
        match (start.opcode, &self.open) {
            (Opcode::Continuation, None) => Err(ProtocolError::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                Err(ProtocolError::ExpectedContinuation { opcode: start.opcode as u8 })
            }
            _ => Ok(()),
        }
    }

    /// Limits, on the announced length: nothing of the payload needs to be here. Says the length.
    #[inline]
    fn check_head(&self, head: &FrameHead) -> Result<usize, ProtocolError> {
        let len = usize::try_from(head.len)
            .map_err(|_| ProtocolError::FrameTooBig { len: head.len, max: usize::MAX as u64 })?;
        if head.opcode.is_control() {
            return Ok(len);
        }
        let Bounds { frame, message, fragments } = self.bounds;
        if head.len > frame {
            return Err(ProtocolError::FrameTooBig { len: head.len, max: frame });
        }
        let (frames, before, compressed) = match &self.open {
            Some(open) => (open.frames(), open.plain_len(), open.is_compressed()),
            None => (0, 0, head.rsv1),
        };
        let total = before.saturating_add(head.len);
        if total > message && !compressed {
            return Err(ProtocolError::MessageTooBig { len: total, max: message });
        }
        if frames >= fragments {
            return Err(ProtocolError::TooManyFragments { max: fragments });
        }
        Ok(len)
    }

    /// Starts on a payload that needs more than one step.
    #[inline(never)]
    fn begin(&mut self, head: FrameHead) {
        // One plain frame stays in the read buffer until it is whole. Everything else is taken out as it
        // comes: fragments to be joined, compressed data to be inflated.
        let kind = match head.opcode {
            Opcode::Text => Some(MessageKind::Text),
            Opcode::Binary => Some(MessageKind::Binary),
            _ => None,
        };
        if let Some(kind) = kind.filter(|_| head.rsv1 || !head.fin) {
            self.open = Some(Box::new(Assembler::new(kind, head.rsv1)));
        }
        if let Some(open) = self.open.as_mut().filter(|_| !head.opcode.is_control()) {
            open.count_frame();
        }
        self.phase = Phase::Payload(Partial { head, done: 0, utf8: Utf8Check::default() });
    }

    /// Takes in what is here of the current payload.
    #[inline(never)]
    fn payload(&mut self, wire: &mut BytesMut) -> Result<Step, ProtocolError> {
        let Phase::Payload(partial) = &mut self.phase else {
            wire.clear();
            return Ok(Step::NeedMore);
        };
        let head = partial.head;
        match self.open.as_mut().filter(|_| !head.opcode.is_control()) {
            Some(open) => {
                let here = wire.len().min(partial.len() - partial.done);
                let piece = &mut wire[..here];
                if let Some(key) = head.mask {
                    mask::apply(mask::rotate(key, partial.done), piece);
                }
                open.push(piece, self.inflater.as_deref_mut(), self.bounds.message_size())?;
                wire.advance(here);
                partial.done += here;
                if partial.done < partial.len() {
                    return Ok(Step::NeedMore);
                }
                self.phase = Phase::Head;
                if !head.fin {
                    return Ok(Step::NextFrame);
                }
                let Some(open) = self.open.take() else {
                    return Ok(Step::NextFrame);
                };
                let message = open.finish(self.inflater.as_deref_mut())?;
                Ok(Step::Done(Incoming::Message(message)))
            }
            None => {
                let here = wire.len().min(partial.len());
                let fresh = &mut wire[partial.done..here];
                if let Some(key) = head.mask {
                    mask::apply(mask::rotate(key, partial.done), fresh);
                }
                if head.opcode == Opcode::Text {
                    partial.utf8.feed(fresh).map_err(|_| ProtocolError::InvalidUtf8)?;
                }
                partial.done = here;
                if here < partial.len() {
                    return Ok(Step::NeedMore);
                }
                self.phase = Phase::Head;
                let payload = wire.split_to(here).freeze();
                match head.opcode {
                    Opcode::Text => text(payload).map(|message| Step::Done(Incoming::Message(message))),
                    Opcode::Binary => Ok(Step::Done(Incoming::Message(Message::Binary(payload)))),
                    opcode => self.control(opcode, payload, wire).map(Step::Done),
                }
            }
        }
    }

    #[inline(never)]
    fn control(
        &mut self,
        opcode: Opcode,
        payload: Bytes,
        wire: &mut BytesMut,
    ) -> Result<Incoming, ProtocolError> {
        match opcode {
            Opcode::Ping => Ok(Incoming::Ping(payload)),
            Opcode::Pong => Ok(Incoming::Pong(payload)),
            _ => {
                let frame = CloseFrame::parse(payload)?;
                // RFC 6455 §1.4: what follows a close frame is discarded.
                self.end(wire);
                Ok(Incoming::Close(frame))
            }
        }
    }

    #[cold]
    fn fail(&mut self, error: ProtocolError, wire: &mut BytesMut) -> ProtocolError {
        self.end(wire);
        error
    }

    /// Gives up everything held; nothing is dispatched any more.
    #[cold]
    fn end(&mut self, wire: &mut BytesMut) {
        self.phase = Phase::Ended;
        self.open = None;
        self.inflater = None;
        wire.clear();
    }
}

/// A read buffer whose first `bytes` bytes have been seen to. They go when this does, so that they are gone, too, if
/// whoever looks at a message panics.
struct Seen<'a> {
    wire: &'a mut BytesMut,
    bytes: usize,
}

impl Seen<'_> {
    /// The buffer, without what has been seen to.
    fn take(&mut self) -> &mut BytesMut {
        let seen = std::mem::take(&mut self.bytes);
        if seen == self.wire.len() {
            // Keeps the room in front, which an advance would have to be asked back for.
            self.wire.clear();
        } else {
            self.wire.advance(seen);
        }
        self.wire
    }
}

impl Drop for Seen<'_> {
    fn drop(&mut self) {
        self.take();
    }
}

/// What one look at a payload came to.
enum Step {
    Done(Incoming),
    NextFrame,
    NeedMore,
}
