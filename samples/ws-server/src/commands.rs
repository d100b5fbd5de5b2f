//! What each command of a client does.
//!
//! In:  messages of sessions.
//! Out: answers to the asker, events to others. A command that is refused changes nothing and is nobody else's business.

use std::sync::Arc;

use stormsocket::{
    BoxError, DisconnectReason, Error, Hub, Message, SendError, SendOutcome, Session, WsHandler, WsSession,
};

use crate::admin::{self, Token};
use crate::fields::{RoomName, Text};
use crate::names::{Names, name_of};
use crate::protocol::{Command, Event};
use crate::refusal::Refusal;
use crate::rooms;
use crate::stats::{self, MAX_ROWS, Stats};
use crate::terminal::Printer;

/// The group of those who get statistics.
pub(crate) const WATCHERS: &str = "watchers";
/// The group of those who get statistics with addresses.
pub(crate) const ADMIN_WATCHERS: &str = "watching admins";

const HELP: &str = "commands: setName, chat, whisper, join, leave, roomMsg, list, rooms, myInfo, watch; \
                    with the admin token: admin, kick, broadcast";

/// What the server knows besides its sessions and groups. All of it is bounded by the number of sessions.
pub(crate) struct App {
    pub(crate) names: Names,
    pub(crate) token: Token,
    pub(crate) stats: Stats,
    pub(crate) printer: Printer,
}

/// The handlers of every session.
pub(crate) struct Handlers(pub(crate) Arc<App>);

impl WsHandler for Handlers {
    async fn on_connected(&self, session: &WsSession) -> Result<(), BoxError> {
        let (id, name) = (session.id().get(), name_of(session));
        let online = session.server().sessions().len();
        session.send_text(Event::Welcome { id, name: &name, online, message: HELP }.to_json()).await?;
        tell(session.server(), &format!("{name} is here"), Some(session)).await;
        Ok(())
    }

    async fn on_message(&self, session: &WsSession, message: Message) -> Result<(), BoxError> {
        let done = match Command::parse(&message) {
            Ok(command) => self.0.run(session, command).await,
            Err(refusal) => Err(refusal),
        };
        let enough = matches!(done, Err(Refusal::WrongToken { left: 0 }));
        let answer = match done {
            Ok(answer) => answer,
            Err(refusal) => Some(Event::refused(&refusal)),
        };
        if let Some(answer) = answer {
            session.send_text(answer).await?;
        }
        if enough {
            admin::dismiss(session, "too many wrong tokens");
        }
        Ok(())
    }

    async fn on_disconnected(&self, session: &WsSession, _: DisconnectReason) -> Result<(), BoxError> {
        self.0.names.release(session);
        tell(session.server(), &format!("{} is gone", name_of(session)), Some(session)).await;
        Ok(())
    }

    async fn on_error(&self, session: Option<&WsSession>, error: &Error) {
        let who = session.map_or_else(|| "server".to_owned(), |session| session.id().to_string());
        self.0.printer.print(format!("[{who}] {error:#}"));
    }
}

