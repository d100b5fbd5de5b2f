//! The JSON that clients and server exchange, one object a message, told apart by `type`.
//!
//! In:  text from a client.
//! Out: a [`Command`]; or the [`Refusal`] that tells the client what was wrong with it. [`Event`]s as JSON.
//! Not here: what commands do (`commands`), what fields may hold (`fields`).

use serde::{Deserialize, Serialize};
use stormsocket::Message;

use crate::fields::{Attempt, Id, Name, RoomName, Text, To};
use crate::refusal::Refusal;
use crate::rooms::RoomRow;
use crate::stats::{Sample, SessionRow, Totals};

/// Bytes of a command, at most: the longest message, every character of it escaped, and room to spare. A larger one is
/// not parsed.
pub(crate) const MAX_COMMAND: usize = 32 * 1024;

/// What a client asks for.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum Command {
    SetName { name: Name },
    Chat { message: Text },
    Whisper { to: To, message: Text },
    Join { room: RoomName },
    Leave { room: RoomName },
    RoomMsg { room: RoomName, message: Text },
    List,
    Rooms,
    MyInfo,
    Watch,
    Admin { token: Attempt },
    Kick { id: Id },
    Broadcast { message: Text },
}

impl Command {
    pub(crate) fn parse(message: &Message) -> Result<Self, Refusal> {
        let text = message.text().ok_or(Refusal::Binary)?;
        if text.len() > MAX_COMMAND {
            return Err(Refusal::TooLong { len: text.len(), max: MAX_COMMAND });
        }
        // serde would also take `["join", "room"]` for a command.
        if matches!(
            text.trim_start().as_bytes().first(),
            Some(b'[' | b'"' | b'0'..=b'9' | b'-' | b't' | b'f' | b'n')
        ) {
            serde_json::from_str::<serde::de::IgnoredAny>(text)?;
            return Err(Refusal::NotAnObject);
        }
        Ok(serde_json::from_str(text)?)
    }
}

/// What a client is told.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Event<'a> {
    /// The first event of a session.
    Welcome {
        id: u64,
        name: &'a str,
        online: usize,
        message: &'a str,
    },
    Error {
        code: &'a str,
        message: &'a str,
    },
    /// Answers `setName`.
    NameSet {
        name: &'a str,
    },
    /// To everyone, or with `room` to its members, the sender among them.
    Chat {
        from: &'a str,
        from_id: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        room: Option<&'a str>,
        message: &'a str,
    },
    Whisper {
        from: &'a str,
        from_id: u64,
        message: &'a str,
    },
    /// Answers `whisper`.
    WhisperSent {
        to: u64,
        message: &'a str,
    },
    /// Answers `join`.
    Joined {
        room: &'a str,
        members: usize,
    },
    /// Answers `leave`.
    Left {
        room: &'a str,
    },
    /// What happens around: to everyone, or with `room` to its members.
    System {
        #[serde(skip_serializing_if = "Option::is_none")]
        room: Option<&'a str>,
        message: &'a str,
    },
    /// Answers `list`: the first of `total`.
    UserList {
        users: Vec<SessionRow>,
        total: usize,
    },
    /// Answers `rooms`: the first of `total`.
    RoomList {
        rooms: &'a [RoomRow],
        total: usize,
    },
    /// Answers `myInfo`.
    MyInfo {
        #[serde(flatten)]
        row: SessionRow,
        state: &'a str,
        bytes_sent: u64,
        bytes_received: u64,
        admin: bool,
    },
    /// To everyone, each second.
    Tick {
        tick: u64,
        timestamp: u64,
        online: usize,
    },
    /// Answers `watch`: what was measured so far.
    Watching {
        history: Vec<Sample>,
    },
    /// Each second, to those who watch.
    Stats {
        sample: Sample,
        totals: Totals,
        sessions: &'a [SessionRow],
        rooms: &'a [RoomRow],
        total_rooms: usize,
    },
    /// Answers a good `admin`.
    Admin,
    /// Answers `kick`.
    Kicked {
        id: u64,
    },
    /// To everyone, from an admin or the console.
    Announcement {
        message: &'a str,
    },
}

