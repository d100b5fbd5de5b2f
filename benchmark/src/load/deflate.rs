//! Compressed messages (permessage-deflate, RFC 7692): made beforehand, and replies that are inflated to be compared.
//!
//! Owns: one connection's inflater and the reply it is receiving.
//! In:   received bytes.
//! Out:  how many replies came; or what was wrong.
//! Not here: control frames' consequences (`peer`).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// What a sync flush ends with; RFC 7692 §7.2.1 takes it off, §7.2.2 puts it back.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The extension as it is asked for. Each message is compressed on its own, so that the same bytes can be sent again; the server
/// may use what it sent before.
pub(crate) const OFFER: &str = "permessage-deflate; client_no_context_takeover";

/// The messages: JSON, as APIs send it, each exactly `size` bytes and different.
pub(crate) fn json(number: usize, size: usize) -> Vec<u8> {
    const SIDES: [&str; 2] = ["buy", "sell"];
    let mut text = format!("{{\"channel\":\"trades\",\"sequence\":{},\"trades\":[", 1_000_000 + number);
    // A small generator per message: neighbours differ in all their values.
    let mut state = u32::try_from(number).unwrap_or(0).wrapping_mul(0x9e37_79b9) | 1;
    let mut first = true;
    loop {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (price, quantity, side) = (state >> 18, state >> 8 & 0xfff, SIDES[(state >> 31) as usize]);
        let comma = if first { "" } else { "," };
        let trade = format!(
            "{comma}{{\"id\":{state},\"price\":\"{price}.25\",\"quantity\":{quantity},\"side\":\"{side}\"}}"
        );
        if text.len() + trade.len() + 2 > size {
            break;
        }
        text += &trade;
        first = false;
    }
    text += "]}";
    // White space is allowed after it; a size too small for JSON gets what fits.
    let mut bytes = text.into_bytes();
    bytes.resize(size, b' ');
    bytes
}

/// A message's payload as it is sent.
pub(crate) fn compressed(payload: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(payload.len() + 64);
    // Room for all of it, so one call does; memory is the only thing it could fail for.
    let _ = compress.compress_vec(payload, &mut out, FlushCompress::Sync);
    if out.ends_with(&TAIL) {
        out.truncate(out.len() - TAIL.len());
    }
    out
}

/// One connection's replies.
#[derive(Debug)]
pub(crate) struct Replies {
    inflater: Decompress,
    /// The beginning of a frame.
    partial: Vec<u8>,
    payload: Vec<u8>,
    /// The message of the cycle that comes next.
    next: usize,
}

/// A frame of a server, as far as it is read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) first: u8,
    pub(crate) payload: &'a [u8],
    /// Bytes of all of it.
    pub(crate) len: usize,
}

impl<'a> Frame<'a> {
    /// The frame these bytes begin with; `None` if not all of it is there.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else { return None };
        let (head, len): (usize, usize) = match second & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?),
            short => (2, usize::from(short)),
        };
        let payload = bytes.get(head..head.checked_add(len)?)?;
        Some(Self { first: *first, payload, len: head + len })
    }
}

impl Replies {
    pub(crate) fn new() -> Self {
        Self { inflater: Decompress::new(false), partial: Vec::new(), payload: Vec::new(), next: 0 }
    }

