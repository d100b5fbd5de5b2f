//! Message boundaries on a byte stream: bytes in, messages out, and back.
//!
//! A part of StormSocket: programs that depend on `stormsocket` have the framers at its top; read `stormsocket::` for
//! `storm_framing::` in examples.
//!
//! ```text
//!  bytes read ──> MessageFramer::decode ──> message        (one per call, cut from the buffer, not copied)
//!  message ─────> MessageFramer::encode ──> Wire           (head copied, payload shared if it is large)
//! ```
//!
//! | framer | wire form | its maximum |
//! |---|---|---|
//! | [`RawFramer`] | the bytes as they are | none: a message is what one read brought |
//! | [`LengthPrefixFramer`] | 4 bytes big-endian length, payload | 16 MiB |
//! | [`DelimiterFramer`] | payload, delimiter (`\n`) | 16 MiB |
//! | `CodecFramer` (feature `codec`) | a tokio-util codec's | the codec's own |
//!
//! No I/O and no runtime. Not here: sockets and limits on what waits (`storm-transport`, `storm-core`).

#[cfg(feature = "codec")]
mod codec;
mod delimiter;
mod error;
mod length_prefix;
mod raw;
mod wire;

use std::ops::Range;

use bytes::{Bytes, BytesMut};

#[cfg(feature = "codec")]
pub use codec::{CodecError, CodecFramer};
pub use delimiter::DelimiterFramer;
pub use error::FramingError;
pub use length_prefix::LengthPrefixFramer;
pub use raw::RawFramer;
pub use wire::Wire;

/// The default maximum of a message: 16 MiB.
pub const DEFAULT_MAX_MESSAGE: usize = 16 << 20;

/// Where a message lies in a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The payload.
    pub payload: Range<usize>,
    /// Bytes from the front of the buffer to the end of the message, framing included.
    pub len: usize,
}

/// Finds message boundaries in what was read and puts them into what is sent.
///
/// Each connection gets two clones, one for either direction, so a framer may keep state for each.
///
/// ```
/// use bytes::{BufMut, Bytes, BytesMut};
/// use storm_framing::{FramingError, MessageFramer, Wire};
///
/// /// One length byte, then the payload.
/// #[derive(Clone)]
/// struct Short;
///
/// impl MessageFramer for Short {
///     fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
///         let Some(&len) = buffer.first() else { return Ok(None) };
///         if buffer.len() <= len.into() {
///             return Ok(None);
///         }
///         let mut frame = buffer.split_to(1 + usize::from(len));
///         Ok(Some(frame.split_off(1).freeze()))
///     }
///
///     fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
///         let len = u8::try_from(message.len())
///             .map_err(|_| FramingError::TooBig { len: message.len() as u64, limit: 255 })?;
///         wire.put_slice(&[len]);
///         wire.put_bytes(message);
///         Ok(())
///     }
/// }
///
/// let mut wire = BytesMut::new();
/// Short.encode(Bytes::from_static(b"hi"), &mut wire).unwrap();
/// assert_eq!(&wire[..], b"\x02hi");
/// assert_eq!(Short.decode(&mut wire).unwrap().unwrap(), "hi");
/// ```
pub trait MessageFramer: Send + 'static {
    /// Takes the next whole message off the front of `buffer`; `None` if more bytes are needed.
    ///
    /// A message takes at least one byte off the buffer: one that takes none ends the connection, since it would come
    /// for ever. Bytes that can only belong to a message above the maximum are an error at once, not once they are all
    /// there.
    ///
    /// # Errors
    /// The peer broke the framing; the connection ends.
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError>;

    /// Where the first whole message of `buffer` lies, so that it can be looked at before it is taken; `None`, which is
    /// always allowed, leaves everything to [`decode`](Self::decode): messages that are not whole, errors, and framers
    /// whose messages do not lie in the buffer as they are.
    ///
    /// A message that is looked at in place is then taken off the buffer without a call of `decode`.
    #[inline]
    fn locate(&mut self, buffer: &[u8]) -> Option<Located> {
        let _ = buffer;
        None
    }

    /// As [`decode`](Self::decode), after the peer has ended its stream. By default what is left is no message.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        self.decode(buffer)
    }

    /// Appends the wire form of `message` to `wire`: all of it or, with an error, nothing.
    ///
    /// # Errors
    /// The framing cannot carry the message; the connection goes on without it.
    fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError>;

    /// As [`encode`](Self::encode), for a message that stays its owner's and is copied.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encode_slice(&mut self, message: &[u8], wire: &mut dyn Wire) -> Result<(), FramingError> {
        self.encode(Bytes::copy_from_slice(message), wire)
    }

    /// How many more bytes complete the message at the front of `buffer`, if the framer knows; a hint for how much to
    /// read at once.
    fn wanted(&self, buffer: &[u8]) -> Option<usize> {
        let _ = buffer;
        None
    }

    /// Whether the wire form of a message depends on nothing but the message, so that a broadcast may encode it once
    /// for all receivers. Default `false`.
    fn is_stateless(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says only what it must: every message is one byte.
    struct Single;

    impl MessageFramer for Single {
        fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
            Ok((!buffer.is_empty()).then(|| buffer.split_to(1).freeze()))
        }

        fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
            wire.put_bytes(message);
            Ok(())
        }
    }

    #[test]
    fn a_framer_that_says_no_more_than_it_must_promises_nothing() {
        let mut wire = BytesMut::new();
        Single.encode_slice(b"a", &mut wire).expect("valid");
        assert_eq!(&wire[..], b"a", "copied by way of `encode`");
        assert_eq!((Single.locate(&wire), Single.wanted(&wire)), (None, None));
        assert!(!Single.is_stateless(), "a broadcast may not encode once for all");
        assert_eq!(Single.decode_eof(&mut wire).expect("valid"), Some(Bytes::from_static(b"a")));
        assert_eq!(Single.decode_eof(&mut wire).expect("valid"), None);
    }
}
