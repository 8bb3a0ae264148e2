//! LOC records (RFC 1876): `52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m`.

use alloc::vec::Vec;

use domain::base::scan::Scanner;

use super::scanner::{Bad, Fields};

const WRONG: Bad = Bad("expected a place such as 52 22 23.000 N 4 53 32.000 E -2.00m (RFC 1876)");
/// 2^31 thousandths of a second of arc are the equator, and the prime meridian.
const MIDDLE: i64 = 1 << 31;
/// The reference for altitudes is so many centimetres below the ellipsoid.
const BELOW: i64 = 10_000_000;

pub(super) fn scan(fields: &mut Fields<'_>, to: &mut Vec<u8>) -> Result<(), Bad> {
    let latitude = angle(fields, 90, 'N', 'S')?;
    let longitude = angle(fields, 180, 'E', 'W')?;
    let altitude = u32::try_from(length(fields)? + BELOW).map_err(|_| WRONG)?;
    let mut sizes = [100, 1_000_000, 1000];
    for size in &mut sizes {
        if fields.continues() {
            *size = length(fields)?;
        }
    }
    to.push(0);
    for size in sizes {
        to.push(precision(size)?);
    }
    for value in [latitude, longitude, altitude] {
        to.extend_from_slice(&value.to_be_bytes());
    }
    Ok(())
}

/// Degrees, and perhaps minutes and seconds, to the letter of the half.
fn angle(fields: &mut Fields<'_>, most: i64, plus: char, minus: char) -> Result<u32, Bad> {
    let mut total = 0;
    for (index, unit) in [3_600_000, 60_000, 1000, 0].into_iter().enumerate() {
        let value = fields.scan_ascii_str(|text| {
            if text.eq_ignore_ascii_case(plus.encode_utf8(&mut [0; 4])) {
                return Ok(Err(1));
            } else if text.eq_ignore_ascii_case(minus.encode_utf8(&mut [0; 4])) {
                return Ok(Err(-1));
            }
            let thousandths = decimal(text, 3).ok_or(WRONG)?;
            let is_whole = thousandths % 1000 == 0;
            let below = if index == 0 { (most + 1) * 1000 } else { 60_000 };
            let is_fine = unit > 0 && (0..below).contains(&thousandths) && (is_whole || index == 2);
            if is_fine { Ok(Ok(thousandths * unit / 1000)) } else { Err(WRONG) }
        })?;
        match value {
            Ok(value) => total += value,
            Err(sign) if index > 0 && total <= most * 3_600_000 => return Ok((MIDDLE + sign * total) as u32),
            Err(_) => return Err(WRONG),
        }
    }
    Err(WRONG)
}

/// Metres, as centimetres.
fn length(fields: &mut Fields<'_>) -> Result<i64, Bad> {
    fields.scan_ascii_str(|text| decimal(text.strip_suffix(['m', 'M']).unwrap_or(text), 2).ok_or(WRONG))
}

/// A number with up to so many digits after its point, times ten to the power of that.
fn decimal(text: &str, places: usize) -> Option<i64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty()
        || whole.len() > 8
        || part.len() > places
        || !whole.bytes().chain(part.bytes()).all(|c| c.is_ascii_digit())
    {
        return None;
    }
    let mut value: i64 = whole.parse().ok()?;
    for place in 0..places {
        value = value * 10 + part.as_bytes().get(place).map_or(0, |digit| i64::from(digit - b'0'));
    }
    Some(sign * value)
}

/// Centimetres as a digit and a power of ten.
fn precision(centimetres: i64) -> Result<u8, Bad> {
    let (mut mantissa, mut exponent) = (centimetres, 0);
    while mantissa > 9 {
        mantissa /= 10;
        exponent += 1;
    }
    if mantissa < 0 || exponent > 9 { Err(WRONG) } else { Ok((mantissa as u8) << 4 | exponent) }
}
