//! The accepting side of the handshake, and the configuration it uses, which may change while the server runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};
use storm_core::TlsInfo;

use super::error::{TlsConfigError, TlsFailure};
use super::names::Names;
use super::options::{ClientCertificates, TlsOptions};
use super::provider_or_ours;
use super::stream::{ReadAhead, TlsStream};
use crate::Stream;

/// Accepts TLS on open streams.
pub struct TlsAcceptor {
    /// For the next handshake. Those under way, and sessions, keep the one they began with.
    config: RwLock<Arc<ServerConfig>>,
    /// What it was made from.
    options: Mutex<TlsOptions>,
    /// What the files looked like right before they were read, with success or without.
    read: Mutex<FileStamps>,
}

impl TlsAcceptor {
    /// Reads files and parses what is in them: to be called where blocking is allowed.
    ///
    /// # Errors
    /// The options do not go together, or name what cannot be used.
    pub fn new(options: TlsOptions) -> Result<Self, TlsConfigError> {
        let read = FileStamps::of(&options);
        let config = config(&options, None)?;
        Ok(Self {
            config: RwLock::new(Arc::new(config)),
            options: Mutex::new(options),
            read: Mutex::new(read),
        })
    }

    /// Performs the handshake. The time it takes is the caller's to bound.
    ///
    /// # Errors
    /// The transport or TLS fails.
    pub async fn accept(&self, stream: Stream) -> Result<(Stream, Arc<TlsInfo>), TlsFailure> {
        let config = self.config.read().clone();
        let accept = tokio_rustls::TlsAcceptor::from(config).accept(ReadAhead::new(stream)).into_fallible();
        // Boxed: a handshake's future is far larger than what comes of it.
        match Box::pin(accept).await {
            Ok(tls) => {
                let connection = tls.get_ref().1;
                let info = super::stream::info(connection, connection.server_name().map(Box::from));
                Ok((Stream::Tls(Box::new(TlsStream::new(tls.into()))), Arc::new(info)))
            }
            Err((error, stream)) => Err(TlsFailure::new(error, stream.into_inner())),
        }
    }

    /// Reads the files anew. Blocks as [`new`](Self::new) does.
    ///
    /// # Errors
    /// As [`new`](Self::new); the old configuration stays then.
    pub fn reload(&self) -> Result<(), TlsConfigError> {
        let mut options = self.options.lock();
        self.put(&mut options, None)
    }

    /// Replaces the options. Blocks as [`new`](Self::new) does. (How files are watched does not change.)
    ///
    /// # Errors
    /// As [`new`](Self::new); the old configuration stays then.
    pub fn replace(&self, new: TlsOptions) -> Result<(), TlsConfigError> {
        let mut options = self.options.lock();
        self.put(&mut options, Some(new))
    }

    fn put(&self, options: &mut TlsOptions, new: Option<TlsOptions>) -> Result<(), TlsConfigError> {
        let before = self.config.read().clone();
        *self.read.lock() = FileStamps::of(new.as_ref().unwrap_or(options));
        // Tickets given out before are taken afterwards, too. Not if they vouch for a client that new roots, or new options,
        // might not let in.
        let may_keep_tickets =
            new.is_none() && matches!(options.client_certificates, ClientCertificates::None);
        let made = config(new.as_ref().unwrap_or(options), may_keep_tickets.then_some(&*before))?;
        *self.config.write() = Arc::new(made);
        if let Some(new) = new {
            *options = new;
        }
        Ok(())
    }

    /// What the files look like at this moment. Blocks as [`new`](Self::new) does.
    pub fn files(&self) -> FileStamps {
        FileStamps::of(&self.options.lock())
    }

    /// What they looked like when they were last read. If [`files`](Self::files) differs, something was written since.
    pub fn files_read(&self) -> FileStamps {
        self.read.lock().clone()
    }
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor").field("options", &*self.options.lock()).finish_non_exhaustive()
    }
}

/// What can be told of files without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamps(Vec<(PathBuf, Option<Stamp>)>);

impl FileStamps {
    fn of(options: &TlsOptions) -> Self {
        Self(options.files().map(|path| (path.to_owned(), stamp(path))).collect())
    }
}

/// When it was written, its length and, where there is such a thing, its inode: a file that was replaced within the
/// clock's grain has another.
type Stamp = (Option<SystemTime>, u64, u64);

fn stamp(path: &std::path::Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Some((metadata.modified().ok(), metadata.len(), inode))
}

fn config(options: &TlsOptions, before: Option<&ServerConfig>) -> Result<ServerConfig, TlsConfigError> {
    options.validate()?;
    let provider = provider_or_ours(options.crypto_provider.as_ref());
    let names = Names::load(&options.identities, &provider)?;
    let verifier = options.client_certificates.verifier(&provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&super::protocol_versions(&options.versions))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(names));
    config.alpn_protocols = options.alpn.clone();
    resume(&mut config, options, before)?;
    Ok(config)
}

/// Sessions that are kept for clients that come back, where there are no tickets. Each is some hundred bytes, and as much more
/// as the client's certificates.
const STORED_SESSIONS: usize = 4096;

/// Says how clients that come back are known. Those that `before` knows stay known.
fn resume(
    config: &mut ServerConfig,
    options: &TlsOptions,
    before: Option<&ServerConfig>,
) -> Result<(), TlsConfigError> {
    // Tickets serve both versions; a store besides them would only cost memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match (options.resumption, before) {
        (false, _) => config.send_tls13_tickets = 0,
        (true, Some(before)) => {
            config.ticketer = before.ticketer.clone();
            config.session_storage = before.session_storage.clone();
        }
        // Tickets are made by `ring`, and who hands in another cryptography wants no other: a provider makes none.
        (true, None) if options.crypto_provider.is_some() => {
            config.session_storage = ServerSessionMemoryCache::new(STORED_SESSIONS);
        }
        (true, None) => config.ticketer = rustls::crypto::ring::Ticketer::new()?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustls::crypto::ring::default_provider;
    use rustls::server::ResolvesServerCertUsingSni;

    use super::*;
    use crate::tls::Identity;

    /// What resumption is with these options, and with `before`.
    fn resuming(options: &TlsOptions, before: Option<&ServerConfig>) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("both")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        resume(&mut config, options, before).expect("it can be had");
        config
    }

    #[test]
    fn tickets_are_ours_and_a_provider_handed_in_has_a_store_that_is_bounded() {
        let options = || TlsOptions::new(Identity::from_pem("", ""));
        let usual = resuming(&options(), None);
        assert!(usual.ticketer.enabled() && !usual.session_storage.can_cache());
        let off = resuming(&options().resumption(false), None);
        assert!(!off.ticketer.enabled() && !off.session_storage.can_cache());
        assert_eq!(off.send_tls13_tickets, 0);

        let options = options().crypto_provider(Arc::new(default_provider()));
        let stored = resuming(&options, None);
        assert!(!stored.ticketer.enabled() && stored.send_tls13_tickets > 0);
        let key = |number: usize| number.to_be_bytes().to_vec();
        for number in 0..=STORED_SESSIONS {
            assert!(stored.session_storage.put(key(number), Vec::new()));
        }
        assert_eq!(stored.session_storage.get(&key(0)), None, "the oldest one went");
        let reloaded = resuming(&options, Some(&stored));
        assert!(reloaded.session_storage.take(&key(1)).is_some(), "a reload keeps them");
        let off = resuming(&options.resumption(false), None);
        assert!(!off.ticketer.enabled() && !off.session_storage.can_cache());
    }
}
