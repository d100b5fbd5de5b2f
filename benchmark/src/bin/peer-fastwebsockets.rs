//! Peer: an echo server on fastwebsockets, as its documentation writes one; it has no way to batch.

use std::io;

use clap::Parser;
use fastwebsockets::{FragmentCollector, OpCode, WebSocketError, upgrade};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use stormsocket_benchmark::serve::{self, PeerFlags};
use tokio::net::TcpStream;

fn main() -> io::Result<()> {
    serve::peer(&PeerFlags::parse(), connection)
}

async fn connection(stream: TcpStream) {
    let http =
        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(accept)).with_upgrades();
    // How a connection ends is for the client to judge.
    let _ = http.await;
}

async fn accept(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, upgraded) = upgrade::upgrade(&mut request)?;
    tokio::spawn(tokio::task::unconstrained(echo(upgraded)));
    Ok(response)
}

async fn echo(upgraded: upgrade::UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(upgraded.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
