//! Compressing and inflating the payload of messages (RFC 7692 §7.2).
//!
//! Owns: the two zlib states of a connection: from the first use on, or without context takeover while a message is under
//! way.
//! In:   payload bytes, in pieces.
//! Out:  payload bytes; never more than the limit plus one byte.
//! Not here: what was agreed (`negotiate`), states between messages (`spare`), UTF-8 of the result (`assembler`).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{DeflateOptions, DeflateParams, spare};
use crate::error::ProtocolError;
use crate::role::Role;

/// What a sync flush ends with; RFC 7692 §7.2.1 takes it off, §7.2.2 puts it back.
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
/// The tail, then two empty stored blocks. At a block boundary all of it inflates to nothing and leaves
/// the window alone; inside a block some of it would come out as data or be refused.
const TAIL_AND_PROBE: [u8; 14] = [0, 0, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF];
/// Smallest window zlib can use for raw deflate.
const MIN_WINDOW_BITS: u8 = 9;
/// First output buffer of a message, unless the limit is lower.
const FIRST_CHUNK: usize = 512;

/// Inflates the peer's messages.
#[derive(Debug)]
pub(crate) struct Inflater {
    state: Option<Decompress>,
    keep_window: bool,
    /// This message has had input.
    started: bool,
    /// A final block was read and nothing after it.
    ended: bool,
}

impl Inflater {
    /// The inflater of the side in `role`.
    pub(crate) fn new(role: Role, params: &DeflateParams) -> Self {
        let peer = match role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        };
        let (_, keep_window) = params.of(peer);
        Self { state: None, keep_window, started: false, ended: false }
    }

    /// Inflates a piece of a message onto the end of `out`, which holds that message alone.
    pub(crate) fn inflate(
        &mut self,
        mut piece: &[u8],
        out: &mut Vec<u8>,
        max: Option<u64>,
    ) -> Result<(), ProtocolError> {
        if piece.is_empty() {
            return Ok(());
        }
        self.started = true;
        loop {
            let state = self.state.get_or_insert_with(spare::inflate);
            if std::mem::take(&mut self.ended) {
                // RFC 7692 §7.2.3.4: a block with BFINAL may be followed by more blocks. A deflate stream
                // ends there, so what follows is a new one with an empty window. Two bytes can be such a block: a new
                // state for each would cost a thousand times what they did.
                state.reset(false);
            }
            grow(out, piece.len(), max);
            let (read, written) = (state.total_in(), out.len());
            let status = state
                .decompress_vec(piece, out, FlushDecompress::None)
                .map_err(|_| ProtocolError::CorruptDeflate)?;
            if let Some(max) = max.filter(|&max| out.len() as u64 > max) {
                return Err(ProtocolError::MessageTooBig { len: out.len() as u64, max });
            }
            let read = usize::try_from(state.total_in() - read).map_err(|_| ProtocolError::CorruptDeflate)?;
            piece = &piece[read..];
            self.ended = status == Status::StreamEnd;
            // Spare room after all input is read means that nothing is left inside the inflater.
            if piece.is_empty() && (self.ended || out.len() < out.capacity()) {
                return Ok(());
            }
            if read == 0 && out.len() == written && !self.ended {
                return Err(ProtocolError::CorruptDeflate);
            }
        }
    }

    /// Ends a message: checks that it stopped where a message may.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        // A message without a single byte is not what §7.2.3.6 calls an empty one (that is one zero
        // byte), but its meaning is plain.
        if self.started && !self.ended {
            let len = out.len();
            self.inflate(&TAIL_AND_PROBE, out, None)?;
            if out.len() != len || self.ended {
                return Err(ProtocolError::CorruptDeflate);
            }
        }
        // Without context takeover an idle connection holds no window at all.
        if (self.ended || !self.keep_window)
            && let Some(state) = self.state.take()
        {
            spare::keep_inflate(state);
        }
        (self.started, self.ended) = (false, false);
        Ok(())
    }
}

