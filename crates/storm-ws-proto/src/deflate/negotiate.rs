//! Agreeing on permessage-deflate (RFC 7692 §5, §7.1).
//!
//! Owns: the four parameters, their grammar and what each side may answer.
//! In:   parsed extension offers and responses, our options.
//! Out:  the offer or response to send, and the agreed [`DeflateParams`].
//! Not here: splitting the header (`extension`).

use super::DeflateParams;
use crate::extension::Extension;

/// The extension's registered name.
const EXTENSION: &str = "permessage-deflate";

/// What we offer as a client or grant as a server, and how we compress.
///
/// A connection that has compressed a message holds its window and hash tables: about 270 KiB at 15 window
/// bits, 140 KiB of it independent of the window. One that has inflated holds about 40 KiB at 15 bits, less with
/// fewer. Neither is allocated before its first use.
///
/// ```
/// use storm_ws_proto::DeflateOptions;
///
/// let lean = DeflateOptions::default().server_max_window_bits(11).client_no_context_takeover(true);
/// assert_eq!(lean.level, 6);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeflateOptions {
    /// The server forgets its window after each message: worse compression of small messages. Default
    /// off. A server also agrees when the client asks.
    pub server_no_context_takeover: bool,
    /// The client forgets its window after each message, and the server holds none between messages.
    /// Default off.
    pub client_no_context_takeover: bool,
    /// Largest window of the server's compressor, 9 to 15 (other values are taken as the nearest).
    /// Default 15, which is 32 KiB.
    pub server_max_window_bits: u8,
    /// Largest window of the client's compressor, 9 to 15 (other values are taken as the nearest).
    /// Default 15. A server can lower it only for clients that say they support it.
    pub client_max_window_bits: u8,
    /// 0 (store) to 9 (slowest). Default 6.
    pub level: u8,
    /// Messages shorter than this are sent as they are. Default 256 bytes; 0 compresses all but empty
    /// ones.
    pub min_size: usize,
}

impl Default for DeflateOptions {
    fn default() -> Self {
        Self {
            server_no_context_takeover: false,
            client_no_context_takeover: false,
            server_max_window_bits: 15,
            client_max_window_bits: 15,
            level: 6,
            min_size: 256,
        }
    }
}

impl DeflateOptions {
    /// Sets [`server_no_context_takeover`](Self::server_no_context_takeover).
    #[must_use]
    pub fn server_no_context_takeover(mut self, on: bool) -> Self {
        self.server_no_context_takeover = on;
        self
    }

    /// Sets [`client_no_context_takeover`](Self::client_no_context_takeover).
    #[must_use]
    pub fn client_no_context_takeover(mut self, on: bool) -> Self {
        self.client_no_context_takeover = on;
        self
    }

    /// Sets [`server_max_window_bits`](Self::server_max_window_bits).
    #[must_use]
    pub fn server_max_window_bits(mut self, bits: u8) -> Self {
        self.server_max_window_bits = bits;
        self
    }

    /// Sets [`client_max_window_bits`](Self::client_max_window_bits).
    #[must_use]
    pub fn client_max_window_bits(mut self, bits: u8) -> Self {
        self.client_max_window_bits = bits;
        self
    }

    /// Sets [`level`](Self::level).
    #[must_use]
    pub fn level(mut self, level: u8) -> Self {
        self.level = level;
        self
    }

    /// Sets [`min_size`](Self::min_size).
    #[must_use]
    pub fn min_size(mut self, bytes: usize) -> Self {
        self.min_size = bytes;
        self
    }

    fn server_bits(&self) -> u8 {
        self.server_max_window_bits.clamp(9, 15)
    }

    fn client_bits(&self) -> u8 {
        self.client_max_window_bits.clamp(9, 15)
    }
}

/// The parameters of one offer or response as written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Written {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// `Some(None)`: without a value.
    client_max_window_bits: Option<Option<u8>>,
}

impl Written {
    /// RFC 7692 §7: an unknown, repeated or invalid parameter spoils the whole element.
    fn read(extension: &Extension) -> Option<Self> {
        let mut written = Self::default();
        for (name, value) in &extension.params {
            let value = value.as_deref();
            // Extension parameters are compared like tokens in HTTP headers: we send and expect lower
            // case, and accept no other.
            match (name.as_str(), value) {
                ("server_no_context_takeover", None) if !written.server_no_context_takeover => {
                    written.server_no_context_takeover = true;
                }
                ("client_no_context_takeover", None) if !written.client_no_context_takeover => {
                    written.client_no_context_takeover = true;
                }
                ("server_max_window_bits", Some(value)) if written.server_max_window_bits.is_none() => {
                    written.server_max_window_bits = Some(window_bits(value)?);
                }
                ("client_max_window_bits", value) if written.client_max_window_bits.is_none() => {
                    written.client_max_window_bits = Some(match value {
                        Some(value) => Some(window_bits(value)?),
                        None => None,
                    });
                }
                _ => return None,
            }
        }
        Some(written)
    }
}

