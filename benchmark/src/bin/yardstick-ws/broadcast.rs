//! The broadcast: what one read brings is encoded once and written to every connection from here, without
//! waking anyone. Only a connection whose kernel buffer is full gets a queue, and a task to empty it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::frame::{self, Answered};
use crate::shared::{self, Piece, Shared};
use crate::socket::none_if_blocked;
use crate::upgrade;

/// One connection as its publishers see it.
#[derive(Debug)]
struct Member {
    stream: Arc<OwnedWriteHalf>,
    /// What the kernel did not take; a task is at it while there is any.
    queue: Vec<u8>,
}

thread_local! {
    static MEMBERS: RefCell<Vec<Option<Member>>> = const { RefCell::new(Vec::new()) };
}

/// Serves one connection until it ends.
pub(crate) async fn serve(mut stream: TcpStream) -> io::Result<()> {
    upgrade::upgrade(&mut stream, None).await?;
    let (mut stream, write) = stream.into_split();
    let id = join(Member { stream: Arc::new(write), queue: Vec::new() });
    let mut partial = Vec::new();
    let result = loop {
        match poll_fn(|cx| shared::with(|shared| turn(&mut stream, &mut partial, shared, cx))).await {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    MEMBERS.with_borrow_mut(|members| members[id] = None);
    result
}

fn join(member: Member) -> usize {
    MEMBERS.with_borrow_mut(|members| match members.iter().position(Option::is_none) {
        Some(free) => {
            members[free] = Some(member);
            free
        }
        None => {
            members.push(Some(member));
            members.len() - 1
        }
    })
}

/// One read, published; false at the end of the stream.
fn turn(
    stream: &mut OwnedReadHalf,
    partial: &mut Vec<u8>,
    shared: &mut Shared,
    cx: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    let kept = partial.len();
    if kept == shared.input.len() {
        return Poll::Ready(Err(io::Error::other("message larger than the buffer of the broadcast")));
    }
    let mut buffer = ReadBuf::new(&mut shared.input[kept..]);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    let filled = kept + buffer.filled().len();
    if filled == kept {
        return Poll::Ready(Ok(false));
    }
    shared.input[..kept].copy_from_slice(partial);
    partial.clear();
    let Answered { used, closed, .. } = frame::answer(shared, filled, true)?;
    partial.extend_from_slice(&shared.input[used..filled]);
    if closed {
        return Poll::Ready(Ok(false));
    }
    if let [Piece::Output(range)] = &shared.pieces[..] {
        publish(&shared.output[range.clone()]);
    }
    Poll::Ready(Ok(true))
}

fn publish(bytes: &[u8]) {
    MEMBERS.with_borrow_mut(|members| {
        for (id, member) in members.iter_mut().enumerate() {
            let Some(member) = member else { continue };
            if !member.queue.is_empty() {
                member.queue.extend_from_slice(bytes);
                continue;
            }
            // An error here is one for the reading side too, which ends the connection.
            let written = none_if_blocked(member.stream.try_write(bytes)).unwrap_or(bytes.len());
            if written < bytes.len() {
                member.queue.extend_from_slice(&bytes[written..]);
                tokio::spawn(flush(id, Arc::clone(&member.stream)));
            }
        }
    });
}

/// Empties a queue, which grows on meanwhile.
async fn flush(id: usize, stream: Arc<OwnedWriteHalf>) -> io::Result<()> {
    loop {
        stream.writable().await?;
        let empty = MEMBERS.with_borrow_mut(|members| {
            // Another connection may have been given the id since.
            let member = members[id].as_mut().filter(|member| Arc::ptr_eq(&member.stream, &stream));
            let Some(member) = member else { return Ok(true) };
            let written = none_if_blocked(stream.try_write(&member.queue))?;
            member.queue.drain(..written);
            io::Result::Ok(member.queue.is_empty())
        })?;
        if empty {
            return Ok(());
        }
    }
}
