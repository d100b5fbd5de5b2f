//! A tokio-util codec as a framer.

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::{FramingError, MessageFramer, Wire};

/// What a codec's error must be able to become.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A codec failed for reasons of its own.
#[derive(Debug, thiserror::Error)]
#[error("the codec failed")]
pub struct CodecError(#[source] BoxError);

/// A tokio-util codec as a [`MessageFramer`].
///
/// Each connection gets two clones of the codec, one to decode and one to encode: it must be `Clone` and `Sync`. Items become
/// messages by `Into<Bytes>`, and one that is yielded without a byte taken ends the session, since there could be any number
/// of those. Encoding goes through a scratch buffer, so it copies once more than the framers of this crate.
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use storm_framing::{CodecFramer, MessageFramer};
/// use tokio_util::codec::LinesCodec;
///
/// // `LinesCodec` encodes strings: say how a message becomes one.
/// let mut lines = CodecFramer::with(LinesCodec::new_with_max_length(100), |message: Bytes| {
///     String::from_utf8(message.into()).map_err(Into::into)
/// });
/// let mut wire = BytesMut::new();
/// lines.encode(Bytes::from_static(b"hello"), &mut wire).unwrap();
/// assert_eq!(&wire[..], b"hello\n");
/// assert_eq!(lines.decode(&mut wire).unwrap().unwrap(), "hello");
/// ```
#[derive(Debug, Clone)]
pub struct CodecFramer<C, F> {
    codec: C,
    to_item: F,
    scratch: BytesMut,
}

impl<C> CodecFramer<C, fn(Bytes) -> Result<Bytes, BoxError>> {
    /// A codec that encodes [`Bytes`], such as `LengthDelimitedCodec` and `BytesCodec`.
    pub fn new(codec: C) -> Self {
        Self { codec, to_item: Ok, scratch: BytesMut::new() }
    }
}

impl<C, F> CodecFramer<C, F> {
    /// A codec that encodes items of another type, and how a message becomes one.
    pub fn with<I>(codec: C, to_item: F) -> Self
    where
        F: FnMut(Bytes) -> Result<I, BoxError>,
    {
        Self { codec, to_item, scratch: BytesMut::new() }
    }
}

fn codec_error(error: impl Into<BoxError>) -> FramingError {
    FramingError::malformed(CodecError(error.into()))
}

impl<C, F, I> MessageFramer for CodecFramer<C, F>
where
    C: Decoder<Item: Into<Bytes>, Error: Into<BoxError>>,
    C: Encoder<I, Error: Into<BoxError>> + Send + 'static,
    F: FnMut(Bytes) -> Result<I, BoxError> + Send + 'static,
{
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        self.codec.decode(buffer).map(|item| item.map(Into::into)).map_err(codec_error)
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        self.codec.decode_eof(buffer).map(|item| item.map(Into::into)).map_err(codec_error)
    }

    fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
        let item = (self.to_item)(message).map_err(FramingError::Malformed)?;
        self.scratch.clear();
        self.codec.encode(item, &mut self.scratch).map_err(codec_error)?;
        wire.put_bytes(self.scratch.split().freeze());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::codec::{BytesCodec, LengthDelimitedCodec, LinesCodec};

    use super::*;

    #[test]
    fn a_length_delimited_codec_serves_both_ways() {
        let mut framer = CodecFramer::new(LengthDelimitedCodec::new());
        let mut wire = BytesMut::new();
        framer.encode(Bytes::from_static(b"abc"), &mut wire).expect("valid");
        assert_eq!(&wire[..], b"\0\0\0\x03abc");
        assert_eq!(framer.decode(&mut wire).expect("valid"), Some(Bytes::from_static(b"abc")));
    }

    #[test]
    fn bytes_pass_through_a_bytes_codec() {
        let mut framer = CodecFramer::new(BytesCodec::new());
        let mut buffer = BytesMut::from(&b"xyz"[..]);
        assert_eq!(framer.decode(&mut buffer).expect("valid"), Some(Bytes::from_static(b"xyz")));
    }

    #[test]
    fn the_last_line_needs_no_end() {
        let to_line = |message: Bytes| String::from_utf8(message.into()).map_err(Into::into);
        let mut framer = CodecFramer::with(LinesCodec::new(), to_line);
        let mut buffer = BytesMut::from(&b"a\nb"[..]);
        assert_eq!(framer.decode(&mut buffer).expect("valid"), Some(Bytes::from_static(b"a")));
        assert_eq!(framer.decode(&mut buffer).expect("valid"), None);
        assert_eq!(framer.decode_eof(&mut buffer).expect("valid"), Some(Bytes::from_static(b"b")));
    }

    #[test]
    fn a_codecs_error_is_a_malformed_frame() {
        let mut framer = CodecFramer::new(LengthDelimitedCodec::builder().max_frame_length(2).new_codec());
        let refused = framer.decode(&mut BytesMut::from(&b"\0\0\0\x03abc"[..]));
        assert!(matches!(refused, Err(FramingError::Malformed(_))));
    }
}
