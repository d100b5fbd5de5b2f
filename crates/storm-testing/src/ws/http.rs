//! The upgrade, as text.

use std::collections::HashMap;

/// RFC 6455 §1.3: the sample key.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What answers [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An upgrade request for `target` without its final empty line, so that headers can follow.
pub fn request(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
    )
}

/// An HTTP answer, its header names in lower case.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The status line.
    pub line: String,
    /// The headers; of one that is repeated, the last.
    pub headers: HashMap<String, String>,
    /// All of the head, as received.
    pub head: String,
    /// The body, as long as `content-length` says.
    pub body: String,
}

impl Response {
    /// The header of this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}
