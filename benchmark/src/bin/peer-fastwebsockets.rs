//! Peer: echo and broadcast on fastwebsockets, as its documentation writes them; it has no way to batch.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::ready;
use std::process::ExitCode;

use fastwebsockets::{
    FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, WebSocketError, upgrade,
};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use stormsocket_benchmark::peers::{self, Member, Peer, Socket};

/// What is published: a payload, and whether it is text.
type Published = (bool, Bytes);

fn main() -> ExitCode {
    peers::main::<Fastwebsockets>()
}

struct Fastwebsockets;

impl Peer for Fastwebsockets {
    type Message = Published;

    async fn connection<S: Socket>(stream: S, member: Member<Published>) {
        // One request makes the connection a WebSocket, and there is no second.
        let member = Cell::new(Some(member));
        let service = service_fn(move |request| accept(request, member.take()));
        let http = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        let _ = http.await;
    }
}

async fn accept(
    mut request: Request<Incoming>,
    member: Option<Member<Published>>,
) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, upgraded) = upgrade::upgrade(&mut request)?;
    tokio::spawn(tokio::task::unconstrained(async move {
        let _ = match member {
            Some(member) if member.flags.broadcast => broadcast(upgraded, member).await,
            _ => echo(upgraded).await,
        };
    }));
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

/// One task reads and publishes, another writes what is published.
async fn broadcast(upgraded: upgrade::UpgradeFut, member: Member<Published>) -> Result<(), WebSocketError> {
    let (everyone, mut published) = member.into_broadcast();
    let (read, mut write) = upgraded.await?.split(tokio::io::split);
    let writing = tokio::spawn(tokio::task::unconstrained(async move {
        while let Ok((text, payload)) = published.recv().await {
            let opcode = if text { OpCode::Text } else { OpCode::Binary };
            let frame = Frame::new(true, opcode, None, Payload::Borrowed(&payload));
            if write.write_frame(frame).await.is_err() {
                return;
            }
        }
    }));
    let mut read = FragmentCollectorRead::new(read);
    // The load generator sends no pings, so there is nothing to answer but its close.
    let mut answer = |_: Frame<'_>| ready(Ok::<_, Infallible>(()));
    let ended = loop {
        let frame = match read.read_frame(&mut answer).await {
            Ok(frame) => frame,
            Err(error) => break Err(error),
        };
        match frame.opcode {
            OpCode::Close => break Ok(()),
            OpCode::Text | OpCode::Binary => {
                // There is at least one receiver: this one.
                let _ = everyone.send((frame.opcode == OpCode::Text, Bytes::copy_from_slice(&frame.payload)));
            }
            _ => {}
        }
    };
    writing.abort();
    ended
}
