//! Both halves back to back in both roles, cut up in every way; and a second opinion on the decoder.

mod support;

use std::io::{self, Cursor, Read, Write};

use storm_ws_proto::{Incoming, Limits, MessageKind, ProtocolError, Receiver, Role, Sender};
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

/// Reads from memory, then reports that nothing more is there yet; swallows what is written.
struct Memory(Cursor<Vec<u8>>);

impl Read for Memory {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl Write for Memory {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of the same bytes.
fn second_opinion(role: Role, wire: &[u8]) -> (Vec<Incoming>, bool) {
    use tungstenite::protocol::{Role as TheirRole, WebSocket, WebSocketConfig};
    use tungstenite::{Error, Message};
    let their_role = if role == Role::Server { TheirRole::Server } else { TheirRole::Client };
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let mut socket = WebSocket::from_raw_socket(Memory(Cursor::new(wire.to_vec())), their_role, Some(config));
    let mut events = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(theirs)) => events.push(text(theirs.as_str())),
            Ok(Message::Binary(data)) => events.push(binary(&data)),
            Ok(Message::Ping(data)) => events.push(ping(&data)),
            Ok(Message::Pong(data)) => events.push(pong(&data)),
            Ok(Message::Close(frame)) => {
                events.push(match frame {
                    None => Incoming::Close(None),
                    // How they report a code that must not be sent.
                    Some(frame) if frame.reason.as_str() == "Protocol violation" => return (events, true),
                    Some(frame) => close(frame.code.into(), frame.reason.as_str()),
                });
                return (events, false);
            }
            Ok(Message::Frame(_)) => unreachable!("only when writing"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (events, false),
            Err(_) => return (events, true),
        }
    }
}

/// A stream of mostly legal frames; now and then one breaks a rule, or the last is cut short.
fn random_stream(role: Role, random: &mut Random) -> (Vec<u8>, bool) {
    let mut wire = Vec::new();
    let mut open = false;
    for _ in 0..1 + random.below(12) {
        let len = [0, 1, 5, 60, 125, 126, 300, 70_000][random.below(8)];
        let mut payload = random.bytes(len);
        if random.below(4) > 0 {
            payload.iter_mut().for_each(|byte| *byte = b'a' + *byte % 26);
        }
        let wild = random.below(15) == 0;
        let (opcode, fin) = match random.below(6) {
            _ if wild => (random.next().to_be_bytes()[0] & 0x0F, random.below(2) == 0),
            0 => (0x9, true),
            1 => (0xA, true),
            2 if random.below(4) == 0 => (0x8, true),
            _ if open => (0x0, random.below(2) == 0),
            kind => (if kind < 4 { 0x1 } else { 0x2 }, random.below(3) > 0),
        };
        if opcode >= 8 {
            payload.truncate(125);
            if opcode == 8 && payload.len() >= 2 {
                payload[..2].copy_from_slice(&[0x03, 0xE8 + random.next().to_be_bytes()[0] % 8]);
            }
        } else {
            open = !fin;
        }
        let rsv = if random.below(40) == 0 { 0x10 << random.below(3) } else { 0 };
        wire.extend(frame(role, u8::from(fin) << 7 | rsv | opcode, &payload));
    }
    let cut = random.below(5) == 0;
    if cut {
        wire.truncate(random.below(wire.len()));
    }
    (wire, cut)
}

#[test]
fn tungstenite_agrees_on_random_streams() {
    let (mut random, mut failed, mut delivered) = (Random(0x5707), 0, 0);
    for round in 0..3000 {
        let role = if round % 2 == 0 { Role::Server } else { Role::Client };
        let (wire, cut) = random_stream(role, &mut random);
        let ours = feed(&mut Receiver::new(role, Limits::default()), wire.chunks(4096));
        let theirs = second_opinion(role, &wire);
        // They judge a frame when it is whole; we need no more of it than shows that it is bad.
        let early = cut || ours.1 == Some(ProtocolError::InvalidUtf8);
        if ours.1.is_some() && !theirs.1 && early {
            assert!(theirs.0.starts_with(&ours.0), "round {round}");
            continue;
        }
        assert_eq!((&ours.0, ours.1.is_some()), (&theirs.0, theirs.1), "round {round}: {:?}", ours.1);
        failed += usize::from(theirs.1);
        delivered += theirs.0.len();
    }
    assert!(failed > 300 && delivered > 3000, "{failed} failed, {delivered} delivered: not a fair sample");
}
