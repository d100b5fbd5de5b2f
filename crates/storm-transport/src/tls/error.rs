//! What goes wrong with TLS: our configuration, or the peer.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustls::{CertificateError, Error as RustlsError};

use crate::Stream;

/// Certificates, keys or roots that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Neither PEM nor DER.
    #[error("{what} is not valid")]
    Malformed {
        /// What was to be read.
        what: &'static str,
        /// What the parser says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no certificate where one is expected.
    #[error("there is no certificate in the certificate chain")]
    NoCertificate,
    /// There is no root certificate to verify the peer with.
    #[error("there is no root certificate")]
    NoRoots,
    /// The options do not go together.
    #[error("the configuration is not valid")]
    Options(#[from] storm_core::ConfigError),
    /// The server does not speak TLS.
    #[error("the server was started without tls")]
    Disabled,
    /// rustls refuses the certificate, its key, or the combination of options.
    #[error("certificate, key and options do not go together")]
    Rejected(#[from] RustlsError),
}

/// What is wrong with the peer, or what it finds wrong with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsErrorKind {
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotValidYet,
    /// Its certificate is for another host.
    WrongHost,
    /// Its certificate was issued by nobody we trust, itself perhaps.
    UnknownIssuer,
    /// Its certificate is wrong in another way.
    InvalidCertificate,
    /// It sent no certificate although one is required.
    NoCertificate,
    /// It ended the handshake with an alert.
    Alert,
    /// It shares no version, cipher suite or application protocol with us.
    Incompatible,
    /// What it sends is no TLS, or breaks its rules.
    Protocol,
}

/// A TLS handshake failed by the peer's doing, or by its judgement of us.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsError {
    kind: TlsErrorKind,
    source: RustlsError,
}

impl TlsError {
    /// The TLS failure inside an [`io::Error`], if there is one.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<RustlsError>().map(|error| error.clone().into())
    }

    /// What is wrong, in the large.
    pub const fn kind(&self) -> TlsErrorKind {
        self.kind
    }
}

impl From<RustlsError> for TlsError {
    fn from(source: RustlsError) -> Self {
        Self { kind: kind_of(&source), source }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            TlsErrorKind::Expired => "the peer's certificate has expired",
            TlsErrorKind::NotValidYet => "the peer's certificate is not valid yet",
            TlsErrorKind::WrongHost => "the peer's certificate is for another host",
            TlsErrorKind::UnknownIssuer => "the peer's certificate comes from an unknown issuer",
            TlsErrorKind::InvalidCertificate => "the peer's certificate is not valid",
            TlsErrorKind::NoCertificate => "the peer sent no certificate",
            TlsErrorKind::Alert => "the peer refused the handshake",
            TlsErrorKind::Incompatible => "the peer has no parameters in common with us",
            TlsErrorKind::Protocol => "the peer does not speak valid tls",
        })
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

fn kind_of(error: &RustlsError) -> TlsErrorKind {
    use CertificateError as Certificate;
    match error {
        RustlsError::InvalidCertificate(certificate) => match certificate {
            Certificate::Expired | Certificate::ExpiredContext { .. } => TlsErrorKind::Expired,
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => TlsErrorKind::NotValidYet,
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                TlsErrorKind::WrongHost
            }
            Certificate::UnknownIssuer => TlsErrorKind::UnknownIssuer,
            _ => TlsErrorKind::InvalidCertificate,
        },
        RustlsError::NoCertificatesPresented => TlsErrorKind::NoCertificate,
        RustlsError::AlertReceived(_) => TlsErrorKind::Alert,
        RustlsError::PeerIncompatible(_) | RustlsError::NoApplicationProtocol => TlsErrorKind::Incompatible,
        _ => TlsErrorKind::Protocol,
    }
}

/// Why a stream has not become a TLS stream.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsFailure {
    /// The transport failed, or ended first.
    Io(io::Error),
    /// TLS failed. The stream is what it ran over: the peer may still have to read the alert that was sent.
    Tls(TlsError, Box<Stream>),
}

impl TlsFailure {
    pub(super) fn new(error: io::Error, stream: Stream) -> Self {
        match TlsError::of(&error) {
            Some(error) => Self::Tls(error, Box::new(stream)),
            None => Self::Io(error),
        }
    }
}
