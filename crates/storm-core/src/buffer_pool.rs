//! Buffers that outlive the batch they served, one small pool per thread and kind.
//!
//! Owns: spare buffers. In: buffers nobody needs for now. Out: the one given back last, still warm in cache.
//! Idle connections hold no buffer; what a thread keeps is bounded: `KEPT` and two buffers of `LARGEST_KEPT` per pool.

use std::cell::{Cell, RefCell};
use std::{fmt, mem};

use bytes::BytesMut;

/// Spare buffers a thread keeps of each kind.
const KEPT: usize = 8;
/// Larger buffers go back to the allocator: one in which a message of 1 MiB came is kept.
const LARGEST_KEPT: usize = 1280 * 1024;

/// The spare buffers of one kind on one thread.
#[derive(Default)]
pub struct BufferPool {
    /// The one given back last, if it has memory: all there is to it for a thread that serves one connection after the other.
    last: Cell<BytesMut>,
    /// The same, of those in a box.
    last_boxed: Cell<Option<Box<BytesMut>>>,
    others: RefCell<Others>,
}

/// What was given back before the last.
#[derive(Default)]
struct Others {
    buffers: Vec<BytesMut>,
    /// Empty boxes for those who want a buffer in one.
    #[expect(clippy::vec_box, reason = "the boxes are what it keeps")]
    boxes: Vec<Box<BytesMut>>,
}

thread_local! {
    static READ: BufferPool = BufferPool::default();
    static WRITE: BufferPool = BufferPool::default();
}

/// Whether `buffer`, which is empty, has room. A payload cut from it may still be alive: then it has what is behind that.
fn fits(buffer: &mut BytesMut, capacity: usize) -> bool {
    buffer.capacity() >= capacity || buffer.try_reclaim(capacity)
}

impl BufferPool {
    /// Runs `f` with this thread's pool of read buffers.
    pub fn with_read<R>(f: impl FnOnce(&Self) -> R) -> R {
        READ.with(f)
    }

    /// Runs `f` with this thread's pool of write buffers.
    pub(crate) fn with_write<R>(f: impl FnOnce(&Self) -> R) -> R {
        WRITE.with(f)
    }

    /// An empty buffer with room for at least `capacity` bytes.
    #[inline]
    pub fn take(&self, capacity: usize) -> BytesMut {
        let mut buffer = self.last.take();
        if fits(&mut buffer, capacity) { buffer } else { self.take_other(buffer, capacity) }
    }

    #[inline(never)]
    fn take_other(&self, unfit: BytesMut, capacity: usize) -> BytesMut {
        let mut others = self.others.borrow_mut();
        others.keep(unfit);
        let buffers = &mut others.buffers;
        // One whose room cannot be had back yet waits for its turn.
        match (0..buffers.len()).rev().find(|&at| fits(&mut buffers[at], capacity)) {
            Some(at) => buffers.remove(at),
            None => BytesMut::with_capacity(capacity),
        }
    }

    /// Keeps `buffer`, emptied, for the next `take`; or drops it, where that would keep too much.
    #[inline]
    pub fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        if buffer.capacity() > LARGEST_KEPT {
            return;
        }
        let before = self.last.replace(buffer);
        if before.capacity() > 0 {
            self.others.borrow_mut().keep(before);
        }
    }

    /// As [`take`](Self::take), in a box: whoever holds none most of the time has room for one word only.
    #[inline]
    pub fn take_boxed(&self, capacity: usize) -> Box<BytesMut> {
        let mut last = self.last_boxed.take();
        match last.take_if(|boxed| fits(boxed, capacity)) {
            Some(boxed) => boxed,
            None => self.take_other_boxed(last, capacity),
        }
    }

    #[inline(never)]
    fn take_other_boxed(&self, unfit: Option<Box<BytesMut>>, capacity: usize) -> Box<BytesMut> {
        let unfit = unfit.or_else(|| self.others.borrow_mut().boxes.pop());
        let mut boxed = unfit.unwrap_or_default();
        let unfit = mem::take(&mut *boxed);
        *boxed = self.take_other(unfit, capacity);
        boxed
    }

    /// As [`give`](Self::give); the box is kept, too.
    #[inline]
    pub fn give_boxed(&self, mut boxed: Box<BytesMut>) {
        boxed.clear();
        if boxed.capacity() > LARGEST_KEPT {
            *boxed = BytesMut::new();
        }
        if let Some(before) = self.last_boxed.replace(Some(boxed)) {
            self.others.borrow_mut().keep_boxed(before);
        }
    }
}

impl Others {
    fn keep(&mut self, buffer: BytesMut) {
        if buffer.capacity() == 0 {
            return;
        }
        if self.buffers.len() == KEPT {
            self.buffers.remove(0);
        }
        self.buffers.push(buffer);
    }

    #[inline(never)]
    fn keep_boxed(&mut self, mut boxed: Box<BytesMut>) {
        self.keep(mem::take(&mut *boxed));
        if self.boxes.len() < KEPT {
            self.boxes.push(boxed);
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others = self.others.borrow();
        f.debug_struct("BufferPool").field("others", &others.buffers.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_room() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(1000);
        let address = buffer.as_ptr();
        buffer.extend_from_slice(&[7; 1000]);
        let payload = buffer.split().freeze();
        drop(payload);
        pool.give(buffer);
        let again = pool.take(1000);
        assert_eq!(again.as_ptr(), address);
        assert!(again.is_empty());
    }

    #[test]
    fn memory_a_payload_still_uses_is_not_handed_out() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(1000);
        buffer.extend_from_slice(&[7; 1000]);
        let payload = buffer.split().freeze();
        pool.give(buffer);
        let mut again = pool.take(1000);
        again.extend_from_slice(&[1; 1000]);
        assert_eq!(payload, vec![7; 1000]);
    }

    #[test]
    fn a_box_comes_back_with_or_without_its_buffer() {
        let pool = BufferPool::default();
        let boxed = pool.take_boxed(1000);
        let (box_at, buffer_at) = (&raw const *boxed, boxed.as_ptr());
        pool.give_boxed(boxed);
        let mut again = pool.take_boxed(1000);
        assert_eq!((&raw const *again, again.as_ptr()), (box_at, buffer_at));
        again.extend_from_slice(&[7; 1000]);
        let payload = again.split().freeze();
        pool.give_boxed(again);
        let other = pool.take_boxed(1000);
        assert_eq!(&raw const *other, box_at);
        assert_ne!(other.as_ptr(), payload.as_ptr());
    }

    #[test]
    fn what_it_keeps_is_bounded() {
        let pool = BufferPool::default();
        for _ in 0..3 * KEPT {
            pool.give(BytesMut::with_capacity(10));
        }
        let boxes: Vec<_> = (0..3 * KEPT).map(|_| pool.take_boxed(10)).collect();
        boxes.into_iter().for_each(|boxed| pool.give_boxed(boxed));
        assert_eq!(pool.others.borrow().boxes.len(), KEPT);
        assert_eq!(pool.others.borrow().buffers.len(), KEPT);
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let pool = BufferPool::default();
        pool.give(BytesMut::with_capacity(LARGEST_KEPT + 1));
        assert_eq!(pool.last.take().capacity(), 0);
        pool.give_boxed(Box::new(BytesMut::with_capacity(LARGEST_KEPT + 1)));
        assert_eq!(pool.last_boxed.take().map(|boxed| boxed.capacity()), Some(0));
    }
}
