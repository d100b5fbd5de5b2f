//! Peer: echo, plain and compressed, and broadcast on yawc, as its documentation writes them.

use std::cell::Cell;
use std::process::ExitCode;

use futures_util::StreamExt;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use stormsocket_benchmark::peers::{self, Member, Peer, Socket};
use yawc::frame::{Frame, OpCode};
use yawc::{CompressionLevel, DeflateOptions, Options, WebSocket, WebSocketError};

fn main() -> ExitCode {
    peers::main::<Yawc>()
}

struct Yawc;

impl Peer for Yawc {
    type Message = Frame;

    const DEFLATE: bool = true;

    async fn connection<S: Socket>(stream: S, member: Member<Frame>) {
        // One request makes the connection a WebSocket, and there is no second.
        let member = Cell::new(Some(member));
        let service = service_fn(move |request| accept(request, member.take()));
        let http = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        let _ = http.await;
    }
}

async fn accept(
    request: Request<Incoming>,
    member: Option<Member<Frame>>,
) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let mut options = Options::default().without_compression().with_limits(4 << 20, 8 << 20);
    if member.as_ref().is_some_and(|member| member.flags.deflate) {
        // As our own server: windows of 32 KiB, the server's kept, level 6, messages of any size.
        let mut deflate = DeflateOptions::balanced();
        deflate.level = CompressionLevel::new(6);
        deflate.compression_threshold = 0;
        options.compression = Some(deflate);
    }
    let (response, upgraded) = WebSocket::upgrade_with_options(request, options)?;
    tokio::spawn(tokio::task::unconstrained(async move {
        let (Ok(socket), Some(member)) = (upgraded.await, member) else { return };
        let reply = |f: Frame| matches!(f.opcode(), OpCode::Text | OpCode::Binary).then_some(f);
        let _ = member.serve(socket.map(Ok::<_, WebSocketError>), reply).await;
    }));
    Ok(response)
}
