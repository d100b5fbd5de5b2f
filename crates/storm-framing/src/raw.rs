//! No framing.

use bytes::{Bytes, BytesMut};

use crate::{FramingError, Located, MessageFramer, Wire};

/// Passes bytes through: a message is whatever one read brought, and an empty message puts nothing on the wire.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawFramer;

impl MessageFramer for RawFramer {
    #[inline]
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        Ok((!buffer.is_empty()).then(|| buffer.split().freeze()))
    }

    #[inline]
    fn locate(&mut self, buffer: &[u8]) -> Option<Located> {
        (!buffer.is_empty()).then_some(Located { payload: 0..buffer.len(), len: buffer.len() })
    }

    #[inline]
    fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
        wire.put_bytes(message);
        Ok(())
    }

    #[inline]
    fn encode_slice(&mut self, message: &[u8], wire: &mut dyn Wire) -> Result<(), FramingError> {
        wire.put_slice(message);
        Ok(())
    }

    fn is_stateless(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_unchanged() {
        let mut wire = BytesMut::new();
        RawFramer.encode(Bytes::from_static(b"ab"), &mut wire).expect("raw takes anything");
        RawFramer.encode(Bytes::new(), &mut wire).expect("raw takes anything");
        let message = RawFramer.decode(&mut wire).expect("raw takes anything").expect("a message");
        assert_eq!(message, "ab");
        assert!(RawFramer.decode(&mut wire).expect("raw takes anything").is_none());
    }
    #[test]
    fn all_that_is_there_is_located_and_copied() {
        assert_eq!(RawFramer.locate(b""), None);
        assert_eq!(RawFramer.locate(b"ab"), Some(Located { payload: 0..2, len: 2 }));
        let mut wire = BytesMut::new();
        RawFramer.encode_slice(b"ab", &mut wire).expect("raw takes anything");
        assert_eq!(&wire[..], b"ab");
    }
}
