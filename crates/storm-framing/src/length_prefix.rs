//! Four bytes of length, then the payload.

use bytes::{Buf, Bytes, BytesMut};

use crate::{DEFAULT_MAX_MESSAGE, FramingError, Located, MessageFramer, Wire};

const PREFIX: usize = 4;

/// Messages behind their length.
///
/// ```text
/// +----+----+----+----+--------------+
/// | length, big-endian | length bytes |
/// +----+----+----+----+--------------+
/// ```
///
/// A length above the maximum (default 16 MiB) is refused when its four bytes are there, before any payload is
/// buffered. Length 0 is an empty message.
#[derive(Debug, Clone, Copy)]
pub struct LengthPrefixFramer {
    max_message: u32,
}

impl Default for LengthPrefixFramer {
    fn default() -> Self {
        Self::new()
    }
}

impl LengthPrefixFramer {
    /// A framer with a maximum of 16 MiB.
    pub const fn new() -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "16 MiB fits")]
        Self { max_message: DEFAULT_MAX_MESSAGE as u32 }
    }

    /// Sets the most bytes a message may have, in either direction.
    pub const fn max_message(mut self, bytes: u32) -> Self {
        self.max_message = bytes;
        self
    }

    #[inline]
    fn announced(buffer: &[u8]) -> Option<u32> {
        buffer.first_chunk().map(|prefix| u32::from_be_bytes(*prefix))
    }

    #[inline]
    fn check(self, len: u64) -> Result<(), FramingError> {
        let limit = u64::from(self.max_message);
        if len > limit { Err(FramingError::TooBig { len, limit }) } else { Ok(()) }
    }
}

impl MessageFramer for LengthPrefixFramer {
    #[inline(always)]
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        let Some(announced) = Self::announced(buffer) else {
            return Ok(None);
        };
        self.check(announced.into())?;
        let len = announced as usize;
        if buffer.len() - PREFIX < len {
            return Ok(None);
        }
        let mut message = buffer.split_to(PREFIX + len).freeze();
        message.advance(PREFIX);
        Ok(Some(message))
    }

    #[inline(always)]
    fn locate(&mut self, buffer: &[u8]) -> Option<Located> {
        let announced = Self::announced(buffer).filter(|announced| *announced <= self.max_message)?;
        let len = PREFIX + announced as usize;
        (buffer.len() >= len).then_some(Located { payload: PREFIX..len, len })
    }

    #[inline]
    fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
        self.check(message.len() as u64)?;
        #[expect(clippy::cast_possible_truncation, reason = "checked against a u32 above")]
        wire.put_slice(&(message.len() as u32).to_be_bytes());
        wire.put_bytes(message);
        Ok(())
    }

    #[inline]
    fn encode_slice(&mut self, message: &[u8], wire: &mut dyn Wire) -> Result<(), FramingError> {
        self.check(message.len() as u64)?;
        #[expect(clippy::cast_possible_truncation, reason = "checked against a u32 above")]
        let prefix = (message.len() as u32).swap_bytes();
        wire.put_framed(prefix.into(), PREFIX, message);
        Ok(())
    }

    fn wanted(&self, buffer: &[u8]) -> Option<usize> {
        Self::announced(buffer).map(|len| (PREFIX + len as usize).saturating_sub(buffer.len()))
    }

    fn is_stateless(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited() -> LengthPrefixFramer {
        LengthPrefixFramer::new().max_message(5)
    }

    #[test]
    fn length_zero_is_an_empty_message() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 0][..]);
        assert_eq!(limited().decode(&mut buffer).expect("valid"), Some(Bytes::new()));
        assert!(buffer.is_empty());
    }

    #[test]
    fn the_limit_is_delivered_and_one_more_is_refused_on_the_prefix_alone() {
        let mut buffer = BytesMut::from(&b"\0\0\0\x05abcde"[..]);
        assert_eq!(limited().decode(&mut buffer).expect("valid"), Some(Bytes::from_static(b"abcde")));
        for (prefix, announced) in [([0, 0, 0, 6], 6), ([0xff; 4], 0xffff_ffff)] {
            let refused = limited().decode(&mut BytesMut::from(&prefix[..]));
            assert!(matches!(refused, Err(FramingError::TooBig { len, limit: 5 }) if len == announced));
        }
    }

    #[test]
    fn any_split_gives_the_same_messages() {
        let stream = b"\0\0\0\x05abcde\0\0\0\0\0\0\0\x01x";
        for split in 0..=stream.len() {
            let mut framer = limited();
            let mut buffer = BytesMut::new();
            let mut messages = Vec::new();
            for part in [&stream[..split], &stream[split..]] {
                buffer.extend_from_slice(part);
                while let Some(message) = framer.decode(&mut buffer).expect("valid") {
                    messages.push(message);
                }
            }
            assert_eq!(messages, ["abcde", "", "x"], "split at {split}");
        }
    }

    #[test]
    fn sending_more_than_the_limit_puts_nothing_on_the_wire() {
        let mut wire = BytesMut::new();
        let refused = limited().encode(Bytes::from_static(b"abcdef"), &mut wire);
        assert!(matches!(refused, Err(FramingError::TooBig { len: 6, limit: 5 })));
        assert!(wire.is_empty());
    }

    #[test]
    fn a_message_that_is_copied_goes_as_one_that_is_owned() {
        let (mut owned, mut copied) = (BytesMut::new(), BytesMut::new());
        for message in [&b""[..], b"abcde"] {
            limited().encode(Bytes::from_static(message), &mut owned).expect("within the limit");
            limited().encode_slice(message, &mut copied).expect("within the limit");
        }
        assert_eq!(&owned[..], b"\0\0\0\0\0\0\0\x05abcde");
        assert_eq!(copied, owned);
        let refused = limited().encode_slice(b"abcdef", &mut copied);
        assert!(matches!(refused, Err(FramingError::TooBig { len: 6, limit: 5 })));
        assert_eq!(copied, owned);
    }

    #[test]
    fn only_whole_messages_within_the_limit_are_located() {
        let stream = b"\0\0\0\x05abcderest";
        for here in 0..=stream.len() {
            let whole = (here >= 9).then_some(Located { payload: 4..9, len: 9 });
            assert_eq!(limited().locate(&stream[..here]), whole, "{here} bytes");
        }
        assert_eq!(limited().locate(b"\0\0\0\0"), Some(Located { payload: 4..4, len: 4 }));
        assert_eq!(limited().locate(b"\0\0\0\x06abcdef"), None, "`decode` says why");
    }

    #[test]
    fn it_knows_what_is_missing() {
        assert_eq!(limited().wanted(b"\0\0"), None);
        assert_eq!(limited().wanted(b"\0\0\0\x05ab"), Some(3));
    }
}
