//! SVCB and HTTPS records (RFC 9460, section 2.1 and appendix A).

use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::base::scan::{Scan, Scanner};

use super::scanner::{Bad, Fields};
use super::text;

const KEYS: [(&str, u16); 9] = [
    ("mandatory", 0),
    ("alpn", 1),
    ("no-default-alpn", 2),
    ("port", 3),
    ("ipv4hint", 4),
    ("ech", 5),
    ("ipv6hint", 6),
    ("dohpath", 7),
    ("ohttp", 8),
];

pub(super) fn scan(fields: &mut Fields<'_>, to: &mut Vec<u8>) -> Result<(), Bad> {
    let priority = u16::scan(fields)?;
    to.extend_from_slice(&priority.to_be_bytes());
    to.extend_from_slice(fields.scan_name()?.as_octets());
    let mut parameters = Vec::new();
    while let Ok(token) = fields.take() {
        // `key="value"` is two tokens without a space between.
        let mut raw = fields.raw(token).to_vec();
        if raw.ends_with(b"=")
            && let Some(next) = fields.tokens.get(fields.next).copied().filter(|next| next.quoted && next.joined)
        {
            fields.next += 1;
            raw.extend_from_slice(fields.raw(next));
        }
        let (key, value) = match raw.iter().position(|byte| *byte == b'=') {
            Some(at) => (&raw[..at], Some(&raw[at + 1..])),
            None => (&raw[..], None),
        };
        let key = number(key)?;
        let mut bytes = Vec::new();
        parameter(key, value.unwrap_or_default(), &mut bytes)?;
        parameters.push((key, bytes));
    }
    if priority == 0 && !parameters.is_empty() {
        return Err(Bad("with priority 0, which is an alias, there are no parameters (RFC 9460, section 2.4.2)"));
    }
    parameters.sort();
    if parameters.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Bad("a parameter is given twice"));
    }
    check_mandatory(&parameters)?;
    for (key, value) in parameters {
        let len = u16::try_from(value.len()).map_err(|_| Bad("a parameter is too long"))?;
        to.extend_from_slice(&key.to_be_bytes());
        to.extend_from_slice(&len.to_be_bytes());
        to.extend_from_slice(&value);
    }
    Ok(())
}

fn number(key: &[u8]) -> Result<u16, Bad> {
    const UNKNOWN: Bad = Bad("unknown parameter; any is written as keyNUMBER=VALUE (RFC 9460, section 2.1)");
    let key = str::from_utf8(key).map_err(|_| UNKNOWN)?;
    let known = KEYS.iter().find(|(name, _)| *name == key).map(|(_, number)| *number);
    known.or_else(|| key.strip_prefix("key")?.parse().ok()).ok_or(UNKNOWN)
}

/// Section 8: what is mandatory is there, and not `mandatory` itself.
fn check_mandatory(parameters: &[(u16, Vec<u8>)]) -> Result<(), Bad> {
    let Some((0, keys)) = parameters.first() else { return Ok(()) };
    for key in keys.chunks(2) {
        let key = u16::from_be_bytes([key[0], key.get(1).copied().unwrap_or_default()]);
        if key == 0 || !parameters.iter().any(|(there, _)| *there == key) {
            return Err(Bad("a key that is mandatory is not there (RFC 9460, section 8)"));
        }
    }
    Ok(())
}

fn parameter(key: u16, value: &[u8], to: &mut Vec<u8>) -> Result<(), Bad> {
    match key {
        0 => {
            let mut keys = list(value)?.iter().map(|key| number(key)).collect::<Result<Vec<_>, _>>()?;
            keys.sort_unstable();
            if keys.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(Bad("a key is mandatory twice"));
            }
            keys.iter().for_each(|key| to.extend_from_slice(&key.to_be_bytes()));
        }
        1 => {
            for protocol in list(value)? {
                let len =
                    u8::try_from(protocol.len()).map_err(|_| Bad("a protocol's name is longer than 255 bytes"))?;
                to.push(len);
                to.extend_from_slice(&protocol);
            }
        }
        2 | 8 if !value.is_empty() => return Err(Bad("this parameter has no value")),
        2 | 8 => {}
        3 => to.extend_from_slice(&parse::<u16>(value, "expected a port")?.to_be_bytes()),
        4 => {
            for address in list(value)? {
                to.extend_from_slice(&parse::<Ipv4Addr>(&address, "expected addresses of IPv4")?.octets());
            }
        }
        5 => {
            let bytes = STANDARD.decode(value).map_err(|_| Bad("expected base64"))?;
            to.extend_from_slice(&bytes);
        }
        6 => {
            for address in list(value)? {
                to.extend_from_slice(&parse::<Ipv6Addr>(&address, "expected addresses of IPv6")?.octets());
            }
        }
        _ => to.extend_from_slice(&text::unescape(value)?),
    }
    Ok(())
}

fn parse<T: str::FromStr>(text: &[u8], expected: &'static str) -> Result<T, Bad> {
    str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Bad(expected))
}

/// A list with commas, which are escaped by a backslash of their own (appendix A.1).
fn list(value: &[u8]) -> Result<Vec<Vec<u8>>, Bad> {
    let value = text::unescape(value)?;
    let (mut items, mut item, mut bytes) = (Vec::new(), Vec::new(), value.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b',' => items.push(core::mem::take(&mut item)),
            b'\\' => item.push(*bytes.next().ok_or(Bad("a list ends with a backslash"))?),
            _ => item.push(*byte),
        }
    }
    items.push(item);
    if items.iter().any(Vec::is_empty) { Err(Bad("a list has an empty item")) } else { Ok(items) }
}
