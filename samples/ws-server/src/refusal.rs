//! Why a command was not carried out.

/// Why a command was not carried out. Only the client that sent it gets to know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("commands are JSON text, not binary")]
    Binary,
    #[error("a command is at most {max} bytes long, not {len}")]
    TooLong { len: usize, max: usize },
    #[error("not JSON: {0}")]
    NotJson(String),
    #[error("a command is an object: {{\"type\": \"chat\", \"message\": \"hello\"}}")]
    NotAnObject,
    #[error("{0}")]
    Invalid(String),
    #[error("the name `{0}` is taken")]
    NameTaken(String),
    #[error("there is no session {0}")]
    NoSession(u64),
    #[error("session {0} reads too slowly and did not get it")]
    NotDelivered(u64),
    #[error("you are in {0} rooms, which is the most: leave one first")]
    TooManyRooms(usize),
    #[error("you are not in the room `{0}`")]
    NotInRoom(String),
    #[error("that takes the admin token: {{\"type\": \"admin\", \"token\": \"...\"}}")]
    NotAdmin,
    #[error("wrong admin token, {left} more attempts")]
    WrongToken { left: u32 },
    #[error("that is yourself")]
    Yourself,
}

impl Refusal {
    /// A name for programs; the text is for people.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::TooLong { .. } => "tooLong",
            Self::NotJson(_) => "notJson",
            Self::NotAnObject => "notAnObject",
            Self::Invalid(_) => "invalid",
            Self::NameTaken(_) => "nameTaken",
            Self::NoSession(_) => "noSession",
            Self::NotDelivered(_) => "notDelivered",
            Self::TooManyRooms(_) => "tooManyRooms",
            Self::NotInRoom(_) => "notInRoom",
            Self::NotAdmin => "notAdmin",
            Self::WrongToken { .. } => "wrongToken",
            Self::Yourself => "yourself",
        }
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        /// serde quotes what it found, which may be as long as the command.
        const LONGEST: usize = 300;
        // Its own words for a `type` are those of Rust, not of somebody who writes JSON.
        let mut text = error
            .to_string()
            .replace("expected variant identifier", "expected `type`, the name of a command");
        if let Some(rest) = text.strip_prefix("unknown variant") {
            text = format!("unknown command{rest}");
        }
        if let Some((end, _)) = text.char_indices().nth(LONGEST) {
            text.truncate(end);
            text.push('…');
        }
        if error.is_data() { Self::Invalid(text) } else { Self::NotJson(text) }
    }
}
