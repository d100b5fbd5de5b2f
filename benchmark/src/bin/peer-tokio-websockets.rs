//! Peer: an echo server on tokio-websockets, as its documentation writes one.

use std::io;

use clap::Parser;
use stormsocket_benchmark::serve::{self, PeerFlags};
use tokio::net::TcpStream;
use tokio_websockets::{Config, Limits, ServerBuilder};

fn main() -> io::Result<()> {
    let flags = PeerFlags::parse();
    let batched = flags.batched;
    serve::peer(&flags, move |stream| connection(stream, batched))
}

async fn connection(stream: TcpStream, batched: bool) {
    let builder =
        ServerBuilder::new().config(Config::default().frame_size(usize::MAX)).limits(Limits::unlimited());
    let Ok((_request, socket)) = builder.accept(stream).await else {
        return;
    };
    // How a connection ends is for the client to judge.
    let _ = serve::echo(socket, batched, |m| (m.is_text() || m.is_binary()).then_some(m)).await;
}
