//! The upgrade's reads and writes, for both roles. The caller bounds the time.

use std::io;
use std::pin::pin;

use bytes::{Buf, BytesMut};
use storm_ws_proto::handshake::{
    ClientHandshake, Connected, HandshakeError, HeadLimits, Request, RequestReader, ResponseError,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::refusal;
use crate::fault;

/// Room for the first read: the head of nearly every request.
const FIRST_READ: usize = 1024;

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
        // What broke first says more, unless the other is no network's doing: a server's alert, say.
        (Err(UpgradeError::Io(read)), Err(error)) if fault::is_expected(&read) => Err(error.into()),
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
                        refusal::read_body(stream, buffer, *status, headers).await;
                    }
                    // No head, or one that nothing belongs to but frames.
                    _ => buffer.clear(),
                }
                return Err(UpgradeError::Head(error));
            }
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use storm_ws_proto::handshake::ClientRequest;
    use tokio::io::ReadBuf;

    use super::*;

    /// Fails at once, with these errors.
    struct Fails {
        read: io::ErrorKind,
        write: io::ErrorKind,
    }

    impl AsyncRead for Fails {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.read.into()))
        }
    }

    impl AsyncWrite for Fails {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(self.write.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn of_two_errors_the_one_counts_that_is_no_networks_doing_or_was_first() {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData};
        for (read, write, counts) in
            [(ConnectionReset, BrokenPipe, BrokenPipe), (InvalidData, BrokenPipe, InvalidData)]
        {
            let uri = "ws://host/".parse().expect("a URI");
            let request = ClientRequest::new(&uri).expect("valid");
            let (bytes, handshake) = request.encode([0; 16], HeadLimits::default());
            let mut early = BytesMut::new();
            match exchange(&mut Fails { read, write }, &bytes, &mut early, handshake).await {
                Err(UpgradeError::Io(error)) => assert_eq!(error.kind(), counts),
                other => panic!("{other:?}"),
            }
        }
    }
}
