//! The buffers all connections of a thread share: an idle connection owns none, and these stay in the cache.

use std::cell::RefCell;
use std::ops::Range;

/// Bytes of one read.
pub(crate) const INPUT: usize = 512 << 10;

/// Where a piece of the answer to a read is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Copied: in the output buffer.
    Output(Range<usize>),
    /// Turned into its own reply where it was received.
    Input(Range<usize>),
}

/// One thread's buffers.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) input: Vec<u8>,
    /// As long as `input`: an answer is never longer than what it answers.
    pub(crate) output: Vec<u8>,
    pub(crate) pieces: Vec<Piece>,
}

thread_local! {
    static SHARED: RefCell<Shared> =
        RefCell::new(Shared { input: vec![0; INPUT], output: vec![0; INPUT], pieces: Vec::new() });
}

/// Lends this thread's buffers.
pub(crate) fn with<T>(use_them: impl FnOnce(&mut Shared) -> T) -> T {
    SHARED.with_borrow_mut(use_them)
}
