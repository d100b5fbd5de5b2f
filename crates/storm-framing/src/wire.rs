//! Where encoders put wire bytes.

use bytes::{Bytes, BytesMut};

/// A growing run of wire bytes.
pub trait Wire {
    /// Appends a copy of `bytes`.
    fn put_slice(&mut self, bytes: &[u8]);

    /// Appends `bytes`, which may be shared instead of copied.
    fn put_bytes(&mut self, bytes: Bytes);

    /// Appends the first `len` bytes of `head`, which is little-endian, and a copy of `body`: this may cost less than one after the other.
    ///
    /// # Panics
    /// `len` exceeds 16.
    fn put_framed(&mut self, head: u128, len: usize, body: &[u8]) {
        self.put_slice(&head.to_le_bytes()[..len]);
        self.put_slice(body);
    }
}

impl Wire for BytesMut {
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.extend_from_slice(&bytes);
    }
}