/// Makes room in a full `out`: doubling, so that the work is linear, but never past `max + 1`. Where little is left until
/// there it goes there at once: one step more would have all of it in memory twice.
fn grow(out: &mut Vec<u8>, input: usize, max: Option<u64>) {
    if out.len() < out.capacity() {
        return;
    }
    let wanted = out.len().max(FIRST_CHUNK).max(input.saturating_mul(2).min(1 << 16));
    let allowed = match max {
        Some(max) => {
            usize::try_from(max).unwrap_or(usize::MAX - 1).saturating_add(1).saturating_sub(out.len())
        }
        None => wanted,
    };
    let more = if allowed.saturating_sub(wanted) < FIRST_CHUNK { allowed } else { wanted };
    out.reserve_exact(more.max(1));
}

/// Compresses our messages.
#[derive(Debug)]
pub(crate) struct Deflater {
    state: Option<Compress>,
    window_bits: u8,
    keep_window: bool,
    level: Compression,
    min_size: usize,
}

impl Deflater {
    /// The deflater of the side in `role`; `None` if the agreed window is one zlib cannot keep to, in
    /// which case messages go out as they are (RFC 7692 §6 leaves that to the sender).
    pub(crate) fn new(role: Role, params: &DeflateParams, options: &DeflateOptions) -> Option<Self> {
        let (window_bits, keep_window) = params.of(role);
        let level = Compression::new(u32::from(options.level.min(9)));
        (MIN_WINDOW_BITS..=15).contains(&window_bits).then_some(Self {
            state: None,
            window_bits,
            keep_window,
            level,
            min_size: options.min_size,
        })
    }

    /// Whether a message of `len` bytes is worth compressing. An empty one never is.
    pub(crate) fn wants(&self, len: usize) -> bool {
        len > 0 && len >= self.min_size
    }

    pub(crate) fn window_bits(&self) -> u8 {
        self.window_bits
    }

    pub(crate) fn level(&self) -> u8 {
        u8::try_from(self.level.level()).unwrap_or(9)
    }

    pub(crate) fn min_size(&self) -> usize {
        self.min_size
    }

    /// A whole message; `None` if it is better sent as it is.
    pub(crate) fn message(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut out = self.piece(payload);
        strip_tail(&mut out);
        self.end_message();
        // With a kept window the peer must see what we have compressed, whether it shrank or not.
        (self.keep_window || out.len() < payload.len()).then_some(out)
    }

    /// A piece of a message that goes on, flushed so that the peer can have it now.
    pub(crate) fn piece(&mut self, mut payload: &[u8]) -> Vec<u8> {
        let state = self.state.get_or_insert_with(|| spare::compress(self.level, self.window_bits));
        let mut out = Vec::with_capacity(payload.len() / 2 + 64);
        loop {
            let read = state.total_in();
            state
                .compress_vec(payload, &mut out, FlushCompress::Sync)
                .expect("a deflate stream that is never finished takes any input");
            let read = usize::try_from(state.total_in() - read).expect("no more is read than was given");
            payload = &payload[read..];
            // Spare room means the flush is complete.
            if payload.is_empty() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(payload.len().max(256));
        }
    }

    /// The last piece of a message.
    pub(crate) fn last_piece(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut out = self.piece(payload);
        if out.is_empty() {
            // Nothing new since the last flush, whose tail stayed in: §7.2.3.6, an empty block.
            out.push(0);
        } else {
            strip_tail(&mut out);
        }
        self.end_message();
        out
    }

    fn end_message(&mut self) {
        if !self.keep_window
            && let Some(state) = self.state.take()
        {
            spare::keep_compress(self.level, self.window_bits, state);
        }
    }

    /// Starts over with an empty window: what we send next refers to nothing sent before.
    pub(crate) fn forget(&mut self) {
        if let Some(state) = &mut self.state {
            state.reset();
        }
    }
}

