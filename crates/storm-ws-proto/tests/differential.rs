//! A second opinion: tungstenite gets the same bytes, and must deliver the same messages and refuse for the same kind of
//! reason. Random streams of legal frames, some with one illegal frame in them, some cut short; both roles.
//!
//! Where the two differ, and we mean to:
//!
//! | | we | tungstenite |
//! |---|---|---|
//! | a frame that is bad by its head, or a text by its first bytes | at once | when it is whole |
//! | a length in more bytes than it needs | 1002 | takes it |
//! | the top bit of a 64-bit length | 1002 | a length above the limit |
//! | close code 1014, registered since RFC 6455 | takes it | 1002 |
//! | what follows a close frame | is thrown away | is not read |

mod support;

use std::io::{self, Cursor, Read, Write};

use storm_ws_proto::bytes::Bytes;
use storm_ws_proto::{CloseCode, Incoming, Limits, MessageKind, Receiver, Role, Sender};
use support::*;

const MAX_FRAME: usize = 80_000;
const MAX_MESSAGE: usize = 150_000;

/// Why a stream was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// 1002.
    Protocol,
    /// 1007.
    Data,
    /// 1009.
    TooBig,
}

type Opinion = (Vec<Incoming>, Option<Class>);

fn ours(role: Role, wire: &[u8], step: usize) -> Opinion {
    let limits = Limits::default()
        .max_frame_size(MAX_FRAME as u64)
        .max_message_size(MAX_MESSAGE as u64)
        .max_fragments(None);
    let (events, error) = feed(&mut Receiver::new(role, limits), wire.chunks(step));
    let class = error.map(|error| match error.close_code() {
        CloseCode::PROTOCOL_ERROR => Class::Protocol,
        CloseCode::INVALID_PAYLOAD => Class::Data,
        CloseCode::MESSAGE_TOO_BIG => Class::TooBig,
        code => panic!("{code:?} for {error}"),
    });
    (events, class)
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

fn theirs(role: Role, wire: &[u8]) -> Opinion {
    use tungstenite::protocol::{Role as TheirRole, WebSocket, WebSocketConfig};
    use tungstenite::{Error, Message};
    let their_role = if role == Role::Server { TheirRole::Server } else { TheirRole::Client };
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_frame_size(Some(MAX_FRAME))
        .max_message_size(Some(MAX_MESSAGE));
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
                    Some(frame) if frame.reason.as_str() == "Protocol violation" => {
                        return (events, Some(Class::Protocol));
                    }
                    Some(frame) => close(frame.code.into(), frame.reason.as_str()),
                });
                return (events, None);
            }
            Ok(Message::Frame(_)) => unreachable!("only when writing"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (events, None),
            Err(Error::Protocol(_)) => return (events, Some(Class::Protocol)),
            Err(Error::Utf8(_)) => return (events, Some(Class::Data)),
            Err(Error::Capacity(_)) => return (events, Some(Class::TooBig)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Frames as the peer of one side sends them, each masked with a key of its own if that is a client.
struct Stream<'a> {
    to: Role,
    random: &'a mut Random,
    wire: Vec<u8>,
}

impl Stream<'_> {
    fn frame(&mut self, first: u8, payload: &[u8]) {
        self.frame_masked(self.to == Role::Server, first, payload);
    }

    fn frame_masked(&mut self, masked: bool, first: u8, payload: &[u8]) {
        self.wire.extend(head(first, if masked { 0x80 } else { 0 }, payload.len() as u64));
        self.payload(masked, payload);
    }

    /// A key, if there is one, and a payload; the head is there already.
    fn payload(&mut self, masked: bool, payload: &[u8]) {
        let [key @ .., _, _, _, _] = if masked { self.random.next() } else { 0 }.to_be_bytes();
        if masked {
            self.wire.extend(key);
        }
        self.wire.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    }

    fn some_bytes(&mut self) -> Vec<u8> {
        let sizes = [0, 1, 5, 60, 124, 125, 126, 127, 300, 4090, 65_535, 65_536, 70_000];
        let len = sizes[self.random.below(sizes.len())];
        self.random.bytes(len)
    }

    fn some_text(&mut self) -> String {
        let alphabet = ['a', 'Z', ' ', 'ü', '€', '𝄞', '\u{7FF}', '\u{FFFD}', '\u{10FFFF}', '\0'];
        let len = [0, 1, 2, 30, 31, 32, 120, 2000][self.random.below(8)];
        (0..len).map(|_| alphabet[self.random.below(alphabet.len())]).collect()
    }

    fn control(&mut self) {
        let len = [0, 1, 4, 125][self.random.below(4)];
        let payload = self.random.bytes(len);
        let first = if self.random.below(2) == 0 { 0x89 } else { 0x8A };
        self.frame(first, &payload);
    }

    /// A legal message in one frame or several, cut anywhere, with control frames between them.
    fn message(&mut self) {
        let (opcode, payload) = match self.random.below(2) {
            0 => (0x1, self.some_text().into_bytes()),
            _ => (0x2, self.some_bytes()),
        };
        let mut rest = &payload[..];
        let (mut opcode, mut cuts) = (opcode, self.random.below(4));
        while cuts > 0 {
            let (piece, tail) = rest.split_at(self.random.below(rest.len() + 1));
            self.frame(opcode, piece);
            (opcode, rest, cuts) = (0, tail, cuts - 1);
            if self.random.below(3) == 0 {
                self.control();
            }
        }
        self.frame(0x80 | opcode, rest);
    }

    /// The beginning of a message whose end does not come.
    fn open(&mut self) {
        let piece = self.some_text();
        self.frame(0x1, piece.as_bytes());
    }

    fn close(&mut self) {
        let code = [1000, 1001, 1003, 1007, 1011, 1013, 3000, 3999, 4000, 4999][self.random.below(10)];
        let mut payload = u16::to_be_bytes(code).to_vec();
        payload.extend(b"so long ".iter().take(self.random.below(9)));
        payload.truncate(if self.random.below(4) == 0 { 0 } else { 125 });
        self.frame(0x88, &payload);
    }

    /// One frame, or a message, that breaks one rule; which one.
    fn fault(&mut self) -> &'static str {
        const BAD_TEXT: [&[u8]; 6] =
            [b"\xFF", b"ab\x80", b"\xC0\x80", b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"ab\xE2\x82"];
        let bad_text = BAD_TEXT[self.random.below(6)];
        match self.random.below(18) {
            0 => {
                let first = [0x81, 0x82, 0x89, 0x8A, 0x88][self.random.below(5)];
                self.frame_masked(self.to == Role::Client, first, b"");
                "mask"
            }
            1 => {
                let reserved = (1 + u8::try_from(self.random.below(7)).unwrap()) << 4;
                let opcode = [0x1, 0x2, 0x8, 0x9, 0xA][self.random.below(5)];
                self.frame(0x80 | reserved | opcode, b"");
                "reserved bits"
            }
            2 => {
                let opcode = [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF][self.random.below(10)];
                let len = self.random.below(200);
                let payload = self.random.bytes(len);
                self.frame(0x80 | opcode, &payload);
                "reserved opcode"
            }
            3 => {
                let opcode = [0x8, 0x9, 0xA][self.random.below(3)];
                self.frame(opcode, b"");
                "fragmented control frame"
            }
            4 => {
                let opcode = [0x8, 0x9, 0xA][self.random.below(3)];
                let payload = vec![b'x'; 126 + self.random.below(1000)];
                self.frame(0x80 | opcode, &payload);
                "long control frame"
            }
            5 => {
                let first = [0x00, 0x80][self.random.below(2)];
                self.frame(first, b"x");
                "continuation of nothing"
            }
            6 => {
                self.open();
                let first = [0x81, 0x82, 0x01, 0x02][self.random.below(4)];
                self.frame(first, b"x");
                "message inside a message"
            }
            7 => {
                let payload = vec![0; MAX_FRAME + 1 + self.random.below(100)];
                self.frame(0x82, &payload);
                "big frame"
            }
            8 => {
                let size = MAX_MESSAGE / 2 + 1;
                self.frame(0x02, &vec![0; size]);
                self.control();
                self.frame(0x80, &vec![0; size]);
                "big message"
            }
            9 | 10 => {
                self.frame(0x81, bad_text);
                "bad text"
            }
            11 | 12 => {
                let (head, tail) = bad_text.split_at(self.random.below(bad_text.len() + 1));
                self.frame(0x01, head);
                self.frame(0x80, tail);
                "bad text in two"
            }
            13 | 14 => {
                // Unless it is only unfinished, it fails before the message is whole.
                let bad_text = BAD_TEXT[self.random.below(5)];
                self.frame(0x01, bad_text);
                "bad beginning of a text"
            }
            15 => {
                self.frame(0x88, b"\x03");
                "close of one byte"
            }
            16 => {
                let code =
                    [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535][self.random.below(10)];
                self.frame(0x88, &code.to_be_bytes());
                "close code"
            }
            _ => {
                self.frame(0x88, &[b"\x03\xE8", bad_text].concat());
                "close reason"
            }
        }
    }
}

