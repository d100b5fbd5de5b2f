//! A scripted peer that knows nothing of the library.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::soon;

/// A plain socket, and what a test does with it.
#[derive(Debug)]
pub struct Peer(pub TcpStream);

/// `payload` behind its length in four bytes, big-endian.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a short payload");
    [&len.to_be_bytes(), payload].concat()
}

impl Peer {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self(soon(TcpStream::connect(addr)).await.expect("the server accepts"))
    }

    /// With a receive buffer as small as the kernel allows.
    pub async fn connect_narrow(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(1).expect("a buffer size");
        Self(soon(socket.connect(addr)).await.expect("the server accepts"))
    }

    #[track_caller]
    pub fn send<'a>(&'a mut self, bytes: &'a [u8]) -> impl Future<Output = ()> + 'a {
        let sent = soon(self.0.write_all(bytes));
        async move { sent.await.expect("the server reads") }
    }

    /// Reads as many bytes as `expected` has, which must be those.
    #[track_caller]
    pub fn expect(&mut self, expected: &[u8]) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let mut read = vec![0; expected.len()];
        let stream = &mut self.0;
        async move {
            soon(stream.read_exact(&mut read)).await.unwrap_or_else(|error| panic!("{error}, at {caller}"));
            assert_eq!(read.escape_ascii().to_string(), expected.escape_ascii().to_string(), "at {caller}");
        }
    }

    /// Reads one frame of four bytes of length and a payload.
    pub async fn frame(&mut self) -> Vec<u8> {
        let len = soon(self.0.read_u32()).await.expect("a length");
        let mut payload = vec![0; len as usize];
        soon(self.0.read_exact(&mut payload)).await.expect("a payload");
        payload
    }

    /// Reads to the end of the stream, which must be an orderly one.
    #[track_caller]
    pub fn rest(&mut self) -> impl Future<Output = Vec<u8>> {
        let caller = std::panic::Location::caller();
        let stream = &mut self.0;
        async move {
            let mut rest = Vec::new();
            soon(stream.read_to_end(&mut rest)).await.unwrap_or_else(|error| panic!("{error}, at {caller}"));
            rest
        }
    }

    /// The stream ends in an orderly way, and nothing comes before that.
    #[track_caller]
    pub fn expect_end(&mut self) -> impl Future<Output = ()> {
        let rest = self.rest();
        async move { assert_eq!(rest.await.escape_ascii().to_string(), "") }
    }

    /// Reads until the connection is reset; an orderly end is none.
    #[track_caller]
    pub fn expect_reset(&mut self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let stream = &mut self.0;
        async move {
            let mut read = Vec::new();
            match soon(stream.read_to_end(&mut read)).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                other => panic!("expected a reset, not {other:?} ({} bytes read), at {caller}", read.len()),
            }
        }
    }

    /// Ends our stream; theirs may go on.
    pub async fn half_close(&mut self) {
        soon(self.0.shutdown()).await.expect("still connected");
    }

    /// Resets the connection.
    pub fn reset(self) {
        SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).expect("still connected");
    }
}
