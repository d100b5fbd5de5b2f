//! Wire bytes in, transcripts out.

#![allow(dead_code, reason = "each test file uses its own part")]

use storm_ws_proto::bytes::{Bytes, BytesMut};
use storm_ws_proto::{
    CloseCode, CloseFrame, Incoming, Limits, Look, Message, MessageRef, ProtocolError, Receiver, Role,
};

/// What came out, and the error that ended it.
pub(crate) type Transcript = (Vec<Incoming>, Option<ProtocolError>);

pub(crate) const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A frame as a client sends it: first byte, payload masked.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, 0x80, payload.len() as u64);
    frame.extend_from_slice(&KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A frame as a server sends it.
pub(crate) fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, 0, payload.len() as u64);
    frame.extend_from_slice(payload);
    frame
}

/// A frame as the peer of `role` sends it.
pub(crate) fn frame(to: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    match to {
        Role::Server => masked(first, payload),
        Role::Client => plain(first, payload),
    }
}

/// The first bytes of a head with its length in the shortest form.
pub(crate) fn head(first: u8, mask_bit: u8, len: u64) -> Vec<u8> {
    let mut head = vec![first];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => head.push(mask_bit | len),
        (_, Ok(len)) => {
            head.push(mask_bit | 126);
            head.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            head.push(mask_bit | 127);
            head.extend_from_slice(&len.to_be_bytes());
        }
    }
    head
}

pub(crate) fn text(text: &str) -> Incoming {
    Incoming::Message(Message::from(text))
}

pub(crate) fn binary(data: &[u8]) -> Incoming {
    Incoming::Message(Message::from(data.to_vec()))
}

pub(crate) fn ping(data: &[u8]) -> Incoming {
    Incoming::Ping(Bytes::copy_from_slice(data))
}

pub(crate) fn pong(data: &[u8]) -> Incoming {
    Incoming::Pong(Bytes::copy_from_slice(data))
}

pub(crate) fn close(code: u16, reason: &str) -> Incoming {
    Incoming::Close(Some(CloseFrame { code: CloseCode::new(code).unwrap(), reason: reason.into() }))
}

/// Feeds the pieces one by one.
pub(crate) fn feed<'a>(receiver: &mut Receiver, pieces: impl IntoIterator<Item = &'a [u8]>) -> Transcript {
    let (mut wire, mut events) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        wire.extend_from_slice(piece);
        loop {
            match receiver.receive(&mut wire) {
                Ok(Some(incoming)) => events.push(incoming),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

/// As [`feed`], looking at messages in place, with one of `looks` after the other.
pub(crate) fn feed_in_place<'a>(
    receiver: &mut Receiver,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    looks: &[Look],
) -> Transcript {
    let (mut wire, mut events) = (BytesMut::new(), Vec::new());
    let mut looks = looks.iter().cycle();
    for piece in pieces {
        wire.extend_from_slice(piece);
        loop {
            let (mut seen, mut last) = (Vec::new(), Look::Pass);
            let received = receiver.receive_each(&mut wire, |message| {
                last = *looks.next().expect("it cycles");
                if last != Look::Pass {
                    seen.push(match message {
                        MessageRef::Text(shown) => text(shown),
                        MessageRef::Binary(data) => binary(data),
                    });
                }
                last
            });
            events.append(&mut seen);
            match received {
                Ok(Some(incoming)) => events.push(incoming),
                Ok(None) if last == Look::Stop => {}
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

/// Feeds `wire` whole, one byte at a time and split in two at every offset (a sample of them for long
/// input); all must come to the same.
pub(crate) fn every_way(new: impl Fn() -> Receiver, wire: &[u8]) -> Transcript {
    let whole = feed(&mut new(), [wire]);
    assert_eq!(feed(&mut new(), wire.chunks(1)), whole, "one byte at a time");
    for looks in [&[Look::Done][..], &[Look::Pass], &[Look::Stop], &[Look::Done, Look::Pass, Look::Stop]] {
        assert_eq!(feed_in_place(&mut new(), [wire], looks), whole, "in place: {looks:?}");
    }
    assert_eq!(
        feed_in_place(&mut new(), wire.chunks(1), &[Look::Done]),
        whole,
        "in place, one byte at a time"
    );
    let step = 1 + wire.len() / 500;
    for at in (0..=wire.len()).step_by(step) {
        let (left, right) = wire.split_at(at);
        assert_eq!(feed(&mut new(), [left, right]), whole, "split at {at}");
        assert_eq!(feed_in_place(&mut new(), [left, right], &[Look::Done]), whole, "in place, split at {at}");
    }
    whole
}

/// What a side without extensions makes of `wire`, however it is split.
pub(crate) fn received(role: Role, wire: &[u8]) -> Transcript {
    received_within(role, Limits::default(), wire)
}

pub(crate) fn received_within(role: Role, limits: Limits, wire: &[u8]) -> Transcript {
    every_way(|| Receiver::new(role, limits), wire)
}

/// A small deterministic generator.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}
