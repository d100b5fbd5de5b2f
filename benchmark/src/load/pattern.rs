//! The streams a run sends and expects: a few hundred different messages, over and over.
//!
//! Owns: the bytes of one period, written out beyond its end so that any stretch of it is one slice.
//! In:   a position in the stream; received bytes.
//! Out:  slices to write; how far received bytes are the expected ones.
//! Not here: sockets (`peer`), what a mismatch means (`echo`).

/// Bytes one period should not exceed, so that it stays in a near cache; large messages need more.
const PERIOD: usize = 64 << 10;

/// Most messages in one period: a prime, so that losing a round number of messages is seen.
const MOST: usize = 509;

/// An endless stream of messages, no two neighbours the same.
#[derive(Debug)]
pub struct Pattern {
    /// `period` bytes and then the same again from the start: `period <= bytes.len()`.
    bytes: Vec<u8>,
    period: usize,
    /// Bytes of a message, if all are equally long; else of the longest.
    message: usize,
    /// Where each message of a period ends.
    ends: Vec<usize>,
}

impl Pattern {
    /// The stream of `encode(payload)` for payloads of `size` bytes, where every slice is up to `stretch` long.
    ///
    /// `encode` must give equally long results for equally long payloads.
    pub fn new(size: usize, stretch: usize, encode: impl Fn(&[u8], &mut Vec<u8>)) -> Self {
        let messages = (0..Self::count(size)).map(|number| {
            let mut message = Vec::new();
            encode(&payload(number, size), &mut message);
            message
        });
        let pattern = Self::of(&messages.collect::<Vec<_>>(), stretch);
        assert_eq!(
            pattern.message * pattern.ends.len(),
            pattern.period,
            "messages of one size are encoded to one length"
        );
        pattern
    }

    /// How many messages of this size are in one period.
    pub fn count(size: usize) -> usize {
        (PERIOD / size).clamp(2, MOST)
    }

    /// The stream of these messages over and over; there is at least one, and none is empty.
    pub fn of(messages: &[Vec<u8>], stretch: usize) -> Self {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(messages.len());
        for message in messages {
            bytes.extend_from_slice(message);
            ends.push(bytes.len());
        }
        let period = bytes.len();
        bytes.reserve_exact(stretch);
        for at in 0..stretch {
            bytes.push(bytes[at]);
        }
        let message = messages.iter().map(Vec::len).max().unwrap_or(0);
        Self { bytes, period, message, ends }
    }

    /// Bytes of `count` messages from the `number`th on.
    pub fn span(&self, number: usize, count: usize) -> usize {
        let len = self.ends.len();
        let end = |number: usize| {
            let within = number % len;
            number / len * self.period + if within == 0 { 0 } else { self.ends[within - 1] }
        };
        let number = number % len;
        end(number + count) - end(number)
    }

    /// Bytes of one encoded message; of the longest, if they differ.
    pub fn message_len(&self) -> usize {
        self.message
    }

    /// Where the stream is `by` bytes after `at`.
    pub fn advance(&self, at: usize, by: usize) -> usize {
        let next = at + by;
        if next < self.period { next } else { next % self.period }
    }

    /// Up to `most` bytes of the stream from `at` on; at least one if `most` is.
    pub fn slice(&self, at: usize, most: usize) -> &[u8] {
        &self.bytes[at..self.bytes.len().min(at + most)]
    }

    /// How many of the received bytes are those expected at `at`: all of them, unless something is wrong.
    pub fn matching(&self, mut at: usize, received: &[u8]) -> usize {
        let mut rest = received;
        while !rest.is_empty() {
            let expected = self.slice(at, rest.len());
            let (head, tail) = rest.split_at(expected.len());
            if head != expected {
                let same = head.iter().zip(expected).take_while(|(a, b)| a == b).count();
                return received.len() - rest.len() + same;
            }
            at = self.advance(at, head.len());
            rest = tail;
        }
        received.len()
    }
}

/// The payload of one message: printable ASCII, so it is text, has no line feed, and can be read in a trace.
fn payload(number: usize, size: usize) -> Vec<u8> {
    // A small generator per message: neighbours differ in nearly every byte.
    let mut state = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b'!' + u8::try_from((state >> 33) % 94).unwrap_or(0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(size: usize, stretch: usize) -> Pattern {
        Pattern::new(size, stretch, |payload, out| out.extend_from_slice(payload))
    }

    fn stream(p: &Pattern, at: usize, len: usize) -> Vec<u8> {
        (0..len).map(|i| p.bytes[(at + i) % p.period]).collect()
    }

    #[test]
    fn the_stream_matches_itself_from_anywhere() {
        for (size, stretch) in [(1, 0), (32, 1000), (1024, 70_000), (40_000, 3)] {
            let p = plain(size, stretch);
            for at in [0, 1, size, p.period - 1] {
                let bytes = stream(&p, at, 3 * p.period + 7);
                assert_eq!(p.matching(at, &bytes), bytes.len(), "size {size} at {at}");
            }
        }
    }

    #[test]
    fn a_flipped_byte_is_found_where_it_is() {
        let p = plain(32, 500);
        for wrong in [0, 1, 31, 32, 5_000, 40_000] {
            let mut bytes = stream(&p, 64, 50_000);
            bytes[wrong] ^= 1;
            assert_eq!(p.matching(64, &bytes), wrong);
        }
    }

    #[test]
    fn lost_doubled_and_swapped_messages_are_found() {
        let p = plain(32, 500);
        let whole = stream(&p, 0, 32 * 600);
        for lost in [1, 2, 10, 100, 508] {
            let bytes = [&whole[..32 * 50], &whole[32 * (50 + lost)..]].concat();
            assert!(p.matching(0, &bytes) < 32 * 51, "{lost} messages lost");
        }
        let doubled = [&whole[..64], &whole[32..]].concat();
        assert!(p.matching(0, &doubled) < 96);
        let swapped = [&whole[32..64], &whole[..32], &whole[64..]].concat();
        assert!(p.matching(0, &swapped) < 32);
    }

    #[test]
    fn messages_of_all_lengths_have_their_places() {
        let p = Pattern::of(&[vec![1; 3], vec![2; 1], vec![3; 5]], 4);
        assert_eq!((p.span(0, 1), p.span(1, 1), p.span(2, 1)), (3, 1, 5));
        assert_eq!((p.span(2, 2), p.span(0, 7), p.span(4, 3), p.span(1, 0)), (8, 21, 9, 0));
        assert_eq!(p.slice(4, 9), [3, 3, 3, 3, 3, 1, 1, 1, 2]);
    }

    #[test]
    fn neighbours_differ_even_at_one_byte() {
        let p = plain(1, 0);
        let same = p.bytes.windows(2).filter(|w| w[0] == w[1]).count();
        assert!(same < p.bytes.len() / 20);
    }

    #[test]
    fn slices_are_as_long_as_asked_for() {
        let p = plain(32, 4096);
        assert_eq!(p.slice(p.period - 1, 4096).len(), 4096);
        assert_eq!(p.message_len(), 32);
        assert_eq!(p.advance(p.period - 1, 2), 1);
    }
}