/// RFC 7692 §7.2.1: the four bytes every sync flush ends with stay at home.
fn strip_tail(out: &mut Vec<u8>) {
    debug_assert!(out.ends_with(&TAIL), "a sync flush ends with an empty stored block");
    out.truncate(out.len() - TAIL.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(bits: u8, keep: bool) -> (Deflater, Inflater) {
        let params = DeflateParams {
            server_no_context_takeover: !keep,
            server_max_window_bits: bits,
            ..DeflateParams::default()
        };
        let options = DeflateOptions::default().min_size(0);
        let deflater = Deflater::new(Role::Server, &params, &options).expect("9 to 15 bits");
        (deflater, Inflater::new(Role::Client, &params))
    }

    fn inflate(inflater: &mut Inflater, payload: &[u8]) -> Result<Vec<u8>, ProtocolError> {
        let mut out = Vec::new();
        inflater.inflate(payload, &mut out, Some(1 << 24))?;
        inflater.finish(&mut out)?;
        Ok(out)
    }

    /// Text-like noise that repeats itself at many distances.
    fn sample(seed: u32, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let back = (state >> 8) as usize % 40_000;
            if back < out.len() && state & 0x30 != 0 {
                let start = out.len() - back - 1;
                let end = (start + 20).min(out.len());
                out.extend_from_within(start..end);
            } else {
                out.extend_from_slice(&state.to_be_bytes());
            }
        }
        out.truncate(len);
        out
    }

    #[test]
    fn every_window_size_round_trips_in_both_modes() {
        for bits in 9..=15 {
            for keep in [true, false] {
                let (mut deflater, mut inflater) = pair(bits, keep);
                for message in 0..30 {
                    let text = sample(message / 2, 1 + 977 * message as usize);
                    let Some(wire) = deflater.message(&text) else {
                        continue;
                    };
                    let back = inflate(&mut inflater, &wire);
                    assert_eq!(back.as_deref(), Ok(&text[..]), "{bits} bits, keep {keep}, {message}");
                }
            }
        }
    }

    /// Distances really stay inside the window: an inflater that forgets everything older than the
    /// window (built by hand, as zlib's may remember more within one call) can read the stream.
    #[test]
    fn small_windows_are_really_used() {
        let text = sample(7, 60_000);
        for bits in 9..=14 {
            let (mut deflater, _) = pair(bits, true);
            let (mut wide, _) = pair(15, true);
            let repeated = [&text[..20_000], &text[..20_000]].concat();
            let (small, large) = (deflater.piece(&repeated).len(), wide.piece(&repeated).len());
            assert!(small > large, "{bits} bits do not see a repetition 20 000 bytes back");
            // An inflater with exactly that window, fed byte by byte into tiny outputs, so that nothing
            // but its own window can serve a reference.
            let (mut deflater, _) = pair(bits, true);
            let wire = deflater.piece(&text);
            let mut inflater = Decompress::new_with_window_bits(false, bits);
            let (mut out, mut piece) = (Vec::new(), [0; 16]);
            let mut input = &wire[..];
            loop {
                let (read, written) = (inflater.total_in(), inflater.total_out());
                inflater.decompress(input, &mut piece, FlushDecompress::None).expect("inside the window");
                input = &input[usize::try_from(inflater.total_in() - read).unwrap()..];
                let written = usize::try_from(inflater.total_out() - written).unwrap();
                out.extend_from_slice(&piece[..written]);
                if input.is_empty() && written < piece.len() {
                    break;
                }
            }
            assert!(out == text, "{bits} bits");
        }
    }

    #[test]
    fn rfc7692_section_7_2_3_examples() {
        let (_, mut inflater) = pair(15, true);
        let cases: [(&str, &[u8]); 5] = [
            ("one fixed block", &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00]),
            ("shared window", &[0xF2, 0x00, 0x11, 0x00, 0x00]),
            ("stored block", &[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00]),
            ("final block", &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00]),
            ("two blocks", &[0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00]),
        ];
        for (name, wire) in cases {
            assert_eq!(inflate(&mut inflater, wire).as_deref(), Ok(&b"Hello"[..]), "{name}");
        }
    }

    #[test]
    fn empty_messages() {
        let (_, mut inflater) = pair(15, true);
        assert_eq!(inflate(&mut inflater, &[0x00]), Ok(vec![]));
        assert_eq!(inflate(&mut inflater, &[]), Ok(vec![]));
        assert_eq!(inflate(&mut inflater, &[0x02, 0x00]), Ok(vec![]), "an empty fixed block first");
    }

    #[test]
    fn final_block_without_the_extra_byte() {
        let (_, mut inflater) = pair(15, true);
        let hello = [0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
        assert_eq!(inflate(&mut inflater, &hello).as_deref(), Ok(&b"Hello"[..]));
        assert_eq!(inflate(&mut inflater, &hello).as_deref(), Ok(&b"Hello"[..]));
    }

    #[test]
    fn corrupt_and_truncated_streams() {
        let (mut deflater, mut inflater) = pair(15, false);
        assert_eq!(inflate(&mut inflater, &[0x07]), Err(ProtocolError::CorruptDeflate), "block type 3");
        let text = sample(3, 5000);
        let wire = deflater.message(&text).unwrap();
        for cut in 1..wire.len() - 1 {
            let (_, mut inflater) = pair(15, false);
            assert_ne!(inflate(&mut inflater, &wire[..cut]).as_deref(), Ok(&text[..]), "cut at {cut}");
        }
        let stored = [0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65];
        let (_, mut inflater) = pair(15, true);
        assert_eq!(inflate(&mut inflater, &stored), Err(ProtocolError::CorruptDeflate), "inside a block");
    }

    #[test]
    fn a_tail_left_in_place_is_refused() {
        let (_, mut inflater) = pair(15, true);
        let hello = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00, 0x00, 0xFF, 0xFF];
        assert_eq!(inflate(&mut inflater, &hello), Err(ProtocolError::CorruptDeflate));
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let (mut deflater, mut inflater) = pair(15, true);
        let bomb = deflater.piece(&vec![0; 100 << 20]);
        let mut out = Vec::new();
        let error = inflater.inflate(&bomb, &mut out, Some(1 << 20));
        assert_eq!(error, Err(ProtocolError::MessageTooBig { len: (1 << 20) + 1, max: 1 << 20 }));
        assert_eq!(out.capacity(), (1 << 20) + 1);
    }

    #[test]
    fn exactly_the_limit_is_delivered() {
        let (mut deflater, mut inflater) = pair(15, true);
        for len in [1_usize, 511, 512, 513, 1023, 1024, 1025, 65_536] {
            let wire = deflater.message(&vec![7; len]).unwrap();
            let mut out = Vec::new();
            inflater.inflate(&wire, &mut out, Some(len as u64)).unwrap();
            inflater.finish(&mut out).unwrap();
            assert_eq!(out.len(), len);
        }
    }

    #[test]
    fn pieces_and_an_empty_end() {
        let (mut deflater, mut inflater) = pair(15, true);
        for _ in 0..3 {
            let mut wire = deflater.piece(b"one, ");
            wire.extend(deflater.piece(b""));
            wire.extend(deflater.piece(b"two"));
            wire.extend(deflater.last_piece(b""));
            assert_eq!(inflate(&mut inflater, &wire).as_deref(), Ok(&b"one, two"[..]));
        }
    }

    #[test]
    fn flushes_that_end_where_the_buffer_ends() {
        // Incompressible input of every length makes the flush marker meet the end of the output.
        let (mut deflater, mut inflater) = pair(15, true);
        for len in 1..700 {
            let noise: Vec<u8> = sample(len, len as usize * 4).into_iter().step_by(4).collect();
            let wire = deflater.message(&noise).unwrap();
            assert_eq!(inflate(&mut inflater, &wire).as_deref(), Ok(&noise[..]), "{len}");
        }
    }

    /// Without context takeover connections use one state after the other, which must not show.
    #[test]
    fn a_state_that_served_another_connection_is_as_good_as_new() {
        for bits in [9, 12, 15] {
            let (secret, text) = (sample(5, 70_000), sample(5, 50_000));
            let fresh = std::thread::spawn({
                let text = text.clone();
                move || pair(bits, false).0.message(&text)
            });
            let (mut others, _) = pair(bits, false);
            others.message(&secret).expect("it shrinks");
            let (mut deflater, mut inflater) = pair(bits, false);
            let wire = deflater.message(&text).expect("it shrinks");
            assert!(Some(&wire) == fresh.join().unwrap().as_ref(), "{bits} bits");
            // A reference to before the beginning finds nothing of what the inflater saw for another.
            assert!(inflate(&mut inflater, &wire) == Ok(text), "{bits} bits");
            let (mut kept, mut next) = (pair(bits, true).0, pair(bits, false).1);
            kept.message(&secret);
            let refers_back = kept.message(&secret[secret.len() - 100..]).expect("windows are kept");
            assert_eq!(inflate(&mut next, &refers_back), Err(ProtocolError::CorruptDeflate), "{bits} bits");
        }
    }
}
