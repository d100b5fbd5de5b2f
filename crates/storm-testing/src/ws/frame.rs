//! Frames as they stand on the wire, good ones and others.

use bytes::BytesMut;

/// One frame as it stood on the wire, its mask taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The final bit, the reserved bits and the opcode: `0x81` is a whole text message.
    pub first: u8,
    /// It had a mask.
    pub masked: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Takes one whole frame off the front of `wire`, if there is one. No rule is checked.
    pub fn take(wire: &mut BytesMut) -> Option<Self> {
        let &[first, second, ..] = &wire[..] else { return None };
        let (extended, masked) = (second & 0x7F, second & 0x80 != 0);
        let len_size = match extended {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let head = 2 + len_size + if masked { 4 } else { 0 };
        if wire.len() < head {
            return None;
        }
        let len = match extended {
            126 | 127 => wire[2..2 + len_size].iter().fold(0, |len, byte| len << 8 | usize::from(*byte)),
            len => len.into(),
        };
        if wire.len().checked_sub(head)? < len {
            return None;
        }
        let frame = wire.split_to(head + len);
        let mut payload = frame[head..].to_vec();
        if masked {
            let key = &frame[head - 4..head];
            payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        }
        Some(Self { first, masked, payload })
    }

    /// The code of a close frame, if there is one in it.
    ///
    /// # Panics
    /// It is no close frame.
    #[track_caller]
    pub fn code(&self) -> Option<u16> {
        assert!(self.first == 0x88, "a close frame was expected, but came {}: {self:?}", self.kind());
        self.payload.first_chunk().map(|code| u16::from_be_bytes(*code))
    }

    /// The text of a whole text message.
    ///
    /// # Panics
    /// It is none, or not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        assert!(self.first == 0x81, "a text message was expected, but came {}: {self:?}", self.kind());
        std::str::from_utf8(&self.payload).expect("utf-8")
    }

    /// What it is, for people.
    fn kind(&self) -> &'static str {
        match self.first {
            0x81 => "a text message",
            0x82 => "a binary message",
            0x88 => "a close frame",
            // It comes before what a test waits for when a paused clock passes the heartbeat.
            0x89 => "a ping (of the heartbeat?)",
            0x8A => "a pong",
            _ => "a part of a message, or a frame of no kind there is",
        }
    }

    /// A whole text message.
    pub fn text_message(text: impl AsRef<[u8]>) -> FrameBuilder {
        FrameBuilder::new(0x81, text)
    }

    /// A whole binary message.
    pub fn binary(data: impl AsRef<[u8]>) -> FrameBuilder {
        FrameBuilder::new(0x82, data)
    }

    /// The last part of a message.
    pub fn continuation(data: impl AsRef<[u8]>) -> FrameBuilder {
        FrameBuilder::new(0x80, data)
    }

    /// A close frame.
    pub fn close(code: u16, reason: &str) -> FrameBuilder {
        FrameBuilder::new(0x88, goodbye(code, reason))
    }

    /// A ping.
    pub fn ping(payload: impl AsRef<[u8]>) -> FrameBuilder {
        FrameBuilder::new(0x89, payload)
    }

    /// A pong.
    pub fn pong(payload: impl AsRef<[u8]>) -> FrameBuilder {
        FrameBuilder::new(0x8A, payload)
    }
}

/// How many bytes say how long a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthForm {
    /// As RFC 6455 §5.2 wants it.
    Shortest,
    /// Two, whether so many are needed or not. Lengths that do not fit are cut.
    Two,
    /// Eight, whether so many are needed or not.
    Eight,
}

/// A frame to send. It starts out as the rules have it; every method breaks one of them, or makes it a part.
#[derive(Debug, Clone)]
#[must_use = "a frame does nothing until it is sent"]
pub struct FrameBuilder {
    first: u8,
    payload: Vec<u8>,
    mask: Option<Option<[u8; 4]>>,
    declared: Option<u64>,
    form: LengthForm,
}

impl FrameBuilder {
    /// A frame with any first byte: final bit, reserved bits, opcode.
    pub fn new(first: u8, payload: impl AsRef<[u8]>) -> Self {
        let payload = payload.as_ref().to_vec();
        Self { first, payload, mask: None, declared: None, form: LengthForm::Shortest }
    }

    /// More parts of the message follow.
    pub fn not_final(mut self) -> Self {
        self.first &= 0x7F;
        self
    }

    /// Sets reserved bits: `0x40`, `0x20`, `0x10`.
    pub fn reserved(mut self, bits: u8) -> Self {
        self.first |= bits & 0x70;
        self
    }

    /// Masks with `key`, whichever role the sender has.
    pub fn mask(mut self, key: [u8; 4]) -> Self {
        self.mask = Some(Some(key));
        self
    }

    /// Does not mask, whichever role the sender has.
    pub fn unmasked(mut self) -> Self {
        self.mask = Some(None);
        self
    }

