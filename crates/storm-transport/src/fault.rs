//! Which errors networks bring about by themselves: an end or a failed attempt, and nothing a person should look at.

use std::io;

use crate::connect::LookupFailed;

/// Whether `error` is one that networks bring about: a peer that is gone or refuses, a host that cannot be reached, a name
/// that cannot be looked up.
pub fn is_expected(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    ) || LookupFailed::is_in(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_fail_and_programs_make_mistakes() {
        for kind in
            [io::ErrorKind::NetworkDown, io::ErrorKind::NotConnected, io::ErrorKind::ConnectionRefused]
        {
            assert!(is_expected(&kind.into()), "{kind}");
        }
        for kind in [io::ErrorKind::InvalidInput, io::ErrorKind::PermissionDenied, io::ErrorKind::Other] {
            assert!(!is_expected(&kind.into()), "{kind}");
        }
        let offline = LookupFailed::wrap(io::Error::other("temporary failure in name resolution"));
        assert!(is_expected(&offline));
        assert_eq!(offline.kind(), io::ErrorKind::Other, "it stays");
    }
}
