//! Peer: echo and broadcast on sockudo-ws, as its documentation writes them.

use std::io;

use clap::Parser;
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::protocol::Message;
use sockudo_ws::{Config, WebSocketStream};
use stormsocket_benchmark::serve::{self, Member, PeerFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn main() -> io::Result<()> {
    serve::peer(PeerFlags::parse(), connection)
}

async fn connection(mut stream: TcpStream, member: Member<Message>) {
    if upgrade(&mut stream).await.is_none() {
        return;
    }
    let socket = WebSocketStream::server(stream, Config::default());
    // How a connection ends is for the client to judge.
    let _ = member.serve(socket, |m| matches!(m, Message::Text(_) | Message::Binary(_)).then_some(m)).await;
}

async fn upgrade(stream: &mut TcpStream) -> Option<()> {
    let mut request = Vec::with_capacity(4096);
    loop {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
        if let Some((parsed, _)) = parse_request(&request).ok()? {
            let response = build_response(&generate_accept_key(parsed.key), None, None);
            return stream.write_all(&response).await.ok();
        }
    }
}
