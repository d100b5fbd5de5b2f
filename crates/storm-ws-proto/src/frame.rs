//! The head of a frame (RFC 6455 §5.2).
//!
//! Owns: the byte layout and every rule that one head can break on its own.
//! In:   bytes from the wire; the parts of a head to write.
//! Out:  a checked head and its size; at most 14 bytes.
//! Not here: rules that need memory of earlier frames, limits, roles (`receiver`).
//!
//! ```text
//!  0               1               2               ...
//! +-+-+-+-+-------+-+-------------+----------------------------+-----------+
//! |F|R|R|R| op    |M| length      | length, 2 or 8 bytes       | mask key  |
//! |I|S|S|S| code  |A| 0..=125     | only if `length` is        | 4 bytes,  |
//! |N|V|V|V|       |S| 126: 2 more | 126 or 127, big-endian     | only if   |
//! | |1|2|3|       |K| 127: 8 more |                            | MASK      |
//! +-+-+-+-+-------+-+-------------+----------------------------+-----------+
//! ```

use crate::error::ProtocolError;
use crate::message::MessageKind;

/// RFC 6455 §5.5: the longest payload of a control frame, in bytes.
pub const MAX_CONTROL: u8 = 125;
/// Longest head: two bytes, eight of length, four of mask key.
pub(crate) const MAX_HEAD: usize = 14;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Continues the open message.
    Continuation = 0x0,
    /// Starts a text message.
    Text = 0x1,
    /// Starts a binary message.
    Binary = 0x2,
    /// Closes the connection.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping, or comes unasked.
    Pong = 0xA,
}

impl Opcode {
    /// Whether frames of this kind may stand between the fragments of a message.
    #[must_use]
    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }

    fn from_bits(bits: u8) -> Result<Self, ProtocolError> {
        Ok(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            opcode => return Err(ProtocolError::ReservedOpcode { opcode }),
        })
    }
}

impl From<MessageKind> for Opcode {
    fn from(kind: MessageKind) -> Self {
        match kind {
            MessageKind::Text => Self::Text,
            MessageKind::Binary => Self::Binary,
        }
    }
}

/// The first two bytes of a head, checked: enough to refuse a frame before its length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameStart {
    pub(crate) fin: bool,
    pub(crate) rsv1: bool,
    pub(crate) opcode: Opcode,
    pub(crate) masked: bool,
    /// 0..=127: the length itself or the width of its extended form.
    short_len: u8,
}

impl FrameStart {
    #[inline]
    pub(crate) fn parse(first: u8, second: u8) -> Result<Self, ProtocolError> {
        let (fin, opcode) = (first & 0x80 != 0, Opcode::from_bits(first & 0x0F)?);
        let (masked, short_len) = (second & 0x80 != 0, second & 0x7F);
        let rsv1 = first & 0x40 != 0;
        // RFC 6455 §5.2: no extension we speak uses RSV2 or RSV3; RFC 7692 §6: RSV1 marks data frames.
        if first & 0x30 != 0 || (rsv1 && opcode.is_control()) {
            return Err(ProtocolError::ReservedBits { bits: (first >> 4) & 0x07 });
        }
        if opcode.is_control() {
            // RFC 6455 §5.5: control frames are never fragmented and carry at most 125 bytes.
            if !fin {
                return Err(ProtocolError::FragmentedControl { opcode: opcode as u8 });
            }
            if short_len > MAX_CONTROL {
                return Err(ProtocolError::ControlTooLong { opcode: opcode as u8, max: MAX_CONTROL });
            }
        }
        Ok(Self { fin, rsv1, opcode, masked, short_len })
    }