    /// Says another length than the payload has.
    pub fn declaring(mut self, len: u64) -> Self {
        self.declared = Some(len);
        self
    }

    /// Says the length in this form.
    pub fn length_form(mut self, form: LengthForm) -> Self {
        self.form = form;
        self
    }

    /// The bytes, masked if `by_client` and nothing else was said.
    pub fn to_bytes(&self, by_client: bool) -> Vec<u8> {
        let mask = self.mask.unwrap_or(by_client.then_some(MASK));
        let mask_bit = if mask.is_some() { 0x80 } else { 0 };
        let len = self.declared.unwrap_or(self.payload.len() as u64);
        let eight = len.to_be_bytes();
        let mut bytes = match self.form {
            LengthForm::Shortest => head(self.first, mask_bit, len),
            LengthForm::Two => vec![self.first, mask_bit | 126, eight[6], eight[7]],
            LengthForm::Eight => [&[self.first, mask_bit | 127][..], &eight].concat(),
        };
        bytes.extend(mask.iter().flatten());
        let key = mask.unwrap_or_default();
        bytes.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }
}

/// RFC 6455 §5.7: the key of its examples.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Head and payload as a server sends them.
pub fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    FrameBuilder::new(first, payload).to_bytes(false)
}

/// Head, key and payload as a client sends them.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    FrameBuilder::new(first, payload).to_bytes(true)
}

/// The first bytes of a frame, its length in the shortest form, without a key.
pub fn head(first: u8, mask_bit: u8, len: u64) -> Vec<u8> {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => vec![first, mask_bit | len],
        (_, Ok(len)) => [&[first, mask_bit | 126][..], &len.to_be_bytes()].concat(),
        _ => [&[first, mask_bit | 127][..], &len.to_be_bytes()].concat(),
    }
}

/// A close payload.
pub fn goodbye(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(bytes: &[u8]) -> Option<Frame> {
        Frame::take(&mut BytesMut::from(bytes))
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 6455 §5.7.
        assert_eq!(Frame::text_message("Hello").to_bytes(false), b"\x81\x05Hello");
        assert_eq!(
            Frame::text_message("Hello").to_bytes(true),
            b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
        );
        assert_eq!(Frame::text_message("Hel").not_final().to_bytes(false), b"\x01\x03Hel");
        assert_eq!(Frame::continuation("lo").to_bytes(false), b"\x80\x02lo");
        assert_eq!(Frame::ping("Hello").to_bytes(false), b"\x89\x05Hello");
        assert_eq!(Frame::binary([0; 256]).to_bytes(false)[..4], *b"\x82\x7E\x01\x00");
        assert_eq!(Frame::binary([0; 65536]).to_bytes(false)[..10], *b"\x82\x7F\0\0\0\0\0\x01\0\0");
        assert_eq!(Frame::close(1000, "bye").to_bytes(false), b"\x88\x05\x03\xE8bye");
    }

    #[test]
    fn rules_can_be_broken() {
        let frame = Frame::text_message("hi").reserved(0x40).unmasked();
        assert_eq!(frame.to_bytes(true), b"\xC1\x02hi");
        assert_eq!(Frame::pong("").mask([1, 2, 3, 4]).to_bytes(false), b"\x8A\x80\x01\x02\x03\x04");
        assert_eq!(Frame::binary("hi").declaring(1 << 63).to_bytes(false), b"\x82\x7F\x80\0\0\0\0\0\0\0hi");
        assert_eq!(Frame::binary("hi").length_form(LengthForm::Two).to_bytes(false), b"\x82\x7E\0\x02hi");
        assert_eq!(
            Frame::binary("hi").length_form(LengthForm::Eight).to_bytes(false),
            b"\x82\x7F\0\0\0\0\0\0\0\x02hi"
        );
        assert_eq!(FrameBuilder::new(0x0B, "").to_bytes(false), b"\x0B\0");
    }

    #[test]
    #[should_panic(expected = "a close frame was expected, but came a ping (of the heartbeat?)")]
    fn a_frame_of_another_kind_is_told_by_name() {
        let frame = take(&Frame::ping("").to_bytes(false)).expect("it is whole");
        frame.code();
    }

    #[test]
    fn what_is_built_is_read_and_what_is_cut_is_waited_for() {
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            for by_client in [false, true] {
                let payload = vec![7; len];
                let bytes = Frame::binary(&payload).to_bytes(by_client);
                assert_eq!(take(&bytes), Some(Frame { first: 0x82, masked: by_client, payload }));
                assert_eq!(take(&bytes[..bytes.len() - 1]), None);
            }
        }
        for cut in 0..14 {
            assert_eq!(take(&Frame::binary("").declaring(1 << 40).to_bytes(true)[..cut]), None);
        }
        assert_eq!(take(&Frame::binary("x").declaring(u64::MAX).to_bytes(false)), None);
    }
}
