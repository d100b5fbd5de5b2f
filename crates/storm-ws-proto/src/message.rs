//! The unit an application sends and receives.
//!
//! Owns: one payload and the fact whether it is text.
//! In:   the assembler's finished bytes, or the application's.
//! Out:  questions about them that cannot fail.
//! Not here: frames, fragments, compression.

use bytes::Bytes;
use bytestring::ByteString;

/// Whether a message is text or binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

/// One whole message. Cloning shares the payload.
///
/// ```
/// use storm_ws_proto::Message;
///
/// let message = Message::from("hello");
/// assert!(message.is_text());
/// assert_eq!(message.text(), Some("hello"));
/// assert_eq!(message.data().len(), 5);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Text, known to be valid UTF-8.
    Text(ByteString),
    /// Any bytes.
    Binary(Bytes),
}

impl Message {
    /// Whether this is a text message.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// Text or binary.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        match self {
            Self::Text(_) => MessageKind::Text,
            Self::Binary(_) => MessageKind::Binary,
        }
    }

    /// The text of a text message; `None` for a binary one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// The payload, whatever its kind.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(data) => data,
        }
    }

    /// The payload, whatever its kind.
    #[must_use]
    pub fn into_data(self) -> Bytes {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Binary(data) => data,
        }
    }

    /// Payload bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data().len()
    }

    /// Whether the payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data().is_empty()
    }
}

/// One whole message that lies in the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageRef<'a> {
    /// Text, known to be valid UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
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

impl From<Bytes> for Message {
    fn from(data: Bytes) -> Self {
        Self::Binary(data)
    }
}

impl From<Vec<u8>> for Message {
    fn from(data: Vec<u8>) -> Self {
        Self::Binary(data.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_answers_as_text_and_as_bytes() {
        let message = Message::from("grün".to_owned());
        assert!(message.is_text());
        assert_eq!((message.kind(), message.text(), message.len()), (MessageKind::Text, Some("grün"), 5));
        assert_eq!(message.into_data(), "grün".as_bytes());
    }

    #[test]
    fn binary_has_no_text() {
        let message = Message::from(vec![0xFF]);
        assert_eq!((message.is_text(), message.text(), message.is_empty()), (false, None, false));
        assert!(Message::from(Vec::new()).is_empty());
    }
}