    /// Reads the rest of the head from `wire`, which starts at the frame; `None` while it is short.
    #[inline]
    pub(crate) fn complete(self, wire: &[u8]) -> Result<Option<(FrameHead, usize)>, ProtocolError> {
        let rest = &wire[2..];
        let (len, rest) = match self.short_len {
            126 => {
                let Some((bytes, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let len = u64::from(u16::from_be_bytes(*bytes));
                // RFC 6455 §5.2: the shortest form must be used. Some peers tolerate more; we do not.
                if len < 126 {
                    return Err(ProtocolError::NonMinimalLength { len, width: 2 });
                }
                (len, rest)
            }
            127 => {
                let Some((bytes, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                let len = u64::from_be_bytes(*bytes);
                if len >> 63 != 0 {
                    return Err(ProtocolError::LengthTopBit { len });
                }
                if len <= 0xFFFF {
                    return Err(ProtocolError::NonMinimalLength { len, width: 8 });
                }
                (len, rest)
            }
            len => (u64::from(len), rest),
        };
        let (mask, rest) = if self.masked {
            let Some((key, rest)) = rest.split_first_chunk() else {
                return Ok(None);
            };
            (Some(*key), rest)
        } else {
            (None, rest)
        };
        let head = FrameHead { fin: self.fin, rsv1: self.rsv1, opcode: self.opcode, mask, len };
        Ok(Some((head, wire.len() - rest.len())))
    }
}

/// The head of a whole message in one plain, unmasked frame, as a little-endian number, and its size in bytes: what
/// [`FrameHead::write`] writes, in registers.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the cast is in the arm that bounds the length")]
pub(crate) const fn plain_head(opcode: Opcode, len: u64) -> (u128, usize) {
    let first = 0x80 | opcode as u128;
    match len {
        0..=125 => (first | (len as u128) << 8, 2),
        126..=0xFFFF => (first | 126 << 8 | ((len as u16).swap_bytes() as u128) << 16, 4),
        _ => (first | 127 << 8 | (len.swap_bytes() as u128) << 16, 10),
    }
}

/// A whole frame head.
///
/// ```
/// use storm_ws_proto::{FrameHead, Opcode};
///
/// let (head, size) = FrameHead::parse(&[0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D])?.unwrap();
/// assert_eq!((head.fin, head.opcode, head.len, size), (true, Opcode::Text, 5, 6));
/// # Ok::<(), storm_ws_proto::ProtocolError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Last frame of its message.
    pub fin: bool,
    /// The message is compressed (RFC 7692 §6); only on its first frame.
    pub rsv1: bool,
    /// What the frame is for.
    pub opcode: Opcode,
    /// Key the payload is masked with.
    pub mask: Option<[u8; 4]>,
    /// Payload bytes.
    pub len: u64,
}

impl FrameHead {
    /// Reads a head from the start of `wire`, with its size in bytes; `None` while it is incomplete.
    ///
    /// # Errors
    /// Any rule a head can break by itself, as soon as the bytes that break it are here.
    #[inline]
    pub fn parse(wire: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        match wire {
            [first, second, ..] => FrameStart::parse(*first, *second)?.complete(wire),
            _ => Ok(None),
        }
    }

    /// Writes the head to the start of `out` and says how long it is.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "each cast is in the arm that bounds the length")]
    pub(crate) fn write(&self, out: &mut [u8; MAX_HEAD]) -> usize {
        let mask_bit = if self.mask.is_some() { 0x80 } else { 0 };
        out[0] = (u8::from(self.fin) << 7) | (u8::from(self.rsv1) << 6) | self.opcode as u8;
        let mut at = match self.len {
            0..=125 => {
                out[1] = mask_bit | self.len as u8;
                2
            }
            126..=0xFFFF => {
                out[1] = mask_bit | 126;
                out[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
                4
            }
            _ => {
                out[1] = mask_bit | 127;
                out[2..10].copy_from_slice(&self.len.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.mask {
            out[at..at + 4].copy_from_slice(&key);
            at += 4;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, u64::MAX >> 1] {
            for mask in [None, Some([1, 2, 3, 4])] {
                for (fin, rsv1) in [(true, false), (false, true)] {
                    let head = FrameHead { fin, rsv1, opcode: Opcode::Binary, mask, len };
                    let mut bytes = [0; MAX_HEAD];
                    let size = head.write(&mut bytes);
                    assert_eq!(FrameHead::parse(&bytes[..size]), Ok(Some((head, size))));
                    for short in 0..size {
                        assert_eq!(FrameHead::parse(&bytes[..short]), Ok(None), "{len} cut at {short}");
                    }
                }
            }
        }
    }

    #[test]
    fn reserved_opcodes() {
        for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
            assert_eq!(
                FrameHead::parse(&[0x80 | opcode, 0x80]),
                Err(ProtocolError::ReservedOpcode { opcode })
            );
        }
    }

    #[test]
    fn reserved_bits() {
        assert_eq!(FrameHead::parse(&[0xA1, 0]), Err(ProtocolError::ReservedBits { bits: 0b010 }));
        assert_eq!(FrameHead::parse(&[0x91, 0]), Err(ProtocolError::ReservedBits { bits: 0b001 }));
        assert_eq!(FrameHead::parse(&[0xC9, 0]), Err(ProtocolError::ReservedBits { bits: 0b100 }));
    }

    #[test]
    fn control_rules_need_only_two_bytes() {
        assert_eq!(FrameHead::parse(&[0x09, 0]), Err(ProtocolError::FragmentedControl { opcode: 9 }));
        let too_long = ProtocolError::ControlTooLong { opcode: 8, max: 125 };
        assert_eq!(FrameHead::parse(&[0x88, 126]), Err(too_long));
        assert_eq!(FrameHead::parse(&[0x88, 0x80 | 127]), Err(too_long));
    }

    #[test]
    fn a_plain_head_in_registers_is_the_one_in_memory() {
        for opcode in [Opcode::Text, Opcode::Binary] {
            for len in [0, 1, 125, 126, 0xFFFF, 0x1_0000, u64::MAX >> 1] {
                let mut expected = [0; MAX_HEAD];
                let head = FrameHead { fin: true, rsv1: false, opcode, mask: None, len };
                let size = head.write(&mut expected);
                let (number, len) = plain_head(opcode, head.len);
                assert_eq!(number.to_le_bytes()[..len], expected[..size], "{head:?}");
            }
        }
    }

    #[test]
    fn lengths_in_too_many_bytes() {
        let short = ProtocolError::NonMinimalLength { len: 5, width: 2 };
        assert_eq!(FrameHead::parse(&[0x82, 126, 0, 5]), Err(short));
        let long = ProtocolError::NonMinimalLength { len: 300, width: 8 };
        assert_eq!(FrameHead::parse(&[0x82, 127, 0, 0, 0, 0, 0, 0, 1, 44]), Err(long));
    }

    #[test]
    fn top_bit_of_a_64_bit_length() {
        let head = [0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(FrameHead::parse(&head), Err(ProtocolError::LengthTopBit { len: 1 << 63 }));
    }
}
