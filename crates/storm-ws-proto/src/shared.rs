//! A frame encoded once for many receivers.
//!
//! Owns: the finished bytes of one server frame.
//! In:   a message, and the [`SharedKey`] of the sessions it is meant for.
//! Out:  the same bytes to any number of senders with that key.
//! Not here: who gets it (a broadcast groups its sessions by key), the windows of the receivers
//! ([`Sender::put_shared`](crate::Sender::put_shared)).

use bytes::Bytes;

use crate::frame::{FrameHead, MAX_HEAD, Opcode};
use crate::message::MessageKind;

/// What must be equal for two sessions to share encoded frames.
///
/// Ask each session's sender for it ([`Sender::shared_key`](crate::Sender::shared_key)) and encode once
/// per distinct key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SharedKey(pub(crate) Option<DeflateKey>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct DeflateKey {
    pub(crate) window_bits: u8,
    pub(crate) level: u8,
    pub(crate) min_size: usize,
}

impl SharedKey {
    /// The key of sessions without compression, and of messages that opt out of it.
    pub const PLAIN: Self = Self(None);

    /// The key as a number, for caches: equal for equal keys of one process, 0 for [`PLAIN`](Self::PLAIN).
    #[must_use]
    pub fn to_u64(self) -> u64 {
        self.0.map_or(0, |key| {
            let min_size = u64::try_from(key.min_size).unwrap_or(u64::MAX);
            min_size << 16 | u64::from(key.level) << 8 | u64::from(key.window_bits)
        })
    }

    /// Whether frames for this key may be compressed.
    #[must_use]
    pub fn is_compressed(self) -> bool {
        self.0.is_some()
    }
}

/// One whole message as an unmasked server frame. Cloning shares the bytes.
///
/// ```
/// use bytes::BytesMut;
/// use storm_ws_proto::{MessageKind, Sender, SharedFrame, SharedKey};
///
/// let frame = SharedFrame::encode(MessageKind::Text, b"to all", SharedKey::PLAIN);
/// let (mut one, mut two) = (BytesMut::new(), BytesMut::new());
/// Sender::server().put_shared(&frame, &mut one)?;
/// Sender::server().put_shared(&frame, &mut two)?;
/// assert_eq!(&one[..], b"\x81\x06to all");
/// assert_eq!(one, two);
/// # Ok::<(), storm_ws_proto::SendError>(())
/// ```
#[derive(Debug, Clone)]
pub struct SharedFrame {
    bytes: Bytes,
    /// The window it was compressed with, if it was.
    window_bits: Option<u8>,
}

impl SharedFrame {
    /// Encodes a message, compressed if the key and its minimum size say so.
    #[must_use]
    pub fn encode(kind: MessageKind, payload: &[u8], key: SharedKey) -> Self {
        #[cfg(feature = "deflate")]
        if let Some(key) = key.0.filter(|key| !payload.is_empty() && payload.len() >= key.min_size) {
            let params = crate::DeflateParams {
                server_max_window_bits: key.window_bits,
                // Nothing was sent before and nothing will be after, so an incompressible one goes plain.
                server_no_context_takeover: true,
                ..crate::DeflateParams::default()
            };
            let options = crate::DeflateOptions::default().level(key.level).min_size(key.min_size);
            let deflater = crate::deflate::Deflater::new(crate::Role::Server, &params, &options);
            if let Some(compressed) = deflater.and_then(|mut deflater| deflater.message(payload)) {
                return Self { bytes: frame(kind, true, &compressed), window_bits: Some(key.window_bits) };
            }
        }
        let _ = key;
        Self { bytes: frame(kind, false, payload), window_bits: None }
    }

    /// The frame as it goes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether the payload is compressed.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.window_bits.is_some()
    }

    pub(crate) fn window_bits(&self) -> Option<u8> {
        self.window_bits
    }
}

fn frame(kind: MessageKind, rsv1: bool, payload: &[u8]) -> Bytes {
    let head =
        FrameHead { fin: true, rsv1, opcode: Opcode::from(kind), mask: None, len: payload.len() as u64 };
    let mut head_bytes = [0; MAX_HEAD];
    let size = head.write(&mut head_bytes);
    let mut bytes = Vec::with_capacity(size + payload.len());
    bytes.extend_from_slice(&head_bytes[..size]);
    bytes.extend_from_slice(payload);
    bytes.into()
}
