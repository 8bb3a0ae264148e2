//! Bytes, numbers and text.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::Trial;

pub const ALL: &[Trial] = &[
    ("base64", || {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode("guest") == "Z3Vlc3Q="
    }),
    ("bytemuck", || bytemuck::cast::<u32, [u8; 4]>(0x0403_0201) == [1, 2, 3, 4]),
    ("bytes", || {
        use bytes::{Buf, BufMut};
        let mut buffer = bytes::BytesMut::new();
        buffer.put_u16(7);
        buffer.freeze().get_u16() == 7
    }),
    ("crc", || crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(b"123456789") == 0xcbf4_3926),
    ("hex", || hex::encode([0xca, 0xfe]) == "cafe"),
    ("itertools", || {
        use itertools::Itertools;
        [1, 2, 3].iter().join("-") == "1-2-3"
    }),
    ("libm", || libm::sqrt(2.0).to_string().starts_with("1.41421356")),
    ("memchr", || memchr::memmem::find(b"a unikernel", b"kernel") == Some(5)),
    ("num-bigint", || {
        let product = (1_u32..=30).fold(num_bigint::BigUint::from(1_u32), |product, factor| product * factor);
        product.to_string() == "265252859812191058636308480000000"
    }),
    ("percent-encoding", || {
        percent_encoding::percent_decode_str("a%20b").decode_utf8().is_ok_and(|text| text == "a b")
    }),
    ("regex", || {
        let pattern = regex::Regex::new(r"^(\w+)=(\d+)$");
        pattern.is_ok_and(|pattern| pattern.captures("memory=32").is_some_and(|found| &found[2] == "32"))
    }),
    ("semver", || semver::VersionReq::parse("^1.2").is_ok_and(|wanted| wanted.matches(&semver::Version::new(1, 9, 0)))),
    ("unicode-normalization", || {
        use unicode_normalization::UnicodeNormalization;
        "e\u{301}".nfc().collect::<String>() == "\u{e9}"
    }),
    ("url", || url::Url::parse("http://[fd00::77]:8080/a?b=c").is_ok_and(|url| url.port() == Some(8080))),
    ("uuid", || uuid::Uuid::new_v4() != uuid::Uuid::new_v4()),
    ("zerocopy", || {
        use zerocopy::{FromBytes, Immutable, KnownLayout};
        #[derive(FromBytes, Immutable, KnownLayout)]
        #[repr(C)]
        struct Pair {
            first: u8,
            second: u8,
        }
        Pair::read_from_bytes(&[1, 2]).is_ok_and(|pair| pair.first == 1 && pair.second == 2)
    }),
    ("nom", || {
        let mut parser = nom::multi::separated_list1(
            nom::bytes::complete::tag(","),
            nom::character::complete::digit1::<&str, nom::error::Error<&str>>,
        );
        use nom::Parser;
        parser.parse("1,2,3").is_ok_and(|(_, found)| found.len() == 3)
    }),
    ("winnow", || {
        use winnow::Parser;
        use winnow::ascii::dec_uint;
        use winnow::combinator::separated;
        let mut numbers =
            separated::<_, u32, Vec<u32>, _, winnow::error::ContextError, _, _>(1.., dec_uint::<_, u32, _>, ',');
        numbers.parse("4,5").is_ok_and(|found| found == [4, 5])
    }),
];
