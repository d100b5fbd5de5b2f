//! Frames as far as an echo needs them.

use std::io;
use std::ops::Range;

use crate::shared::{Piece, Shared};

/// Payloads from here on are unmasked and sent from where they are; smaller ones are cheaper to copy together.
const IN_PLACE: usize = 4 << 10;

/// Longest head of a masked frame.
const HEAD: usize = 14;

/// The head of a masked frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    first: u8,
    mask: [u8; 4],
    /// Bytes of the head.
    len: usize,
    payload: usize,
}

impl Head {
    /// Reads a head, if all of it is there.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        if second & 0x80 == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (payload, rest, len) = match second & 0x7f {
            126 => match rest.split_first_chunk::<2>() {
                Some((size, rest)) => (u64::from(u16::from_be_bytes(*size)), rest, 8),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((size, rest)) => (u64::from_be_bytes(*size), rest, 14),
                None => return Ok(None),
            },
            short => (u64::from(short), rest, 6),
        };
        let Some(mask) = rest.first_chunk::<4>() else {
            return Ok(None);
        };
        // No limits, but what no memory could hold is no message either.
        let payload =
            usize::try_from(payload).ok().filter(|&n| n < 1 << 40).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some(Self { first: *first, mask: *mask, len, payload }))
    }

    /// Bytes of the whole frame.
    pub(crate) fn frame(&self) -> usize {
        self.len + self.payload
    }

    /// The first byte of the reply: a ping's is a pong, everything else comes back as it is.
    pub(crate) fn reply(&self) -> u8 {
        if self.first & 0x0f == 9 { self.first ^ 3 } else { self.first }
    }

    pub(crate) fn is_close(&self) -> bool {
        self.first & 0x0f == 8
    }

    pub(crate) fn is_control(&self) -> bool {
        self.first & 0x08 != 0
    }

    /// RFC 7692 §6: RSV1 marks a compressed message.
    pub(crate) fn is_compressed(&self) -> bool {
        self.first & 0x40 != 0
    }

    /// Unmasks the payload where it is, and gives where it is in the frame.
    pub(crate) fn unmask(&self, frame: &mut [u8]) -> Range<usize> {
        let payload = self.len..self.frame();
        unmask(&mut frame[payload.clone()], self.mask);
        payload
    }

    /// Turns the frame into its reply where it is; gives where the reply begins. An unmasked head is four bytes
    /// shorter, so it fits in front of the payload.
    pub(crate) fn turn(&self, frame: &mut [u8]) -> usize {
        frame[0] = self.reply();
        frame[1] &= 0x7f;
        frame.copy_within(..self.len - 4, 4);
        unmask(&mut frame[self.len..], self.mask);
        4
    }

    /// Writes the reply to the frame elsewhere; gives its length.
    fn copy(&self, frame: &[u8], out: &mut [u8]) -> usize {
        let head = self.len - 4;
        out[..head].copy_from_slice(&frame[..head]);
        out[0] = self.reply();
        out[1] &= 0x7f;
        copy_unmasked(&mut out[head..head + self.payload], &frame[self.len..], self.mask);
        head + self.payload
    }
}

/// What `answer` made of what was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answered {
    /// Bytes of whole frames: what follows is the beginning of another.
    pub(crate) used: usize,
    /// How long that other one is, if it can be told yet.
    pub(crate) next: Option<usize>,
    /// There was a close frame.
    pub(crate) closed: bool,
}

/// Answers all whole frames in the first `filled` bytes of the input, as pieces. With `copy` all of the answer
/// is in the output buffer.
pub(crate) fn answer(shared: &mut Shared, filled: usize, copy: bool) -> io::Result<Answered> {
    let Shared { input, output, pieces } = shared;
    pieces.clear();
    let mut used = 0;
    let mut written = 0;
    let mut since = 0;
    let mut result = Answered::default();
    while let Some(head) = Head::parse(&input[used..filled])? {
        let end = used + head.frame();
        if end > filled {
            result.next = Some(head.frame());
            break;
        }
        if copy || head.payload < IN_PLACE {
            written += head.copy(&input[used..end], &mut output[written..]);
        } else {
            if written > since {
                pieces.push(Piece::Output(since..written));
                since = written;
            }
            let begin = head.turn(&mut input[used..end]);
            pieces.push(Piece::Input(used + begin..end));
        }
        used = end;
        if head.is_close() {
            result.closed = true;
            break;
        }
    }
    if written > since {
        pieces.push(Piece::Output(since..written));
    }
    result.used = used;
    Ok(result)
}

