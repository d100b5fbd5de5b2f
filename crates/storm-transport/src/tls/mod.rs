//! TLS under any stream, in either role.
//!
//! ```text
//!  TlsOptions ────────> TlsAcceptor ── accept(stream) ──> Stream::Tls, TlsInfo
//!  ClientTlsOptions ──> TlsConnector ─ connect(stream) ─> Stream::Tls, TlsInfo
//! ```
//!
//! Owns: what TLS is configured with, and the handshake. In: an open stream. Out: a stream like any other, and what was
//! agreed; or the [`TlsError`] that says what is wrong with the peer. Not here: the time a handshake may take (server and
//! client), the protocol itself (rustls).
//!
//! The cryptography is `ring`, handed to rustls in every configuration made here: no process-wide default is read or set, so
//! nothing depends on who set one first. `ring` needs Rust and a C compiler and nothing else on every platform this library
//! is for; `aws-lc-rs` wants cmake or an assembler on some. Whoever needs the latter (post-quantum key exchange, FIPS) hands
//! in its provider: [`TlsOptions::crypto_provider`], [`ClientTlsOptions::crypto_provider`].

mod client;
mod danger;
mod error;
mod identity;
mod names;
mod options;
mod roots;
mod server;
mod stream;

use std::sync::Arc;

pub use rustls;
use rustls::crypto::CryptoProvider;
pub use storm_core::{TlsInfo, TlsVersion};

pub use client::{ClientTlsOptions, TlsConnector};
pub use error::{TlsConfigError, TlsError, TlsErrorKind, TlsFailure};
pub use identity::Identity;
pub use options::{ClientCertificates, TlsOptions};
pub use roots::Roots;
pub use server::{FileStamps, TlsAcceptor};
pub use stream::TlsStream;

/// A [`CryptoProvider`] that was handed in, or ours.
fn provider_or_ours(given: Option<&Arc<CryptoProvider>>) -> Arc<CryptoProvider> {
    given.cloned().unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()))
}

/// rustls's names for versions, in its own order of preference.
fn protocol_versions(versions: &[TlsVersion]) -> Vec<&'static rustls::SupportedProtocolVersion> {
    let of = |version| versions.contains(&version);
    let mut chosen = Vec::with_capacity(2);
    if of(TlsVersion::Tls13) {
        chosen.push(&rustls::version::TLS13);
    }
    if of(TlsVersion::Tls12) {
        chosen.push(&rustls::version::TLS12);
    }
    chosen
}

/// Refuses what is wrong on either side.
fn validate(versions: &[TlsVersion], alpn: &[Vec<u8>]) -> Result<(), storm_core::ConfigError> {
    if versions.is_empty() {
        return Err(storm_core::ConfigError::new("versions", "at least one version must be spoken"));
    }
    // RFC 7301 §3.1: a protocol name is 1 to 255 bytes long.
    if alpn.iter().any(|name| name.is_empty() || name.len() > 255) {
        return Err(storm_core::ConfigError::new("alpn", "a protocol name is 1 to 255 bytes long"));
    }
    Ok(())
}
