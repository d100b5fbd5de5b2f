//! A connection's bytes, with or without TLS.
//!
//! Owns: the socket and, if there is TLS, rustls's side of it.
//! In:   plain bytes to send.
//! Out:  plain bytes received, as from a non-blocking socket.
//! Not here: when the socket is ready (`echo`, `open`, `connect`), opening it (`dial`).

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

/// A connection.
#[derive(Debug)]
pub(crate) enum Link {
    /// Bytes as they are.
    Plain(TcpStream),
    /// TLS 1.3.
    Tls(Box<ClientConnection>, TcpStream),
}

impl Link {
    /// The socket, to be watched.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) | Self::Tls(_, socket) => socket,
        }
    }

    /// Whether a read that did not fill its buffer has left nothing behind: more may wait inside TLS.
    pub(crate) fn short_read_is_all(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Writes what TLS still has of earlier writes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Self::Tls(tls, socket) = self {
            while tls.wants_write() {
                if tls.write_tls(socket)? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
        }
        Ok(())
    }

    /// Writes as much as is taken now.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls, _) => {
                let written = tls.writer().write(bytes)?;
                match self.flush() {
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
                    // Its buffer is full, and the socket takes nothing.
                    Err(e) if written == 0 => Err(e),
                    _ => Ok(written),
                }
            }
        }
    }

    /// Reads what is there, 0 at the end of the stream. Also what moves a TLS handshake on.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self {
                Self::Plain(socket) => return socket.read(buffer),
                Self::Tls(tls, socket) => {
                    match tls.reader().read(buffer) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        result => return result,
                    }
                    if tls.read_tls(socket)? == 0 {
                        return Ok(0);
                    }
                    tls.process_new_packets().map_err(io::Error::other)?;
                }
            }
            match self.flush() {
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                _ => {}
            }
        }
    }
}

/// What makes connections of TLS: one version and one cipher suite, so that every server does the same work, a full
/// handshake for each, and no look at the certificate, which would be this side's work and not the server's.
#[derive(Debug, Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

impl Tls {
    pub(crate) fn new() -> Result<Self, String> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
            ..ring::default_provider()
        });
        let algorithms = provider.signature_verification_algorithms;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| format!("no TLS: {e}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// A connection to this server, before its handshake.
    pub(crate) fn connection(&self, server: SocketAddr) -> Result<Box<ClientConnection>, String> {
        let name: IpAddr = server.ip();
        let connection = ClientConnection::new(self.0.clone(), ServerName::from(name));
        connection.map(Box::new).map_err(|e| format!("no TLS: {e}"))
    }
}

/// Takes any certificate. The handshake is signed with its key all the same, and that is checked.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
