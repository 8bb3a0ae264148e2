//! Characters of a zone file: escapes, names, times.

use alloc::vec::Vec;

use super::scanner::Bad;
use crate::name::MAX_NAME;

/// What a backslash at the begin stands for, and how many bytes that takes.
pub(super) fn escaped(bytes: &[u8]) -> Result<(u8, usize), Bad> {
    const WRONG: Bad = Bad("a backslash is followed by a character, or by three digits up to 255");
    match bytes.get(1) {
        Some(b'0'..=b'9') => {
            let digits = bytes.get(1..4).and_then(|digits| core::str::from_utf8(digits).ok()).ok_or(WRONG)?;
            if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(WRONG);
            }
            Ok((digits.parse().map_err(|_| WRONG)?, 4))
        }
        Some(byte) => Ok((*byte, 2)),
        None => Err(WRONG),
    }
}

/// A token's bytes.
pub(super) fn unescape(token: &[u8]) -> Result<Vec<u8>, Bad> {
    let mut to = Vec::with_capacity(token.len());
    let mut rest = token;
    while let Some(first) = rest.first() {
        let (byte, len) = if *first == b'\\' { escaped(rest)? } else { (*first, 1) };
        to.push(byte);
        rest = &rest[len..];
    }
    Ok(to)
}

/// A name in wire format. It is below `origin` unless it ends with a dot; `@` is the origin.
pub(crate) fn name(token: &[u8], origin: &[u8]) -> Result<Vec<u8>, Bad> {
    match token {
        b"@" => return Ok(origin.to_vec()),
        b"." => return Ok([0].to_vec()),
        _ => {}
    }
    let mut wire = Vec::with_capacity(token.len() + origin.len() + 2);
    // The length of the label that begins here.
    let mut label = 0;
    wire.push(0);
    let mut rest = token;
    while let Some(first) = rest.first() {
        if *first == b'.' {
            if wire[label] == 0 {
                return Err(Bad("a name has an empty label"));
            }
            label = wire.len();
            wire.push(0);
            rest = &rest[1..];
            continue;
        }
        let (byte, len) = if *first == b'\\' { escaped(rest)? } else { (*first, 1) };
        if wire[label] == 63 {
            return Err(Bad("a label of a name is longer than 63 bytes"));
        }
        wire[label] += 1;
        wire.push(byte);
        rest = &rest[len..];
    }
    if wire[label] > 0 {
        wire.extend_from_slice(origin);
    } else if wire.len() == 1 {
        return Err(Bad("a name is empty"));
    }
    if wire.len() > MAX_NAME {
        return Err(Bad("a name is longer than 255 bytes"));
    }
    Ok(wire)
}

/// A time in seconds, or with BIND's units: `1h30m`. `None` if it is no time.
pub(super) fn seconds(token: &[u8]) -> Option<Result<u32, Bad>> {
    const LARGE: Bad = Bad("a time is 2147483647 seconds at most (RFC 2181, section 8)");
    if !token.first()?.is_ascii_digit() {
        return None;
    }
    let (mut total, mut number, mut digits) = (0u64, 0u64, false);
    for byte in token {
        let unit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = (number * 10 + u64::from(digit - b'0')).min(1 << 40);
                digits = true;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        if !digits {
            return None;
        }
        total = (total + number * unit).min(1 << 60);
        (number, digits) = (0, false);
    }
    if digits {
        total += number;
    }
    Some(u32::try_from(total).ok().filter(|seconds| *seconds <= i32::MAX as u32).ok_or(LARGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_or_not() {
        let origin = b"\x07example\0";
        assert_eq!(name(b"www", origin).unwrap(), b"\x03www\x07example\0");
        assert_eq!(name(b"www.", origin).unwrap(), b"\x03www\0");
        assert_eq!(name(b"@", origin).unwrap(), origin);
        assert_eq!(name(b"\\@", origin).unwrap(), b"\x01@\x07example\0");
        assert_eq!(name(b"a\\.b\\200.", origin).unwrap(), b"\x04a.b\xc8\0");
        assert_eq!(name(b".", origin).unwrap(), b"\0");
        for wrong in [&b"a..b"[..], b".a", b"a\\2", b"a\\256", b"", &[b'a'; 64]] {
            assert!(name(wrong, origin).is_err(), "{wrong:?}");
        }
        assert!(name(&b"aaaaaaaaa.".repeat(25), origin).is_ok());
        assert!(name(&b"aaaaaaaaa.".repeat(26), origin).is_err());
    }

    #[test]
    fn times_have_units() {
        for (text, expected) in
            [("0", 0), ("3600", 3600), ("1h30m", 5400), ("1W2d3H4m5s", 788_645), ("2147483647", 0x7fff_ffff)]
        {
            assert_eq!(seconds(text.as_bytes()), Some(Ok(expected)), "{text}");
        }
        for text in ["IN", "", "1x", "h", "1hh"] {
            assert_eq!(seconds(text.as_bytes()), None, "{text}");
        }
        for text in ["2147483648", "99999999999999999999999", "99999999999999w"] {
            assert!(seconds(text.as_bytes()).unwrap().is_err(), "{text}");
        }
    }
}
