//! Opens connections, with the WebSocket handshake where there is one.
//!
//! Owns: connecting, the upgrade request, checking the answer.
//! In:   the server's address.
//! Out:  a non-blocking stream with nothing read beyond the handshake, or why not, in words.
//! Not here: what is sent then.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use socket2::{Domain, Protocol, Socket, Type};

use crate::load::link::{self, Link};
use crate::load::{CONNECT, Plan, Wire, deflate};

/// Key of every handshake and the answer it must get: the pair of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Most bytes of an answer to the upgrade request.
const ANSWER: usize = 16 << 10;

/// Connections from one source address, below the number of ephemeral ports.
const PER_SOURCE: usize = 20_000;

/// The upgrade request.
pub(crate) fn upgrade_request(target: SocketAddr, wire: Wire) -> Vec<u8> {
    let extensions = match wire {
        Wire::Deflate => format!("Sec-WebSocket-Extensions: {}\r\n", deflate::OFFER),
        _ => String::new(),
    };
    format!(
        "GET / HTTP/1.1\r\nHost: {target}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{extensions}\r\n"
    )
    .into_bytes()
}

/// Checks an answer as far as it has come: `Ok(None)` if more must come, else the length of its head.
pub(crate) fn check_answer(answer: &[u8], wire: Wire) -> Result<Option<usize>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let len = match head.parse(answer) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if answer.len() < ANSWER => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("answer to the upgrade request has no end".into()),
        Err(error) => return Err(format!("answer to the upgrade request is not HTTP: {error}")),
    };
    if head.code != Some(101) {
        return Err(format!("upgrade refused with status {}", head.code.unwrap_or(0)));
    }
    let header =
        |name: &str| head.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
    if header("sec-websocket-accept") != Some(ACCEPT.as_bytes()) {
        return Err("upgrade answered with a wrong Sec-WebSocket-Accept".into());
    }
    let agreed = header("sec-websocket-extensions").unwrap_or_default();
    if agreed.starts_with(b"permessage-deflate") != (wire == Wire::Deflate) {
        return Err(format!("server agreed on the extensions `{}`", String::from_utf8_lossy(agreed)));
    }
    Ok(Some(len))
}

/// The `index`th connection of a run, ready for messages.
pub(crate) fn dial(plan: &Plan, index: usize) -> Result<Link, String> {
    let (stream, tls) = connect(plan, index)?;
    stream.set_nonblocking(true).map_err(|e| format!("cannot prepare a socket: {e}"))?;
    Ok(Link::new(mio::net::TcpStream::from_std(stream), tls))
}

/// The same, as a socket that blocks.
pub(crate) fn connect(plan: &Plan, index: usize) -> Result<(TcpStream, Option<ClientConnection>), String> {
    let Plan { target, wire, tls, .. } = *plan;
    let deadline = Instant::now() + CONNECT;
    let mut stream = open(target, index).map_err(|e| format!("cannot connect to {target}: {e}"))?;
    let mut tls = tls.then(|| link::connection(target));
    if let Some(tls) = &mut tls {
        stream.set_read_timeout(Some(CONNECT)).map_err(|e| format!("cannot prepare a socket: {e}"))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).map_err(|e| format!("TLS handshake failed: {e}"))?;
        }
    }
    if wire.is_web_socket() {
        let control = stream.try_clone().map_err(|e| format!("cannot prepare a socket: {e}"))?;
        match &mut tls {
            Some(tls) => upgrade(&mut rustls::Stream::new(tls, &mut stream), &control, plan, deadline)?,
            None => upgrade(&mut stream, &control, plan, deadline)?,
        }
    }
    Ok((stream, tls))
}

fn open(target: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    if let (Some(source), IpAddr::V4(server)) = (source_for(index), target.ip())
        && server.is_loopback()
    {
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    socket.connect_timeout(&target.into(), CONNECT)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// One loopback address has too few ports for very many connections, but there are many addresses.
fn source_for(index: usize) -> Option<Ipv4Addr> {
    let block = u8::try_from(index / PER_SOURCE).unwrap_or(u8::MAX - 1);
    (block > 0).then(|| Ipv4Addr::new(127, 0, 0, block + 1))
}

/// `control` is the socket under `stream`.
fn upgrade(
    stream: &mut (impl Read + Write),
    control: &TcpStream,
    plan: &Plan,
    deadline: Instant,
) -> Result<(), String> {
    let failed = |e: io::Error| format!("upgrade failed: {e}");
    stream.write_all(&upgrade_request(plan.target, plan.wire)).map_err(failed)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        control.set_read_timeout(Some(left)).map_err(failed)?;
        let read = stream.read(&mut chunk).map_err(failed)?;
        if read == 0 {
            return Err("server closed the connection during the upgrade".into());
        }
        answer.extend_from_slice(&chunk[..read]);
        match check_answer(&answer, plan.wire)? {
            None => {}
            Some(len) if len == answer.len() => return Ok(()),
            Some(_) => return Err("server sent data before the first message".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: &str, accept: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nUpgrade: websocket\r\nsec-websocket-ACCEPT: {accept}\r\n\r\n")
            .into_bytes()
    }

    #[test]
    fn the_answer_is_checked() {
        let check_answer = |answer: &[u8]| check_answer(answer, Wire::WebSocket { text: true });
        let good = answer("101 Switching Protocols", ACCEPT);
        assert_eq!(check_answer(&good), Ok(Some(good.len())));
        assert_eq!(check_answer(&good[..good.len() - 1]), Ok(None));
        assert!(check_answer(&answer("403 Forbidden", ACCEPT)).unwrap_err().contains("403"));
        assert!(check_answer(&answer("101 x", "wrong")).unwrap_err().contains("Accept"));
        assert!(check_answer(b"SSH-2.0-OpenSSH\r\n").unwrap_err().contains("not HTTP"));
    }

    #[test]
    fn compression_is_had_if_and_only_if_it_was_asked_for() {
        let plain = answer("101 x", ACCEPT);
        let compressed =
            answer("101 x", &format!("{ACCEPT}\r\nSec-WebSocket-Extensions: permessage-deflate"));
        let web_socket = Wire::WebSocket { text: true };
        assert_eq!(check_answer(&compressed, Wire::Deflate), Ok(Some(compressed.len())));
        assert!(check_answer(&plain, Wire::Deflate).unwrap_err().contains("extensions"));
        assert!(check_answer(&compressed, web_socket).unwrap_err().contains("permessage-deflate"));
        let target = ([127, 0, 0, 1], 1).into();
        let asks = |wire| String::from_utf8(upgrade_request(target, wire)).unwrap().contains("Extensions");
        assert!(asks(Wire::Deflate) && !asks(web_socket));
    }

    #[test]
    fn many_connections_come_from_many_addresses() {
        assert_eq!(source_for(19_999), None);
        assert_eq!(source_for(20_000), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(source_for(199_999), Some(Ipv4Addr::new(127, 0, 0, 10)));
    }
}
