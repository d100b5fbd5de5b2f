//! The compressed echo (permessage-deflate, RFC 7692): inflate, compress again, one write per read.
//!
//! What is agreed on is what our own server agrees on with the load generator: windows of 32 KiB, the client starts each
//! message with an empty one, the server keeps its own. Texts are not checked for being UTF-8.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::AsyncWriteExt;

use crate::frame::Head;
use crate::shared::{self, Shared};
use crate::socket::Socket;
use crate::upgrade;

/// What is agreed on with everyone: a server may ask for it whatever was offered.
const AGREED: &str = "permessage-deflate; client_no_context_takeover";

/// Level of compression: zlib's default, and ours.
const LEVEL: u32 = 6;

/// What a sync flush ends with; RFC 7692 §7.2.1 takes it off.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Bytes of the head most replies have: a payload of 126 to 65 535 bytes.
const HEAD: usize = 4;

thread_local! {
    /// A message while it is inflated, and the replies to one read: the connections of a thread share them.
    static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// What one connection keeps between two reads.
#[derive(Debug)]
struct Connection {
    compress: Compress,
    inflate: Decompress,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// What the kernel did not take.
    unsent: Vec<u8>,
}

/// What to do after a turn.
#[derive(Debug)]
enum Next {
    Read,
    /// Write what is unsent first.
    Flush,
    End,
}

/// Serves one connection until it ends.
pub(crate) async fn serve(mut stream: impl Socket) -> io::Result<()> {
    upgrade::upgrade(&mut stream, Some(AGREED)).await?;
    let mut connection = Connection {
        compress: Compress::new(Compression::new(LEVEL), false),
        inflate: Decompress::new(false),
        partial: Vec::new(),
        unsent: Vec::new(),
    };
    loop {
        match poll_fn(|cx| shared::with(|shared| connection.turn(&mut stream, shared, cx))).await? {
            Next::Read => {}
            Next::Flush => {
                stream.write_all(&connection.unsent).await?;
                stream.flush().await?;
                connection.unsent.clear();
            }
            Next::End => return Ok(()),
        }
    }
}

impl Connection {
    fn turn(
        &mut self,
        stream: &mut impl Socket,
        shared: &mut Shared,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Next>> {
        let input = &mut shared.input[..];
        let kept = self.partial.len();
        if kept == input.len() {
            return Poll::Ready(Err(io::Error::other("message larger than the buffer of the yardstick")));
        }
        let read = ready!(stream.fill(cx, &mut input[kept..]))?;
        if read == 0 {
            return Poll::Ready(Ok(Next::End));
        }
        input[..kept].copy_from_slice(&self.partial);
        self.partial.clear();
        Poll::Ready(BUFFERS.with_borrow_mut(|(plain, out)| {
            out.clear();
            let filled = &mut input[..kept + read];
            let (used, closed) = self.answer(filled, plain, out)?;
            self.partial.extend_from_slice(&filled[used..]);
            let sent = stream.send(cx, &mut [IoSlice::new(out)])?;
            self.unsent.extend_from_slice(&out[sent.taken..]);
            Ok(match (closed, self.unsent.is_empty() && sent.flushed) {
                (true, _) => Next::End,
                (false, true) => Next::Read,
                (false, false) => Next::Flush,
            })
        }))
    }

    /// Answers all whole frames; gives how many bytes those are, and whether the last of them was a close frame.
    fn answer(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> io::Result<(usize, bool)> {
        let mut used = 0;
        while let Some(head) = Head::parse(&input[used..])? {
            let end = used + head.frame();
            let Some(frame) = input.get_mut(used..end) else { break };
            used = end;
            if head.is_control() {
                let reply = head.turn(frame);
                out.extend_from_slice(&frame[reply..]);
                if head.is_close() {
                    return Ok((used, true));
                }
                continue;
            }
            let payload = head.unmask(frame);
            let payload = &frame[payload];
            if head.is_compressed() {
                self.inflate(payload, plain)?;
                self.reply(head.reply(), plain, out)?;
            } else {
                self.reply(head.reply() | 0x40, payload, out)?;
            }
        }
        Ok((used, false))
    }

    fn inflate(&mut self, mut payload: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        plain.clear();
        loop {
            // Spare room after all input is read means that nothing is left inside.
            plain.reserve((payload.len() * 4).max(1024));
            let before = self.inflate.total_in();
            let done = self.inflate.decompress_vec(payload, plain, FlushDecompress::Sync);
            done.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            payload = &payload[taken(before, self.inflate.total_in())..];
            if payload.is_empty() && plain.len() < plain.capacity() {
                break;
            }
        }
        // The next message does not refer to this one, so what its tail would tell is not missed.
        self.inflate.reset(false);
        Ok(())
    }

    /// Adds the frame of a reply, compressed.
    fn reply(&mut self, first: u8, mut plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let begin = out.len();
        out.extend_from_slice(&[first, 126, 0, 0]);
        loop {
            out.reserve(plain.len() / 2 + 64);
            let before = self.compress.total_in();
            self.compress.compress_vec(plain, out, FlushCompress::Sync).map_err(io::Error::other)?;
            plain = &plain[taken(before, self.compress.total_in())..];
            if plain.is_empty() && out.len() < out.capacity() {
                break;
            }
        }
        out.truncate(out.len() - TAIL.len());
        let len = out.len() - begin - HEAD;
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(short @ ..126), _) => {
                out[begin + 1] = short;
                out.drain(begin + 2..begin + HEAD);
            }
            (_, Ok(medium)) => out[begin + 2..begin + HEAD].copy_from_slice(&medium.to_be_bytes()),
            _ => {
                out[begin + 1] = 127;
                out.splice(begin + 2..begin + HEAD, (len as u64).to_be_bytes());
            }
        }
        Ok(())
    }
}

/// Bytes taken between two counts.
fn taken(before: u64, after: u64) -> usize {
    usize::try_from(after - before).expect("no more than was given")
}

#[cfg(test)]
mod tests {
    use super::*;
    use stormsocket_benchmark::load::masked_frame;

    fn connection() -> Connection {
        Connection {
            compress: Compress::new(Compression::new(LEVEL), false),
            inflate: Decompress::new(false),
            partial: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// Text-like bytes that do not compress to nothing.
    fn text(len: usize) -> Vec<u8> {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'a' + (state >> 28) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    fn alone(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(payload.len() + 64);
        let mut compress = Compress::new(Compression::default(), false);
        compress.compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
        out.truncate(out.len() - TAIL.len());
        out
    }

    /// Payloads of the replies as a client reads them, with the first byte and the length each had.
    fn read(client: &mut Decompress, mut bytes: &[u8]) -> Vec<(u8, usize, Vec<u8>)> {
        let mut replies = Vec::new();
        while let [first, second, rest @ ..] = bytes {
            let (len, rest) = match second {
                126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                127 => {
                    (usize::try_from(u64::from_be_bytes(*rest.first_chunk().unwrap())).unwrap(), &rest[8..])
                }
                short => (usize::from(*short), rest),
            };
            let mut plain = Vec::with_capacity(1 << 20);
            client.decompress_vec(&rest[..len], &mut plain, FlushDecompress::Sync).unwrap();
            client.decompress_vec(&TAIL, &mut plain, FlushDecompress::Sync).unwrap();
            replies.push((*first, len, plain));
            bytes = &rest[len..];
        }
        replies
    }

    #[test]
    fn replies_of_every_length_inflate_to_what_was_sent() {
        let texts: Vec<_> = [1, 40, 200, 1024, 100_000, 300_000, 2].map(text).to_vec();
        let mut input = Vec::new();
        for text in &texts {
            masked_frame(0xc1, &alone(text), &mut input);
        }
        masked_frame(0x81, b"plain", &mut input);
        let whole = input.len();
        masked_frame(0xc1, &alone(b"cut off"), &mut input);
        input.pop();
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let answered = connection().answer(&mut input, &mut plain, &mut out).unwrap();
        assert_eq!(answered, (whole, false));
        let replies = read(&mut Decompress::new(false), &out);
        assert_eq!(replies.len(), texts.len() + 1);
        for ((first, _, reply), text) in replies.iter().zip(&texts) {
            assert_eq!(*first, 0xc1);
            assert!(reply == text, "{} bytes", text.len());
        }
        assert_eq!(replies[texts.len()].2, b"plain");
        // All three encodings of a length were there.
        assert!(replies.iter().any(|r| r.1 < 126) && replies.iter().any(|r| r.1 > 65_535));
    }

    #[test]
    fn the_window_is_kept() {
        let mut input = Vec::new();
        for _ in 0..2 {
            masked_frame(0xc1, &alone(&text(1000)), &mut input);
        }
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        connection().answer(&mut input, &mut plain, &mut out).unwrap();
        let replies = read(&mut Decompress::new(false), &out);
        assert!(replies[1].1 * 10 < replies[0].1, "{} and {}", replies[0].1, replies[1].1);
    }

    #[test]
    fn control_frames_are_answered_and_corrupt_messages_refused() {
        let mut input = Vec::new();
        masked_frame(0x89, b"x", &mut input);
        masked_frame(0x88, b"", &mut input);
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let answered = connection().answer(&mut input, &mut plain, &mut out).unwrap();
        assert_eq!((answered, &out[..]), ((13, true), &[0x8a, 1, b'x', 0x88, 0][..]));
        let mut input = Vec::new();
        masked_frame(0xc1, &[0xff; 9], &mut input);
        assert!(connection().answer(&mut input, &mut plain, &mut out).is_err());
    }
}
