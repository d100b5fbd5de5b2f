//! The console: commands that are typed where the server runs.
//!
//! In:  lines.
//! Out: what to print; and the wish to stop.
//! Not here: reading and printing (`terminal`), stopping (`main`).

use std::fmt::Write;

use stormsocket::{Hub, Session, WsSession};

use crate::admin;
use crate::commands::announce;
use crate::fields::Text;
use crate::names::name_of;
use crate::rooms;
use crate::stats::{self, MAX_ROWS};

const HELP: &str = "/sessions         who is here
/info ID          all about one session
/kick ID          close a session
/rooms            the rooms and how many are in them
/broadcast TEXT   say something to everyone
/stop             let leave what is queued, then stop";

/// What comes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Print(String),
    Stop,
}

enum Command {
    Help,
    Sessions,
    Info(u64),
    Kick(u64),
    Rooms,
    Broadcast(Text),
    Stop,
}

/// Carries out a line; `None` for an empty one.
pub(crate) async fn run(hub: &Hub, line: &str) -> Option<Reply> {
    if line.trim().is_empty() {
        return None;
    }
    let command = match parse(line) {
        Ok(command) => command,
        Err(problem) => return Some(Reply::Print(problem)),
    };
    Some(Reply::Print(match command {
        Command::Help => HELP.to_owned(),
        Command::Sessions => sessions(hub),
        Command::Info(id) => hub.sessions().get(id).map_or_else(|| no_session(id), |session| info(&session)),
        Command::Kick(id) => match admin::kick(hub, id) {
            Ok(()) => format!("kicked {id}"),
            Err(refusal) => refusal.to_string(),
        },
        Command::Rooms => all_rooms(hub),
        Command::Broadcast(text) => format!("said to {}", announce(hub, &text).await),
        Command::Stop => return Some(Reply::Stop),
    }))
}

fn parse(line: &str) -> Result<Command, String> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let alone = |command| match rest {
        "" => Ok(command),
        _ => Err(format!("{word} takes nothing behind it")),
    };
    let id = || match (rest, rest.parse()) {
        ("", _) => Err(format!("{word} ID: which session? /sessions lists them")),
        (_, Ok(id)) => Ok(id),
        _ => Err(format!("{word} ID: `{}` is not the number of a session", shown(rest))),
    };
    match word {
        "/help" => alone(Command::Help),
        "/sessions" => alone(Command::Sessions),
        "/rooms" => alone(Command::Rooms),
        "/stop" => alone(Command::Stop),
        "/info" => id().map(Command::Info),
        "/kick" => id().map(Command::Kick),
        "/broadcast" => match Text::new(rest) {
            Ok(text) => Ok(Command::Broadcast(text)),
            Err(_) if rest.is_empty() => Err("/broadcast TEXT: what is to be said?".to_owned()),
            Err(found) => Err(format!("/broadcast TEXT: 1 to 2000 characters, not {found}")),
        },
        _ if word.starts_with('/') => Err(format!("there is no command `{}`; /help lists them", shown(word))),
        _ => Err("a command begins with a slash; /help lists them".to_owned()),
    }
}

/// What was typed, short and without anything a terminal would obey.
fn shown(typed: &str) -> String {
    typed.chars().take(40).flat_map(char::escape_debug).collect()
}

fn no_session(id: u64) -> String {
    format!("there is no session {id}")
}

fn sessions(hub: &Hub) -> String {
    let (rows, total) = stats::sessions(hub, MAX_ROWS);
    let mut text = format!("{total} sessions");
    for row in &rows {
        let slow = if row.slow { ", reads slowly" } else { "" };
        let rooms =
            if row.rooms.is_empty() { String::new() } else { format!(", in {}", row.rooms.join(", ")) };
        let _ = write!(text, "\n[{}] {}, {} s{rooms}{slow}", row.id, row.name, row.uptime);
    }
    more(&mut text, total - rows.len());
    text
}

fn all_rooms(hub: &Hub) -> String {
    let (rows, total) = rooms::fullest(hub, MAX_ROWS);
    let mut text = format!("{total} rooms");
    for row in &rows {
        let _ = write!(text, "\n{}: {}", row.room, row.members);
    }
    more(&mut text, total - rows.len());
    text
}

