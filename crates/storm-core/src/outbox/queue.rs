//! Bytes on their way to the socket, in order.
//!
//! Owns: encoded bytes. Small pieces are copied behind each other into one buffer; large payloads are shared and
//! leave by vectored write.
//! Not here: limits and waiting (`outbox`), the socket (the connection task).

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::buffer_pool::BufferPool;
use crate::isolation::{catch_unwind_in, resume};

/// Payloads of at least this many bytes are shared, smaller ones copied. No measured optimum: echo of 1, 4 and 16 KiB with
/// 16 in flight, raw and length-prefixed, costs the same either way within the noise (median ratio 0.94 to 1.10, and 0.97
/// to 1.09 between runs of the same setting). A page bounds what is copied.
pub const SHARE_FROM: usize = 4096;

/// Room of a fresh small-bytes buffer: a broadcast gives one to each member at once, so it must not be large.
const FIRST_CAPACITY: usize = 512;

/// Slices per vectored write; the kernel takes up to 1024, and what they hold exceeds its send buffer well before.
const SLICES: usize = 64;

/// Room an empty queue may keep: what a batch of small messages takes.
const MOST_CAPACITY_KEPT: usize = 64 * 1024;

/// A first-in first-out queue of bytes that copies small pieces and shares large ones.
#[derive(Debug, Default)]
pub struct SendQueue {
    /// All copied bytes: those before, between and behind shared payloads. An empty queue has no buffer, except a batch's.
    small: BytesMut,
    /// Boxed: idle connections are many, and large payloads few.
    large: Option<Box<Large>>,
}

/// The shared payloads of a queue, at least one.
#[derive(Debug, Default)]
struct Large {
    shared: VecDeque<Shared>,
    /// Copied bytes in front of the last shared payload. Invariant: `before == Σ shared.before <= small.len()`.
    before: usize,
    /// Bytes of all shared payloads.
    len: usize,
}

#[derive(Debug)]
struct Shared {
    /// Copied bytes between the previous shared payload and this one.
    before: usize,
    bytes: Bytes,
}

