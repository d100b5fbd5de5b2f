//! Entry points for fuzzers: any bytes in, a panic only for a bug.
//!
//! Owns: nothing.
//! In:   arbitrary bytes; the first ones choose how the rest is cut up.
//! Out:  nothing; broken invariants panic.
//! Not here: the fuzzers (`fuzz/`, `tests/fuzz_smoke.rs`).
//!
//! Besides, what the benchmarks need of the inside.

use bytes::BytesMut;

use crate::handshake::{Accept, ClientRequest, HeadLimits, RequestReader};
#[cfg(feature = "deflate")]
use crate::{CloseCode, CloseFrame, MessageKind, SendError, Sender, SharedFrame, SharedKey};
use crate::{Incoming, Limits, Message, ProtocolError, Receiver, Role};

/// A request head; whatever is accepted must also be answerable.
pub fn request_head(data: &[u8]) {
    let limits = HeadLimits::default().max_bytes(2048).max_headers(16);
    let whole = RequestReader::new(limits).read(data);
    let mut reader = RequestReader::new(limits);
    let mut piecewise = Ok(None);
    for end in 0..=data.len() {
        piecewise = reader.read(&data[..end]);
        if !matches!(piecewise, Ok(None)) {
            break;
        }
    }
    match (whole, piecewise) {
        (Ok(None), Ok(None)) => {}
        (Ok(Some((request, taken))), Ok(Some((_, again)))) => {
            assert_eq!(taken, again);
            if let Ok(upgrade) = request.upgrade() {
                let mut accept = Accept::new();
                #[cfg(feature = "deflate")]
                {
                    accept = accept.deflate(crate::DeflateOptions::default());
                }
                if let Some(protocol) = upgrade.protocols().first() {
                    accept = accept.protocol(protocol);
                }
                let response = upgrade.accept(&accept).expect("an offered protocol").response;
                let ends = response.windows(4).filter(|four| four == b"\r\n\r\n").count();
                assert_eq!(ends, 1, "one head, not two");
            }
        }
        (Err(whole), Err(piecewise)) => {
            assert_eq!(whole, piecewise);
            assert!(whole.reject().to_bytes().starts_with(b"HTTP/1.1 "));
        }
        (whole, piecewise) => panic!("{whole:?} whole, {piecewise:?} in pieces"),
    }
}

/// A response head.
pub fn response_head(data: &[u8]) {
    let uri = http::Uri::from_static("ws://localhost/");
    let request = ClientRequest::new(&uri).and_then(|request| request.protocol("a")).expect("valid");
    #[cfg(feature = "deflate")]
    let request = request.deflate(crate::DeflateOptions::default());
    let limits = HeadLimits::default().max_bytes(2048).max_headers(16);
    let whole = request.encode(*b"the sample nonce", limits).1.read(data);
    let mut handshake = request.encode(*b"the sample nonce", limits).1;
    let mut piecewise = Ok(None);
    for end in 0..=data.len() {
        piecewise = handshake.read(&data[..end]);
        if !matches!(piecewise, Ok(None)) {
            break;
        }
    }
    assert_eq!(
        whole.map(|found| found.map(|found| found.1)),
        piecewise.map(|found| found.map(|found| found.1))
    );
}

/// The value of a `Sec-WebSocket-Extensions` header, as offer and as response.
pub fn extension_header(data: &[u8]) {
    let Ok(extensions) = crate::extension::parse(data) else {
        return;
    };
    assert!(!extensions.is_empty());
    #[cfg(feature = "deflate")]
    for extension in &extensions {
        let options = crate::DeflateOptions::default();
        if let Some((response, granted)) = crate::deflate::accept_offer(extension, &options) {
            let parsed = crate::extension::parse(response.as_bytes()).expect("our own response");
            if granted.client_max_window_bits >= 9 {
                assert_eq!(crate::deflate::check_response(&parsed[0], &options), Some(granted));
            }
        }
        let _ = crate::deflate::check_response(extension, &options);
    }
}

