//! The send half of a WebSocket session, behind its outbox's lock.

use bytes::Bytes;
use bytestring::ByteString;
use storm_core::outbox::{Control, Encode, Part, SHARE_FROM, SendQueue, SharedFrames, TryWrite};
use storm_core::{Message, SendError};
use storm_ws_proto::{CloseCode, MessageKind, Role, Sender, SharedFrame, SharedKey, Wire, put_plain};

use crate::shared_tcp::TcpWriter;

/// Encodes messages as frames.
#[derive(Debug)]
pub struct WsEncode {
    sender: Sender,
    /// The socket, where broadcasts may write to it.
    writer: Option<TcpWriter>,
    /// `None` unless the peer has pinged since the last flush.
    pongs: Option<Box<Pongs>>,
}

/// The answers to pings since the last flush.
#[derive(Debug, Default)]
struct Pongs {
    /// Those that stand in their place; at most `PONGS_IN_PLACE`.
    in_place: u8,
    /// The one to the newest ping, until the flush, of a peer that is behind with reading.
    newest: Option<Bytes>,
}

/// Pings are answered in their place up to this many between two flushes. Beyond it, which is a peer that pings and does
/// not read, only the newest is (RFC 6455 §5.5.3), so that pings cannot fill our memory.
const PONGS_IN_PLACE: u8 = 16;

/// RFC 6455 §7.4.1: stands for a close frame without a code.
pub(super) const NO_STATUS: u16 = 1005;

impl WsEncode {
    /// An encoder over `sender`, for a session whose socket broadcasts may write to by `writer`.
    pub const fn new(sender: Sender, writer: Option<TcpWriter>) -> Self {
        Self { sender, writer, pongs: None }
    }

    fn put(&mut self, message: Message, compress: bool, queue: &mut SendQueue) -> Result<(), SendError> {
        put_message(&mut self.sender, message, compress, queue)
    }

    fn put_pong(&mut self, queue: &mut SendQueue) {
        if let Some(payload) = self.pongs.take().and_then(|pongs| pongs.newest) {
            // Fails only after a close frame, when no pong is owed.
            let _ = self.sender.pong(&payload, &mut QueueWire(queue));
        }
    }
}

