//! Who may kick and broadcast: whoever knows the token.
//!
//! The token comes from the environment, or is made at start and printed once. It is presented on a connection and
//! holds for that connection; there is no cookie that a page elsewhere could make use of.

use stormsocket::{CloseCode, DisconnectReason, Hub, Session, SessionKey};
use subtle::ConstantTimeEq;

use crate::fields::{Attempt, MAX_TOKEN};
use crate::refusal::Refusal;

/// Where the token is taken from.
pub(crate) const VARIABLE: &str = "ADMIN_TOKEN";
/// Wrong tokens a session may present; with the last one it is closed.
pub(crate) const MAX_ATTEMPTS: u32 = 3;
/// A token from outside is at least this long: shorter ones can be guessed.
const MIN_TOKEN: usize = 16;

static FAILURES: SessionKey<u32> = SessionKey::new("wrong tokens");
static IS_ADMIN: SessionKey<()> = SessionKey::new("admin");

/// The secret, filled up with zeros so that comparing takes the same time whatever is presented.
pub(crate) struct Token {
    bytes: [u8; MAX_TOKEN],
    len: u64,
}

impl Token {
    /// A token from outside.
    pub(crate) fn given(text: &str) -> Result<Self, String> {
        let fits = (MIN_TOKEN..=MAX_TOKEN).contains(&text.len());
        if fits {
            Ok(Self::padded(text))
        } else {
            Err(format!("{VARIABLE} must be {MIN_TOKEN} to {MAX_TOKEN} bytes long"))
        }
    }

    /// A new token of 128 random bits, and its text.
    pub(crate) fn random() -> (Self, String) {
        let text = format!("{:032x}", rand::random::<u128>());
        (Self::padded(&text), text)
    }

    fn padded(text: &str) -> Self {
        let mut bytes = [0; MAX_TOKEN];
        bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        Self { bytes, len: text.len() as u64 }
    }

    fn is(&self, attempt: &Attempt) -> bool {
        let attempt = Self::padded(attempt.as_str());
        (self.bytes.ct_eq(&attempt.bytes) & self.len.ct_eq(&attempt.len)).into()
    }

    /// Makes `session` an admin if it knows the token.
    pub(crate) fn admit(&self, session: &Session, attempt: &Attempt) -> Result<(), Refusal> {
        if self.is(attempt) {
            session.items().remove(&FAILURES);
            session.set(&IS_ADMIN, ());
            return Ok(());
        }
        let failures = session.get(&FAILURES).unwrap_or(0) + 1;
        session.set(&FAILURES, failures);
        Err(Refusal::WrongToken { left: MAX_ATTEMPTS.saturating_sub(failures) })
    }
}

pub(crate) fn is_admin(session: &Session) -> bool {
    session.get(&IS_ADMIN).is_some()
}

/// Refuses whoever has not presented the token.
pub(crate) fn require(session: &Session) -> Result<(), Refusal> {
    if is_admin(session) { Ok(()) } else { Err(Refusal::NotAdmin) }
}

/// Closes the session `id`; what is queued for it still leaves.
pub(crate) fn kick(hub: &Hub, id: u64) -> Result<(), Refusal> {
    let session = hub.sessions().get(id).ok_or(Refusal::NoSession(id))?;
    dismiss(&session, "kicked by an admin");
    Ok(())
}

/// Closes a session for what it did.
pub(crate) fn dismiss(session: &Session, why: &'static str) {
    let goodbye = (CloseCode::POLICY_VIOLATION.into(), why.into());
    session.start_close_with(DisconnectReason::ClosedByServer, Some(goodbye));
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn attempt(text: &str) -> Attempt {
        from_value(json!(text)).unwrap()
    }

    #[test]
    fn only_the_token_is_the_token() {
        let token = Token::given("open sesame, please").unwrap();
        assert!(token.is(&attempt("open sesame, please")));
        for wrong in
            ["open sesame, pleasf", "open sesame, pleas", "open sesame, please\0", "open sesame, please "]
        {
            assert!(!token.is(&attempt(wrong)), "{wrong:?}");
        }
    }

    #[test]
    fn random_tokens_are_long_and_differ() {
        let ((token, text), (_, other)) = (Token::random(), Token::random());
        assert!(
            text.len() == 32 && text != other && token.is(&attempt(&text)) && !token.is(&attempt(&other))
        );
    }

    #[test]
    fn short_and_endless_tokens_are_refused() {
        for text in [String::new(), "x".repeat(MIN_TOKEN - 1), "x".repeat(MAX_TOKEN + 1)] {
            assert!(Token::given(&text).is_err());
        }
    }
}
