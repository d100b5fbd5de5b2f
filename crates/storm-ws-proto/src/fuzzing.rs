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

/// For benchmarks: masks in place.
pub fn apply_mask(key: [u8; 4], data: &mut [u8]) {
    crate::mask::apply(key, data);
}

/// For benchmarks: the running UTF-8 check over one piece.
#[must_use]
pub fn check_utf8(piece: &[u8]) -> bool {
    crate::utf8::Utf8Check::default().feed(piece).is_ok()
}
