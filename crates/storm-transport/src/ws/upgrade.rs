//! The upgrade's reads and writes, for both roles. The caller bounds the time.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use storm_ws_proto::handshake::{
    ClientHandshake, Connected, HandshakeError, HeadLimits, Request, RequestReader, ResponseError,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Room for the first read: the head of nearly every request.
const FIRST_READ: usize = 1024;
/// Bytes of a refusal's body that are kept for the caller.
const MAX_BODY: usize = 64 * 1024;
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

/// Reads a response head. What follows it stays in `buffer`; of a refusal that is as much of its body as comes
/// within a second, up to 64 KiB.
///
/// # Errors
/// The head breaks a rule or does not agree, or the transport fails.
pub async fn read_response<S: AsyncRead + Unpin>(
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
                if let ResponseError::Status { headers, body_at, .. } = &error {
                    buffer.advance((*body_at).min(buffer.len()));
                    // What came by then stays in the buffer.
                    let _ = tokio::time::timeout(BODY_WAIT, read_body(stream, buffer, headers)).await;
                }
                return Err(UpgradeError::Head(error));
            }
        }
    }
}

/// Reads the body of a refusal as far as it says how long it is; the caller gets what there is.
async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    body: &mut BytesMut,
    headers: &storm_ws_proto::http::HeaderMap,
) {
    let announced =
        headers.get("content-length").and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let wanted = announced.unwrap_or(0).min(MAX_BODY);
    body.truncate(wanted);
    while body.len() < wanted {
        body.reserve(FIRST_READ);
        let mut rest = (&mut *stream).take((wanted - body.len()) as u64);
        if !matches!(rest.read_buf(body).await, Ok(1..)) {
            break;
        }
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
