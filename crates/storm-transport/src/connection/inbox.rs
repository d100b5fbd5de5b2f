//! Bytes that were read and that the protocol has not taken yet.
//!
//! Owns: one buffer, the thread's pool's; none, and one word, while there are no bytes. Not here: the reading (`read`).

use std::mem;

use bytes::BytesMut;
use storm_core::buffer_pool::BufferPool;

/// Less room than this and the buffer is changed before the next read.
const LEAST_ROOM: usize = 4 * 1024;

/// Unread bytes of one connection.
#[derive(Debug, Default)]
pub(super) struct Inbox(Option<Box<BytesMut>>);

impl Inbox {
    /// An inbox that begins with `early`.
    pub(super) fn new(early: BytesMut) -> Self {
        Self((!early.is_empty()).then(|| Box::new(early)))
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |buffer| buffer.len())
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where bytes go in and messages come out.
    #[inline]
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        self.0.get_or_insert_default()
    }

    /// Forgets what is there.
    pub(super) fn clear(&mut self) {
        if let Some(buffer) = &mut self.0 {
            buffer.clear();
        }
    }

    /// Makes room for the next read of `chunk` bytes: a pooled buffer for an empty inbox, more of the same for an unfinished
    /// message, of which `wanted` tells how much is missing.
    pub(super) fn make_room(&mut self, chunk: usize, wanted: impl FnOnce(&[u8]) -> Option<usize>) {
        let Some(buffer) = &mut self.0 else {
            self.0 = Some(BufferPool::with_read(|pool| pool.take_boxed(chunk)));
            return;
        };
        let room = buffer.capacity() - buffer.len();
        if buffer.is_empty() {
            if room < LEAST_ROOM.max(chunk / 2) && !buffer.try_reclaim(chunk) {
                **buffer = BufferPool::with_read(|pool| pool.take(chunk));
            }
            return;
        }
        // A declared length is a hint, not a reason to allocate: the buffer at most doubles for bytes that are there.
        let wanted = wanted(buffer).unwrap_or(0).min(buffer.len().max(chunk));
        if room >= wanted.clamp(LEAST_ROOM, chunk) {
            return;
        }
        let more = wanted.max(chunk.saturating_sub(buffer.len())).max(LEAST_ROOM);
        if !buffer.try_reclaim(more) {
            BufferPool::with_read(|pool| {
                let mut larger = pool.take(buffer.len() + more);
                larger.extend_from_slice(buffer);
                pool.give(mem::replace(buffer, larger));
            });
        }
    }

    /// Returns the buffer to the pool if it is empty.
    pub(super) fn give_back(&mut self) {
        if let Some(buffer) = self.0.take_if(|buffer| buffer.is_empty()) {
            BufferPool::with_read(|pool| pool.give_boxed(buffer));
        }
    }
}
