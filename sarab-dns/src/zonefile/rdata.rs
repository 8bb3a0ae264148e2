//! Record data of one type. `domain` reads most; here is what it reads with the standard library alone, what administrators
//! write differently (times with units), and a few types that it does not have.

use alloc::vec::Vec;

use domain::base::iana::Rtype;
use domain::base::name::{Name, ParsedName};
use domain::base::rdata::{ComposeRecordData, ParseRecordData};
use domain::base::scan::{Scan, Scanner};
use domain::dep::octseq::Parser;
use domain::rdata::{Tlsa, ZoneRecordData};

use super::scanner::{Bad, Fields};
use super::{svcb, text};

type Data = ZoneRecordData<Vec<u8>, Name<Vec<u8>>>;

/// Reads the data of a record of this type, to the entry's end, as wire format without compression.
pub(super) fn scan(rtype: Rtype, fields: &mut Fields<'_>) -> Result<Vec<u8>, Bad> {
    let mut to = Vec::new();
    let is_generic = fields.tokens.get(fields.next).is_some_and(|token| !token.quoted && fields.raw(*token) == b"\\#");
    match rtype {
        _ if is_generic => to = generic(rtype, fields)?,
        Rtype::SOA => soa(fields, &mut to)?,
        Rtype::SVCB | Rtype::HTTPS => svcb::scan(fields, &mut to)?,
        Rtype::AFSDB | Rtype::KX | Rtype::RT => {
            to.extend_from_slice(&u16::scan(fields)?.to_be_bytes());
            to.extend_from_slice(fields.scan_name()?.as_octets());
        }
        Rtype::SPF => to = fields.scan_charstr_entry()?,
        Rtype::SMIMEA => compose(&Tlsa::scan(fields)?, &mut to),
        Rtype::URI => {
            to.extend_from_slice(&u16::scan(fields)?.to_be_bytes());
            to.extend_from_slice(&u16::scan(fields)?.to_be_bytes());
            to.extend_from_slice(&fields.scan_octets()?);
        }
        Rtype::EUI48 => eui(fields, 6, &mut to)?,
        Rtype::EUI64 => eui(fields, 8, &mut to)?,
        Rtype::LOC => super::loc::scan(fields, &mut to)?,
        _ => match Data::scan(rtype, fields) {
            Ok(data) => compose(&data, &mut to),
            Err(Bad("unknown record type with concrete data")) => {
                return Err(Bad(
                    "the text of this type is not known here; RFC 3597 has one for any: TYPE \\# LENGTH HEX",
                ));
            }
            Err(bad) => return Err(bad),
        },
    }
    match (fields.continues(), to.len()) {
        (true, _) => Err(Bad("something follows its last field")),
        (_, 0..=0xffff) => Ok(to),
        _ => Err(Bad("it is longer than 65535 bytes")),
    }
}

fn compose(data: &impl ComposeRecordData, to: &mut Vec<u8>) {
    let Ok(()) = data.compose_rdata(to);
}

/// RFC 3597, section 5. Of types that are known it has to be what these have (section 4 of RFC 5155, for one, relies on it).
fn generic(rtype: Rtype, fields: &mut Fields<'_>) -> Result<Vec<u8>, Bad> {
    fields.take()?;
    let len = usize::from(u16::scan(fields)?);
    let (mut to, mut high) = (Vec::new(), None);
    while let Ok(token) = fields.take() {
        for byte in fields.raw(token) {
            let digit = (*byte as char).to_digit(16).ok_or(Bad("expected hexadecimal digits"))? as u8;
            match high.take() {
                None => high = Some(digit << 4),
                Some(high) => to.push(high | digit),
            }
        }
    }
    if high.is_some() || to.len() != len {
        return Err(Bad("there are not as many bytes as its length says"));
    }
    let mut parser = Parser::from_ref(&to[..]);
    let parsed = ZoneRecordData::<_, ParsedName<_>>::parse_rdata(rtype, &mut parser);
    // Made again it is the same, unless names in it are compressed, which they are not to be.
    let mut again = Vec::new();
    if let Ok(Some(data)) = &parsed {
        compose(data, &mut again);
    }
    if again != to {
        return Err(Bad("these bytes are not what a record of its type has"));
    }
    Ok(to)
}

fn soa(fields: &mut Fields<'_>, to: &mut Vec<u8>) -> Result<(), Bad> {
    for _ in 0..2 {
        to.extend_from_slice(fields.scan_name()?.as_octets());
    }
    to.extend_from_slice(&u32::scan(fields)?.to_be_bytes());
    for _ in 0..4 {
        let token = fields.take()?;
        let seconds = text::seconds(fields.raw(token)).unwrap_or(Err(Bad("expected a time such as 3600 or 1h")))?;
        to.extend_from_slice(&seconds.to_be_bytes());
    }
    Ok(())
}

/// RFC 7043: bytes as two hexadecimal digits, with hyphens between.
fn eui(fields: &mut Fields<'_>, len: usize, to: &mut Vec<u8>) -> Result<(), Bad> {
    const WRONG: Bad = Bad("expected bytes such as 00-16-3e-00-00-01");
    fields.scan_ascii_str(|text| {
        for part in text.split('-') {
            let byte = u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2).ok_or(WRONG)?;
            to.push(byte);
        }
        if to.len() == len { Ok(()) } else { Err(WRONG) }
    })
}
