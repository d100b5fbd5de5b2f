//! What a peer may make us hold.
//!
//! Owns: the numbers.
//! In:   the application's configuration.
//! Out:  bounds the receiver checks on every head and while inflating.
//! Not here: limits of the upgrade request ([`handshake::HeadLimits`](crate::handshake::HeadLimits)).

/// Defences of the receive half. `None` switches one off.
///
/// ```
/// use storm_ws_proto::Limits;
///
/// let limits = Limits::default().max_frame_size(64 * 1024).max_fragments(None);
/// assert_eq!(limits.max_frame_size, Some(65_536));
/// assert_eq!(limits.max_message_size, Some(4 * 1024 * 1024));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Payload bytes of one frame as it stands on the wire. Default 1 MiB. An unfragmented frame is
    /// buffered whole, so this is also what one connection can make the read buffer grow to. Broken:
    /// close 1009, as soon as the head is here.
    pub max_frame_size: Option<u64>,
    /// Bytes of one message, all fragments together and after inflating. Default 4 MiB. Broken: close
    /// 1009, on the head for plain messages and in the middle of inflating for compressed ones.
    pub max_message_size: Option<u64>,
    /// Frames in one message. Default 16 384. Bounds the work of a message made of empty frames.
    /// Broken: close 1008.
    pub max_fragments: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_frame_size: Some(1 << 20), max_message_size: Some(4 << 20), max_fragments: Some(16_384) }
    }
}

impl Limits {
    /// Sets [`max_frame_size`](Self::max_frame_size).
    #[must_use]
    pub fn max_frame_size(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_frame_size = bytes.into();
        self
    }

    /// Sets [`max_message_size`](Self::max_message_size).
    #[must_use]
    pub fn max_message_size(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_message_size = bytes.into();
        self
    }

    /// Sets [`max_fragments`](Self::max_fragments).
    #[must_use]
    pub fn max_fragments(mut self, frames: impl Into<Option<u32>>) -> Self {
        self.max_fragments = frames.into();
        self
    }
}
