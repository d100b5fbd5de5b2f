//! Joins the frames of one message.
//!
//! Owns: the bytes of one unfinished message and its running UTF-8 check.
//! In:   payload pieces, already unmasked, in arrival order, cut anywhere.
//! Out:  the whole message; or the rule the peer broke.
//! Not here: messages of one plain frame (`receiver` cuts those from the read buffer), the inflater.

use bytes::Bytes;
use bytestring::ByteString;

use crate::deflate::Inflater;
use crate::error::ProtocolError;
use crate::message::{Message, MessageKind};
use crate::utf8::Utf8Check;

/// A message that is still arriving.
#[derive(Debug)]
pub(crate) struct Assembler {
    kind: MessageKind,
    compressed: bool,
    frames: u32,
    utf8: Utf8Check,
    data: Vec<u8>,
}

impl Assembler {
    pub(crate) fn new(kind: MessageKind, compressed: bool) -> Self {
        Self { kind, compressed, frames: 0, utf8: Utf8Check::default(), data: Vec::new() }
    }

    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    pub(crate) fn count_frame(&mut self) {
        // `u32::MAX` is no limit, and not to be reached.
        self.frames = (self.frames + 1).min(u32::MAX - 1);
    }

    /// Bytes a plain message has grown to; 0 for a compressed one, whose size only inflating tells.
    pub(crate) fn plain_len(&self) -> u64 {
        if self.compressed { 0 } else { self.data.len() as u64 }
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Takes the next piece. The caller has checked a plain one against the limit.
    pub(crate) fn push(
        &mut self,
        piece: &[u8],
        inflater: Option<&mut Inflater>,
        max: Option<u64>,
    ) -> Result<(), ProtocolError> {
        let before = self.data.len();
        match inflater {
            Some(inflater) if self.compressed => inflater.inflate(piece, &mut self.data, max)?,
            _ => self.data.extend_from_slice(piece),
        }
        match self.kind {
            // RFC 6455 §8.1, and earlier than it asks: fail at the first hopeless byte.
            MessageKind::Text => self.utf8.feed(&self.data[before..]).map_err(|_| ProtocolError::InvalidUtf8),
            MessageKind::Binary => Ok(()),
        }
    }

    /// The message, now that its last frame is complete.
    pub(crate) fn finish(mut self, inflater: Option<&mut Inflater>) -> Result<Message, ProtocolError> {
        if let Some(inflater) = inflater.filter(|_| self.compressed) {
            inflater.finish(&mut self.data)?;
        }
        match self.kind {
            MessageKind::Binary => Ok(Message::Binary(self.data.into())),
            MessageKind::Text if !self.utf8.is_complete() => Err(ProtocolError::InvalidUtf8),
            // Without `unsafe` the running check cannot vouch for the whole, so this checks once more.
            MessageKind::Text => text(self.data.into()),
        }
    }
}

/// The text message with this payload.
#[inline]
pub(crate) fn text(payload: Bytes) -> Result<Message, ProtocolError> {
    ByteString::try_from(payload).map(Message::Text).map_err(|_| ProtocolError::InvalidUtf8)
}
