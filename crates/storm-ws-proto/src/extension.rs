//! The grammar of `Sec-WebSocket-Extensions` (RFC 6455 §9.1).
//!
//! Owns: tokens, quoted strings, lists and parameters.
//! In:   the value of one header line.
//! Out:  extensions in the order written, or the refusal of the whole value.
//! Not here: what an extension's parameters mean (`deflate`).

/// One element of the header: a name and its parameters, quotes already taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) name: String,
    pub(crate) params: Vec<(String, Option<String>)>,
}

/// The value does not follow the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads the value of one header line.
pub(crate) fn parse(value: &[u8]) -> Result<Vec<Extension>, Malformed> {
    let mut cursor = Cursor { rest: value };
    let mut extensions = Vec::new();
    loop {
        cursor.skip_space();
        // RFC 9110 §5.6.1.2: lists may have empty elements; one that is nothing else is malformed.
        if cursor.take(b',') {
            continue;
        }
        if cursor.rest.is_empty() {
            return if extensions.is_empty() { Err(Malformed) } else { Ok(extensions) };
        }
        let name = cursor.token()?;
        let mut params = Vec::new();
        cursor.skip_space();
        while cursor.take(b';') {
            cursor.skip_space();
            let name = cursor.token()?;
            cursor.skip_space();
            let value = if cursor.take(b'=') {
                cursor.skip_space();
                Some(cursor.value()?)
            } else {
                None
            };
            params.push((name, value));
            cursor.skip_space();
        }
        extensions.push(Extension { name, params });
        if !cursor.rest.is_empty() && !cursor.take(b',') {
            return Err(Malformed);
        }
    }
}

/// RFC 9110 §5.6.2: the characters of a token.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether all of `text` is one token, as a subprotocol is (RFC 6455 §4.1).
///
/// ```
/// use storm_ws_proto::handshake::is_token;
///
/// assert!(is_token(b"chat.v2"));
/// assert!(!is_token(b"chat, v2") && !is_token(b""));
/// ```
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn skip_space(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((&first, rest)) if first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn token(&mut self) -> Result<String, Malformed> {
        let len = self.rest.iter().take_while(|byte| is_token_byte(**byte)).count();
        let (token, rest) = self.rest.split_at(len);
        self.rest = rest;
        if token.is_empty() {
            return Err(Malformed);
        }
        Ok(token.iter().copied().map(char::from).collect())
    }

    /// A token, or a quoted string that is a token once unquoted (RFC 6455 §9.1).
    fn value(&mut self) -> Result<String, Malformed> {
        if !self.take(b'"') {
            return self.token();
        }
        let mut value = Vec::new();
        loop {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            match byte {
                b'"' => break,
                b'\\' => {
                    let (&escaped, rest) = self.rest.split_first().ok_or(Malformed)?;
                    self.rest = rest;
                    value.push(escaped);
                }
                byte => value.push(byte),
            }
        }
        if !is_token(&value) {
            return Err(Malformed);
        }
        Ok(value.into_iter().map(char::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_is_neither_control_nor_separator() {
        // RFC 2616 §2.2, which RFC 6455 refers to, says it by what it is not.
        for byte in 0..=u8::MAX {
            let is_separator = b"()<>@,;:\\\"/[]?={} \t".contains(&byte);
            assert_eq!(is_token(&[byte]), byte.is_ascii_graphic() && !is_separator, "{byte:#04x}");
        }
        assert!(is_token(b"chat.v2") && !is_token(b"") && !is_token(b"a b"));
    }

    fn show(value: &str) -> Option<String> {
        let extensions = parse(value.as_bytes()).ok()?;
        let shown = extensions.iter().map(|extension| {
            let params = extension.params.iter().map(|(name, value)| match value {
                Some(value) => format!(";{name}={value}"),
                None => format!(";{name}"),
            });
            extension.name.clone() + &params.collect::<String>()
        });
        Some(shown.collect::<Vec<_>>().join(","))
    }

    #[test]
    fn well_formed() {
        for (value, expected) in [
            ("a", "a"),
            ("a, b;x", "a,b;x"),
            ("  a ; x = 1 ;y=\"2\" ,\tb", "a;x=1;y=2,b"),
            ("a;x=\"1\\2\"", "a;x=12"),
            (",a,,b,", "a,b"),
        ] {
            assert_eq!(show(value).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn malformed() {
        for value in [
            "",
            " ",
            ",",
            "a;",
            "a;=1",
            "a;x=",
            "a b",
            "a;x=1 2",
            "a;x=\"",
            "a;x=\"\"",
            "a;x=\"1",
            "a;x=\"1\\",
            "a;x=\"1 2\"",
            "a;x=\"1,2\"",
            "é",
            "a;x=é",
            "=",
            ";",
            "a;;b",
            "a/b",
            "a;x=\"1\"2",
        ] {
            assert_eq!(show(value), None, "{value}");
        }
    }
}
