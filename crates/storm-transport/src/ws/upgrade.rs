//! The upgrade's reads and writes, for both roles. The caller bounds the time.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use httparse::Status;
use storm_ws_proto::handshake::{
    ClientHandshake, Connected, HandshakeError, HeadLimits, Request, RequestReader, ResponseError,
};
use storm_ws_proto::http::{HeaderMap, StatusCode, header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Room for the first read: the head of nearly every request.
const FIRST_READ: usize = 1024;
/// Bytes of a refusal's body that are kept for the caller.
const MAX_BODY: usize = 64 * 1024;
/// Bytes of the line end behind a chunk.
const LINE_END: usize = 2;
/// How long the rest of it is waited for: the refusal counts, whatever becomes of its body.
const BODY_WAIT: Duration = Duration::from_secs(1);

/// Why there is no request or no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError<E: std::error::Error + 'static> {
    /// The peer's head breaks a rule.
    #[error("the head is not valid")]
    Head(#[source] E),
    /// The transport failed, or ended before the head did.
    #[error("the transport failed")]
    Io(#[from] io::Error),
}

/// Reads a request head. What follows it stays in `buffer`.
///
/// # Errors
/// The head breaks a rule, or the transport fails.
pub async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    limits: HeadLimits,
) -> Result<Request, UpgradeError<HandshakeError>> {
    let mut reader = RequestReader::new(limits);
    loop {
        buffer.reserve(FIRST_READ);
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Some((request, len)) = reader.read(buffer).map_err(UpgradeError::Head)? {
            buffer.advance(len);
            return Ok(request);
        }
    }
}

/// Writes `request` and reads the head of its response. What follows that stays in `buffer`; of a refusal that is as much of its
/// body as comes within a second, up to 64 KiB.
///
/// The two go on at the same time: a refusal counts though the server has not read the request to its end, and neither side
/// waits for room in a pipe that the other does not empty.
///
/// # Errors
/// The head breaks a rule or does not agree, or the transport fails.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
    buffer: &mut BytesMut,
    handshake: ClientHandshake,
) -> Result<Connected, UpgradeError<ResponseError>> {
    let (mut receiving, mut sending) = tokio::io::split(stream);
    let mut write = pin!(async {
        sending.write_all(request).await?;
        sending.flush().await
    });
    let mut read = pin!(read_response(&mut receiving, buffer, handshake));
    let written = tokio::select! {
        biased;
        written = &mut write => written,
        response = &mut read => {
            let connected = response?;
            write.await?;
            return Ok(connected);
        }
    };
    match (read.await, written) {
        // What broke first says more.
        (Err(UpgradeError::Io(_)), Err(error)) => Err(error.into()),
        (response, _) => response,
    }
}

async fn read_response<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    mut handshake: ClientHandshake,
) -> Result<Connected, UpgradeError<ResponseError>> {
    loop {
        buffer.reserve(FIRST_READ);
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match handshake.read(buffer) {
            Ok(Some((connected, len))) => {
                buffer.advance(len);
                return Ok(connected);
            }
            Ok(None) => {}
            Err(error) => {
                match &error {
                    ResponseError::Status { status, headers, body_at } => {
                        buffer.advance((*body_at).min(buffer.len()));
                        let body = Body::of(*status, headers);
                        // What came by then stays.
                        let _ = tokio::time::timeout(BODY_WAIT, body.read(stream, buffer)).await;
                        body.finish(buffer);
                    }
                    // No head, or one that nothing belongs to but frames.
                    _ => buffer.clear(),
                }
                return Err(UpgradeError::Head(error));
            }
        }
    }
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

    /// Reads it to its end; the caller gets what there is.
    async fn read<S: AsyncRead + Unpin>(self, stream: &mut S, received: &mut BytesMut) {
        while !self.is_whole(received) {
            received.reserve(FIRST_READ);
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

/// Writes a final answer and ends the stream. The peer gets to read it for certain after a [`linger`].
///
/// # Errors
/// The transport fails.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await
}

/// Reads and throws away until the peer has ended its stream, too: unread bytes would turn our end into a reset.
///
/// # Errors
/// The transport fails.
pub async fn linger<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