    /// Takes what was received; gives how many replies that completed. `control` is given the other frames.
    pub(crate) fn receive(
        &mut self,
        expected: &[Vec<u8>],
        received: &[u8],
        control: impl FnMut(&Frame<'_>) -> Result<(), String>,
    ) -> Result<usize, String> {
        if self.partial.is_empty() {
            let (replies, used) = self.frames(expected, received, control)?;
            self.partial.extend_from_slice(&received[used..]);
            return Ok(replies);
        }
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(received);
        let (replies, used) = self.frames(expected, &bytes, control)?;
        bytes.drain(..used);
        self.partial = bytes;
        Ok(replies)
    }

    /// Takes whole frames; gives how many replies there were, and the bytes of all that was taken.
    fn frames(
        &mut self,
        expected: &[Vec<u8>],
        bytes: &[u8],
        mut control: impl FnMut(&Frame<'_>) -> Result<(), String>,
    ) -> Result<(usize, usize), String> {
        let (mut replies, mut used) = (0, 0);
        while let Some(frame) = Frame::read(&bytes[used..]) {
            used += frame.len;
            if frame.first & 0x08 != 0 {
                control(&frame)?;
                continue;
            }
            self.check(frame.first, frame.payload, &expected[self.next])?;
            self.next = (self.next + 1) % expected.len();
            replies += 1;
        }
        Ok((replies, used))
    }

    fn check(&mut self, first: u8, payload: &[u8], expected: &[u8]) -> Result<(), String> {
        // A whole text message, compressed.
        if first != 0xc1 {
            return Err(format!("reply is no compressed text message, but a frame of type {first:#04x}"));
        }
        self.payload.clear();
        // One byte more than it may have shows that it has too many.
        self.payload.reserve(expected.len() + 1);
        for piece in [payload, &TAIL] {
            let before = self.inflater.total_in();
            self.inflater
                .decompress_vec(piece, &mut self.payload, FlushDecompress::Sync)
                .map_err(|e| format!("reply does not inflate: {e}"))?;
            if self.inflater.total_in() - before != piece.len() as u64 {
                return Err("reply is longer than what was sent".into());
            }
        }
        if self.payload == expected { Ok(()) } else { Err("reply differs from what was sent".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first, 126];
        frame.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    fn messages() -> Vec<Vec<u8>> {
        (0..5).map(|number| json(number, 1024)).collect()
    }

    fn none(_: &Frame<'_>) -> Result<(), String> {
        Ok(())
    }

    #[test]
    fn messages_are_json_of_one_size_and_compress_well() {
        for message in messages() {
            assert_eq!(message.len(), 1024);
            assert!(serde_json::from_slice::<serde_json::Value>(&message).is_ok());
            let compressed = compressed(&message).len();
            assert!((200..600).contains(&compressed), "{compressed}");
        }
        assert_ne!(json(1, 1024), json(2, 1024));
        assert_eq!(json(1, 5).len(), 5);
    }

    #[test]
    fn replies_are_inflated_however_they_are_split() {
        let expected = messages();
        let stream: Vec<u8> =
            expected.iter().chain(&expected).flat_map(|m| frame(0xc1, &compressed(m))).collect();
        for chunk in [1, 2, 3, 100, 1000, stream.len()] {
            let mut replies = Replies::new();
            let count: usize =
                stream.chunks(chunk).map(|c| replies.receive(&expected, c, none).unwrap()).sum();
            assert_eq!((count, replies.next, replies.partial.len()), (10, 0, 0), "{chunk}");
        }
    }

    #[test]
    fn a_window_that_is_kept_is_followed() {
        let expected = messages();
        let mut compress = Compress::new(Compression::default(), false);
        let mut replies = Replies::new();
        for message in &expected {
            let mut out = Vec::with_capacity(2048);
            compress.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
            let reply = frame(0xc1, &out[..out.len() - 4]);
            assert_eq!(replies.receive(&expected, &reply, none), Ok(1));
        }
    }

    #[test]
    fn wrong_replies_are_errors() {
        let expected = messages();
        let error = |reply: &[u8]| Replies::new().receive(&expected, reply, none).unwrap_err();
        assert!(error(&frame(0x81, &expected[0])).contains("no compressed text message"));
        assert!(error(&frame(0xc1, &compressed(&expected[1]))).contains("differs"));
        assert!(error(&frame(0xc1, &compressed(&json(0, 2000)))).contains("longer"));
        assert!(error(&frame(0xc1, &[0xff; 9])).contains("inflate"));
    }

    #[test]
    fn control_frames_are_handed_on() {
        let expected = messages();
        let stream = [&b"\x89\x02hi"[..], &frame(0xc1, &compressed(&expected[0]))].concat();
        let mut seen = Vec::new();
        let count = Replies::new().receive(&expected, &stream, |f| {
            seen.push((f.first, f.payload.to_vec()));
            Ok(())
        });
        assert_eq!((count, seen), (Ok(1), vec![(0x89, b"hi".to_vec())]));
    }
}
