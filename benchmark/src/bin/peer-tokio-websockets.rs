//! Peer: echo and broadcast on tokio-websockets, as its documentation writes them.

use std::process::ExitCode;

use stormsocket_benchmark::peers::{self, Member, Peer, Socket};
use tokio_websockets::{Config, Limits, Message, ServerBuilder};

fn main() -> ExitCode {
    peers::main::<TokioWebsockets>()
}

struct TokioWebsockets;

impl Peer for TokioWebsockets {
    type Message = Message;

    async fn connection<S: Socket>(stream: S, member: Member<Message>) {
        let builder =
            ServerBuilder::new().config(Config::default().frame_size(usize::MAX)).limits(Limits::unlimited());
        let Ok((_request, socket)) = builder.accept(stream).await else {
            return;
        };
        let _ = member.serve(socket, |m| (m.is_text() || m.is_binary()).then_some(m)).await;
    }
}
