//! The middleware that logs who comes and goes, and why.

use stormsocket::{BoxError, DisconnectReason, Middleware, Session};

use crate::names::name_of;
use crate::terminal::Printer;

/// Logs connects, and disconnects with what the session came to.
pub(crate) struct Logging(pub(crate) Printer);

impl Middleware for Logging {
    async fn on_connected(&self, session: &Session) -> Result<(), BoxError> {
        let from =
            session.remote_addr().map_or_else(|| "a local socket".to_owned(), |address| address.to_string());
        let online = session.server().sessions().len();
        self.0.print(format!("[{}] connected from {from} ({online} online)", session.id()));
        Ok(())
    }

    async fn on_disconnected(&self, session: &Session, reason: DisconnectReason) -> Result<(), BoxError> {
        let metrics = session.metrics();
        self.0.print(format!(
            "[{}] {} left: {reason} after {} s, {} messages in, {} out, {} dropped",
            session.id(),
            name_of(session),
            metrics.uptime.as_secs(),
            metrics.messages_received,
            metrics.messages_sent,
            metrics.messages_dropped,
        ));
        Ok(())
    }
}
