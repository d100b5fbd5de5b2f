//! Both halves back to back in both roles, cut up in every way.

mod support;

use storm_ws_proto::{Incoming, Limits, MessageKind, Receiver, Role, Sender};
use support::*;

fn sender(role: Role) -> Sender {
    let mut keys = Random(1);
    match role {
        Role::Server => Sender::server(),
        Role::Client => Sender::client(move || {
            let [a, b, c, d, ..] = keys.next().to_be_bytes();
            [a, b, c, d]
        }),
    }
}

#[test]
fn what_one_half_sends_the_other_receives() {
    for (from, to) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
        let (mut wire, mut expected, mut random) = (Vec::new(), Vec::new(), Random(7));
        let mut sender = sender(from);
        for round in 0..40 {
            let len = random.below(300);
            let data = random.bytes(len);
            match round % 4 {
                0 => {
                    let shown: String = data.iter().map(|byte| char::from(*byte)).collect();
                    sender.message(MessageKind::Text, shown.clone().into(), true, &mut wire).unwrap();
                    expected.push(text(&shown));
                }
                1 => {
                    sender.message_slice(MessageKind::Binary, &data, true, &mut wire).unwrap();
                    expected.push(binary(&data));
                }
                2 => {
                    sender.ping(&data[..data.len().min(125)], &mut wire).unwrap();
                    expected.push(ping(&data[..data.len().min(125)]));
                }
                _ => {
                    let (head, tail) = data.split_at(data.len() / 3);
                    sender.fragment(MessageKind::Binary, head, false, true, &mut wire).unwrap();
                    sender.pong(b"between", &mut wire).unwrap();
                    sender.fragment(MessageKind::Binary, tail, true, true, &mut wire).unwrap();
                    expected.extend([pong(b"between"), binary(&data)]);
                }
            }
        }
        sender.close(None, &mut wire).unwrap();
        expected.push(Incoming::Close(None));
        assert_eq!(received(to, &wire), (expected, None));
    }
}

#[test]
fn random_splits_make_no_difference() {
    let mut random = Random(99);
    let frames = [
        masked(0x81, "grün".as_bytes()),
        masked(0x02, &[1; 200]),
        masked(0x89, b"?"),
        masked(0x80, &[2; 70]),
    ];
    let wire = frames.concat().repeat(10);
    let whole = received(Role::Server, &wire);
    for _ in 0..200 {
        let (mut pieces, mut rest) = (Vec::new(), &wire[..]);
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(1 + random.below(40.min(rest.len())));
            pieces.push(piece);
            rest = tail;
        }
        assert_eq!(feed(&mut Receiver::new(Role::Server, Limits::default()), pieces), whole);
    }
}

#[test]
fn one_byte_at_a_time_is_linear() {
    // A quadratic decoder would need minutes for this.
    let payload = "ü".repeat(300_000);
    let wire = masked(0x81, payload.as_bytes());
    let mut receiver = Receiver::new(Role::Server, Limits::default());
    assert_eq!(feed(&mut receiver, wire.chunks(1)), (vec![text(&payload)], None));
}
