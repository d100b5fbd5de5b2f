//! A scripted peer, byte by byte.

use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::clock::soon;

/// The other end of a stream, and what a script does with it. The stream itself is at hand for whatever has no verb here.
///
/// Every method fails, with the place it was called from, if the other side does something else, or nothing for too long.
#[derive(Debug)]
pub struct Peer<S = TcpStream>(pub S);

impl Peer {
    /// A TCP connection to `addr`.
    ///
    /// # Panics
    /// Nobody accepts it.
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> impl Future<Output = Self> {
        let connecting = soon(TcpStream::connect(addr));
        async move { Self(connecting.await.unwrap_or_else(|error| panic!("{addr} does not accept: {error}"))) }
    }

    /// A TCP connection with a receive buffer as small as the kernel allows: a peer that is slow soon.
    ///
    /// # Panics
    /// Nobody accepts it.
    #[track_caller]
    pub fn connect_narrow(addr: SocketAddr) -> impl Future<Output = Self> {
        let connecting = soon(async move {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_recv_buffer_size(1)?;
            socket.connect(addr).await
        });
        async move { Self(connecting.await.unwrap_or_else(|error| panic!("{addr} does not accept: {error}"))) }
    }

    /// Ends the connection with a TCP reset.
    ///
    /// # Panics
    /// The system refuses to arrange for it.
    pub fn reset(self) {
        SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).expect("a socket may linger for no time");
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Sends `bytes`.
    ///
    /// # Panics
    /// The other side does not take them.
    #[track_caller]
    pub fn send<'a>(&'a mut self, bytes: &'a [u8]) -> impl Future<Output = ()> + 'a {
        let caller = Location::caller();
        let sent = soon(self.0.write_all(bytes));
        async move { sent.await.unwrap_or_else(|error| panic!("cannot send: {error}, at {caller}")) }
    }

    /// Sends `bytes` in pieces of `size`, and lets the other side run after each.
    ///
    /// # Panics
    /// The other side does not take them; `size` is zero.
    #[track_caller]
    pub fn send_in_pieces<'a>(&'a mut self, bytes: &'a [u8], size: usize) -> impl Future<Output = ()> + 'a {
        let caller = Location::caller();
        soon(async move {
            for piece in bytes.chunks(size) {
                let sent = self.0.write_all(piece).await;
                sent.unwrap_or_else(|error| panic!("cannot send: {error}, at {caller}"));
                self.0.flush().await.unwrap_or_else(|error| panic!("cannot send: {error}, at {caller}"));
                tokio::task::yield_now().await;
            }
        })
    }

    /// Reads as many bytes as `expected` has, which must be those.
    ///
    /// # Panics
    /// They are not, or the stream ends before.
    #[track_caller]
    pub fn expect(&mut self, expected: &[u8]) -> impl Future<Output = ()> {
        let caller = Location::caller();
        let mut read = vec![0; expected.len()];
        let stream = &mut self.0;
        async move {
            soon(stream.read_exact(&mut read)).await.unwrap_or_else(|error| panic!("{error}, at {caller}"));
            assert_eq!(read.escape_ascii().to_string(), expected.escape_ascii().to_string(), "at {caller}");
        }
    }

    /// Reads one length-prefixed frame: four bytes of length, big-endian, and so many of payload.
    ///
    /// # Panics
    /// The stream ends before.
    #[track_caller]
    pub fn frame(&mut self) -> impl Future<Output = Vec<u8>> {
        let caller = Location::caller();
        let stream = &mut self.0;
        async move {
            let read = soon(async {
                let len = stream.read_u32().await?;
                let mut payload = vec![0; len as usize];
                stream.read_exact(&mut payload).await?;
                Ok::<_, io::Error>(payload)
            });
            read.await.unwrap_or_else(|error| panic!("no whole message: {error}, at {caller}"))
        }
    }

    /// Reads to the end of the stream, which must be an orderly one.
    ///
    /// # Panics
    /// It is not.
    #[track_caller]
    pub fn rest(&mut self) -> impl Future<Output = Vec<u8>> {
        let caller = Location::caller();
        let stream = &mut self.0;
        async move {
            let mut rest = Vec::new();
            soon(stream.read_to_end(&mut rest)).await.unwrap_or_else(|error| panic!("{error}, at {caller}"));
            rest
        }
    }

    /// The stream ends in an orderly way, and nothing comes before that.
    ///
    /// # Panics
    /// It does not, or something does.
    #[track_caller]
    pub fn expect_end(&mut self) -> impl Future<Output = ()> {
        let caller = Location::caller();
        let rest = self.rest();
        async move { assert_eq!(rest.await.escape_ascii().to_string(), "", "at {caller}") }
    }

    /// Reads until the connection is reset; an orderly end is none.
    ///
    /// # Panics
    /// It ends in another way.
    #[track_caller]
    pub fn expect_reset(&mut self) -> impl Future<Output = ()> {
        let caller = Location::caller();
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
    ///
    /// # Panics
    /// The connection is gone.
    #[track_caller]
    pub fn half_close(&mut self) -> impl Future<Output = ()> {
        let caller = Location::caller();
        let ended = soon(self.0.shutdown());
        async move { ended.await.unwrap_or_else(|error| panic!("cannot end: {error}, at {caller}")) }
    }
}

/// Every way to divide `bytes` in two, the empty parts included: what a decoder makes of a message must not depend on
/// where a read ends.
///
/// ```
/// use storm_testing::splits;
///
/// let all: Vec<_> = splits(b"ab").collect();
/// assert_eq!(all, [(&b""[..], &b"ab"[..]), (b"a", b"b"), (b"ab", b"")]);
/// ```
pub fn splits(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    (0..=bytes.len()).map(|at| bytes.split_at(at))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn panics(future: impl Future<Output = ()> + Send + 'static) -> String {
        let panic = tokio::spawn(future).await.unwrap_err().into_panic();
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn other_bytes_fewer_bytes_and_no_bytes_fail() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        ours.write_all(b"abd").await.unwrap();
        let text = panics(async move { Peer(theirs).expect(b"abc").await }).await;
        assert!(text.contains("abd") && text.contains("peer.rs:"), "{text}");

        let (mut ours, theirs) = tokio::io::duplex(64);
        ours.write_all(b"ab").await.unwrap();
        drop(ours);
        assert!(panics(async move { Peer(theirs).expect(b"abc").await }).await.contains("early eof"));

        let (_ours, theirs) = tokio::io::duplex(64);
        assert!(panics(async move { Peer(theirs).expect(b"abc").await }).await.starts_with("not within 20s"));

        let (mut ours, theirs) = tokio::io::duplex(64);
        ours.write_all(b"more").await.unwrap();
        drop(ours);
        assert!(panics(async move { Peer(theirs).expect_end().await }).await.contains("more"));
    }

    #[tokio::test]
    async fn a_reset_is_no_end_and_an_end_no_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        for resets in [true, false] {
            let peer = Peer::connect_narrow(addr).await;
            let mut accepted = Peer(listener.accept().await.unwrap().0);
            if resets {
                peer.reset();
                accepted.expect_reset().await;
            } else {
                drop(peer);
                assert!(panics(async move { accepted.expect_reset().await }).await.contains("Ok(0)"));
            }
        }
    }

    #[tokio::test]
    async fn pieces_add_up() {
        let (ours, theirs) = tokio::io::duplex(2);
        let reading = tokio::spawn(async move { Peer(ours).frame().await });
        Peer(theirs).send_in_pieces(b"\0\0\0\x05hello", 1).await;
        assert_eq!(reading.await.unwrap(), b"hello");
    }
}
