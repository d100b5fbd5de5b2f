//! The rules a peer can break on an open connection.
//!
//! Owns: one variant per rule, and which close code answers it.
//! In:   the numbers seen and allowed.
//! Out:  a message for the log, a code for the peer.
//! Not here: errors of the upgrade (`handshake`) and of our own caller (`sender`).

use crate::close::CloseCode;

/// The peer broke a rule. [`close_code`](Self::close_code) says what to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A client sent a frame without a mask (RFC 6455 §5.1).
    #[error("client frame is not masked")]
    UnmaskedFrame,
    /// A server sent a masked frame (RFC 6455 §5.1).
    #[error("server frame is masked")]
    MaskedFrame,
    /// Reserved bits that no negotiated extension gives a meaning here (RFC 6455 §5.2).
    #[error("reserved bits {bits:#05b} are set")]
    ReservedBits {
        /// RSV1, RSV2, RSV3 from high to low.
        bits: u8,
    },
    /// Opcodes 0x3 to 0x7 and 0xB to 0xF (RFC 6455 §5.2).
    #[error("opcode {opcode:#x} is reserved")]
    ReservedOpcode {
        /// The opcode seen.
        opcode: u8,
    },
    /// A control frame without FIN (RFC 6455 §5.5).
    #[error("control frame with opcode {opcode:#x} is fragmented")]
    FragmentedControl {
        /// The opcode seen.
        opcode: u8,
    },
    /// A control frame with an extended length, so of more than 125 bytes (RFC 6455 §5.5).
    #[error("control frame with opcode {opcode:#x} has more than {max} payload bytes")]
    ControlTooLong {
        /// The opcode seen.
        opcode: u8,
        /// What is allowed: 125.
        max: u8,
    },
    /// A length written in more bytes than it needs (RFC 6455 §5.2).
    #[error("length {len} does not need its {width}-byte form")]
    NonMinimalLength {
        /// The length announced.
        len: u64,
        /// Bytes it was written in: 2 or 8.
        width: u8,
    },
    /// A 64-bit length with its top bit set (RFC 6455 §5.2).
    #[error("length {len:#x} has its top bit set")]
    LengthTopBit {
        /// The length announced.
        len: u64,
    },
    /// A frame above [`Limits::max_frame_size`](crate::Limits::max_frame_size), or one this machine
    /// cannot address.
    #[error("frame of {len} bytes is larger than {max}")]
    FrameTooBig {
        /// The length announced.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A message above [`Limits::max_message_size`](crate::Limits::max_message_size).
    #[error("message of at least {len} bytes is larger than {max}")]
    MessageTooBig {
        /// What the message had grown to, or would have with the frame announced.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A message of more frames than [`Limits::max_fragments`](crate::Limits::max_fragments).
    #[error("message has more than {max} fragments")]
    TooManyFragments {
        /// The limit.
        max: u32,
    },
    /// A continuation while no message is open (RFC 6455 §5.4).
    #[error("continuation frame without a message to continue")]
    UnexpectedContinuation,
    /// A text or binary frame while a fragmented message is open (RFC 6455 §5.4).
    #[error("data frame with opcode {opcode:#x} inside a fragmented message")]
    ExpectedContinuation {
        /// The opcode seen.
        opcode: u8,
    },
    /// Text that is not UTF-8 (RFC 6455 §8.1).
    #[error("text is not valid UTF-8")]
    InvalidUtf8,
    /// A close payload of one byte (RFC 6455 §5.5.1).
    #[error("close payload of one byte")]
    CloseTooShort,
    /// A close code that must not be sent (RFC 6455 §7.4).
    #[error("close code {code} is not allowed on the wire")]
    InvalidCloseCode {
        /// The code seen.
        code: u16,
    },
    /// A close reason that is not UTF-8 (RFC 6455 §5.5.1).
    #[error("close reason is not valid UTF-8")]
    InvalidCloseReason,
    /// Compressed data that does not inflate, or ends inside a block (RFC 7692 §7.2.2).
    #[error("compressed message is corrupt")]
    CorruptDeflate,
}

impl ProtocolError {
    /// The code to close with. The one place where rules map to codes.
    #[must_use]
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::InvalidUtf8 | Self::InvalidCloseReason => CloseCode::INVALID_PAYLOAD,
            // RFC 7692 names no code; the payload is not what its RSV1 bit says it is: 1007.
            Self::CorruptDeflate => CloseCode::INVALID_PAYLOAD,
            Self::FrameTooBig { .. } | Self::MessageTooBig { .. } => CloseCode::MESSAGE_TOO_BIG,
            Self::TooManyFragments { .. } => CloseCode::POLICY_VIOLATION,
            Self::UnmaskedFrame
            | Self::MaskedFrame
            | Self::ReservedBits { .. }
            | Self::ReservedOpcode { .. }
            | Self::FragmentedControl { .. }
            | Self::ControlTooLong { .. }
            | Self::NonMinimalLength { .. }
            | Self::LengthTopBit { .. }
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation { .. }
            | Self::CloseTooShort
            | Self::InvalidCloseCode { .. } => CloseCode::PROTOCOL_ERROR,
        }
    }
}