impl Event<'_> {
    /// The event that tells of a `refusal`.
    pub(crate) fn refused(refusal: &Refusal) -> String {
        Event::Error { code: refusal.code(), message: &refusal.to_string() }.to_json()
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("events have no maps with odd keys and no failing fields")
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn parse(text: &str) -> Result<Command, Refusal> {
        Command::parse(&Message::text_from(text))
    }

    fn refusal(text: &str) -> (&'static str, String) {
        let refusal = parse(text).expect_err(text);
        (refusal.code(), refusal.to_string())
    }

    #[test]
    fn every_command_by_its_name() {
        for good in [
            r#"{"type":"setName","name":"ann"}"#,
            r#"{"name":"ann","type":"setName"}"#,
            r#" {"type":"chat","message":"hi","extra":{"a":[1]}} "#,
            r#"{"type":"whisper","to":1,"message":"hi"}"#,
            r#"{"type":"join","room":"den"}"#,
            r#"{"type":"leave","room":"den"}"#,
            r#"{"type":"roomMsg","room":"den","message":"hi"}"#,
            r#"{"type":"list"}"#,
            r#"{"type":"rooms"}"#,
            r#"{"type":"myInfo"}"#,
            r#"{"type":"watch"}"#,
            r#"{"type":"admin","token":"x"}"#,
            r#"{"type":"kick","id":1}"#,
            r#"{"type":"broadcast","message":"hi"}"#,
        ] {
            parse(good).expect(good);
        }
    }

    #[test]
    fn what_is_no_json_and_what_is_no_object() {
        for text in [
            "",
            " ",
            "hello",
            "{",
            r#"{"type":"list"} x"#,
            r#"{"type":"list",}"#,
            "'",
            "[1",
            "\"",
            "nul",
            "{\"type\":\"list\"}{",
        ] {
            assert_eq!(refusal(text).0, "notJson", "{text}");
        }
        for text in ["[]", r#"["join","den"]"#, "1", "-1.5e3", "null", "true", r#""list""#] {
            assert_eq!(refusal(text).0, "notAnObject", "{text}");
        }
        assert_eq!(Command::parse(&Message::Binary(Bytes::from_static(b"{}"))), Err(Refusal::Binary));
    }

    #[test]
    fn fields_missing_mistyped_and_repeated() {
        for (text, says) in [
            ("{}", "missing field `type`"),
            (r#"{"type":null}"#, "expected `type`, the name of a command"),
            (r#"{"type":7}"#, "invalid type: integer `7`, expected `type`, the name of a command"),
            (r#"{"type":"setname","name":"x"}"#, "unknown command `setname`, expected one of `setName`"),
            (r#"{"type":"setName"}"#, "missing field `name`"),
            (r#"{"type":"setName","name":["x"]}"#, "expected `name`"),
            (r#"{"type":"setName","name":"a","name":"b"}"#, "duplicate field `name`"),
            (r#"{"type":"list","type":"rooms"}"#, "duplicate field `type`"),
            (r#"{"type":"whisper","message":"x"}"#, "missing field `to`"),
            (r#"{"type":"whisper","to":"1","message":"x"}"#, "expected `to`"),
            (r#"{"type":"whisper","to":18446744073709551616,"message":"x"}"#, "expected `to`"),
            (r#"{"type":"chat","message":null}"#, "expected `message`"),
            (r#"{"type":"kick","id":-1}"#, "expected `id`"),
            (r#"{"type":"admin","token":""}"#, "expected `token`"),
        ] {
            let (code, message) = refusal(text);
            assert!(code == "invalid" && message.contains(says), "{text}: {code}, {message}");
        }
    }

    #[test]
    fn hostile_json_costs_little_and_says_why() {
        let deep = format!(r#"{{"type":"chat","message":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let (code, message) = refusal(&deep);
        assert!(code == "notJson" && message.starts_with("not JSON: recursion limit exceeded"), "{message}");
        let (code, message) = refusal(&format!(r#"{{"type":"{}"}}"#, "é".repeat(10_000)));
        assert!(code == "invalid" && message.chars().count() <= 301, "{message}");
        let huge = format!(r#"{{"type":"chat","message":"{}"}}"#, "x".repeat(MAX_COMMAND));
        assert_eq!(refusal(&huge).0, "tooLong");
        assert_eq!(refusal(r#"{"type":"chat","message":"\ud800"}"#).0, "notJson");
        assert_eq!(refusal(r#"{"type":"whisper","to":1e400,"message":"x"}"#).0, "notJson");
    }

    #[test]
    fn the_longest_message_fits_however_it_is_escaped() {
        let escaped = r"\ud83d\ude00".repeat(crate::fields::MAX_TEXT);
        parse(&format!(r#"{{"type":"chat","message":"{escaped}"}}"#)).unwrap();
    }

    #[test]
    fn errors_are_events() {
        assert_eq!(
            Event::refused(&Refusal::NoSession(7)),
            r#"{"type":"error","code":"noSession","message":"there is no session 7"}"#
        );
    }
}
