//! What can be wrong with a frame.

/// A frame that cannot be received, or a message that cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// The message is larger than the framer's maximum. Ends a receiving session with `MessageTooBig`.
    #[error("a message of {len} bytes or more exceeds the limit of {limit}")]
    TooBig {
        /// Bytes of payload announced or seen so far.
        len: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The message contains the framer's own delimiter, so the peer would see two messages.
    #[error("the message contains the delimiter at byte {at}")]
    ContainsDelimiter {
        /// Where it begins.
        at: usize,
    },
    /// Anything else a custom framer objects to.
    #[error("the frame is malformed")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl FramingError {
    /// A malformed frame, with the cause.
    pub fn malformed(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Malformed(cause.into())
    }
}
