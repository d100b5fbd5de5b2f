//! permessage-deflate (RFC 7692): what was agreed, and the codec that keeps to it.
//!
//! Owns: [`DeflateParams`], the outcome of a negotiation.
//! In:   from `negotiate`.
//! Out:  to the inflater of the receive half and the deflater of the send half.
//! Not here: the grammar of the header (`extension`), RSV1 on frames (`receiver`, `sender`).

mod codec;
mod negotiate;
mod spare;

pub(crate) use codec::{Deflater, Inflater};
pub use negotiate::DeflateOptions;
pub(crate) use negotiate::{accept_offer, check_response, offer};

use crate::role::Role;

/// What both sides agreed on for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct DeflateParams {
    /// The server forgets its window after each message.
    pub server_no_context_takeover: bool,
    /// The client forgets its window after each message.
    pub client_no_context_takeover: bool,
    /// Base-two logarithm of the window the server compresses with, 8 to 15.
    pub server_max_window_bits: u8,
    /// Base-two logarithm of the window the client compresses with, 8 to 15.
    pub client_max_window_bits: u8,
}

impl Default for DeflateParams {
    /// What an offer and a response without parameters mean: windows of 32 KiB, kept.
    fn default() -> Self {
        Self {
            server_no_context_takeover: false,
            client_no_context_takeover: false,
            server_max_window_bits: 15,
            client_max_window_bits: 15,
        }
    }
}

impl DeflateParams {
    /// Window bits of the side in `role` as a compressor, and whether it keeps its window.
    fn of(&self, role: Role) -> (u8, bool) {
        match role {
            Role::Server => (self.server_max_window_bits, !self.server_no_context_takeover),
            Role::Client => (self.client_max_window_bits, !self.client_no_context_takeover),
        }
    }
}
