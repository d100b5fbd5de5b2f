//! UTF-8 checked as it arrives.
//!
//! Owns: the at most three bytes of a code point that is not complete yet.
//! In:   pieces of a text in order, cut anywhere.
//! Out:  refusal at the first byte after which no continuation could be valid.
//! Not here: turning bytes into a string; `ByteString::try_from` does, with a check of its own.

/// The bytes seen so far cannot begin any valid UTF-8 text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hopeless;

/// Running check of one text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Utf8Check {
    /// Start of an unfinished code point; the first `held` bytes count. `held <= 3`.
    code_point: [u8; 4],
    held: u8,
}

impl Utf8Check {
    /// Checks the next piece.
    #[expect(clippy::cast_possible_truncation, reason = "an unfinished code point has at most three bytes")]
    pub(crate) fn feed(&mut self, mut piece: &[u8]) -> Result<(), Hopeless> {
        while self.held > 0 {
            let Some((&byte, rest)) = piece.split_first() else {
                return Ok(());
            };
            piece = rest;
            self.code_point[usize::from(self.held)] = byte;
            self.held += 1;
            match std::str::from_utf8(&self.code_point[..usize::from(self.held)]) {
                Ok(_) => self.held = 0,
                // No error length: valid as far as it goes, so fewer than four bytes are held.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Hopeless),
            }
        }
        match simdutf8::compat::from_utf8(piece) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                let tail = &piece[error.valid_up_to()..];
                self.code_point[..tail.len()].copy_from_slice(tail);
                self.held = tail.len() as u8;
                Ok(())
            }
            Err(_) => Err(Hopeless),
        }
    }

    /// Whether the text may end here.
    pub(crate) fn is_complete(&self) -> bool {
        self.held == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [(&str, &[u8]); 14] = [
        ("ascii", b"hello, world, and more than sixteen bytes of it"),
        ("two to four byte code points", "κόσμε €𝄞 grün".as_bytes()),
        ("highest code point", b"\xF4\x8F\xBF\xBF"),
        ("surrogate", b"ab\xED\xA0\x80cd"),
        ("overlong slash", b"\xC0\xAF"),
        ("overlong nul", b"\xC0\x80"),
        ("overlong three bytes", b"\xE0\x80\xAF"),
        ("overlong four bytes", b"\xF0\x80\x80\xAF"),
        ("beyond U+10FFFF", b"\xF4\x90\x80\x80"),
        ("lone continuation", b"a\x80b"),
        ("five-byte form", b"\xF8\x88\x80\x80\x80"),
        ("truncated at the end", b"abc\xE2\x82"),
        ("code point cut by a letter", b"\xE2\x82A"),
        ("empty", b""),
    ];

    fn split(text: &[u8], at: usize) -> bool {
        let mut check = Utf8Check::default();
        check.feed(&text[..at]).is_ok() && check.feed(&text[at..]).is_ok() && check.is_complete()
    }

    #[test]
    fn agrees_with_std_split_at_every_offset() {
        for (name, text) in TEXTS {
            let valid = std::str::from_utf8(text).is_ok();
            for at in 0..=text.len() {
                assert_eq!(split(text, at), valid, "{name} split at {at}");
            }
        }
    }

    #[test]
    fn fails_at_the_first_hopeless_byte() {
        for (name, text) in TEXTS {
            // The oracle: the shortest prefix that std calls an error rather than an unfinished text.
            let hopeless = (0..=text.len())
                .find(|&n| std::str::from_utf8(&text[..n]).is_err_and(|error| error.error_len().is_some()));
            let mut check = Utf8Check::default();
            let failed = text.iter().position(|&byte| check.feed(&[byte]).is_err()).map(|at| at + 1);
            assert_eq!(failed, hopeless, "{name}");
        }
    }
}
