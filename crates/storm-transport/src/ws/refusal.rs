//! What a server says behind the head of its refusal, as far as it says where that ends.
//!
//! In: bytes behind the head. Out: the body, for whoever is to read it. Not here: heads (`storm-ws-proto`).

use std::time::Duration;

use bytes::BytesMut;
use httparse::Status;
use storm_ws_proto::http::{HeaderMap, StatusCode, header};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Room for one read.
const READ: usize = 1024;
/// Bytes that are kept.
const MAX_BODY: usize = 64 * 1024;
/// How long it is waited for: the refusal counts, whatever becomes of its body.
const BODY_WAIT: Duration = Duration::from_secs(1);
/// Bytes of the line end behind a chunk.
const LINE_END: usize = 2;

/// Reads on into `received`, which begins behind the head, and leaves the body there: what came of it in time.
pub(super) async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    received: &mut BytesMut,
    status: StatusCode,
    headers: &HeaderMap,
) {
    let body = Body::of(status, headers);
    let _ = tokio::time::timeout(BODY_WAIT, body.read(stream, received)).await;
    body.finish(received);
}

/// How the body of a refusal ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// After so many bytes.
    Sized(usize),
    /// With a chunk of no bytes.
    Chunked,
    /// With the stream.
    Rest,
}

impl Body {
    fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Self::Sized(0);
        }
        if let Some(coding) = headers.get(header::TRANSFER_ENCODING) {
            // Of another coding nothing can be made.
            return if coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                Self::Chunked
            } else {
                Self::Sized(0)
            };
        }
        match headers.get(header::CONTENT_LENGTH) {
            Some(len) => Self::Sized(len.to_str().ok().and_then(|len| len.parse().ok()).unwrap_or(0)),
            None => Self::Rest,
        }
    }

    /// Whether `received` holds all of it, or as much as is kept.
    fn is_whole(self, received: &[u8]) -> bool {
        received.len() >= MAX_BODY
            || match self {
                Self::Sized(len) => received.len() >= len,
                // However the last chunk ends, it ends like this: not each byte is worth a look at all of them.
                Self::Chunked => received.ends_with(b"\r\n\r\n") && unchunked(received).1,
                Self::Rest => false,
            }
    }

    /// Reads it to its end; what came before that stays.
    async fn read<S: AsyncRead + Unpin>(self, stream: &mut S, received: &mut BytesMut) {
        while !self.is_whole(received) {
            received.reserve(READ);
            if !matches!(stream.read_buf(received).await, Ok(1..)) {
                break;
            }
        }
    }

    /// Leaves the body in `received`, and nothing else.
    fn finish(self, received: &mut BytesMut) {
        match self {
            Self::Sized(len) => received.truncate(len),
            Self::Chunked => *received = unchunked(received).0,
            Self::Rest => {}
        }
        received.truncate(MAX_BODY);
    }
}

/// What the chunks at the start of `received` hold (RFC 9112 §7.1), and whether the last one is among them, or what is no chunk.
fn unchunked(mut received: &[u8]) -> (BytesMut, bool) {
    let mut body = BytesMut::new();
    loop {
        let (at, size) = match httparse::parse_chunk_size(received) {
            Ok(Status::Complete((_, 0))) | Err(_) => return (body, true),
            Ok(Status::Complete((at, size))) => (at, usize::try_from(size).unwrap_or(usize::MAX)),
            Ok(Status::Partial) => return (body, false),
        };
        let rest = &received[at..];
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        let behind = size.checked_add(LINE_END).and_then(|size| rest.get(size..));
        let Some(behind) = behind else { return (body, false) };
        received = behind;
    }
}