impl App {
    /// Carries out a command; returns what to answer, if not all was said on the way.
    async fn run(&self, session: &WsSession, command: Command) -> Result<Option<String>, Refusal> {
        let hub = session.server();
        match command {
            Command::SetName { name } => {
                let old = name_of(session);
                self.names.claim(session, &name)?;
                if *old != *name.as_str() {
                    tell(hub, &format!("{old} is now {}", name.as_str()), None).await;
                }
                Ok(Some(Event::NameSet { name: name.as_str() }.to_json()))
            }
            Command::Chat { message } => {
                hub.broadcast_text(chat(session, None, &message)).await;
                Ok(None)
            }
            Command::Whisper { to, message } => whisper(session, to.0, &message).await.map(Some),
            Command::Join { room } => {
                if rooms::join(session, &room)? {
                    tell_room(session, &room, "joined").await;
                }
                let members = hub.groups().member_count(rooms::group(&room));
                Ok(Some(Event::Joined { room: room.as_str(), members }.to_json()))
            }
            Command::Leave { room } => {
                rooms::leave(session, &room)?;
                tell_room(session, &room, "left").await;
                Ok(Some(Event::Left { room: room.as_str() }.to_json()))
            }
            Command::RoomMsg { room, message } => {
                rooms::require(session, &room)?;
                let event = chat(session, Some(&room), &message);
                hub.groups().broadcast_text(rooms::group(&room), event).await;
                Ok(None)
            }
            Command::List => {
                let (users, total) = stats::sessions(hub, MAX_ROWS);
                Ok(Some(Event::UserList { users, total }.to_json()))
            }
            Command::Rooms => {
                let (rooms, total) = rooms::fullest(hub, MAX_ROWS);
                Ok(Some(Event::RoomList { rooms: &rooms, total }.to_json()))
            }
            Command::MyInfo => Ok(Some(info(session))),
            Command::Watch => {
                session.join(if admin::is_admin(session) { ADMIN_WATCHERS } else { WATCHERS });
                Ok(Some(Event::Watching { history: self.stats.history() }.to_json()))
            }
            Command::Admin { token } => {
                let admitted = self.token.admit(session, &token);
                let outcome =
                    if admitted.is_ok() { "is an admin now" } else { "presented a wrong admin token" };
                self.printer.print(format!("[{}] {outcome}", session.id()));
                admitted?;
                if hub.groups().remove(WATCHERS, session) {
                    session.join(ADMIN_WATCHERS);
                }
                Ok(Some(Event::Admin.to_json()))
            }
            Command::Kick { id } => {
                admin::require(session)?;
                if id.0 == session.id().get() {
                    return Err(Refusal::Yourself);
                }
                admin::kick(hub, id.0)?;
                self.printer.print(format!("[{}] kicked {}", session.id(), id.0));
                Ok(Some(Event::Kicked { id: id.0 }.to_json()))
            }
            Command::Broadcast { message } => {
                admin::require(session)?;
                announce(hub, &message).await;
                Ok(None)
            }
        }
    }
}

/// Tells everyone what an admin has to say; returns how many it reached.
pub(crate) async fn announce(hub: &Hub, message: &Text) -> usize {
    hub.broadcast_text(Event::Announcement { message: message.as_str() }.to_json()).await.sent
}

fn chat(session: &Session, room: Option<&RoomName>, message: &Text) -> String {
    Event::Chat {
        from: &name_of(session),
        from_id: session.id().get(),
        room: room.map(RoomName::as_str),
        message: message.as_str(),
    }
    .to_json()
}

async fn whisper(session: &Session, to: u64, message: &Text) -> Result<String, Refusal> {
    let target = session.server().sessions().get(to).ok_or(Refusal::NoSession(to))?;
    let from: Arc<str> = name_of(session);
    let event = Event::Whisper { from: &from, from_id: session.id().get(), message: message.as_str() };
    match target.send_text(event.to_json()).await {
        Ok(SendOutcome::Sent) => Ok(Event::WhisperSent { to, message: message.as_str() }.to_json()),
        Err(SendError::Closed(_)) => Err(Refusal::NoSession(to)),
        _ => Err(Refusal::NotDelivered(to)),
    }
}

fn info(session: &WsSession) -> String {
    let metrics = session.metrics();
    let mut row = stats::row(session);
    row.address = session.remote_addr().map(|address| address.to_string());
    Event::MyInfo {
        row,
        state: &format!("{:?}", session.state()),
        bytes_sent: metrics.bytes_sent,
        bytes_received: metrics.bytes_received,
        admin: admin::is_admin(session),
    }
    .to_json()
}

/// Tells everyone what happens, except whom it happens to.
async fn tell(hub: &Hub, message: &str, except: Option<&Session>) {
    let event = Event::System { room: None, message }.to_json();
    let broadcast = hub.broadcast_text(event);
    match except {
        Some(session) => broadcast.except(session.id()).await,
        None => broadcast.await,
    };
}

/// Tells the others in `room` what `session` has done.
async fn tell_room(session: &Session, room: &RoomName, what: &str) {
    let message = format!("{} {what} {}", name_of(session), room.as_str());
    let event = Event::System { room: Some(room.as_str()), message: &message }.to_json();
    session.server().groups().broadcast_text(rooms::group(room), event).except(session.id()).await;
}