fn more(text: &mut String, left_out: usize) {
    if left_out > 0 {
        let _ = write!(text, "\nand {left_out} more");
    }
}

fn info(session: &Session) -> String {
    let metrics = session.metrics();
    let address =
        session.remote_addr().map_or_else(|| "a local socket".to_owned(), |address| address.to_string());
    let round_trip = WsSession::of(session).and_then(|session| session.round_trip());
    let round_trip = round_trip.map_or_else(|| "not measured yet".to_owned(), |time| format!("{time:?}"));
    let rooms = rooms::of(session);
    let rows = [
        ("name", name_of(session).to_string()),
        ("address", address),
        ("state", format!("{:?}", session.state())),
        ("uptime", format!("{} s", metrics.uptime.as_secs())),
        ("round trip", round_trip),
        ("in", format!("{} messages, {} bytes", metrics.messages_received, metrics.bytes_received)),
        ("out", format!("{} messages, {} bytes", metrics.messages_sent, metrics.bytes_sent)),
        ("dropped", metrics.messages_dropped.to_string()),
        ("waiting", format!("{} bytes", session.pending_send_bytes())),
        ("rooms", if rooms.is_empty() { "none".to_owned() } else { rooms.join(", ") }),
        ("admin", if admin::is_admin(session) { "yes" } else { "no" }.to_owned()),
    ];
    let mut text = format!("session {}", session.id());
    for (name, value) in rows {
        let _ = write!(text, "\n  {name:<10} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stormsocket::{ServerHandle, WsServer};

    use super::*;

    async fn server() -> ServerHandle {
        WsServer::bind("127.0.0.1:0").start().await.expect("a free port")
    }

    async fn says(hub: &Arc<Hub>, line: &str) -> String {
        match run(hub, line).await {
            Some(Reply::Print(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[tokio::test]
    async fn nonsense_is_answered() {
        let server = server().await;
        for (line, answer) in [
            ("hello", "a command begins with a slash; /help lists them"),
            ("/", "there is no command `/`; /help lists them"),
            ("/Kick 1", "there is no command `/Kick`; /help lists them"),
            ("/kick", "/kick ID: which session? /sessions lists them"),
            ("/kick me", "/kick ID: `me` is not the number of a session"),
            ("/kick -1", "/kick ID: `-1` is not the number of a session"),
            ("/kick 1 2", "/kick ID: `1 2` is not the number of a session"),
            ("/info 99999999999999999999", "/info ID: `99999999999999999999` is not the number of a session"),
            ("/info 18446744073709551615", "there is no session 18446744073709551615"),
            ("/kick 18446744073709551615", "there is no session 18446744073709551615"),
            ("/broadcast", "/broadcast TEXT: what is to be said?"),
            (
                "/broadcast \u{1B}[2J",
                "/broadcast TEXT: 1 to 2000 characters, not one with a control character",
            ),
            ("/stop now", "/stop takes nothing behind it"),
            ("/\u{1B}[2J", "there is no command `/\\u{1b}[2J`; /help lists them"),
        ] {
            assert_eq!(says(server.hub(), line).await, answer, "{line}");
        }
        let long = says(server.hub(), &format!("/{}", "x".repeat(5_000))).await;
        assert!(long.len() < 100, "{long}");
        server.shutdown(std::time::Duration::ZERO).await;
    }

    #[tokio::test]
    async fn empty_lines_empty_servers_and_the_end() {
        let server = server().await;
        assert_eq!(run(server.hub(), "  \t").await, None);
        assert_eq!(says(server.hub(), "/sessions").await, "0 sessions");
        assert_eq!(says(server.hub(), " /rooms ").await, "0 rooms");
        assert_eq!(says(server.hub(), "/broadcast hello").await, "said to 0");
        assert!(says(server.hub(), "/help").await.contains("/stop"));
        assert_eq!(run(server.hub(), "/stop").await, Some(Reply::Stop));
        server.shutdown(std::time::Duration::ZERO).await;
    }
}
