//! What the echo servers share: the listener, the line that says it is ready, room for many connections.

use std::io::{self, Write};
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections waiting to be accepted: a load generator opens thousands at once.
const BACKLOG: i32 = 4096;

/// A listener for a tokio server. Must be called inside a runtime. Several on one port share its connections
/// if all of them say so.
///
/// # Errors
/// The address cannot be had.
pub fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    raise_file_limit();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Prints the one line by which a server says that it is ready, and where: port 0 became a real one.
///
/// # Errors
/// Standard output is closed.
pub fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "listening on {address}")?;
    out.flush()
}

/// Raises the limit of open files as far as it goes without asking anyone.
pub fn raise_file_limit() {
    // Where this fails the limit stays, and the connection which goes beyond it says so.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
}