impl SendQueue {
    /// Bytes in it.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.large {
            None => self.small.len(),
            Some(large) => self.small.len() + large.len,
        }
    }

    /// Whether all bytes are copies: then none of them is anyone's whose code runs when it is dropped.
    #[inline]
    pub(crate) const fn is_copied(&self) -> bool {
        self.large.is_none()
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.room_for(bytes.len());
        self.small.extend_from_slice(bytes);
    }

    /// Appends the first `len` bytes of `head`, which is little-endian, and a copy of `body`: what
    /// [`put_slice`](Self::put_slice) does with each of them, for the price of one.
    ///
    /// # Panics
    /// `len` exceeds 16.
    #[inline(always)]
    pub fn put_framed(&mut self, head: u128, len: usize, body: &[u8]) {
        // All of the number is copied, straight from registers, and what is too much taken back: bytes collected in
        // memory first would have to settle there before a wider read.
        let head = head.to_le_bytes();
        assert!(len <= head.len(), "a head of at most 16 bytes");
        self.room_for(head.len() + body.len());
        let before = self.small.len();
        self.small.extend_from_slice(&head);
        self.small.truncate(before + len);
        self.small.extend_from_slice(body);
    }

    /// Appends `bytes`, shared if that is cheaper than a copy.
    #[inline]
    pub fn put_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE_FROM {
            self.put_slice(&bytes);
        } else {
            self.share(bytes);
        }
    }

    fn share(&mut self, bytes: Bytes) {
        let large = self.large.get_or_insert_default();
        let before = self.small.len() - large.before;
        large.before += before;
        large.len += bytes.len();
        large.shared.push_back(Shared { before, bytes });
    }

    /// Moves everything of `other` behind what is here.
    #[inline]
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, other);
        } else {
            self.append_copy(other);
        }
        other.release();
    }

    #[inline(never)]
    fn append_copy(&mut self, other: &mut Self) {
        let mut rest: &[u8] = &other.small;
        for Shared { before, bytes } in other.large.take().into_iter().flat_map(|large| large.shared) {
            let (copied, behind) = rest.split_at(before);
            rest = behind;
            self.put_slice(copied);
            self.share(bytes);
        }
        self.put_slice(rest);
    }

    /// Makes room for `additional` copied bytes.
    #[inline]
    fn room_for(&mut self, additional: usize) {
        if self.small.capacity() - self.small.len() < additional {
            self.more_room(additional);
        }
    }

    #[cold]
    #[inline(never)]
    fn more_room(&mut self, additional: usize) {
        if self.small.capacity() == 0 {
            self.small = BufferPool::with_write(|pool| pool.take(FIRST_CAPACITY.max(additional)));
        }
        self.small.reserve(additional);
    }

    /// The front of the queue as slices for one vectored write; returns how many were filled.
    pub fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut push = |bytes: &'a [u8]| {
            if bytes.is_empty() {
                return true;
            }
            let Some(slot) = slices.get_mut(filled) else {
                return false;
            };
            *slot = IoSlice::new(bytes);
            filled += 1;
            true
        };
        let mut rest: &'a [u8] = &self.small;
        for shared in self.large.iter().flat_map(|large| &large.shared) {
            let (before, behind) = rest.split_at(shared.before);
            rest = behind;
            if !push(before) || !push(&shared.bytes) {
                return filled;
            }
        }
        push(rest);
        filled
    }

    /// Hands `write` the front of the queue as slices for one vectored write; a single slice is all of it, and needs none.
    #[inline]
    pub fn with_slices<R>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        if let Some(slice) = self.as_single_slice() {
            return write(&[IoSlice::new(slice)]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = self.fill_slices(&mut slices);
        write(&slices[..filled])
    }

    /// The front of the queue when one slice holds all of it, so that no vectored write is needed.
    pub fn as_single_slice(&self) -> Option<&[u8]> {
        match &self.large {
            None => Some(&self.small),
            Some(large) => match large.shared.front() {
                Some(only) if self.small.is_empty() && large.shared.len() == 1 => Some(&only.bytes),
                _ => None,
            },
        }
    }

    /// Removes the first `count` bytes: the socket has them.
    ///
    /// # Panics
    /// `count` exceeds [`len`](Self::len).
    pub fn advance(&mut self, count: usize) {
        self.advance_within(count);
        if self.is_empty() {
            self.release();
        }
    }

    /// As [`advance`](Self::advance), but an empty queue keeps its buffer for what follows, if that is not large.
    #[inline]
    pub(crate) fn advance_and_keep(&mut self, count: usize) {
        self.advance_within(count);
        if self.is_empty() && self.small.capacity() > MOST_CAPACITY_KEPT {
            self.release();
        }
    }

    #[inline]
    fn advance_within(&mut self, count: usize) {
        assert!(count <= self.len(), "cannot advance past the end");
        if self.large.is_some() {
            self.advance_large(count);
        } else {
            self.advance_small(count);
        }
    }

    #[inline]
    fn advance_small(&mut self, count: usize) {
        if count == self.small.len() {
            // Keeps the room in front, which an advance would have to be asked back for.
            self.small.clear();
        } else {
            self.small.advance(count);
        }
    }

    fn advance_large(&mut self, mut count: usize) {
        while let Some(large) = &mut self.large {
            let Some(front) = large.shared.front_mut() else {
                self.large = None;
                break;
            };
            let copied = front.before.min(count);
            self.small.advance(copied);
            front.before -= copied;
            large.before -= copied;
            count -= copied;
            let shared = if front.before > 0 { 0 } else { front.bytes.len().min(count) };
            large.len -= shared;
            if front.before > 0 || shared < front.bytes.len() {
                front.bytes.advance(shared);
                return;
            }
            count -= shared;
            large.shared.pop_front();
        }
        self.advance_small(count);
    }

    /// Takes back all but the first `len` bytes, of which there may be fewer.
    pub fn truncate(&mut self, len: usize) {
        let mut excess = self.len().saturating_sub(len);
        while excess > 0
            && let Some(large) = &mut self.large
        {
            let behind = self.small.len() - large.before;
            let copied = behind.min(excess);
            self.small.truncate(self.small.len() - copied);
            excess -= copied;
            if excess == 0 {
                break;
            }
            let Some(last) = large.shared.back_mut() else { break };
            let shared = last.bytes.len().min(excess);
            last.bytes.truncate(last.bytes.len() - shared);
            large.len -= shared;
            excess -= shared;
            if last.bytes.is_empty() {
                large.before -= last.before;
                large.shared.pop_back();
            }
            if large.shared.is_empty() {
                self.large = None;
            }
        }
        self.small.truncate(self.small.len() - excess);
        if self.is_empty() {
            self.release();
        }
    }

    /// Drops everything that waits.
    pub fn clear(&mut self) {
        self.release();
    }

    /// Gives the empty buffer back: an idle connection holds none.
    fn release(&mut self) {
        if self.large.is_some() {
            self.release_large();
        }
        if self.small.capacity() > 0 {
            BufferPool::with_write(|pool| pool.give(std::mem::take(&mut self.small)));
        }
    }

    /// Drops the shared payloads one by one: were two of them to panic in one go, the process would abort.
    #[cold]
    #[inline(never)]
    fn release_large(&mut self) {
        let shared = self.large.take().into_iter().flat_map(|large| large.shared);
        let panics: Vec<_> = shared.filter_map(|shared| catch_unwind_in(|| drop(shared)).err()).collect();
        if let Some(first) = panics.first() {
            resume(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(queue: &SendQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = queue.fill_slices(&mut slices);
        joined(&slices[..filled])
    }

    fn joined(slices: &[IoSlice<'_>]) -> Vec<u8> {
        slices.iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    /// Small and large pieces in turn, and the bytes they add up to.
    fn mixed() -> (SendQueue, Vec<u8>) {
        let mut queue = SendQueue::default();
        let mut expected = Vec::new();
        for (index, len) in [3, SHARE_FROM, SHARE_FROM + 7, 5, 6, SHARE_FROM, 1].into_iter().enumerate() {
            let piece: Vec<u8> =
                (0..len).map(|at| ((at * 7 + index) % 251).try_into().expect("below 251")).collect();
            queue.put_bytes(piece.clone().into());
            expected.extend(piece);
        }
        (queue, expected)
    }

    #[test]
    fn order_is_kept_between_copied_and_shared() {
        let (queue, expected) = mixed();
        assert_eq!(queue.len(), expected.len());
        assert_eq!(contents(&queue), expected);
        assert!(queue.as_single_slice().is_none());
    }

    #[test]
    fn what_is_taken_back_leaves_what_was_before_and_room_for_more() {
        let (_, expected) = mixed();
        for len in
            (0..expected.len()).step_by(61).chain([3, SHARE_FROM + 3, expected.len(), expected.len() + 1])
        {
            let (mut queue, _) = mixed();
            queue.truncate(len);
            let kept = &expected[..len.min(expected.len())];
            assert_eq!((queue.len(), &contents(&queue)[..]), (kept.len(), kept), "{len}");
            queue.put_slice(b"more");
            queue.put_bytes(vec![7; SHARE_FROM].into());
            assert_eq!(contents(&queue), [kept, b"more", &[7; SHARE_FROM]].concat(), "{len}");
            queue.advance(queue.len());
            assert!(queue.is_empty() && queue.is_copied());
        }
    }

    #[test]
    fn any_partial_write_leaves_the_rest() {
        for step in [1, 2, 3, 100, 4095, 4096, 4097, 9000] {
            let (mut queue, expected) = mixed();
            let mut written = 0;
            while !queue.is_empty() {
                let count = step.min(queue.len());
                queue.advance(count);
                written += count;
                assert_eq!(contents(&queue), expected[written..], "after {written} in steps of {step}");
            }
        }
    }

    #[test]
    fn pieces_can_follow_a_partial_write() {
        let (mut queue, mut expected) = mixed();
        queue.advance(SHARE_FROM);
        queue.put_slice(b"more");
        expected.extend(b"more");
        assert_eq!(contents(&queue), expected[SHARE_FROM..]);
    }

    #[test]
    fn a_queue_can_follow_another() {
        for lead in [0, 3, SHARE_FROM] {
            let (mut mixed, expected) = mixed();
            let lead = vec![9; lead];
            let mut queue = SendQueue::default();
            queue.put_bytes(lead.clone().into());
            queue.append(&mut mixed);
            queue.put_slice(b"end");
            assert_eq!(contents(&queue), [&lead[..], &expected, b"end"].concat());
            queue.advance(queue.len());
            assert!(queue.is_empty());
        }
    }

    #[test]
    fn large_payloads_are_not_copied() {
        let payload = Bytes::from(vec![1; SHARE_FROM]);
        let mut queue = SendQueue::default();
        queue.put_bytes(payload.clone());
        assert_eq!(queue.as_single_slice().map(<[u8]>::as_ptr), Some(payload.as_ptr()));
    }

    #[test]
    fn an_empty_queue_holds_no_buffer() {
        let (mut queue, expected) = mixed();
        queue.advance(expected.len());
        assert_eq!(queue.small.capacity(), 0);
        queue.put_slice(b"x");
        queue.clear();
        assert_eq!((queue.len(), queue.small.capacity()), (0, 0));
    }

    #[test]
    fn an_empty_queue_can_keep_a_buffer_that_is_not_large() {
        let mut queue = SendQueue::default();
        queue.put_slice(b"some");
        let address = queue.small.as_ptr();
        queue.advance_and_keep(4);
        queue.put_slice(b"more");
        assert_eq!((queue.small.as_ptr(), contents(&queue)), (address, b"more".to_vec()));
        queue.put_slice(&vec![0; MOST_CAPACITY_KEPT]);
        queue.advance_and_keep(queue.len());
        assert_eq!(queue.small.capacity(), 0);
    }

    #[test]
    fn fewer_slices_than_pieces_give_a_prefix() {
        let (queue, expected) = mixed();
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(queue.fill_slices(&mut slices), 2);
        assert_eq!(joined(&slices), expected[..3 + SHARE_FROM]);
    }
}
