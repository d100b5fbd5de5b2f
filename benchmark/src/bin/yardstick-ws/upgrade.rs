//! The opening handshake, without looking at more than the key.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::ready;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::shared;

/// RFC 6455 §4.2.2.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Reads the request and answers it, with the extension that was agreed on if there is one.
pub(crate) async fn upgrade<S>(stream: &mut S, extension: Option<&str>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Vec::new();
    let response = loop {
        let read = poll_fn(|cx| {
            shared::with(|shared| {
                let mut buffer = ReadBuf::new(&mut shared.input);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
                request.extend_from_slice(buffer.filled());
                io::Result::Ok(buffer.filled().len()).into()
            })
        })
        .await?;
        if read == 0 || request.len() > 16 << 10 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(response) = answer(&request, extension)? {
            break response;
        }
    };
    drop(request);
    stream.write_all(&response).await?;
    stream.flush().await
}

fn answer(request: &[u8], extension: Option<&str>) -> io::Result<Option<Vec<u8>>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    if head.parse(request).map_err(|_| bad())?.is_partial() {
        return Ok(None);
    }
    let key =
        head.headers.iter().find(|h| h.name.eq_ignore_ascii_case("sec-websocket-key")).ok_or_else(bad)?;
    let hash = Sha1::new().chain_update(key.value).chain_update(GUID).finalize();
    let accept = STANDARD.encode(hash);
    let extensions =
        extension.map_or(String::new(), |agreed| format!("Sec-WebSocket-Extensions: {agreed}\r\n"));
    Ok(Some(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{extensions}\r\n"
        )
        .into_bytes(),
    ))
}
