//! The echo: a read, the answer to all of it, a write.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWriteExt;

use crate::frame::{self, Head};
use crate::shared::{self, Piece, Shared};
use crate::socket::Socket;
use crate::upgrade;

/// What one connection keeps between two reads.
#[derive(Debug, Default)]
struct Connection {
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// A frame too large for the shared buffer: `received` of `large_frame` bytes are in `large`, which is kept
    /// for the next one.
    large: Vec<u8>,
    large_frame: usize,
    received: usize,
    /// What the kernel did not take.
    unsent: Vec<u8>,
}

/// What to do after a turn.
#[derive(Debug)]
enum Next {
    Read,
    /// Write what is unsent first.
    Flush,
    /// The large frame is now a reply, to be written from here on.
    FlushLarge(usize),
    End,
}

/// Serves one connection until it ends.
pub(crate) async fn serve(mut stream: impl Socket) -> io::Result<()> {
    upgrade::upgrade(&mut stream, None).await?;
    let mut connection = Connection::default();
    loop {
        match poll_fn(|cx| shared::with(|shared| connection.turn(&mut stream, shared, cx))).await? {
            Next::Read => {}
            Next::Flush => {
                stream.write_all(&connection.unsent).await?;
                stream.flush().await?;
                connection.unsent = Vec::new();
            }
            Next::FlushLarge(begin) => {
                stream.write_all(&connection.large[begin..connection.large_frame]).await?;
                stream.flush().await?;
                connection.large_frame = 0;
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
        if self.large_frame > 0 {
            return self.turn_large(stream, cx);
        }
        let kept = self.partial.len();
        let read = ready!(stream.fill(cx, &mut shared.input[kept..]))?;
        if read == 0 {
            return Poll::Ready(Ok(Next::End));
        }
        if kept > 0 {
            shared.input[..kept].copy_from_slice(&self.partial);
            self.partial = Vec::new();
        }
        let filled = kept + read;
        let answered = frame::answer(shared, filled, false)?;
        let rest = &shared.input[answered.used..filled];
        match answered.next {
            Some(frame) if frame::needs_own_buffer(frame, shared.input.len()) => {
                // Grows to the largest frame of this connection; what is there already is not cleared again.
                if self.large.len() < frame {
                    self.large.resize(frame, 0);
                }
                self.large[..rest.len()].copy_from_slice(rest);
                (self.large_frame, self.received) = (frame, rest.len());
            }
            _ => self.partial.extend_from_slice(rest),
        }
        let all_sent = self.send(stream, shared, cx)?;
        Poll::Ready(Ok(match (answered.closed, all_sent) {
            (true, _) => Next::End,
            (false, true) => Next::Read,
            (false, false) => Next::Flush,
        }))
    }

    fn turn_large(&mut self, stream: &mut impl Socket, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        let read = ready!(stream.fill(cx, &mut self.large[self.received..self.large_frame]))?;
        if read == 0 {
            return Poll::Ready(Ok(Next::End));
        }
        self.received += read;
        if self.received < self.large_frame {
            return Poll::Ready(Ok(Next::Read));
        }
        let frame = &mut self.large[..self.large_frame];
        let head = Head::parse(frame)?.ok_or(io::ErrorKind::InvalidData)?;
        Poll::Ready(Ok(Next::FlushLarge(head.turn(frame))))
    }

    /// Writes the pieces; keeps what the kernel did not take, and says whether that is nothing.
    fn send(&mut self, stream: &mut impl Socket, shared: &Shared, cx: &mut Context<'_>) -> io::Result<bool> {
        let bytes = |piece: &Piece| match piece {
            Piece::Output(range) => &shared.output[range.clone()],
            Piece::Input(range) => &shared.input[range.clone()],
        };
        let sent = match &shared.pieces[..] {
            [] => return Ok(true),
            [one] => stream.send(cx, &mut [IoSlice::new(bytes(one))])?,
            several => {
                let mut slices: Vec<_> = several.iter().map(|piece| IoSlice::new(bytes(piece))).collect();
                stream.send(cx, &mut slices)?
            }
        };
        let mut taken = sent.taken;
        for piece in &shared.pieces {
            let piece = bytes(piece);
            let skip = taken.min(piece.len());
            taken -= skip;
            self.unsent.extend_from_slice(&piece[skip..]);
        }
        Ok(self.unsent.is_empty() && sent.flushed)
    }
}
