//! TCP with a framer, as a protocol of the connection loop.

use std::cell::Cell;

use bytes::{Buf, Bytes, BytesMut};
use storm_core::outbox::{Encode, SendQueue, SharedFrames, TryWrite};
use storm_core::{BoxError, DisconnectReason, Message, MessageRef, SendError, Session};
use storm_framing::{FramingError, MessageFramer, Wire};

use crate::protocol::{End, Look, MessageKind, Protocol};
use crate::shared_tcp::TcpWriter;

/// The receive half: a framer that decodes.
#[derive(Debug)]
pub struct Framed<F> {
    framer: F,
    /// It has panicked, and nobody knows yet.
    panicked: Cell<bool>,
}

impl<F> Framed<F> {
    /// Messages by `framer`.
    pub const fn new(framer: F) -> Self {
        Self { framer, panicked: Cell::new(false) }
    }
}

/// Blames the framer for a panic that ends what this lives through.
struct Blame<'a>(&'a Cell<bool>);

impl Drop for Blame<'_> {
    #[cold]
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// What `framer` returns. That it did not panic costs nothing to find out.
#[inline(always)]
fn blamed<R>(panicked: &Cell<bool>, framer: impl FnOnce() -> R) -> R {
    let blame = Blame(panicked);
    let returned = framer();
    std::mem::forget(blame);
    returned
}

/// A framer returned a message without taking a byte: it would for ever.
#[derive(Debug, thiserror::Error)]
#[error("the framer returned a message without taking a byte")]
pub struct NoProgress;

/// A framer located a message that is not in the buffer.
#[derive(Debug, thiserror::Error)]
#[error("the framer located a message that is not in the buffer")]
pub struct NotThere;

/// What the framer made of `wire`, which held `before` bytes.
#[inline(always)]
fn checked(
    decoded: Result<Option<Bytes>, FramingError>,
    before: usize,
    wire: &BytesMut,
) -> Result<Option<Bytes>, End> {
    match decoded {
        Ok(Some(_)) if wire.len() >= before => Err(no_progress()),
        Ok(message) => Ok(message),
        Err(error) => Err(violation(error)),
    }
}

#[cold]
fn no_progress() -> End {
    End::violation(DisconnectReason::ProtocolError, NoProgress, None)
}

#[cold]
fn not_there() -> End {
    End::violation(DisconnectReason::ProtocolError, NotThere, None)
}

#[cold]
fn violation(error: FramingError) -> End {
    let reason = match error {
        FramingError::TooBig { .. } => DisconnectReason::MessageTooBig,
        _ => DisconnectReason::ProtocolError,
    };
    End::violation(reason, error, None)
}

impl<F: MessageFramer> Protocol for Framed<F> {
    type Session = Session;
    type Message = Bytes;

    fn session(session: &Session) -> Session {
        session.clone()
    }

    #[inline(always)]
    fn receive(&mut self, wire: &mut BytesMut, _: &Session) -> Result<Option<Bytes>, End> {
        let before = wire.len();
        checked(blamed(&self.panicked, || self.framer.decode(wire)), before, wire)
    }

    #[inline(always)]
    fn receive_each(
        &mut self,
        wire: &mut BytesMut,
        session: &Session,
        mut look: impl FnMut(MessageRef<'_>) -> Look,
    ) -> Result<Option<Bytes>, End> {
        let mut seen = Seen { wire, bytes: 0 };
        loop {
            let rest = &seen.wire[seen.bytes..];
            let Some(located) = blamed(&self.panicked, || self.framer.locate(rest)) else { break };
            if located.len == 0 {
                return Err(no_progress());
            }
            let message = rest.get(..located.len);
            let Some(payload) = message.and_then(|message| message.get(located.payload.clone())) else {
                return Err(not_there());
            };
            seen.bytes += located.len;
            match look(MessageRef::Binary(payload)) {
                Look::Done => {}
                Look::Stop => return Ok(None),
                Look::Pass => {
                    seen.bytes -= located.len;
                    let mut message = seen.take().split_to(located.len);
                    message.truncate(located.payload.end);
                    message.advance(located.payload.start);
                    return Ok(Some(message.freeze()));
                }
            }
        }
        self.receive(seen.take(), session)
    }

    fn receive_eof(&mut self, wire: &mut BytesMut, _: &Session) -> Result<Option<Bytes>, End> {
        if wire.is_empty() {
            return Ok(None);
        }
        let before = wire.len();
        checked(blamed(&self.panicked, || self.framer.decode_eof(wire)), before, wire)
    }

    fn wanted(&self, wire: &[u8]) -> Option<usize> {
        blamed(&self.panicked, || self.framer.wanted(wire))
    }

    fn is_to_blame(&mut self) -> bool {
        self.panicked.take()
    }

    fn view(message: &Bytes) -> MessageRef<'_> {
        MessageRef::Binary(message)
    }

