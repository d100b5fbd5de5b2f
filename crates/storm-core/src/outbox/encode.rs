//! How messages become wire bytes: the send half of a protocol, behind the outbox's lock.

use bytes::Bytes;
use bytestring::ByteString;

use super::SendQueue;
use crate::{Message, SendError};

/// The send half of a protocol. Called under the outbox's lock, in the order messages leave: it must not block.
pub trait Encode: Send + 'static {
    /// Appends the wire form of one message to `queue`; all of it or, with an error, nothing.
    ///
    /// # Errors
    /// The protocol cannot carry the message; see [`SendError`].
    fn encode(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError>;

    /// Like [`encode`](Self::encode) for one of many receivers: what `frames` holds already is not made again.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encode_shared(
        &mut self,
        message: &Message,
        frames: &mut SharedFrames,
        queue: &mut SendQueue,
    ) -> Result<(), SendError> {
        let _ = frames;
        self.encode(message.clone(), queue)
    }

    /// An encoder that may be used beside this one, without this one's lock: `None` if the wire form of a message depends
    /// on earlier ones.
    fn twin(&self) -> Option<Box<dyn Encode>> {
        None
    }

    /// Takes a control message, if the protocol has any. It may be held back until [`flush`](Self::flush).
    fn control(&mut self, control: Control, queue: &mut SendQueue) {
        let _ = (control, queue);
    }

    /// Called before queued bytes are handed to the socket: appends what was held back.
    fn flush(&mut self, queue: &mut SendQueue) {
        let _ = queue;
    }
}

/// Messages about the connection itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Asks the peer to answer with the same payload.
    Ping(Bytes),
    /// The answer to a ping.
    Pong(Bytes),
    /// The last message of this side; without a code if `None`.
    Close(Option<(u16, ByteString)>),
}

/// Encoded forms of one broadcast, one for each distinct way its receivers encode.
#[derive(Debug, Default)]
pub struct SharedFrames(Vec<(u64, Bytes)>);

impl SharedFrames {
    /// The frame made for `key`, made now by `make` if this is the first receiver with that key.
    ///
    /// # Errors
    /// What `make` returns; nothing is stored then.
    pub fn get_or_make(
        &mut self,
        key: u64,
        make: impl FnOnce() -> Result<Bytes, SendError>,
    ) -> Result<Bytes, SendError> {
        if let Some((_, frame)) = self.0.iter().find(|(made_for, _)| *made_for == key) {
            return Ok(frame.clone());
        }
        let frame = make()?;
        self.0.push((key, frame.clone()));
        Ok(frame)
    }
}
