//! Which end of the connection we are.
//!
//! Owns: nothing but the name.
//! In:   the caller's choice, once per connection.
//! Out:  the masking and parameter rules that depend on it.
//! Not here: what those rules are (`receiver`, `sender`, `deflate`).

/// Which end of the connection this object speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Accepted the upgrade: receives masked frames, sends unmasked ones.
    Server,
    /// Asked for the upgrade: receives unmasked frames, sends masked ones.
    Client,
}