/// How often each fault came up.
#[derive(Debug, Default)]
struct Tally(std::collections::BTreeMap<&'static str, usize>);

#[test]
fn random_streams() {
    let (mut random, mut tally, mut delivered, mut early) = (Random(0x5707), Tally::default(), 0, 0);
    for round in 0..2000 {
        let role = if round % 2 == 0 { Role::Server } else { Role::Client };
        let mut stream = Stream { to: role, random: &mut random, wire: Vec::new() };
        for _ in 0..stream.random.below(6) {
            if stream.random.below(3) == 0 { stream.control() } else { stream.message() }
        }
        let fault = match stream.random.below(3) {
            0 => stream.message_end(),
            _ => Some(stream.fault()),
        };
        // What comes behind has no say.
        stream.message();
        let mut wire = stream.wire;
        let cut = random.below(4) == 0;
        if cut {
            wire.truncate(random.below(wire.len()));
        }
        let step = [1, 2, 3, 7, 100, 4096, usize::MAX][random.below(7)].min(wire.len().max(1));
        // One byte at a time through 70 000 is for smaller streams.
        let step = if wire.len() > 50_000 { step.max(100) } else { step };
        let (ours, theirs) = (ours(role, &wire, step), theirs(role, &wire));
        let context = || format!("round {round}, {role:?}, {fault:?}, cut {cut}, pieces of {step}");
        if cut && ours.1.is_some() && theirs.1.is_none() {
            // The frame is bad by what is here of it, and not all is.
            assert_eq!(ours.0, theirs.0, "{}", context());
            early += 1;
            continue;
        }
        assert_eq!(ours, theirs, "{}", context());
        assert!(cut || ours.1.is_some() == fault.is_some(), "{}", context());
        delivered += ours.0.len();
        if let (Some(fault), true) = (fault, ours.1.is_some()) {
            *tally.0.entry(fault).or_default() += 1;
        }
    }
    assert!(delivered > 2500 && early > 10, "{delivered} delivered, {early} early: not a fair sample");
    assert!(tally.0.len() == 15 && tally.0.values().all(|&count| count > 15), "not a fair sample: {tally:?}");
}

impl Stream<'_> {
    /// A legal end, or none: no fault in any case.
    fn message_end(&mut self) -> Option<&'static str> {
        if self.random.below(2) == 0 {
            self.close();
        }
        None
    }
}

