//! Peer: an echo server on tokio-tungstenite, as its documentation writes one; batched, with reads of 8 KiB.

use std::io;

use clap::Parser;
use stormsocket_benchmark::serve::{self, PeerFlags};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

fn main() -> io::Result<()> {
    let flags = PeerFlags::parse();
    let batched = flags.batched;
    serve::peer(&flags, move |stream| connection(stream, batched))
}

async fn connection(stream: TcpStream, batched: bool) {
    // It clears its whole read buffer, 128 KiB, before each read: this is what makes it fast.
    let config = batched.then(|| WebSocketConfig::default().read_buffer_size(8 << 10));
    let Ok(socket) = tokio_tungstenite::accept_async_with_config(stream, config).await else {
        return;
    };
    // How a connection ends is for the client to judge.
    let _ = serve::echo(socket, batched, |m| (m.is_text() || m.is_binary()).then_some(m)).await;
}