/// Whether a frame this long is to be received into a buffer of its own.
pub(crate) fn needs_own_buffer(frame: usize, input: usize) -> bool {
    frame + HEAD > input / 4
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let wide = wide(mask);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

fn copy_unmasked(to: &mut [u8], from: &[u8], mask: [u8; 4]) {
    let wide = wide(mask);
    let (to, to_rest) = to.as_chunks_mut::<8>();
    let (from, from_rest) = from.as_chunks::<8>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = (u64::from_ne_bytes(*from) ^ wide).to_ne_bytes();
    }
    for ((to, from), mask) in to_rest.iter_mut().zip(from_rest).zip(mask.iter().cycle()) {
        *to = from ^ mask;
    }
}

fn wide([a, b, c, d]: [u8; 4]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use stormsocket_benchmark::load::{Wire, masked_frame};

    fn shared(input: &[u8]) -> Shared {
        let mut shared = Shared { input: vec![0; 1 << 20], output: vec![0; 1 << 20], pieces: Vec::new() };
        shared.input[..input.len()].copy_from_slice(input);
        shared
    }

    fn joined(shared: &Shared) -> Vec<u8> {
        let pieces = shared.pieces.iter().flat_map(|piece| match piece {
            Piece::Output(range) => &shared.output[range.clone()],
            Piece::Input(range) => &shared.input[range.clone()],
        });
        pieces.copied().collect()
    }

    #[test]
    fn replies_are_the_frames_unmasked_in_order() {
        for copy in [false, true] {
            let sizes = [0, 1, 125, 126, 5000, 7, 4096, 4097, 65_535, 65_536, 3];
            let (mut sent, mut expected) = (Vec::new(), Vec::new());
            for size in sizes {
                let wire = Wire::WebSocket { text: true };
                let (size, empty) = (size.max(1), size == 0);
                if empty {
                    masked_frame(0x81, b"", &mut sent);
                    expected.extend_from_slice(&[0x81, 0]);
                    continue;
                }
                let one = wire.sent(size, 1);
                sent.extend_from_slice(one.slice(0, one.message_len()));
                let one = wire.expected(size);
                expected.extend_from_slice(one.slice(0, one.message_len()));
            }
            let mut shared = shared(&sent);
            let answered = answer(&mut shared, sent.len(), copy).unwrap();
            assert_eq!(answered, Answered { used: sent.len(), next: None, closed: false });
            assert!(joined(&shared) == expected);
        }
    }

    #[test]
    fn a_frame_cut_off_waits() {
        let mut frame = Vec::new();
        masked_frame(0x82, &[7; 300], &mut frame);
        for cut in 0..frame.len() {
            let mut shared = shared(&frame[..cut]);
            let answered = answer(&mut shared, cut, false).unwrap();
            assert_eq!((answered.used, answered.next), (0, (cut >= 8).then_some(308)), "{cut}");
        }
    }

    #[test]
    fn pings_become_pongs_and_close_ends() {
        let mut input = Vec::new();
        masked_frame(0x89, b"x", &mut input);
        masked_frame(0x88, b"", &mut input);
        masked_frame(0x82, b"late", &mut input);
        let mut shared = shared(&input);
        assert!(answer(&mut shared, input.len(), false).unwrap().closed);
        assert_eq!(joined(&shared), [0x8a, 1, b'x', 0x88, 0]);
    }

    #[test]
    fn unmasked_frames_are_refused() {
        assert!(Head::parse(&[0x82, 1, 0]).is_err());
    }
}
