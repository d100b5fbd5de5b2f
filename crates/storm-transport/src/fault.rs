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
    ) || LookupFailed::is_expected_in(error)
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
    }

    #[test]
    fn systems_fail_to_look_up_names_and_resolvers_make_mistakes() {
        let offline = LookupFailed::wrap(io::Error::other("temporary failure in name resolution"), true);
        assert!(is_expected(&offline));
        assert_eq!(offline.kind(), io::ErrorKind::Other, "it stays");
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::TimedOut, io::ErrorKind::NetworkUnreachable] {
            assert!(is_expected(&LookupFailed::wrap(kind.into(), false)), "{kind}");
        }
        for kind in [io::ErrorKind::Other, io::ErrorKind::InvalidData, io::ErrorKind::PermissionDenied] {
            assert!(!is_expected(&LookupFailed::wrap(kind.into(), false)), "{kind}");
        }
        assert!(!is_expected(&io::ErrorKind::NotFound.into()), "a unix socket without a file, say");
    }
}
