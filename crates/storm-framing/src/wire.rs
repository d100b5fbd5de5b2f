//! Where encoders put wire bytes.

use bytes::{Bytes, BytesMut};

/// A growing run of wire bytes.
pub trait Wire {
    /// Appends a copy of `bytes`.
    fn put_slice(&mut self, bytes: &[u8]);

    /// Appends `bytes`, which may be shared instead of copied.
    fn put_bytes(&mut self, bytes: Bytes);
}

impl Wire for BytesMut {
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.extend_from_slice(&bytes);
    }
}