fn run(mut receiver: Receiver, data: &[u8], step: usize) -> (Vec<Incoming>, Option<ProtocolError>) {
    let (mut wire, mut events) = (BytesMut::new(), Vec::new());
    for piece in data.chunks(step) {
        wire.extend_from_slice(piece);
        loop {
            match receiver.receive(&mut wire) {
                Ok(Some(incoming)) => {
                    if let Incoming::Message(message) = &incoming {
                        assert!(message.len() <= 4096);
                        assert!(
                            !matches!(message, Message::Text(text) if std::str::from_utf8(text.as_ref()).is_err())
                        );
                    }
                    events.push(incoming);
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(receiver.is_ended() && wire.is_empty());
                    assert_eq!(receiver.receive(&mut wire), Ok(None));
                    return (events, Some(error));
                }
            }
        }
        assert!(receiver.wanted() <= 64 * 1024);
    }
    (events, None)
}

fn limits() -> Limits {
    Limits::default().max_frame_size(2048).max_message_size(4096).max_fragments(8)
}

/// A stream of frames, to the side in `role`.
pub fn frames(role: Role, data: &[u8]) {
    let Some((&step, data)) = data.split_first() else {
        return;
    };
    let whole = run(Receiver::new(role, limits()), data, data.len().max(1));
    let pieces = run(Receiver::new(role, limits()), data, usize::from(step).max(1));
    assert_eq!(whole, pieces);
}

/// A stream of frames, some of them compressed, to the side in `role`.
#[cfg(feature = "deflate")]
pub fn deflate_frames(role: Role, data: &[u8]) {
    let [step, flags, data @ ..] = data else { return };
    let params = crate::DeflateParams {
        server_no_context_takeover: flags & 1 != 0,
        client_no_context_takeover: flags & 2 != 0,
        server_max_window_bits: 8 + (flags >> 2) % 8,
        client_max_window_bits: 8 + (flags >> 5),
    };
    let receiver = || Receiver::new(role, limits()).deflate(&params);
    let whole = run(receiver(), data, data.len().max(1));
    let pieces = run(receiver(), data, usize::from(*step).max(1));
    assert_eq!(whole.0, pieces.0);
    // Which of two broken rules is met first depends on how much is inflated at once.
    assert_eq!(whole.1.is_some(), pieces.1.is_some());
}

/// What one side may be told to send, in any order; the other side must receive exactly what was not refused.
///
/// Of `data`, three bytes say what was agreed and how the wire is cut up; then each operation has a byte for what, two for
/// how long and how often, and its payload.
#[cfg(feature = "deflate")]
pub fn conversation(from: Role, data: &[u8]) {
    let [flags, takeover, step, script @ ..] = data else { return };
    let params = crate::DeflateParams {
        server_no_context_takeover: takeover & 1 != 0,
        client_no_context_takeover: takeover & 2 != 0,
        server_max_window_bits: 8 + (takeover >> 2) % 8,
        client_max_window_bits: 8 + (takeover >> 5),
    };
    let options = crate::DeflateOptions::default().level(flags >> 4).min_size(usize::from(flags & 0x0E) * 8);
    let (mut sender, to) = match from {
        Role::Server => (Sender::server(), Role::Client),
        Role::Client => (Sender::client(|| [0x37, 0xFA, 0x21, 0x3D]), Role::Server),
    };
    let mut receiver = Receiver::new(to, Limits::default());
    if flags & 1 != 0 {
        (sender, receiver) = (sender.deflate(&params, &options), receiver.deflate(&params));
    }
    let mut said = Said::default();
    let mut script = script;
    while let [what, len, times, rest @ ..] = script {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        script = rest;
        said.operation(&mut sender, *what, &payload.repeat(1 + usize::from(*times % 32)));
    }
    let step = if *step < 128 { 1 + usize::from(*step) } else { said.wire.len().max(1) };
    let (mut wire, mut events) = (BytesMut::new(), Vec::new());
    for piece in said.wire.chunks(step) {
        wire.extend_from_slice(piece);
        while let Some(incoming) = receiver.receive(&mut wire).expect("we keep to the rules") {
            events.push(incoming);
        }
    }
    assert_eq!(events, said.expected);
    assert!(wire.is_empty(), "frames are whole");
}

