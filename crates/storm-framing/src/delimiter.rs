//! Payloads separated by a delimiter.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use crate::{DEFAULT_MAX_MESSAGE, FramingError, Located, MessageFramer, Wire};

/// Messages that end with a delimiter, `\n` unless told otherwise. The delimiter is not part of the message.
/// [`lines`](Self::lines) takes `\r\n` as well.
///
/// More than the maximum (default 16 MiB) without a delimiter is refused as soon as it is there. Sending a message that
/// contains the delimiter is refused: the peer would see two. What follows the last delimiter when the peer ends its
/// stream is no message.
#[derive(Debug, Clone)]
pub struct DelimiterFramer {
    delimiter: Bytes,
    max_message: usize,
    /// A carriage return before the delimiter belongs to it.
    lines: bool,
    /// Bytes at the front of the buffer that are known to begin no delimiter: each byte is looked at once.
    searched: usize,
}

impl Default for DelimiterFramer {
    fn default() -> Self {
        Self::new(&b"\n"[..])
    }
}

impl DelimiterFramer {
    /// A framer for any delimiter, with a maximum of 16 MiB.
    ///
    /// # Panics
    /// The delimiter is empty.
    pub fn new(delimiter: impl Into<Bytes>) -> Self {
        let delimiter = delimiter.into();
        assert!(!delimiter.is_empty(), "a delimiter has at least one byte");
        Self { delimiter, max_message: DEFAULT_MAX_MESSAGE, lines: false, searched: 0 }
    }

    /// A framer for lines that end in `\n` or `\r\n`, as terminals and other systems have it. Lines are sent with `\n`; one
    /// that ends with `\r` itself is refused, since the peer could not tell.
    ///
    /// ```
    /// use bytes::BytesMut;
    /// use storm_framing::{DelimiterFramer, MessageFramer};
    ///
    /// let mut framer = DelimiterFramer::lines();
    /// let mut received = BytesMut::from("one\r\ntwo\n");
    /// assert_eq!(framer.decode(&mut received).unwrap().unwrap(), "one");
    /// assert_eq!(framer.decode(&mut received).unwrap().unwrap(), "two");
    /// ```
    pub fn lines() -> Self {
        Self { lines: true, ..Self::default() }
    }

    /// Sets the most bytes a message may have, the delimiter not counted, in either direction.
    pub const fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    fn find(&self, haystack: &[u8]) -> Option<usize> {
        match *self.delimiter {
            [byte] => memchr::memchr(byte, haystack),
            _ => memmem::find(haystack, &self.delimiter),
        }
    }

    /// How long the message is whose delimiter, or what may become it, begins behind `before`.
    #[inline]
    fn message_len(&self, before: &[u8]) -> usize {
        before.len() - usize::from(self.lines && before.ends_with(b"\r"))
    }

    /// Whether the peer would get `message` back as it is.
    #[inline]
    fn check_sent(&self, message: &[u8]) -> Result<(), FramingError> {
        self.check(message.len())?;
        if let Some(at) = self.find(message) {
            return Err(FramingError::ContainsDelimiter { at });
        }
        match self.message_len(message) {
            at if at < message.len() => Err(FramingError::ContainsDelimiter { at }),
            _ => Ok(()),
        }
    }

    #[inline]
    fn check(&self, len: usize) -> Result<(), FramingError> {
        if len > self.max_message {
            return Err(FramingError::TooBig { len: len as u64, limit: self.max_message as u64 });
        }
        Ok(())
    }
}

impl MessageFramer for DelimiterFramer {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FramingError> {
        let Some(found) = self.find(&buffer[self.searched..]) else {
            // The delimiter's first bytes may be there already.
            self.searched = buffer.len().saturating_sub(self.delimiter.len() - 1);
            self.check(self.message_len(&buffer[..self.searched]))?;
            return Ok(None);
        };
        let end = self.searched + found;
        self.searched = 0;
        let len = self.message_len(&buffer[..end]);
        self.check(len)?;
        let mut message = buffer.split_to(end + self.delimiter.len());
        message.truncate(len);
        Ok(Some(message.freeze()))
    }

    #[inline]
    fn locate(&mut self, buffer: &[u8]) -> Option<Located> {
        let end = self.searched + self.find(&buffer[self.searched..])?;
        let len = self.message_len(&buffer[..end]);
        self.check(len).ok()?;
        self.searched = 0;
        Some(Located { payload: 0..len, len: end + self.delimiter.len() })
    }

    #[inline]
    fn encode(&mut self, message: Bytes, wire: &mut dyn Wire) -> Result<(), FramingError> {
        self.check_sent(&message)?;
        wire.put_bytes(message);
        wire.put_slice(&self.delimiter);
        Ok(())
    }

    #[inline]
    fn encode_slice(&mut self, message: &[u8], wire: &mut dyn Wire) -> Result<(), FramingError> {
        self.check_sent(message)?;
        wire.put_slice(message);
        wire.put_slice(&self.delimiter);
        Ok(())
    }

