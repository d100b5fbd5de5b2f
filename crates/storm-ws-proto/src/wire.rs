//! Where the send half writes.
//!
//! Owns: the trait between frame encoding and the caller's outgoing queue.
//! In:   frame heads, payloads.
//! Out:  the same bytes in the same order, copied or shared as the implementor likes.
//! Not here: when they are written to a socket.

use bytes::{BufMut, Bytes, BytesMut};

/// An outgoing queue of bytes.
pub trait Wire {
    /// Appends a copy of `bytes`.
    fn put_slice(&mut self, bytes: &[u8]);

    /// Appends `bytes`, which may be kept as they are.
    fn put_bytes(&mut self, bytes: Bytes);

    /// Appends the first `len` bytes of `head`, which is little-endian, and a copy of `body`: this may cost less than one after the other.
    ///
    /// # Panics
    /// `len` exceeds 16.
    fn put_framed(&mut self, head: u128, len: usize, body: &[u8]) {
        self.put_slice(&head.to_le_bytes()[..len]);
        self.put_slice(body);
    }

    /// Payloads of at least this many bytes are handed to [`put_bytes`](Self::put_bytes), shorter ones
    /// copied by [`put_slice`](Self::put_slice).
    fn share_threshold(&self) -> usize;
}

impl Wire for BytesMut {
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.put(bytes);
    }

    fn share_threshold(&self) -> usize {
        usize::MAX
    }
}

impl Wire for Vec<u8> {
    fn put_slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.extend_from_slice(&bytes);
    }

    fn share_threshold(&self) -> usize {
        usize::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(mut wire: impl Wire + AsRef<[u8]>) -> Vec<u8> {
        wire.put_slice(b"a");
        wire.put_bytes(Bytes::from_static(b"bc"));
        wire.put_framed(u128::from_le_bytes(*b"defghijklmnopqrs"), 3, b"-");
        wire.put_framed(u128::from_le_bytes(*b"defghijklmnopqrs"), 16, b"");
        wire.as_ref().to_vec()
    }

    #[test]
    fn plain_buffers_take_everything_in_order() {
        let expected = b"abcdef-defghijklmnopqrs";
        assert_eq!(filled(BytesMut::new()), expected);
        assert_eq!(filled(Vec::new()), expected);
    }
}
