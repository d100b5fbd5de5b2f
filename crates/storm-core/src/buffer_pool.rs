//! Buffers that outlive the batch they served, one small pool per thread and kind.
//!
//! Owns: spare buffers. In: buffers nobody needs for now. Out: the one given back last, still warm in cache.
//! Idle connections hold no buffer; what a thread keeps is bounded by `KEPT` times `LARGEST_KEPT` per pool.

use std::cell::RefCell;

use bytes::BytesMut;

/// Spare buffers a thread keeps of each kind.
const KEPT: usize = 8;
/// Larger buffers go back to the allocator: one in which a message of 1 MiB came is kept.
const LARGEST_KEPT: usize = 1280 * 1024;

/// The spare buffers of one kind on one thread.
#[derive(Debug, Default)]
pub struct BufferPool {
    spare: RefCell<Vec<BytesMut>>,
    /// Empty boxes for those who want a buffer in one.
    #[expect(clippy::vec_box, reason = "the boxes are what it keeps")]
    boxes: RefCell<Vec<Box<BytesMut>>>,
}

thread_local! {
    static READ: BufferPool = BufferPool::default();
    static WRITE: BufferPool = BufferPool::default();
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
    pub fn take(&self, capacity: usize) -> BytesMut {
        let mut spare = self.spare.borrow_mut();
        // A payload cut from it may still be alive: then its room cannot be had back, and it waits for its turn.
        let fits = |buffer: &mut BytesMut| buffer.capacity() >= capacity || buffer.try_reclaim(capacity);
        match (0..spare.len()).rev().find(|&at| fits(&mut spare[at])) {
            Some(at) => spare.remove(at),
            None => BytesMut::with_capacity(capacity),
        }
    }

    /// Keeps `buffer`, emptied, for the next `take`; or drops it, where that would keep too much.
    pub fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        if buffer.capacity() > LARGEST_KEPT {
            return;
        }
        let mut spare = self.spare.borrow_mut();
        if spare.len() == KEPT {
            spare.remove(0);
        }
        spare.push(buffer);
    }

    /// As [`take`](Self::take), in a box: whoever holds none most of the time has room for one word only.
    pub fn take_boxed(&self, capacity: usize) -> Box<BytesMut> {
        let buffer = self.take(capacity);
        match self.boxes.borrow_mut().pop() {
            Some(mut boxed) => {
                *boxed = buffer;
                boxed
            }
            None => Box::new(buffer),
        }
    }

    /// As [`give`](Self::give); the box is kept, too.
    pub fn give_boxed(&self, mut boxed: Box<BytesMut>) {
        self.give(std::mem::take(&mut *boxed));
        let mut boxes = self.boxes.borrow_mut();
        if boxes.len() < KEPT {
            boxes.push(boxed);
        }
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
        pool.give(BytesMut::with_capacity(LARGEST_KEPT + 1));
        let boxes: Vec<_> = (0..3 * KEPT).map(|_| pool.take_boxed(10)).collect();
        boxes.into_iter().for_each(|boxed| pool.give_boxed(boxed));
        assert_eq!(pool.boxes.borrow().len(), KEPT);
        assert_eq!(pool.spare.borrow().len(), KEPT);
    }
}
