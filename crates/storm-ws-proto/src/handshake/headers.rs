//! Questions about header maps that both roles ask.
//!
//! Owns: token lists, "exactly one", and what callers may not set themselves.
//! In:   a `HeaderMap`; names and values from the application.
//! Out:  answers; checked names and values.
//! Not here: what the answers mean for the handshake.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::deflate::DeflateOptions;
use crate::extension::{self, Extension};

/// The elements of a comma-separated list over all its header lines, without their spaces.
pub(super) fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether a list has an element, compared as tokens are: whole, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    list(headers, name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// How often a header stands there.
pub(super) enum Count<'a> {
    None,
    One(&'a HeaderValue),
    Many,
}

pub(super) fn count<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Count<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Count::None,
        (Some(value), None) => Count::One(value),
        _ => Count::Many,
    }
}

/// The extensions of all header lines, in order.
pub(super) fn extensions(headers: &HeaderMap) -> Result<Vec<Extension>, extension::Malformed> {
    let mut all = Vec::new();
    for value in headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS) {
        all.extend(extension::parse(value.as_bytes())?);
    }
    Ok(all)
}

/// Why the application may not have a header.
pub(super) enum Unfit {
    /// The name or the value is none; this is the name.
    Invalid(String),
    /// See [`is_reserved`].
    Reserved(HeaderName),
}

/// A header of the application's, if it may have that one.
pub(super) fn of_application(name: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), Unfit> {
    let invalid = || Unfit::Invalid(name.to_owned());
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
    let value = HeaderValue::from_bytes(value).map_err(|_| invalid())?;
    if is_reserved(&parsed) {
        return Err(Unfit::Reserved(parsed));
    }
    Ok((parsed, value))
}

/// Headers that the handshake writes itself or that would change where its head ends.
fn is_reserved(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::UPGRADE,
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::TRAILER,
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SEC_WEBSOCKET_VERSION,
    ]
    .contains(name)
}

/// Room for the header lines of `head`: `max` of them, or what there can be at most if no sensible limit is set.
pub(super) fn room(head: &[u8], max: usize) -> Vec<httparse::Header<'_>> {
    /// `a:` and a line end.
    const SHORTEST: usize = 4;
    vec![httparse::EMPTY_HEADER; max.min(head.len() / SHORTEST)]
}

/// Reads headers in httparse's form; `None` if one has a name or value that may not be.
pub(super) fn read(parsed: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for line in parsed {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(line.value).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

/// Writes a header line.
pub(super) fn write(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Compression settings, or proof that there are none.
pub(super) type Deflate = Option<DeflateOptions>;