#[test]
fn every_close_code() {
    // 1014 is one of the known differences.
    for code in (0..=u16::MAX).filter(|&code| code != 1014) {
        let wire = plain(0x88, &code.to_be_bytes());
        assert_eq!(ours(Role::Client, &wire, wire.len()), theirs(Role::Client, &wire), "{code}");
    }
}

#[test]
fn they_read_what_we_send() {
    for (from, to) in [(Role::Server, Role::Client), (Role::Client, Role::Server)] {
        let mut random = Random(11);
        let mut keys = Random(12);
        let mut sender = match from {
            Role::Server => Sender::server(),
            Role::Client => Sender::client(move || {
                let [key @ .., _, _, _, _] = keys.next().to_be_bytes();
                key
            }),
        };
        let (mut wire, mut sent) = (Vec::new(), Vec::new());
        for round in 0..300 {
            let data = { Stream { to, random: &mut random, wire: Vec::new() }.some_bytes() };
            match round % 3 {
                0 => {
                    sender.message(MessageKind::Binary, Bytes::from(data.clone()), true, &mut wire).unwrap();
                    sent.push(binary(&data));
                }
                1 => {
                    let shown: String = data.iter().take(1000).map(|byte| char::from(*byte)).collect();
                    sender.message_slice(MessageKind::Text, shown.as_bytes(), true, &mut wire).unwrap();
                    sent.push(text(&shown));
                }
                _ => {
                    let (head, tail) = data.split_at(data.len() / 3);
                    sender.fragment(MessageKind::Binary, head, false, true, &mut wire).unwrap();
                    sender.ping(b"between", &mut wire).unwrap();
                    sender.fragment(MessageKind::Binary, tail, true, true, &mut wire).unwrap();
                    sent.extend([ping(b"between"), binary(&data)]);
                }
            }
        }
        sender.close(Some((CloseCode::new(4321).unwrap(), "enough")), &mut wire).unwrap();
        sent.push(close(4321, "enough"));
        assert_eq!(theirs(to, &wire), (sent, None));
    }
}

#[test]
fn the_differences_are_the_known_ones() {
    // Lengths in more bytes than needed.
    let wire = [&[0x82, 126, 0, 5][..], b"hello"].concat();
    assert_eq!(ours(Role::Client, &wire, 1), (vec![], Some(Class::Protocol)));
    assert_eq!(theirs(Role::Client, &wire), (vec![binary(b"hello")], None));
    let wire = [&[0x82, 127, 0, 0, 0, 0, 0, 0, 0, 5][..], b"hello"].concat();
    assert_eq!(ours(Role::Client, &wire, 1), (vec![], Some(Class::Protocol)));
    assert_eq!(theirs(Role::Client, &wire), (vec![binary(b"hello")], None));
    // The top bit.
    let wire = [0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(ours(Role::Client, &wire, 1), (vec![], Some(Class::Protocol)));
    assert_eq!(theirs(Role::Client, &wire), (vec![], Some(Class::TooBig)));
    // Registered with IANA as "bad gateway".
    let wire = plain(0x88, &1014_u16.to_be_bytes());
    assert_eq!(ours(Role::Client, &wire, 1), (vec![close(1014, "")], None));
    assert_eq!(theirs(Role::Client, &wire), (vec![], Some(Class::Protocol)));
    // Early and late.
    for (wire, class) in [
        (&b"\xF1\x05"[..], Class::Protocol),
        (b"\x09\x05", Class::Protocol),
        (b"\x89\x7E\x00\x7E", Class::Protocol),
        (b"\x80\x05", Class::Protocol),
        (b"\x81\x05\xC0", Class::Data),
    ] {
        assert_eq!(ours(Role::Client, wire, 1), (vec![], Some(class)));
        assert_eq!(theirs(Role::Client, wire), (vec![], None));
    }
}
