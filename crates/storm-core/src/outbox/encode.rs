//! How messages become wire bytes: the send half of a protocol, behind the outbox's lock.

use std::any::{Any, TypeId};
use std::io::{self, IoSlice};

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

    /// Like [`encode`](Self::encode), for a message that stays its owner's and is copied. A text is UTF-8.
    ///
    /// (Not a [`MessageRef`](crate::MessageRef), which travels through memory where these travel in registers.)
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encode_slice(&mut self, data: &[u8], is_text: bool, queue: &mut SendQueue) -> Result<(), SendError> {
        let data = Bytes::copy_from_slice(data);
        let message = match is_text {
            true => Message::Text(ByteString::try_from(data).map_err(|_| SendError::InvalidUtf8)?),
            false => Message::Binary(data),
        };
        self.encode(message, queue)
    }

    /// Like [`encode`](Self::encode), for a message its sender does not want compressed.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encode_uncompressed(&mut self, message: Message, queue: &mut SendQueue) -> Result<(), SendError> {
        self.encode(message, queue)
    }

    /// Whether `message` can be encoded, of one that is encoded later: as far as that can be told now.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn check(&mut self, message: &Message) -> Result<(), SendError> {
        let _ = message;
        Ok(())
    }

    /// Appends a part of a message that is sent in parts, if the protocol has such a thing.
    ///
    /// # Errors
    /// The protocol has no such thing, or the part cannot be sent; nothing is appended then.
    fn encode_part(&mut self, part: Part, queue: &mut SendQueue) -> Result<(), SendError> {
        let _ = (part, queue);
        Err(SendError::Unsupported)
    }

    /// Like [`encode`](Self::encode) for one of many receivers: what `frames` holds already is not made again. Without
    /// compression, if the broadcast [is](SharedFrames::is_uncompressed).
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encode_shared(
        &mut self,
        message: &Message,
        frames: &mut SharedFrames,
        queue: &mut SendQueue,
    ) -> Result<(), SendError> {
        match frames.is_uncompressed() {
            false => self.encode(message.clone(), queue),
            true => self.encode_uncompressed(message.clone(), queue),
        }
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

    /// Close code and text for an end that a panic of user code brings; `None`: abort instead.
    fn goodbye_after_panic(&self) -> Option<(u16, ByteString)> {
        None
    }

    /// Called before queued bytes are handed to the socket: appends what was held back.
    fn flush(&mut self, queue: &mut SendQueue) {
        let _ = queue;
    }

    /// The socket, where others than the connection task may write to it.
    fn writer(&self) -> Option<&dyn TryWrite> {
        None
    }

    /// The connection is over: lets go of the socket.
    fn close_writer(&mut self) {}
}

/// A socket that takes bytes from any thread, and never waits.
pub trait TryWrite: Send + Sync {
    /// Writes what fits of `bytes`.
    ///
    /// # Errors
    /// `WouldBlock` if nothing fits; others if the socket has failed.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Writes what fits of `slices`, one behind the other.
    ///
    /// # Errors
    /// As [`try_write`](Self::try_write).
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// A part of a message that is sent in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Whether the message is text. The same for all its parts.
    pub is_text: bool,
    /// The bytes; a character of a text may be divided between two parts.
    pub data: Bytes,
    /// Whether a message begins here.
    pub first: bool,
    /// Whether it ends here.
    pub last: bool,
    /// Whether the protocol may compress the message. Counts where it begins.
    pub compress: bool,
}

/// Messages about the connection itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Asks the peer to answer with the same payload.
    Ping(Bytes),
    /// The answer to a ping.
    Pong(Bytes),
    /// The last message of this side. `None` is the protocol's usual one; code 1005 (RFC 6455 §7.4.1: no status) is one
    /// without a code.
    Close(Option<(u16, ByteString)>),
}

/// Encoded forms of one broadcast, one for each distinct way its receivers encode.
#[derive(Default)]
pub struct SharedFrames {
    /// With the key and the type each is found by: asking a frame for its type is a call.
    frames: Vec<(u64, TypeId, Box<dyn Any + Send>)>,
    uncompressed: bool,
}

impl SharedFrames {
    pub(crate) const fn new(uncompressed: bool) -> Self {
        Self { frames: Vec::new(), uncompressed }
    }

    /// Whether the broadcast's sender does not want it compressed.
    #[must_use]
    pub const fn is_uncompressed(&self) -> bool {
        self.uncompressed
    }

    /// The frame made for `key`, made now by `make` if this is the first receiver with that key. The type of frame is the
    /// encoder's own: a key made for one type is made anew for another.
    ///
    /// # Errors
    /// What `make` returns; nothing is stored then.
    pub fn get_or_make<T: Send + 'static>(
        &mut self,
        key: u64,
        make: impl FnOnce() -> Result<T, SendError>,
    ) -> Result<&T, SendError> {
        let frame_type = TypeId::of::<T>();
        let made =
            self.frames.iter().position(|(made_for, made_as, _)| (*made_for, *made_as) == (key, frame_type));
        let at = match made {
            Some(at) => at,
            None => {
                self.frames.push((key, frame_type, Box::new(make()?)));
                self.frames.len() - 1
            }
        };
        Ok(self.frames[at].2.downcast_ref().expect("found by its type, or just made"))
    }
}

impl std::fmt::Debug for SharedFrames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.frames.iter().map(|(key, ..)| key)).finish()
    }
}
