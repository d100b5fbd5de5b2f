//! What messages look like on the wire, in both directions.
//!
//! Owns: encodings of one message for the server, and of its echo.
//! In:   payloads.
//! Out:  the two `Pattern`s of a run.
//! Not here: decoding. Replies are compared as bytes; a server which frames an echo otherwise (in fragments,
//! say) is not what this generator measures.

use crate::cli::Framer;
use crate::load::{Pattern, deflate};

/// Mask of every frame. RFC 6455 §5.3 wants a fresh unpredictable one for each, to protect proxies from
/// scripts in browsers; a load generator has neither, and a server unmasks all alike.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Longest slice handed to one write: less would split what a server should get in one read.
const STRETCH: usize = 256 << 10;

/// The encoding of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// A TCP stream, framed.
    Tcp(Framer),
    /// WebSocket frames: text or binary.
    WebSocket {
        /// Text frames rather than binary ones.
        text: bool,
    },
    /// WebSocket text messages, JSON, compressed.
    Deflate,
}

impl Wire {
    /// The stream to send: messages of `size`, `in_flight` of them in one slice where that is not too much.
    pub fn sent(self, size: usize, in_flight: usize) -> Pattern {
        let stretch = STRETCH.min(in_flight * (size + 14));
        if self == Self::Deflate {
            let frames = self.payloads(size).into_iter().map(|payload| {
                let mut frame = Vec::new();
                // RFC 7692 §6: RSV1 marks a compressed message.
                masked_frame(0xc0 | opcode(true), &deflate::compressed(&payload), &mut frame);
                frame
            });
            return Pattern::of(&frames.collect::<Vec<_>>(), stretch);
        }
        Pattern::new(size, stretch, |payload, out| match self {
            Self::Tcp(framer) => framed(framer, payload, out),
            Self::WebSocket { text } => masked_frame(0x80 | opcode(text), payload, out),
            Self::Deflate => unreachable!("made above"),
        })
    }

    /// The payloads of one period, where replies are inflated to be compared; none elsewhere.
    pub(crate) fn payloads(self, size: usize) -> Vec<Vec<u8>> {
        match self {
            Self::Deflate => (0..Pattern::count(size)).map(|number| deflate::json(number, size)).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether connections begin with an upgrade.
    pub fn is_web_socket(self) -> bool {
        !matches!(self, Self::Tcp(_))
    }

    /// The stream expected back; where replies are inflated, it says how long they are without compression.
    pub fn expected(self, size: usize) -> Pattern {
        Pattern::new(size, 0, |payload, out| match self {
            Self::Tcp(framer) => framed(framer, payload, out),
            Self::WebSocket { .. } | Self::Deflate => {
                let text = self != Self::WebSocket { text: false };
                head(0x80 | opcode(text), payload.len(), 0, out);
                out.extend_from_slice(payload);
            }
        })
    }
}

/// A whole masked frame with the given first byte.
pub fn masked_frame(first: u8, payload: &[u8], out: &mut Vec<u8>) {
    head(first, payload.len(), 0x80, out);
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

fn opcode(text: bool) -> u8 {
    if text { 1 } else { 2 }
}

fn framed(framer: Framer, payload: &[u8], out: &mut Vec<u8>) {
    match framer {
        Framer::Raw => out.extend_from_slice(payload),
        Framer::Length => {
            out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(payload);
        }
        Framer::Line => {
            out.extend_from_slice(payload);
            out.push(b'\n');
        }
    }
}

/// RFC 6455 §5.2: the shortest of the three length encodings.
fn head(first: u8, len: usize, mask_bit: u8, out: &mut Vec<u8>) {
    out.push(first);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ ..126), _) => out.push(mask_bit | short),
        (_, Ok(medium)) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6455_5_7_masked_hello() {
        let mut out = Vec::new();
        masked_frame(0x81, b"Hello", &mut out);
        assert_eq!(out, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn lengths_of_all_encodings() {
        for (size, sent, back) in [(125, 6, 2), (126, 8, 4), (65_535, 8, 4), (65_536, 14, 10)] {
            let ws = Wire::WebSocket { text: false };
            assert_eq!(ws.sent(size, 1).message_len(), size + sent);
            assert_eq!(ws.expected(size).message_len(), size + back);
        }
        assert_eq!(Wire::Tcp(Framer::Length).sent(32, 9).slice(0, 4), [0, 0, 0, 32]);
        assert_eq!(Wire::Tcp(Framer::Line).sent(32, 9).slice(32, 1), *b"\n");
    }

    #[test]
    fn a_batch_in_flight_is_one_slice() {
        let ws = Wire::WebSocket { text: false };
        for in_flight in [1, 16, 1000] {
            assert_eq!(ws.sent(32, in_flight).slice(5000, 38 * in_flight).len(), 38 * in_flight);
        }
    }
}