    fn split(message: Bytes) -> (Bytes, MessageKind) {
        (message, MessageKind::Binary)
    }

    fn join(data: Bytes, _: MessageKind) -> Result<Bytes, BoxError> {
        Ok(data)
    }

    fn size(message: &Bytes) -> usize {
        message.len()
    }
}

/// The send half: a framer that encodes.
#[derive(Debug)]
pub struct FramedEncode<F> {
    framer: F,
    writer: Option<TcpWriter>,
}

impl<F> FramedEncode<F> {
    /// An encoder by `framer`, for a session whose socket broadcasts may write to by `writer`.
    pub const fn new(framer: F, writer: Option<TcpWriter>) -> Self {
        Self { framer, writer }
    }
}

impl<F: MessageFramer + Clone> Encode for FramedEncode<F> {
    fn encode(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError> {
        whole(queue, |wire| self.framer.encode(message.into_data(), wire))
    }

    #[inline]
    fn encode_slice(&mut self, data: &[u8], _: bool, queue: &mut SendQueue) -> Result<(), SendError> {
        whole(queue, |wire| self.framer.encode_slice(data, wire))
    }

    fn check(&mut self, message: &Message) -> Result<(), SendError> {
        if !self.framer.is_stateless() {
            // It may be asked once for each message, no more.
            return Ok(());
        }
        self.framer.encode(message.clone().into_data(), &mut Nowhere).map_err(send_error)
    }

    fn twin(&self) -> Option<Box<dyn Encode>> {
        self.framer.is_stateless().then(|| Box::new(Self::new(self.framer.clone(), None)) as Box<dyn Encode>)
    }

    fn encode_shared(
        &mut self,
        message: &Message,
        frames: &mut SharedFrames,
        queue: &mut SendQueue,
    ) -> Result<(), SendError> {
        if !self.framer.is_stateless() {
            return self.encode(message.clone(), queue);
        }
        let frame = frames.get_or_make(0, || {
            let mut frame = BytesMut::new();
            self.framer.encode(message.clone().into_data(), &mut frame).map_err(send_error)?;
            Ok(frame.freeze())
        })?;
        queue.put_bytes(frame.clone());
        Ok(())
    }

    fn writer(&self) -> Option<&dyn TryWrite> {
        self.writer.as_ref().map(|writer| writer as &dyn TryWrite)
    }

    fn close_writer(&mut self) {
        self.writer = None;
    }
}

#[cold]
fn send_error(error: FramingError) -> SendError {
    match error {
        FramingError::TooBig { len, limit } => SendError::TooLarge {
            len: usize::try_from(len).unwrap_or(usize::MAX),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        },
        other => SendError::Encode(other.into()),
    }
}

/// Has a framer put a message into `queue`; what it has put is taken back if it fails, or panics.
#[inline(always)]
fn whole(
    queue: &mut SendQueue,
    encode: impl FnOnce(&mut QueueWire<'_>) -> Result<(), FramingError>,
) -> Result<(), SendError> {
    let before = queue.len();
    let mut wire = QueueWire { queue, before };
    encode(&mut wire).map_err(send_error)?;
    std::mem::forget(wire);
    Ok(())
}

/// A [`SendQueue`] as the framers see it; when dropped, as it was `before`.
struct QueueWire<'a> {
    queue: &'a mut SendQueue,
    before: usize,
}

impl Wire for QueueWire<'_> {
    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        self.queue.put_slice(bytes);
    }

    #[inline]
    fn put_bytes(&mut self, bytes: Bytes) {
        self.queue.put_bytes(bytes);
    }

    #[inline(always)]
    fn put_framed(&mut self, head: u128, len: usize, body: &[u8]) {
        self.queue.put_framed(head, len, body);
    }
}

impl Drop for QueueWire<'_> {
    #[cold]
    fn drop(&mut self) {
        self.queue.truncate(self.before);
    }
}

/// Where an encoding goes that is only to be tried.
struct Nowhere;

impl Wire for Nowhere {
    fn put_slice(&mut self, _: &[u8]) {}

    fn put_bytes(&mut self, _: Bytes) {}
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
