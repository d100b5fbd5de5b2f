//! What a plain peer sends.

/// `payload` behind its length in four bytes, big-endian.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a short payload");
    [&len.to_be_bytes(), payload].concat()
}
