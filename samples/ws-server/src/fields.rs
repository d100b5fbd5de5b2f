//! What a client may put into a command, field by field.
//!
//! In:  JSON values from strangers.
//! Out: values that are safe to keep, to send to others and to print on a terminal; or what was expected, by name.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// Characters in a name, at most.
pub(crate) const MAX_NAME: usize = 32;
/// Characters in a room's name, at most.
pub(crate) const MAX_ROOM: usize = 32;
/// Characters in a message, at most.
pub(crate) const MAX_TEXT: usize = 2_000;
/// Bytes of an admin token, at most.
pub(crate) const MAX_TOKEN: usize = 128;

impl Text {
    /// `text` if it may be said; what it is instead, if not.
    pub(crate) fn new(text: &str) -> Result<Self, &'static str> {
        said(text).map(Self)
    }
}

/// A field that is a string with rules.
macro_rules! text_field {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub(crate) struct $name(String);

        impl $name {
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Expected;

                impl Visitor<'_> for Expected {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        let check: fn(&str) -> Result<String, &'static str> = $check;
                        check(text).map($name).map_err(|found| E::invalid_value(Unexpected::Other(found), &self))
                    }
                }

                deserializer.deserialize_str(Expected)
            }
        }
    };
}

text_field!(
    /// What a session is called.
    #[derive(Debug)]
    Name,
    "`name`, a string of 1 to 32 visible characters",
    |text| label(text, MAX_NAME)
);

text_field!(
    /// What a room is called.
    #[derive(Debug)]
    RoomName,
    "`room`, a string of 1 to 32 visible characters",
    |text| label(text, MAX_ROOM)
);

text_field!(
    /// What somebody says.
    #[derive(Debug)]
    Text,
    "`message`, a string of 1 to 2000 characters",
    said
);

text_field!(
    /// An attempt at the admin token. Nothing prints it.
    Attempt,
    "`token`, a string of 1 to 128 bytes",
    |text| match text.len() {
        0 => Err("nothing"),
        1..=MAX_TOKEN => Ok(text.to_owned()),
        _ => Err("something longer"),
    }
);

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attempt(..)")
    }
}

/// A session named by its number, in the field `$field`.
macro_rules! session_field {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $name(pub(crate) u64);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Expected;

                impl Visitor<'_> for Expected {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_u64<E: Error>(self, number: u64) -> Result<$name, E> {
                        Ok($name(number))
                    }
                }

                deserializer.deserialize_u64(Expected)
            }
        }
    };
}

session_field!(
    /// Whom a whisper is for.
    To,
    "`to`, the number of a session"
);

session_field!(
    /// Whom a kick is for.
    Id,
    "`id`, the number of a session"
);

/// A label has no characters that hide, that turn text around, or that a terminal obeys.
fn label(text: &str, max: usize) -> Result<String, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Err("nothing");
    }
    if text.chars().nth(max).is_some() {
        return Err("something longer");
    }
    if text.chars().any(|char| char.is_control() || is_invisible(char)) {
        return Err("one with an invisible character");
    }
    Ok(text.to_owned())
}

fn said(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() {
        return Err("nothing");
    }
    if text.chars().nth(MAX_TEXT).is_some() {
        return Err("something longer");
    }
    if text.chars().any(|char| char.is_control() && !matches!(char, '\n' | '\t')) {
        return Err("one with a control character");
    }
    Ok(text.to_owned())
}

/// Marks and fillers of Unicode that show nothing, or change the direction of what stands beside them.
fn is_invisible(char: char) -> bool {
    matches!(char,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{2800}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{E0000}'..='\u{E0FFF}')
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn labels_are_trimmed_and_counted_in_characters() {
        let name: Name = from_value(json!("  Zoë  ")).unwrap();
        assert_eq!(name.as_str(), "Zoë");
        from_value::<Name>(json!("ß".repeat(MAX_NAME))).unwrap();
        from_value::<Name>(json!("ß".repeat(MAX_NAME + 1))).unwrap_err();
    }

    #[test]
    fn labels_hide_nothing() {
        for hostile in
            ["", " \t ", "a\u{0}", "a\u{1B}[2Jb", "a\nb", "\u{202E}nimda", "ad\u{200B}min", "\u{3164}"]
        {
            from_value::<Name>(json!(hostile)).unwrap_err();
            from_value::<RoomName>(json!(hostile)).unwrap_err();
        }
    }

    #[test]
    fn text_may_have_lines_but_no_terminal_codes() {
        assert_eq!(from_value::<Text>(json!("a\n\tb")).unwrap().as_str(), "a\n\tb");
        for hostile in ["", "\n \n", "\u{1B}]0;title\u{7}", "a\rb", "\u{9B}31m"] {
            from_value::<Text>(json!(hostile)).unwrap_err();
        }
        from_value::<Text>(json!("x".repeat(MAX_TEXT))).unwrap();
        from_value::<Text>(json!("x".repeat(MAX_TEXT + 1))).unwrap_err();
    }

    #[test]
    fn mistakes_are_named_by_field() {
        let error = |value| from_value::<Name>(value).unwrap_err().to_string();
        assert_eq!(
            error(json!(5)),
            "invalid type: integer `5`, expected `name`, a string of 1 to 32 visible characters"
        );
        assert!(error(json!(null)).contains("`name`") && error(json!({})).contains("`name`"));
        for wrong in [json!(-1), json!(1.5), json!("1"), json!(null), json!([1])] {
            assert!(
                from_value::<To>(wrong).unwrap_err().to_string().contains("`to`, the number of a session")
            );
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        let attempt: Attempt = from_value(json!("secret")).unwrap();
        assert_eq!((format!("{attempt:?}"), attempt.as_str()), ("Attempt(..)".to_owned(), "secret"));
    }
}
