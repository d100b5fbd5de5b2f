//! Peer: echo and broadcast on tokio-websockets, as its documentation writes them.

use std::io;

use clap::Parser;
use stormsocket_benchmark::serve::{self, Member, PeerFlags};
use tokio::net::TcpStream;
use tokio_websockets::{Config, Limits, Message, ServerBuilder};

fn main() -> io::Result<()> {
    serve::peer(PeerFlags::parse(), connection)
}

async fn connection(stream: TcpStream, member: Member<Message>) {
    let builder =
        ServerBuilder::new().config(Config::default().frame_size(usize::MAX)).limits(Limits::unlimited());
    let Ok((_request, socket)) = builder.accept(stream).await else {
        return;
    };
    // How a connection ends is for the client to judge.
    let _ = member.serve(socket, |m| (m.is_text() || m.is_binary()).then_some(m)).await;
}
