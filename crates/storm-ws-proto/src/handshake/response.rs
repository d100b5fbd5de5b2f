//! How a server accepts an upgrade request (RFC 6455 §4.2.2).
//!
//! Owns: the bytes of the 101.
//! In:   the application's choice of subprotocol and headers.
//! Out:  a whole response; nothing the application hands in can add lines to it.
//! Not here: what a request must look like (`request`), any other answer (`reject`).

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::headers;
use super::reject::{AnswerError, add_header};
use super::request::Upgrade;
#[cfg(feature = "deflate")]
use crate::{DeflateOptions, DeflateParams};

/// How to accept an upgrade.
#[derive(Debug, Clone, Default)]
pub struct Accept {
    protocol: Option<String>,
    headers: HeaderMap,
    #[cfg(feature = "deflate")]
    deflate: Compression,
}

/// What is said to clients that offer permessage-deflate.
#[cfg(feature = "deflate")]
#[derive(Debug, Clone, Copy, Default)]
enum Compression {
    /// Nothing was chosen: none.
    #[default]
    Unsaid,
    Refused,
    Granted(DeflateOptions),
}

impl Accept {
    /// An answer without subprotocol, extension and extra headers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses a subprotocol, which must be among those offered.
    #[must_use]
    pub fn protocol(mut self, protocol: impl Into<String>) -> Self {
        self.protocol = Some(protocol.into());
        self
    }

    /// Chooses the first of `favourites` that is among those `offered`, unless a subprotocol is chosen already.
    #[must_use]
    pub fn or_protocol_of(mut self, favourites: &[String], offered: &[String]) -> Self {
        if self.protocol.is_none() {
            self.protocol = favourites.iter().find(|protocol| offered.contains(protocol)).cloned();
        }
        self
    }

    /// Adds a header.
    ///
    /// # Errors
    /// [`AnswerError::InvalidHeader`], [`AnswerError::ReservedHeader`].
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Result<Self, AnswerError> {
        add_header(&mut self.headers, name, value.as_ref())?;
        Ok(self)
    }

    /// Grants permessage-deflate to clients that offer it acceptably; `None` refuses it.
    #[cfg(feature = "deflate")]
    #[must_use]
    pub fn deflate(mut self, options: impl Into<Option<DeflateOptions>>) -> Self {
        self.deflate = options.into().map_or(Compression::Refused, Compression::Granted);
        self
    }

    /// As [`deflate`](Self::deflate), unless that was granted or refused already.
    #[cfg(feature = "deflate")]
    #[must_use]
    pub fn or_deflate(self, options: impl Into<Option<DeflateOptions>>) -> Self {
        match self.deflate {
            Compression::Unsaid => self.deflate(options),
            _ => self,
        }
    }
}

/// An accepted upgrade. Once `response` is written, the connection speaks WebSocket.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Accepted {
    /// The bytes to send.
    pub response: Bytes,
    /// The subprotocol in use.
    pub protocol: Option<String>,
    /// The compression in use.
    #[cfg(feature = "deflate")]
    pub deflate: Option<DeflateParams>,
    /// What it was granted with: how to compress.
    #[cfg(feature = "deflate")]
    pub deflate_options: Option<DeflateOptions>,
    /// Those of `response`.
    headers: HeaderMap,
}

impl Accepted {
    /// The same answer for an HTTP stack that writes heads itself.
    #[must_use]
    pub fn to_http(&self) -> http::Response<()> {
        let mut response = http::Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = self.headers.clone();
        response
    }
}

/// The head of a 101 in the making: its bytes, and its headers for those who write heads themselves.
struct Head {
    bytes: Vec<u8>,
    headers: HeaderMap,
}

impl Head {
    fn new() -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
        Self { bytes, headers: HeaderMap::with_capacity(8) }
    }

    /// Adds a header, written as `spelled`: some peers look at the case of names.
    fn add(&mut self, name: HeaderName, spelled: &str, value: &[u8]) {
        // What is not valid was refused before, and no head is as large as a full map.
        if let Ok(valid) = HeaderValue::from_bytes(value)
            && self.headers.try_append(name, valid).is_ok()
        {
            headers::write(&mut self.bytes, spelled, value);
        }
    }
}

impl Upgrade {
    /// Writes the 101.
    ///
    /// # Errors
    /// [`AnswerError::ProtocolNotOffered`].
    pub fn accept(&self, accept: &Accept) -> Result<Accepted, AnswerError> {
        let mut head = Head::new();
        head.add(header::UPGRADE, "Upgrade", b"websocket");
        head.add(header::CONNECTION, "Connection", b"Upgrade");
        head.add(header::SEC_WEBSOCKET_ACCEPT, "Sec-WebSocket-Accept", self.accept.as_bytes());
        if let Some(protocol) = &accept.protocol {
            // Offered subprotocols are tokens, so this also keeps line breaks out.
            if !self.protocols.contains(protocol) {
                return Err(AnswerError::ProtocolNotOffered { protocol: protocol.clone() });
            }
            head.add(header::SEC_WEBSOCKET_PROTOCOL, "Sec-WebSocket-Protocol", protocol.as_bytes());
        }
        // RFC 7692 §5.1: offers stand in order of preference; the first acceptable one wins.
        #[cfg(feature = "deflate")]
        let granted = match accept.deflate {
            Compression::Granted(options) => {
                let mut offers = self.extensions.iter();
                let granted = offers.find_map(|offer| crate::deflate::accept_offer(offer, &options));
                granted.map(|(response, params)| {
                    head.add(
                        header::SEC_WEBSOCKET_EXTENSIONS,
                        "Sec-WebSocket-Extensions",
                        response.as_bytes(),
                    );
                    (params, options)
                })
            }
            _ => None,
        };
        for (name, value) in &accept.headers {
            head.add(name.clone(), name.as_str(), value.as_bytes());
        }
        let Head { bytes: mut response, headers } = head;
        response.extend_from_slice(b"\r\n");
        Ok(Accepted {
            response: response.into(),
            headers,
            protocol: accept.protocol.clone(),
            #[cfg(feature = "deflate")]
            deflate: granted.map(|(params, _)| params),
            #[cfg(feature = "deflate")]
            deflate_options: granted.map(|(_, options)| options),
        })
    }
}
