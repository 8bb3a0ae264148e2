//! Types of ICMP messages, by name and by number.

use core::fmt;

use super::rule::Family;

/// A type of ICMP messages, and perhaps a code. The same name has different numbers in the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpType {
    /// The type's number in ICMP; none matches no message of IPv4.
    pub v4: Option<u8>,
    /// The type's number in ICMPv6; none matches no message of IPv6.
    pub v6: Option<u8>,
    /// The code; any if there is none.
    pub code: Option<u8>,
}

/// IANA's "ICMP Parameters" and "ICMPv6 Parameters": what is in use.
const NAMES: [(&str, Option<u8>, Option<u8>); 20] = [
    ("echo-request", Some(8), Some(128)),
    ("echo-reply", Some(0), Some(129)),
    ("destination-unreachable", Some(3), Some(1)),
    ("packet-too-big", None, Some(2)),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("redirect", Some(5), Some(137)),
    ("router-advertisement", Some(9), Some(134)),
    ("router-solicitation", Some(10), Some(133)),
    ("neighbor-solicitation", None, Some(135)),
    ("neighbor-advertisement", None, Some(136)),
    ("timestamp-request", Some(13), None),
    ("timestamp-reply", Some(14), None),
    ("address-mask-request", Some(17), None),
    ("address-mask-reply", Some(18), None),
    ("source-quench", Some(4), None),
    ("mld-query", None, Some(130)),
    ("mld-report", None, Some(131)),
    ("mld-done", None, Some(132)),
    ("mld2-report", None, Some(143)),
];

impl IcmpType {
    /// The type of this name, in one family or in both.
    pub(super) fn named(name: &str, family: Option<Family>) -> Option<IcmpType> {
        let (_, v4, v6) = *NAMES.iter().find(|(known, ..)| *known == name)?;
        Some(IcmpType { v4, v6, code: None }.of_family(family))
    }

    /// A number of one family.
    pub(super) fn numbered(number: u8, family: Family) -> IcmpType {
        IcmpType { v4: Some(number), v6: Some(number), code: None }.of_family(Some(family))
    }

    fn of_family(self, family: Option<Family>) -> IcmpType {
        IcmpType {
            v4: self.v4.filter(|_| family != Some(Family::V6)),
            v6: self.v6.filter(|_| family != Some(Family::V4)),
            code: self.code,
        }
    }

    /// Whether it is a type of one family at least.
    pub(super) fn exists(self) -> bool {
        self.v4.is_some() || self.v6.is_some()
    }

    /// Whether a message of this type and code, of this family, is meant.
    pub fn matches(self, family: Family, kind: u8, code: u8) -> bool {
        let number = match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        };
        number == Some(kind) && self.code.is_none_or(|wanted| wanted == code)
    }

    /// Whether all that `other` means is meant.
    pub(super) fn covers(self, other: IcmpType) -> bool {
        let covers = |own: Option<u8>, other: Option<u8>| other.is_none() || own == other;
        covers(self.v4, other.v4) && covers(self.v6, other.v6) && (self.code.is_none() || self.code == other.code)
    }

    /// Writes it as a rule has it that is of one family, or of both.
    pub(super) fn write(self, f: &mut fmt::Formatter<'_>, family: Option<Family>) -> fmt::Result {
        let types = IcmpType { code: None, ..self };
        match NAMES.iter().find(|(name, ..)| IcmpType::named(name, family) == Some(types)) {
            Some((name, ..)) => f.write_str(name)?,
            None => write!(f, "{}", self.v4.or(self.v6).unwrap_or_default())?,
        }
        match self.code {
            Some(code) => write!(f, " code {code}"),
            None => Ok(()),
        }
    }
}
