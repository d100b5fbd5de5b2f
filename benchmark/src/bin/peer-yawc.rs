//! Peer: an echo server on yawc, as its documentation writes one.

use std::io;

use clap::Parser;
use futures_util::StreamExt;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use stormsocket_benchmark::serve::{self, PeerFlags};
use tokio::net::TcpStream;
use yawc::frame::{Frame, OpCode};
use yawc::{Options, WebSocket, WebSocketError};

fn main() -> io::Result<()> {
    let flags = PeerFlags::parse();
    let batched = flags.batched;
    serve::peer(&flags, move |stream| connection(stream, batched))
}

async fn connection(stream: TcpStream, batched: bool) {
    let service = service_fn(move |request| accept(request, batched));
    let http = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    // How a connection ends is for the client to judge.
    let _ = http.await;
}

async fn accept(request: Request<Incoming>, batched: bool) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let options = Options::default().without_compression().with_limits(4 << 20, 8 << 20);
    let (response, upgraded) = WebSocket::upgrade_with_options(request, options)?;
    tokio::spawn(tokio::task::unconstrained(async move {
        let Ok(socket) = upgraded.await else { return };
        let echoed = |f: Frame| matches!(f.opcode(), OpCode::Text | OpCode::Binary).then_some(f);
        let _ = serve::echo(socket.map(Ok::<_, WebSocketError>), batched, echoed).await;
    }));
    Ok(response)
}
