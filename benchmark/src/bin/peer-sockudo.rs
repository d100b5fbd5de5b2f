//! Peer: echo, plain and compressed, and broadcast on sockudo-ws, as its documentation writes them.

use std::process::ExitCode;

use sockudo_ws::deflate::{DeflateConfig, DeflateNegotiation, negotiate_server_deflate};
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::protocol::Message;
use sockudo_ws::{CompressedWebSocketStream, Config, WebSocketStream};
use stormsocket_benchmark::peers::{self, Member, Peer, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> ExitCode {
    peers::main::<Sockudo>()
}

struct Sockudo;

impl Peer for Sockudo {
    type Message = Message;

    const DEFLATE: bool = true;

    async fn connection<S: Socket>(mut stream: S, member: Member<Message>) {
        let Some(agreed) = upgrade(&mut stream, member.flags.deflate).await else { return };
        let reply = |m| matches!(m, Message::Text(_) | Message::Binary(_)).then_some(m);
        let config = Config::default();
        let _ = match agreed {
            None => member.serve(WebSocketStream::server(stream, config), reply).await,
            Some(agreed) => {
                let socket = CompressedWebSocketStream::server(stream, config, agreed.config);
                member.serve(socket, reply).await
            }
        };
    }
}

/// Answers the request; gives what was agreed on, which is nothing unless `deflate`.
async fn upgrade<S: Socket>(stream: &mut S, deflate: bool) -> Option<Option<DeflateNegotiation>> {
    let mut request = Vec::with_capacity(4096);
    loop {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
        if let Some((parsed, _)) = parse_request(&request).ok()? {
            let offers = parsed.extensions.filter(|_| deflate);
            let agreed = offers.and_then(|offers| negotiate_server_deflate(offers, &policy()));
            let extensions = agreed.as_ref().map(DeflateNegotiation::to_response_header);
            let response = build_response(&generate_accept_key(parsed.key), None, extensions.as_deref());
            stream.write_all(&response).await.ok()?;
            stream.flush().await.ok()?;
            return Some(agreed);
        }
    }
}

/// What our own server agrees on with the same client: windows of 32 KiB, the server's kept, level 6, messages of any size.
fn policy() -> DeflateConfig {
    DeflateConfig { compression_level: 6, compression_threshold: 0, ..DeflateConfig::default() }
}
