//! What the echo servers share: the listener, the line that says it is ready, room for many connections.
//!
//! None of the echo servers sets `TCP_NODELAY`: that is the system's and our own default, and the cheaper one for
//! libraries that write once per message. A broadcast needs it, since its receivers send nothing that could
//! carry an acknowledgement.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use stormsocket::BoxError;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Connections waiting to be accepted: a load generator opens thousands at once.
pub const BACKLOG: u32 = 4096;

/// Payloads from here on are echoed as they are, shorter ones copied: what our servers and the yardsticks agree on.
pub const COPY_BELOW: usize = 32 * 1024;

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
    socket.listen(BACKLOG as i32)?;
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

/// A certificate for this machine, made now, and its key; both PEM.
///
/// # Errors
/// No randomness.
pub fn certificate() -> Result<(String, String), rcgen::Error> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names)?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

/// TLS with such a certificate, if it is wanted; nothing is resumed, so that handshakes are full ones.
///
/// # Errors
/// As [`certificate`].
pub fn tls(wanted: bool) -> Result<Option<stormsocket::TlsOptions>, rcgen::Error> {
    if !wanted {
        return Ok(None);
    }
    let (chain, key) = certificate()?;
    let identity = stormsocket::Identity::from_pem(chain, key);
    Ok(Some(stormsocket::TlsOptions::new(identity).resumption(false)))
}

/// The same TLS for a server that is none of ours: the same kind of certificate, the same cryptography, no resumption.
///
/// # Errors
/// As [`certificate`].
pub fn tls_acceptor() -> Result<TlsAcceptor, BoxError> {
    let (chain, key) = certificate()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(chain.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?;
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Raises the limit of open files as far as it goes without asking anyone.
pub fn raise_file_limit() {
    // Where this fails the limit stays, and the connection which goes beyond it says so.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
}