    fn is_stateless(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(framer: &mut DelimiterFramer, parts: &[&[u8]]) -> Vec<Bytes> {
        let mut buffer = BytesMut::new();
        let mut messages = Vec::new();
        for part in parts {
            buffer.extend_from_slice(part);
            while let Some(message) = framer.decode(&mut buffer).expect("valid") {
                messages.push(message);
            }
        }
        messages
    }

    #[test]
    fn any_split_gives_the_same_messages() {
        let stream = b"one--\r--\r\r--\r-two--\rrest";
        for split in 0..=stream.len() {
            let mut framer = DelimiterFramer::new(&b"--\r"[..]);
            let messages = all(&mut framer, &[&stream[..split], &stream[split..]]);
            assert_eq!(messages, ["one", "", "\r", "-two"], "split at {split}");
        }
    }

    #[test]
    fn lines_end_as_either_system_ends_them_at_any_split_and_in_place() {
        let stream = b"one\r\ntwo\n\r\n\nth\rree\r\r\nrest\r";
        for split in 0..=stream.len() {
            let mut framer = DelimiterFramer::lines().max_message(7);
            let messages = all(&mut framer, &[&stream[..split], &stream[split..]]);
            assert_eq!(messages, ["one", "two", "", "", "th\rree\r"], "split at {split}");
        }
        let located = DelimiterFramer::lines().locate(b"one\r\ntwo");
        assert_eq!(located, Some(Located { payload: 0..3, len: 5 }));
    }

    #[test]
    fn the_end_of_a_line_is_not_counted() {
        let mut framer = DelimiterFramer::lines().max_message(3);
        assert_eq!(all(&mut framer, &[b"abc\r", b"\nabc\r\n"]), ["abc", "abc"]);
        for longer in [&b"abcd"[..], b"abc\rd", b"abcd\r\n", b"abc\r\r"] {
            let refused = framer.clone().decode(&mut BytesMut::from(longer));
            assert!(matches!(refused, Err(FramingError::TooBig { limit: 3, .. })), "{longer:?}");
        }
    }

    #[test]
    fn a_line_is_sent_if_it_comes_back_as_it_is() {
        let mut framer = DelimiterFramer::lines();
        let mut wire = BytesMut::new();
        for (line, at) in [("a\r", 1), ("a\nb", 1), ("\r\n", 1)] {
            let whole = framer.encode(line.into(), &mut wire);
            let slice = framer.encode_slice(line.as_bytes(), &mut wire);
            for refused in [whole, slice] {
                assert!(
                    matches!(refused, Err(FramingError::ContainsDelimiter { at: found }) if found == at),
                    "{line:?}: {refused:?}"
                );
            }
        }
        framer.encode_slice(b"a\rb", &mut wire).expect("it ends with another byte");
        assert_eq!(&wire[..], b"a\rb\n");
        // Elsewhere it is a byte like any other.
        DelimiterFramer::default().encode_slice(b"a\r", &mut wire).expect("not its delimiter");
    }

    #[test]
    fn one_byte_at_a_time_looks_at_each_byte_once() {
        let mut framer = DelimiterFramer::default();
        let mut buffer = BytesMut::new();
        for count in 1..=1000 {
            buffer.extend_from_slice(b"x");
            assert!(framer.decode(&mut buffer).expect("valid").is_none());
            assert_eq!(framer.searched, count);
        }
        buffer.extend_from_slice(b"\n");
        assert_eq!(framer.decode(&mut buffer).expect("valid").map(|m| m.len()), Some(1000));
    }

    #[test]
    fn a_line_at_the_limit_is_delivered_and_a_longer_one_refused_before_its_end() {
        let mut framer = DelimiterFramer::default().max_message(3);
        assert_eq!(all(&mut framer, &[b"abc\n"]), ["abc"]);
        let refused = framer.decode(&mut BytesMut::from(&b"abcd"[..]));
        assert!(matches!(refused, Err(FramingError::TooBig { len: 4, limit: 3 })));
        let refused = framer.clone().decode(&mut BytesMut::from(&b"abcd\n"[..]));
        assert!(matches!(refused, Err(FramingError::TooBig { limit: 3, .. })));
    }

    #[test]
    fn only_whole_messages_within_the_limit_are_located() {
        let mut framer = DelimiterFramer::new(&b"--"[..]).max_message(3);
        assert_eq!(framer.locate(b"abc-"), None);
        assert_eq!(framer.locate(b"abc--d--"), Some(Located { payload: 0..3, len: 5 }));
        assert_eq!(framer.locate(b"abcd--"), None, "`decode` says why");
        // What has been searched is not the next message's.
        assert!(framer.decode(&mut BytesMut::from("ab")).expect("valid").is_none());
        assert_eq!(framer.locate(b"ab--"), Some(Located { payload: 0..2, len: 4 }));
        assert_eq!(framer.locate(b"--"), Some(Located { payload: 0..0, len: 2 }));
    }

    #[test]
    fn a_message_with_the_delimiter_in_it_is_refused_whole() {
        let mut wire = BytesMut::new();
        let refused = DelimiterFramer::default().encode(Bytes::from_static(b"a\nb"), &mut wire);
        assert!(matches!(refused, Err(FramingError::ContainsDelimiter { at: 1 })));
        assert!(wire.is_empty());
    }

    #[test]
    #[should_panic(expected = "at least one byte")]
    fn an_empty_delimiter_is_refused() {
        let _ = DelimiterFramer::new(Bytes::new());
    }
}
