//! Where encoders put wire bytes.

use bytes::{Bytes, BytesMut};

/// A growing run of wire bytes.
pub trait Wire {
    /// Appends a copy of `bytes`.
    fn put_slice(&mut self, bytes: &[u8]);

    /// Appends `bytes`, which may be shared instead of copied.
    fn put_bytes(&mut self, bytes: Bytes);

    /// Appends copies of the first `len` bytes of `head` and of `body`, which may cost less than one after the other.
    ///
    /// # Panics
    /// `len` exceeds 16.
    fn put_framed(&mut self, head: &[u8; 16], len: usize, body: &[u8]) {
        self.put_slice(&head[..len]);
        self.put_slice(body);
    }
}

/// The longest head [`Wire::put_framed`] takes.
pub(crate) const MAX_HEAD: usize = 16;

impl Wire for BytesMut {
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.extend_from_slice(&bytes);
    }
}
