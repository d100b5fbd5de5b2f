//! One connection of a run: what it has sent, what it expects.
//!
//! Owns: the socket and its place in both streams.
//! In:   readiness; how many more messages to send.
//! Out:  how many replies came; or what was wrong.
//! Not here: when to send (`echo`, `idle`).

use std::io::{self, Read, Write};
use std::time::Instant;

use crate::load::deflate::{Frame, Replies};
use crate::load::link::Link;
use crate::load::{Pattern, Wire, masked_frame};

/// Bytes of one read. Larger than what is in flight in most runs, and still in the second-level cache.
pub(crate) const READ: usize = 128 << 10;

/// The streams of a run, the same for every connection.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) sent: Pattern,
    pub(crate) expected: Pattern,
    /// What replies inflate to, where they are compressed.
    inflated: Vec<Vec<u8>>,
    web_socket: bool,
}

impl Streams {
    pub(crate) fn new(wire: Wire, size: usize, in_flight: usize) -> Self {
        Self {
            sent: wire.sent(size, in_flight),
            expected: wire.expected(size),
            inflated: wire.payloads(size),
            web_socket: wire.is_web_socket(),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    link: Link,
    /// When what is in flight was sent; kept by runs with one message in flight.
    pub(crate) sent_at: Option<Instant>,
    /// Replies received.
    pub(crate) replies: u64,
    send_at: usize,
    to_send: usize,
    /// Messages queued since the start.
    queued: usize,
    receive_at: usize,
    /// Bytes of the reply being received: less than one message.
    partial: usize,
    /// A control frame the server put between two replies, as far as it has come.
    control: Vec<u8>,
    /// Answers to pings, to go out between two messages.
    pongs: Vec<u8>,
    /// Where replies are compressed.
    inflate: Option<Box<Replies>>,
}

impl Peer {
    pub(crate) fn new(link: Link, streams: &Streams) -> Self {
        Self {
            link,
            sent_at: None,
            replies: 0,
            send_at: 0,
            to_send: 0,
            queued: 0,
            receive_at: 0,
            partial: 0,
            control: Vec::new(),
            pongs: Vec::new(),
            inflate: (!streams.inflated.is_empty()).then(|| Box::new(Replies::new())),
        }
    }

    /// Adds messages to what is to be sent.
    pub(crate) fn queue(&mut self, streams: &Streams, messages: usize) {
        self.to_send += streams.sent.span(self.queued, messages);
        self.queued += messages;
    }

    /// The socket, to look at what is there without taking it.
    #[cfg(target_os = "linux")]
    pub(crate) fn socket(&self) -> std::os::fd::BorrowedFd<'_> {
        self.link.fd()
    }

    /// Whether the kernel has not taken all that is queued.
    #[cfg(target_os = "linux")]
    pub(crate) fn has_unsent(&self) -> bool {
        self.to_send > 0
    }

    /// Writes as much as the kernel takes.
    pub(crate) fn write(&mut self, streams: &Streams) -> Result<(), String> {
        while self.to_send > 0 {
            match self.link.write(streams.sent.slice(self.send_at, self.to_send)) {
                Ok(0) => return Err("connection takes no more bytes".into()),
                Ok(written) => {
                    self.send_at = streams.sent.advance(self.send_at, written);
                    self.to_send -= written;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(format!("connection lost while sending: {e}")),
            }
        }
        if !self.pongs.is_empty() {
            self.write_pongs()?;
        }
        match self.link.flush() {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => {
                Err(format!("connection lost while sending: {e}"))
            }
            _ => Ok(()),
        }
    }

    /// Reads once. Gives the replies completed by it, and whether there may be more to read.
    pub(crate) fn read(&mut self, streams: &Streams, buffer: &mut [u8]) -> Result<(usize, bool), String> {
        match self.link.read(buffer) {
            Ok(0) => Err("server closed the connection".into()),
            Ok(read) => {
                let more = self.link.may_have_more(read, buffer.len());
                Ok((self.receive(streams, &buffer[..read])?, more))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok((0, false)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok((0, true)),
            Err(e) => Err(format!("connection lost while receiving: {e}")),
        }
    }

    /// Takes bytes that were read; gives the replies they complete.
    pub(crate) fn receive(&mut self, streams: &Streams, mut received: &[u8]) -> Result<usize, String> {
        if let Some(inflate) = &mut self.inflate {
            let replies =
                inflate.receive(&streams.inflated, received, |frame| answer(frame, &mut self.pongs))?;
            self.replies += replies as u64;
            return Ok(replies);
        }
        let mut replies = 0;
        while !received.is_empty() {
            if !self.control.is_empty() {
                received = self.receive_control(received)?;
                continue;
            }
            let right = streams.expected.matching(self.receive_at, received);
            self.receive_at = streams.expected.advance(self.receive_at, right);
            self.partial += right;
            replies += self.partial / streams.expected.message_len();
            self.partial %= streams.expected.message_len();
            received = &received[right..];
            if let Some(&wrong) = received.first() {
                // RFC 6455 §5.5: 8 to 15 are control frames, which may come between any two others.
                if !streams.web_socket || self.partial > 0 || wrong & 0x88 != 0x88 {
                    let at = self.replies + replies as u64;
                    return Err(format!("reply {at} differs from what was sent at byte {}", self.partial));
                }
                self.control.push(wrong);
                received = &received[1..];
            }
        }
        self.replies += replies as u64;
        Ok(replies)
    }

    /// Takes bytes of a control frame and, if that is whole, acts on it; gives the bytes after it.
    fn receive_control<'a>(&mut self, received: &'a [u8]) -> Result<&'a [u8], String> {
        let missing = self.control.get(1).map_or(1, |len| 2 + usize::from(len & 0x7f) - self.control.len());
        let (head, rest) = received.split_at(missing.min(received.len()));
        self.control.extend_from_slice(head);
        match (self.control[0] & 0x0f, self.control.get(1)) {
            (_, Some(len)) if usize::from(*len) > 125 => return Err("control frame over 125 bytes".into()),
            (kind, Some(len)) if self.control.len() == 2 + usize::from(*len) => {
                let frame =
                    Frame { first: 0x80 | kind, payload: &self.control[2..], len: self.control.len() };
                answer(&frame, &mut self.pongs)?;
                self.control.clear();
            }
            _ => {}
        }
        Ok(rest)
    }

    fn write_pongs(&mut self) -> Result<(), String> {
        match self.link.write(&self.pongs) {
            Ok(written) if written == self.pongs.len() => {
                self.pongs.clear();
                Ok(())
            }
            // A few bytes behind an empty send buffer; part of a frame must not stay behind.
            Ok(_) => Err("connection takes no more bytes".into()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(format!("connection lost while sending: {e}")),
        }
    }
}

/// What a control frame asks for.
fn answer(frame: &Frame<'_>, pongs: &mut Vec<u8>) -> Result<(), String> {
    match frame.first & 0x0f {
        8 => return Err("server sent a close frame".into()),
        9 => masked_frame(0x8a, frame.payload, pongs),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Framer;

    fn peer(streams: &Streams) -> (Peer, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        near.set_nonblocking(true).unwrap();
        (Peer::new(Link::new(mio::net::TcpStream::from_std(near), None), streams), far)
    }

    fn expected(streams: &Streams, messages: usize) -> Vec<u8> {
        let len = messages * streams.expected.message_len();
        let mut at = 0;
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let slice = streams.expected.slice(at, len - bytes.len());
            bytes.extend_from_slice(slice);
            at = streams.expected.advance(at, slice.len());
        }
        bytes
    }

    #[test]
    fn replies_are_counted_however_they_are_split() {
        let streams = Streams::new(Wire::Tcp(Framer::Length), 5, 1);
        let bytes = expected(&streams, 1200);
        for chunk in [1, 2, 7, 9, 10, 1000, bytes.len()] {
            let (mut peer, _far) = peer(&streams);
            let total: usize = bytes.chunks(chunk).map(|c| peer.receive(&streams, c).unwrap()).sum();
            assert_eq!((total, peer.replies, peer.partial), (1200, 1200, 0));
        }
    }

    #[test]
    fn a_wrong_byte_is_named() {
        let streams = Streams::new(Wire::Tcp(Framer::Raw), 32, 1);
        let mut bytes = expected(&streams, 10);
        bytes[32 * 4 + 3] ^= 0x40;
        let error = peer(&streams).0.receive(&streams, &bytes).unwrap_err();
        assert_eq!(error, "reply 4 differs from what was sent at byte 3");
    }

    #[test]
    fn pings_between_replies_are_answered_and_a_close_is_an_error() {
        let streams = Streams::new(Wire::WebSocket { text: false }, 32, 1);
        let reply = expected(&streams, 2);
        let bytes = [&reply[..34], b"\x89\x02hi", &reply[34..], b"\x8a\x00"].concat();
        for chunk in [1, 3, bytes.len()] {
            let (mut peer, mut far) = peer(&streams);
            let total: usize = bytes.chunks(chunk).map(|c| peer.receive(&streams, c).unwrap()).sum();
            assert_eq!(total, 2);
            peer.write(&streams).unwrap();
            let mut pong = [0; 8];
            far.read_exact(&mut pong).unwrap();
            assert_eq!(pong[..6], [0x8a, 0x82, 0x37, 0xfa, 0x21, 0x3d]);
        }
        let error = peer(&streams).0.receive(&streams, b"\x88\x02\x03\xe8").unwrap_err();
        assert_eq!(error, "server sent a close frame");
        let inside = [&reply[..20], b"\x89\x00"].concat();
        assert!(peer(&streams).0.receive(&streams, &inside).unwrap_err().contains("reply 0 differs"));
    }
}