impl Encode for WsEncode {
    fn encode(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError> {
        self.put(message, true, queue)
    }

    #[inline]
    fn encode_slice(&mut self, data: &[u8], is_text: bool, queue: &mut SendQueue) -> Result<(), SendError> {
        self.sender.message_slice(kind(is_text), data, true, &mut QueueWire(queue)).map_err(send_error)
    }

    fn encode_uncompressed(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError> {
        self.put(message, false, queue)
    }

    fn encode_part(&mut self, part: Part, queue: &mut SendQueue) -> Result<(), SendError> {
        self.sender
            .fragment(kind(part.is_text), &part.data, part.last, part.compress, &mut QueueWire(queue))
            .map_err(send_error)
    }

    fn encode_shared(
        &mut self,
        message: &Message,
        frames: &mut SharedFrames,
        queue: &mut SendQueue,
    ) -> Result<(), SendError> {
        // RFC 6455 §5.3: a client masks every frame with a fresh key.
        if self.sender.role() == Role::Client {
            return self.put(message.clone(), !frames.is_uncompressed(), queue);
        }
        let key = if frames.is_uncompressed() { SharedKey::PLAIN } else { self.sender.shared_key() };
        let frame = frames.get_or_make(key.to_u64(), || {
            Ok(SharedFrame::encode(kind(message.is_text()), message.data(), key))
        })?;
        self.sender.put_shared(frame, &mut QueueWire(queue)).map_err(send_error)
    }

    fn twin(&self) -> Option<Box<dyn Encode>> {
        let stateless = self.sender.role() == Role::Server && !self.sender.compresses();
        stateless.then(|| Box::new(PlainServer) as Box<dyn Encode>)
    }

    fn control(&mut self, control: Control, queue: &mut SendQueue) {
        // An error is a payload above 125 bytes, which our callers have checked, or a frame after the close frame,
        // which the outbox does not let through.
        let _ = match control {
            Control::Pong(payload) => {
                let pongs = self.pongs.get_or_insert_default();
                if pongs.in_place < PONGS_IN_PLACE {
                    pongs.in_place += 1;
                    self.sender.pong(&payload, &mut QueueWire(queue))
                } else {
                    pongs.newest = Some(payload);
                    Ok(())
                }
            }
            Control::Ping(payload) => self.sender.ping(&payload, &mut QueueWire(queue)),
            Control::Close(goodbye) => {
                self.put_pong(queue);
                let normal = (CloseCode::NORMAL, "");
                let frame = match &goodbye {
                    None => Some(normal),
                    Some((NO_STATUS, _)) => None,
                    Some((code, reason)) => {
                        Some(CloseCode::new(*code).map_or(normal, |code| (code, &**reason)))
                    }
                };
                self.sender.close(frame, &mut QueueWire(queue))
            }
        };
    }

    fn goodbye_after_panic(&self) -> Option<(u16, ByteString)> {
        Some((CloseCode::INTERNAL_ERROR.into(), ByteString::new()))
    }

    fn flush(&mut self, queue: &mut SendQueue) {
        self.put_pong(queue);
    }

    fn writer(&self) -> Option<&dyn TryWrite> {
        self.writer.as_ref().map(|writer| writer as &dyn TryWrite)
    }

    fn close_writer(&mut self) {
        self.writer = None;
    }
}

/// Encodes a server's messages without compression, which takes no state at all.
struct PlainServer;

impl Encode for PlainServer {
    #[inline]
    fn encode(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError> {
        if message.len() < SHARE_FROM {
            return self.encode_slice(message.data(), message.is_text(), queue);
        }
        put_message(&mut Sender::server(), message, false, queue)
    }

    #[inline]
    fn encode_slice(&mut self, data: &[u8], is_text: bool, queue: &mut SendQueue) -> Result<(), SendError> {
        put_plain(kind(is_text), data, &mut QueueWire(queue));
        Ok(())
    }
}

#[inline]
const fn kind(is_text: bool) -> MessageKind {
    if is_text { MessageKind::Text } else { MessageKind::Binary }
}

#[inline]
fn put_message(
    sender: &mut Sender,
    message: Message,
    compress: bool,
    queue: &mut SendQueue,
) -> Result<(), SendError> {
    let (kind, data) = match message {
        Message::Text(text) => (MessageKind::Text, text.into_bytes()),
        Message::Binary(data) => (MessageKind::Binary, data),
    };
    sender.message(kind, data, compress, &mut QueueWire(queue)).map_err(send_error)
}

fn send_error(error: storm_ws_proto::SendError) -> SendError {
    use storm_ws_proto::SendError as Proto;
    match error {
        Proto::Closed => SendError::Closed(None),
        Proto::InvalidUtf8 => SendError::InvalidUtf8,
        Proto::ControlTooLong { len, max } => SendError::TooLarge { len, limit: max },
        other => SendError::Encode(other.into()),
    }
}

/// A [`SendQueue`] as the protocol sees it.
struct QueueWire<'a>(&'a mut SendQueue);

impl Wire for QueueWire<'_> {
    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    #[inline]
    fn put_bytes(&mut self, bytes: Bytes) {
        self.0.put_bytes(bytes);
    }

    #[inline(always)]
    fn put_framed(&mut self, head: u128, len: usize, body: &[u8]) {
        self.0.put_framed(head, len, body);
    }

    fn share_threshold(&self) -> usize {
        SHARE_FROM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(encoder: &mut WsEncode, payload: &'static str, queue: &mut SendQueue) {
        encoder.control(Control::Pong(payload.into()), queue);
    }

    fn bytes(queue: &mut SendQueue) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !queue.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let count = queue.fill_slices(&mut slices);
            let before = bytes.len();
            slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
            queue.advance(bytes.len() - before);
        }
        bytes
    }

    #[test]
    fn each_ping_of_a_batch_is_answered_in_its_place() {
        let (mut encoder, mut queue) = (WsEncode::new(Sender::server(), None), SendQueue::default());
        ping(&mut encoder, "a", &mut queue);
        ping(&mut encoder, "b", &mut queue);
        encoder.encode("hi".into(), &mut queue).unwrap();
        ping(&mut encoder, "c", &mut queue);
        encoder.flush(&mut queue);
        assert_eq!(bytes(&mut queue), b"\x8a\x01a\x8a\x01b\x81\x02hi\x8a\x01c");
    }

    #[test]
    fn pings_of_a_peer_that_does_not_read_do_not_pile_up() {
        let (mut encoder, mut queue) = (WsEncode::new(Sender::server(), None), SendQueue::default());
        for _ in 0..100_000 {
            ping(&mut encoder, "again", &mut queue);
        }
        ping(&mut encoder, "newest", &mut queue);
        assert!(queue.len() <= usize::from(PONGS_IN_PLACE) * 127);
        encoder.flush(&mut queue);
        assert!(bytes(&mut queue).ends_with(b"\x8a\x06newest"));
    }
}
