//! The payload of a close frame (RFC 6455 §5.5.1).
//!
//! In:   the payload of a received close frame; a reason to send.
//! Out:  a checked code and reason, or the rule that was broken; a reason that fits.
//! Not here: who closes when (`receiver` ends after a close, `sender` refuses more).

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use crate::close::CloseCode;
use crate::error::ProtocolError;

/// Longest close reason in bytes: a control payload of 125 less the two bytes of the code.
pub(crate) const MAX_REASON: usize = 123;

/// What a close frame said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrame {
    /// Why the sender closes.
    pub code: CloseCode,
    /// Text for a log, often empty.
    pub reason: ByteString,
}

impl CloseFrame {
    /// Reads the payload of a close frame; an empty one has no code.
    pub(crate) fn parse(mut payload: Bytes) -> Result<Option<Self>, ProtocolError> {
        if payload.is_empty() {
            return Ok(None);
        }
        // RFC 6455 §5.5.1: a body starts with a two-byte code.
        if payload.len() == 1 {
            return Err(ProtocolError::CloseTooShort);
        }
        let code = payload.get_u16();
        let code = CloseCode::new(code).ok_or(ProtocolError::InvalidCloseCode { code })?;
        let reason = ByteString::try_from(payload).map_err(|_| ProtocolError::InvalidCloseReason)?;
        Ok(Some(Self { code, reason }))
    }
}

/// The longest start of `reason` that fits a close frame and ends between characters.
pub(crate) fn fit_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads() {
        let parse = |bytes: &'static [u8]| CloseFrame::parse(Bytes::from_static(bytes));
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"\x03"), Err(ProtocolError::CloseTooShort));
        assert_eq!(parse(b"\x03\xEE"), Err(ProtocolError::InvalidCloseCode { code: 1006 }));
        assert_eq!(parse(b"\x03\xE8\xC0\x80"), Err(ProtocolError::InvalidCloseReason));
        let frame = CloseFrame { code: CloseCode::NORMAL, reason: "bye".into() };
        assert_eq!(parse(b"\x03\xE8bye"), Ok(Some(frame)));
    }

    #[test]
    fn long_reasons_end_between_characters() {
        assert_eq!(fit_reason(&"a".repeat(200)).len(), 123);
        assert_eq!(fit_reason(&"é".repeat(100)).len(), 122);
        assert_eq!(fit_reason("short"), "short");
    }
}
