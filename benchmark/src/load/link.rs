//! A connection of the load generator: plain, or TLS driven by hand over the same non-blocking socket.
//!
//! Owns: the socket, rustls's state, ciphertext that was read and not yet decrypted.
//! In:   plaintext to send; readiness.
//! Out:  plaintext that came. `WouldBlock` means what it does on a socket.
//! Not here: what the bytes mean.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

/// Ciphertext of one read: rustls by itself reads 4 KiB at a time.
const READ: usize = 128 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// One connection.
#[derive(Debug)]
pub(crate) enum Link {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

impl Link {
    /// A socket that is to speak TLS, or has begun to if there is a connection.
    pub(crate) fn new(stream: TcpStream, tls: Option<ClientConnection>) -> Self {
        match tls {
            Some(connection) => {
                Self::Tls(Box::new(Tls { stream, connection, ahead: Vec::new(), taken: 0, filled: false }))
            }
            None => Self::Plain(stream),
        }
    }

    /// The socket.
    #[cfg(target_os = "linux")]
    pub(crate) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        match self {
            Self::Plain(stream) => stream.as_fd(),
            Self::Tls(tls) => tls.stream.as_fd(),
        }
    }

    /// Whether a read of `read` bytes into room for `room` may have left some.
    pub(crate) fn may_have_more(&self, read: usize, room: usize) -> bool {
        match self {
            Self::Plain(_) => read == room,
            // Asking the socket once more to be sure would also be to wait for one connection's next reply.
            Self::Tls(tls) => read == room || !tls.ahead.is_empty() || tls.filled,
        }
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

impl Source for Link {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket().register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket().reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket().deregister(registry)
    }
}

impl Link {
    fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &mut tls.stream,
        }
    }
}

/// TLS over a non-blocking socket. A blocked write never keeps it from reading: the server may have to be rid of its
/// replies first.
#[derive(Debug)]
pub(crate) struct Tls {
    stream: TcpStream,
    connection: ClientConnection,
    /// Ciphertext that rustls has not taken from `taken` on; holds no memory while there is none.
    ahead: Vec<u8>,
    taken: usize,
    /// The last read of the socket took as much as it might: there may be more.
    filled: bool,
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // Handshakes have something to say between two reads.
            match self.flush() {
                Err(e) if !is_later(&e) => return Err(e),
                _ => {}
            }
            match self.connection.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if self.ahead.is_empty() {
                SCRATCH.with_borrow_mut(|scratch| self.read_socket(scratch))?;
            } else {
                self.taken += self.connection.read_tls(&mut &self.ahead[self.taken..])?;
                if self.taken == self.ahead.len() {
                    (self.ahead, self.taken) = (Vec::new(), 0);
                }
            }
            if let Err(error) = self.connection.process_new_packets() {
                let _alert = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }

    /// Reads once, and hands rustls as much as it takes at once; it learns of the end of the stream, too.
    fn read_socket(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        let read = match self.stream.read(scratch) {
            Err(e) if is_later(&e) => return Err(io::ErrorKind::WouldBlock.into()),
            read => read?,
        };
        self.filled = read == scratch.len();
        let taken = self.connection.read_tls(&mut &scratch[..read])?;
        self.ahead.extend_from_slice(&scratch[taken..read]);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.flush() {
            Err(e) if !is_later(&e) => return Err(e),
            _ => {}
        }
        let written = self.connection.writer().write(bytes)?;
        match self.flush() {
            Err(e) if !is_later(&e) => Err(e),
            _ if written == 0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.stream)?;
        }
        Ok(())
    }
}

/// Not connected yet is `NotConnected` on some systems, `WouldBlock` on others.
fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

/// The client's side of TLS 1.3 with a server whose certificate was made when it started; nothing is resumed.
pub(crate) fn connection(target: SocketAddr) -> ClientConnection {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has suites for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    });
    let name = ServerName::from(target.ip());
    ClientConnection::new(CONFIG.clone(), name).expect("an address is a name")
}

/// Takes any certificate, and believes its owner: nothing here is secret, and the generator is to be cheap.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
