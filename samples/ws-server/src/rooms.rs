//! Rooms: groups of sessions under names that clients choose.
//!
//! A prefix keeps them apart from the groups the server makes for itself.

use serde::Serialize;
use stormsocket::{Hub, Session};

use crate::fields::RoomName;
use crate::refusal::Refusal;

/// Rooms a session may be in at a time. With the limit on connections it bounds how many rooms there are.
pub(crate) const MAX_ROOMS: usize = 16;

const PREFIX: &str = "room:";

/// A room and how many are in it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RoomRow {
    pub(crate) room: String,
    pub(crate) members: usize,
}

/// The group that is `room`.
pub(crate) fn group(room: &RoomName) -> String {
    format!("{PREFIX}{}", room.as_str())
}

/// Puts `session` into `room`; returns whether it was not there before.
pub(crate) fn join(session: &Session, room: &RoomName) -> Result<bool, Refusal> {
    let rooms = of(session);
    if rooms.iter().any(|joined| joined == room.as_str()) {
        return Ok(false);
    }
    // Commands of a session run one at a time, so nobody joins in between.
    if rooms.len() >= MAX_ROOMS {
        return Err(Refusal::TooManyRooms(rooms.len()));
    }
    session.join(group(room));
    Ok(true)
}

/// Takes `session` out of `room`.
pub(crate) fn leave(session: &Session, room: &RoomName) -> Result<(), Refusal> {
    if session.server().groups().remove(group(room), session) {
        Ok(())
    } else {
        Err(Refusal::NotInRoom(room.as_str().to_owned()))
    }
}

/// Refuses whoever is not in `room`.
pub(crate) fn require(session: &Session, room: &RoomName) -> Result<(), Refusal> {
    if of(session).iter().any(|joined| joined == room.as_str()) {
        Ok(())
    } else {
        Err(Refusal::NotInRoom(room.as_str().to_owned()))
    }
}

/// The rooms `session` is in.
pub(crate) fn of(session: &Session) -> Vec<String> {
    session.groups().iter().filter_map(|group| group.strip_prefix(PREFIX)).map(str::to_owned).collect()
}

/// The fullest rooms, `most` of them, and how many there are.
pub(crate) fn fullest(hub: &Hub, most: usize) -> (Vec<RoomRow>, usize) {
    let groups = hub.groups();
    let names = groups.names();
    let rooms = names.iter().filter_map(|group| {
        let room = group.strip_prefix(PREFIX)?.to_owned();
        Some(RoomRow { room, members: groups.member_count(group) })
    });
    let mut rooms: Vec<_> = rooms.collect();
    let total = rooms.len();
    rooms.sort_unstable_by(|a, b| b.members.cmp(&a.members).then_with(|| a.room.cmp(&b.room)));
    rooms.truncate(most);
    (rooms, total)
}
