//! Peer: echo and broadcast on tokio-tungstenite, as its documentation writes them; batched, with reads of 8 KiB.

use std::process::ExitCode;

use stormsocket_benchmark::peers::{self, Member, Peer, Socket};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

fn main() -> ExitCode {
    peers::main::<Tungstenite>()
}

struct Tungstenite;

impl Peer for Tungstenite {
    type Message = Message;

    async fn connection<S: Socket>(stream: S, member: Member<Message>) {
        // It clears its whole read buffer, 128 KiB, before each read: this is what makes it fast.
        let config = member.flags.batched.then(|| WebSocketConfig::default().read_buffer_size(8 << 10));
        let Ok(socket) = tokio_tungstenite::accept_async_with_config(stream, config).await else {
            return;
        };
        let _ = member.serve(socket, |m| (m.is_text() || m.is_binary()).then_some(m)).await;
    }
}