/// RFC 7692 §7.1.2: a decimal from 8 to 15 without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    match value {
        "8" => Some(8),
        "9" => Some(9),
        _ if value.len() == 2 && value.starts_with('1') => value.parse().ok().filter(|bits| *bits <= 15),
        _ => None,
    }
}

/// Server: answers one offer. `None` declines it.
pub(crate) fn accept_offer(offer: &Extension, options: &DeflateOptions) -> Option<(String, DeflateParams)> {
    let offered = (offer.name == EXTENSION).then(|| Written::read(offer)).flatten()?;
    // zlib's smallest window for raw deflate is 9 bits, so we could not keep to 8.
    let server_max_window_bits = match offered.server_max_window_bits {
        Some(8) => return None,
        Some(bits) => bits.min(options.server_bits()),
        None => options.server_bits(),
    };
    // §7.1.2.2: only a client that mentioned the parameter may be told to use a smaller window.
    let client_max_window_bits = match offered.client_max_window_bits {
        Some(bits) => bits.unwrap_or(15).min(options.client_bits()),
        None => 15,
    };
    let params = DeflateParams {
        server_no_context_takeover: offered.server_no_context_takeover || options.server_no_context_takeover,
        client_no_context_takeover: offered.client_no_context_takeover || options.client_no_context_takeover,
        server_max_window_bits,
        client_max_window_bits,
    };
    let mut response = EXTENSION.to_owned();
    if params.server_no_context_takeover {
        response.push_str("; server_no_context_takeover");
    }
    if params.client_no_context_takeover {
        response.push_str("; client_no_context_takeover");
    }
    // §7.1.2.1: an offer with the parameter is accepted by a response with it.
    if offered.server_max_window_bits.is_some() || server_max_window_bits < 15 {
        response.push_str(&format!("; server_max_window_bits={server_max_window_bits}"));
    }
    if client_max_window_bits < 15 {
        response.push_str(&format!("; client_max_window_bits={client_max_window_bits}"));
    }
    Some((response, params))
}

/// Client: the offer for these options.
pub(crate) fn offer(options: &DeflateOptions) -> String {
    let mut offer = EXTENSION.to_owned();
    if options.server_no_context_takeover {
        offer.push_str("; server_no_context_takeover");
    }
    if options.client_no_context_takeover {
        offer.push_str("; client_no_context_takeover");
    }
    if options.server_bits() < 15 {
        offer.push_str(&format!("; server_max_window_bits={}", options.server_bits()));
    }
    match options.client_bits() {
        15 => offer.push_str("; client_max_window_bits"),
        bits => offer.push_str(&format!("; client_max_window_bits={bits}")),
    }
    offer
}

