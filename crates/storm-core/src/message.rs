//! One message, text or binary.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

/// One application message. Cloning shares the payload.
///
/// Text is known to be UTF-8, so reading it never fails. On TCP the two kinds are sent alike.
///
/// ```
/// use storm_core::Message;
///
/// let text = Message::from("hello");
/// assert!(text.is_text());
/// assert_eq!(text.text(), Some("hello"));
/// assert_eq!(text.data(), b"hello");
///
/// let binary = Message::from(vec![0xff]);
/// assert_eq!(binary.text(), None);
///
/// // What was built in a buffer is sent from it.
/// let mut buffer = bytes::BytesMut::new();
/// buffer.extend_from_slice(&7u64.to_be_bytes());
/// assert_eq!(Message::from(buffer).len(), 8);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// UTF-8 text.
    Text(ByteString),
    /// Any bytes.
    Binary(Bytes),
}

impl Message {
    /// A text message.
    pub fn text_from(text: impl Into<ByteString>) -> Self {
        Self::Text(text.into())
    }

    /// A binary message.
    pub fn binary(data: impl Into<Bytes>) -> Self {
        Self::Binary(data.into())
    }

    /// The payload.
    pub fn data(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(data) => data,
        }
    }

    /// The payload, owned and not copied.
    pub fn into_data(self) -> Bytes {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Binary(data) => data,
        }
    }

    /// Whether this is text.
    pub const fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// The text of a text message, `None` for a binary one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.data().len()
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A message that lies in someone else's buffer: what handlers of [`on_message_ref`](crate::events::Events::message_ref)
/// look at, and what [`Session::try_send_ref`](crate::Session::try_send_ref) copies from.
///
/// ```
/// use storm_core::{Message, MessageRef};
///
/// let message = Message::from("hello");
/// let there = MessageRef::from(&message);
/// assert_eq!(there.text(), Some("hello"));
/// assert_eq!(there.to_message(), message);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageRef<'a> {
    /// UTF-8 text.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
}

impl<'a> MessageRef<'a> {
    /// The payload.
    pub const fn data(self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(data) => data,
        }
    }

    /// Whether this is text.
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// The text of a text message, `None` for a binary one.
    pub const fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// Bytes of payload.
    pub const fn len(self) -> usize {
        self.data().len()
    }

    /// Whether the payload is empty.
    pub const fn is_empty(self) -> bool {
        self.data().is_empty()
    }

    /// A message of its own, with a copy of the payload.
    pub fn to_message(self) -> Message {
        match self {
            Self::Text(text) => Message::Text(text.into()),
            Self::Binary(data) => Message::Binary(Bytes::copy_from_slice(data)),
        }
    }
}

impl<'a> From<&'a Message> for MessageRef<'a> {
    fn from(message: &'a Message) -> Self {
        match message {
            Message::Text(text) => Self::Text(text),
            Message::Binary(data) => Self::Binary(data),
        }
    }
}

impl<'a> From<&'a [u8]> for MessageRef<'a> {
    fn from(data: &'a [u8]) -> Self {
        Self::Binary(data)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for MessageRef<'a> {
    fn from(data: &'a [u8; N]) -> Self {
        Self::Binary(data)
    }
}

impl<'a> From<&'a Bytes> for MessageRef<'a> {
    fn from(data: &'a Bytes) -> Self {
        Self::Binary(data)
    }
}

impl<'a> From<&'a str> for MessageRef<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<Bytes> for Message {
    fn from(data: Bytes) -> Self {
        Self::Binary(data)
    }
}

/// Frozen, not copied.
impl From<BytesMut> for Message {
    fn from(data: BytesMut) -> Self {
        Self::Binary(data.freeze())
    }
}

impl From<Vec<u8>> for Message {
    fn from(data: Vec<u8>) -> Self {
        Self::Binary(data.into())
    }
}

impl From<&'static [u8]> for Message {
    fn from(data: &'static [u8]) -> Self {
        Self::Binary(Bytes::from_static(data))
    }
}

impl<const N: usize> From<&'static [u8; N]> for Message {
    fn from(data: &'static [u8; N]) -> Self {
        Self::Binary(Bytes::from_static(data))
    }
}

impl From<ByteString> for Message {
    fn from(text: ByteString) -> Self {
        Self::Text(text)
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_becomes_a_message_without_a_copy() {
        let buffer = BytesMut::from(&b"built here"[..]);
        let there = buffer.as_ptr();
        let message = Message::from(buffer);
        assert_eq!((message.data(), message.data().as_ptr()), (&b"built here"[..], there));
    }
}
