//! Peer: echo and broadcast on yawc, as its documentation writes them.

use std::cell::Cell;
use std::io;

use clap::Parser;
use futures_util::StreamExt;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use stormsocket_benchmark::serve::{self, Member, PeerFlags};
use tokio::net::TcpStream;
use yawc::frame::{Frame, OpCode};
use yawc::{Options, WebSocket, WebSocketError};

fn main() -> io::Result<()> {
    serve::peer(PeerFlags::parse(), connection)
}

async fn connection(stream: TcpStream, member: Member<Frame>) {
    // One request makes the connection a WebSocket, and there is no second.
    let member = Cell::new(Some(member));
    let service = service_fn(move |request| accept(request, member.take()));
    let http = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    // How a connection ends is for the client to judge.
    let _ = http.await;
}

async fn accept(
    request: Request<Incoming>,
    member: Option<Member<Frame>>,
) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let options = Options::default().without_compression().with_limits(4 << 20, 8 << 20);
    let (response, upgraded) = WebSocket::upgrade_with_options(request, options)?;
    tokio::spawn(tokio::task::unconstrained(async move {
        let (Ok(socket), Some(member)) = (upgraded.await, member) else { return };
        let reply = |f: Frame| matches!(f.opcode(), OpCode::Text | OpCode::Binary).then_some(f);
        let _ = member.serve(socket.map(Ok::<_, WebSocketError>), reply).await;
    }));
    Ok(response)
}