/// What has been sent so far, and what the other side is to make of it.
#[cfg(feature = "deflate")]
#[derive(Default)]
struct Said {
    wire: Vec<u8>,
    expected: Vec<Incoming>,
    /// The message that is being sent in fragments.
    open: Option<(MessageKind, Vec<u8>)>,
    closed: bool,
}

#[cfg(feature = "deflate")]
impl Said {
    fn operation(&mut self, sender: &mut Sender, what: u8, payload: &[u8]) {
        let (fin, compress) = (what & 0x10 != 0, what & 0x20 != 0);
        let kind = if what & 0x40 != 0 { MessageKind::Text } else { MessageKind::Binary };
        // Texts of whole messages are the caller's to check.
        let text = String::from_utf8_lossy(payload);
        let whole = if kind == MessageKind::Text { text.as_bytes() } else { payload };
        let before = self.wire.len();
        let outcome = match what & 0x0F {
            0..=3 => sender
                .message_slice(kind, whole, compress, &mut self.wire)
                .map(|()| self.expected.push(message(kind, whole))),
            4..=5 => sender
                .message(kind, whole.to_vec().into(), compress, &mut self.wire)
                .map(|()| self.expected.push(message(kind, whole))),
            6..=10 => sender.fragment(kind, payload, fin, compress, &mut self.wire).map(|()| {
                let (kind, mut whole) = self.open.take().unwrap_or((kind, Vec::new()));
                whole.extend_from_slice(payload);
                if fin {
                    self.expected.push(message(kind, &whole));
                } else {
                    self.open = Some((kind, whole));
                }
            }),
            11 => sender
                .ping(payload, &mut self.wire)
                .map(|()| self.expected.push(Incoming::Ping(payload.to_vec().into()))),
            12 => sender
                .pong(payload, &mut self.wire)
                .map(|()| self.expected.push(Incoming::Pong(payload.to_vec().into()))),
            13..=14 => {
                let key = if compress { sender.shared_key() } else { SharedKey::PLAIN };
                sender
                    .put_shared(&SharedFrame::encode(kind, whole, key), &mut self.wire)
                    .map(|()| self.expected.push(message(kind, whole)))
            }
            _ => sender.close(Some((CloseCode::GOING_AWAY, &text)), &mut self.wire).map(|()| {
                self.closed = true;
                let reason =
                    text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= 123).map(|(_, c)| c);
                let reason: String = reason.collect();
                let frame = CloseFrame { code: CloseCode::GOING_AWAY, reason: reason.as_str().into() };
                self.expected.push(Incoming::Close(Some(frame)));
            }),
        };
        match outcome {
            Ok(()) => assert!(self.wire.len() > before),
            Err(error) => {
                assert_eq!(self.wire.len(), before, "whole or not at all");
                assert_eq!(error == SendError::Closed, self.closed);
                assert!(error != SendError::MessageOpen || self.open.is_some());
            }
        }
        assert_eq!(sender.is_mid_message(), self.open.is_some());
        assert_eq!(sender.is_closed(), self.closed);
    }
}

#[cfg(feature = "deflate")]
fn message(kind: MessageKind, data: &[u8]) -> Incoming {
    Incoming::Message(match kind {
        MessageKind::Text => Message::from(std::str::from_utf8(data).expect("checked").to_owned()),
        MessageKind::Binary => Message::from(data.to_vec()),
    })
}

/// For benchmarks: masks in place.
pub fn apply_mask(key: [u8; 4], data: &mut [u8]) {
    crate::mask::apply(key, data);
}

/// For benchmarks: the running UTF-8 check over one piece.
#[must_use]
pub fn check_utf8(piece: &[u8]) -> bool {
    crate::utf8::Utf8Check::default().feed(piece).is_ok()
}
