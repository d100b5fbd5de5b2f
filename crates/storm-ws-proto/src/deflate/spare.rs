//! zlib states nobody uses: without context takeover a connection needs one only while a message is under way.
//!
//! Owns: one of each kind per thread, so that neither idle connections hold any nor messages wait for new ones.
//! Out:  states as good as new: what they saw before is out of their reach.

use std::cell::Cell;

use flate2::{Compress, Compression, Decompress};

thread_local! {
    static COMPRESS: Cell<Option<(Compression, u8, Compress)>> = const { Cell::new(None) };
    static INFLATE: Cell<Option<Decompress>> = const { Cell::new(None) };
}

pub(super) fn compress(level: Compression, window_bits: u8) -> Compress {
    match COMPRESS.take() {
        Some((its_level, its_bits, mut state)) if (its_level, its_bits) == (level, window_bits) => {
            state.reset();
            state
        }
        _ => Compress::new_with_window_bits(level, false, window_bits),
    }
}

pub(super) fn keep_compress(level: Compression, window_bits: u8, state: Compress) {
    COMPRESS.set(Some((level, window_bits, state)));
}

/// With the largest window, which reads what a smaller one has written. It costs no more (zlib-rs allocates that much for
/// any), and only such a state is reset without being made anew.
pub(super) fn inflate() -> Decompress {
    match INFLATE.take() {
        Some(mut state) => {
            state.reset(false);
            state
        }
        None => Decompress::new(false),
    }
}

pub(super) fn keep_inflate(state: Decompress) {
    INFLATE.set(Some(state));
}