/// Client: checks the server's response against our offer. `None` refuses it.
pub(crate) fn check_response(response: &Extension, options: &DeflateOptions) -> Option<DeflateParams> {
    let agreed = (response.name == EXTENSION).then(|| Written::read(response)).flatten()?;
    // §7.1.1.1: what we asked of the server must be in its answer; it may volunteer the same.
    if options.server_no_context_takeover && !agreed.server_no_context_takeover {
        return None;
    }
    let server_max_window_bits = match agreed.server_max_window_bits {
        Some(bits) => Some(bits).filter(|&bits| bits <= options.server_bits())?,
        None => Some(15).filter(|_| options.server_bits() == 15)?,
    };
    // §7.1.2.2: in a response the parameter has a value, no larger than ours.
    let client_max_window_bits = match agreed.client_max_window_bits {
        Some(bits) => bits.filter(|&bits| bits <= options.client_bits())?,
        None => options.client_bits(),
    };
    Some(DeflateParams {
        server_no_context_takeover: agreed.server_no_context_takeover,
        client_no_context_takeover: agreed.client_no_context_takeover || options.client_no_context_takeover,
        server_max_window_bits,
        client_max_window_bits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extension::parse;

    fn one(header: &str) -> Extension {
        parse(header.as_bytes()).unwrap().remove(0)
    }

    fn answer(offer: &str, options: DeflateOptions) -> Option<String> {
        accept_offer(&one(offer), &options).map(|(response, _)| response)
    }

    #[test]
    fn server_answers() {
        let plain = DeflateOptions::default();
        let small = plain.server_max_window_bits(10).client_max_window_bits(11);
        let cases = [
            ("permessage-deflate", plain, Some("permessage-deflate")),
            ("permessage-deflate; client_max_window_bits", plain, Some("permessage-deflate")),
            (
                "permessage-deflate; client_max_window_bits=9",
                plain,
                Some("permessage-deflate; client_max_window_bits=9"),
            ),
            (
                "permessage-deflate; client_max_window_bits=8",
                plain,
                Some("permessage-deflate; client_max_window_bits=8"),
            ),
            (
                "permessage-deflate; server_max_window_bits=\"12\"",
                plain,
                Some("permessage-deflate; server_max_window_bits=12"),
            ),
            (
                "permessage-deflate; server_max_window_bits=15",
                plain,
                Some("permessage-deflate; server_max_window_bits=15"),
            ),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                plain,
                Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
            ),
            ("permessage-deflate", small, Some("permessage-deflate; server_max_window_bits=10")),
            (
                "permessage-deflate; client_max_window_bits",
                small,
                Some("permessage-deflate; server_max_window_bits=10; client_max_window_bits=11"),
            ),
            ("permessage-deflate; server_max_window_bits=8", plain, None),
            ("permessage-deflate; server_max_window_bits", plain, None),
            ("permessage-deflate; server_max_window_bits=16", plain, None),
            ("permessage-deflate; server_max_window_bits=09", plain, None),
            ("permessage-deflate; client_max_window_bits=7", plain, None),
            ("permessage-deflate; client_max_window_bits; client_max_window_bits=9", plain, None),
            ("permessage-deflate; server_no_context_takeover=1", plain, None),
            ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", plain, None),
            ("permessage-deflate; turbo", plain, None),
            ("x-webkit-deflate-frame", plain, None),
        ];
        for (offer, options, expected) in cases {
            assert_eq!(answer(offer, options).as_deref(), expected, "{offer}");
        }
    }

    #[test]
    fn client_offers() {
        let plain = DeflateOptions::default();
        assert_eq!(offer(&plain), "permessage-deflate; client_max_window_bits");
        let all = plain
            .server_no_context_takeover(true)
            .client_no_context_takeover(true)
            .server_max_window_bits(9)
            .client_max_window_bits(3);
        assert_eq!(
            offer(&all),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=9; client_max_window_bits=9"
        );
    }

    #[test]
    fn client_checks_the_response() {
        let plain = DeflateOptions::default();
        let asked =
            plain.server_no_context_takeover(true).server_max_window_bits(10).client_max_window_bits(12);
        let cases = [
            ("permessage-deflate", plain, true),
            ("permessage-deflate; server_no_context_takeover", plain, true),
            ("permessage-deflate; client_max_window_bits=8", plain, true),
            ("permessage-deflate; server_max_window_bits=8", plain, true),
            ("permessage-deflate; client_max_window_bits", plain, false),
            ("permessage-deflate; server_max_window_bits", plain, false),
            ("permessage-deflate; server_max_window_bits=16", plain, false),
            ("permessage-deflate; nonsense", plain, false),
            ("permessage-bzip2", plain, false),
            ("permessage-deflate", asked, false),
            ("permessage-deflate; server_no_context_takeover", asked, false),
            ("permessage-deflate; server_no_context_takeover; server_max_window_bits=10", asked, true),
            ("permessage-deflate; server_no_context_takeover; server_max_window_bits=11", asked, false),
            (
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits=13",
                asked,
                false,
            ),
        ];
        for (response, options, fine) in cases {
            assert_eq!(check_response(&one(response), &options).is_some(), fine, "{response}");
        }
    }

    #[test]
    fn both_sides_agree_on_every_combination() {
        for bits in 0_u8..64 {
            for (server_bits, client_bits) in [(15, 15), (9, 15), (15, 9), (12, 10)] {
                let flag = |at: u8| bits & (1 << at) != 0;
                let client = DeflateOptions::default()
                    .server_no_context_takeover(flag(0))
                    .client_no_context_takeover(flag(1))
                    .server_max_window_bits(if flag(2) { 11 } else { 15 })
                    .client_max_window_bits(if flag(3) { 13 } else { 15 });
                let server = DeflateOptions::default()
                    .server_no_context_takeover(flag(4))
                    .client_no_context_takeover(flag(5))
                    .server_max_window_bits(server_bits)
                    .client_max_window_bits(client_bits);
                let (response, granted) = accept_offer(&one(&offer(&client)), &server).expect("acceptable");
                let agreed = check_response(&one(&response), &client).expect("a legal answer");
                // The client may bind itself more tightly than the answer says; never less.
                assert_eq!(agreed, granted, "{response}");
            }
        }
    }
}
