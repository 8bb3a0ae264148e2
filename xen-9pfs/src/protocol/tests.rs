//! What lies in a ring, byte by byte.

use super::*;
use alloc::format;
use alloc::string::String;
use proptest::prelude::*;

fn decode(bytes: &[u8]) -> (Header, Result<Message<'_>, Malformed>) {
    let (header, body) = bytes.split_first_chunk().unwrap();
    let header = Header::from_bytes(*header);
    (header, Message::decode(header.kind, body))
}

#[test]
fn bytes_are_those_of_the_document() {
    let version = Message::Tversion { msize: 0x2018, version: VERSION };
    assert_eq!(version.encode(NOTAG, 8192).unwrap(), b"\x15\0\0\0\x64\xff\xff\x18\x20\0\0\x08\09P2000.L");
    let attach = Message::Tattach { fid: 1, afid: NOFID, uname: "u", aname: "", n_uname: 0 };
    let expected = b"\x18\0\0\0\x68\x02\0\x01\0\0\0\xff\xff\xff\xff\x01\0u\0\0\0\0\0\0";
    assert_eq!(attach.encode(2, 8192).unwrap(), expected);
    let qid = Qid { kind: 0x80, version: 0x0102, path: 0x0304_0506 };
    let expected = b"\x14\0\0\0\x69\x02\0\x80\x02\x01\0\0\x06\x05\x04\x03\0\0\0\0";
    assert_eq!(Message::Rattach { qid }.encode(2, 8192).unwrap(), expected);
    let names = NamesBuf::new([&b"ab"[..], b"c"]).unwrap();
    let expected = b"\x18\0\0\0\x6e\x01\0\x05\0\0\0\x06\0\0\0\x02\0\x02\0ab\x01\0c";
    assert_eq!(Message::Twalk { fid: 5, newfid: 6, names: names.names() }.encode(1, 8192).unwrap(), expected);
    let write = Message::Twrite { fid: 1, offset: 2, data: Data(b"xy") }.encode(4, 8192).unwrap();
    assert_eq!(write, b"\x19\0\0\0\x76\x04\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0xy");
    let stat = Message::Twstat { fid: 1, stat: Stat { name: Text(b"n"), ..Stat::UNCHANGED } }.encode(4, 8192).unwrap();
    // "stat[n]": its length, and before it the length of both (9P2000.u, "stat").
    assert_eq!((stat.len(), &stat[11..15]), (7 + 4 + 4 + 61 + 1, &b"\x40\0\x3e\0"[..]));
    assert_eq!(Message::Rlerror { ecode: 2 }.encode(3, 8192).unwrap(), b"\x0b\0\0\0\x07\x03\0\x02\0\0\0");
}

#[test]
fn what_makes_no_message_is_named() {
    for (kind, body, expected) in [
        (Kind::RATTACH, &[0; 12][..], "Rattach of 19 bytes: too short"),
        (Kind::RATTACH, &[0; 14], "Rattach of 21 bytes: too long"),
        (Kind::RVERSION, b"\0\0\0\0\x05\0nine", "Rversion of 17 bytes: too short"),
        (Kind::RVERSION, b"\0\0\0\0\x01\0\xff", "Rversion of 14 bytes: a string that is not UTF-8"),
        (Kind(78), b"", "type 78 of 7 bytes: not known"),
        (Kind::TWALK, b"\0\0\0\0\x01\0\0\0\x02\0\x01\0a", "Twalk of 20 bytes: too short"),
        (Kind::RREAD, b"\x02\0\0\0a", "Rread of 12 bytes: too short"),
        (Kind::RSTAT, b"\x02\0\0\0", "Rstat of 11 bytes: too short"),
    ] {
        assert_eq!(format!("{}", Message::decode(kind, body).unwrap_err()), expected);
    }
    let long: String = core::iter::repeat_n('n', 1 << 16).collect();
    let attach = |uname| Message::Tattach { fid: 0, afid: 0, uname, aname: "", n_uname: 0 };
    assert_eq!(attach(&long).encode(0, u32::MAX), Err(TooLong));
    assert_eq!(attach(&long[1..]).encode(0, 65558 - 1), Err(TooLong));
    assert_eq!(attach(&long[1..]).encode(0, 65558).unwrap().len(), 65558);
}

fn message<'a>(which: u8, numbers: [u32; 3], path: u64, (first, second): (&'a str, &'a str)) -> Message<'a> {
    let [a, b, c] = numbers;
    match which {
        0 => Message::Rlerror { ecode: a },
        1 => Message::Tversion { msize: a, version: first },
        2 => Message::Rversion { msize: a, version: first },
        3 => Message::Tattach { fid: a, afid: b, uname: first, aname: second, n_uname: c },
        _ => Message::Rattach { qid: Qid { kind: a as u8, version: b, path } },
    }
}

/// Ten bytes that are counted and not there, by xen-9pfsd.
#[test]
fn a_stat_whose_length_is_wrong() {
    let stat = Stat { name: Text(b"name"), ..Stat::UNCHANGED };
    let right = Message::Rstat { stat }.encode(0, 100).unwrap();
    for (more, is_good) in [(0, true), (10, true), (9, false), (11, false), (u16::MAX, false)] {
        let mut bytes = right.clone();
        for at in [7, 9] {
            let len = u16::from_le_bytes([bytes[at], bytes[at + 1]]).wrapping_add(more);
            bytes[at..at + 2].copy_from_slice(&len.to_le_bytes());
        }
        assert_eq!(Message::decode(Kind::RSTAT, &bytes[7..]).is_ok(), is_good, "{more}");
        let mut rest = &bytes[9..];
        assert_eq!(Stat::take(&mut rest).ok(), is_good.then_some((stat, more.into())), "{more}");
        // With two lengths before it, of which one is counted.
        let mut rest = &bytes[7..];
        let excess = usize::from(more).saturating_sub(2);
        assert_eq!(Stat::take(&mut rest).ok(), is_good.then_some((stat, excess)), "{more}");
    }
}

proptest! {
    #[test]
    fn messages_are_read_as_they_were_written(
        which in 0_u8..5, numbers: [u32; 3], path: u64, first: String, second: String, tag: u16,
    ) {
        let message = message(which, numbers, path, (&first, &second));
        let bytes = message.encode(tag, u32::MAX).unwrap();
        let header = Header { size: bytes.len() as u32, kind: message.kind(), tag };
        prop_assert_eq!(decode(&bytes), (header, Ok(message)));
        // Neither less nor more makes the same message.
        prop_assert!(decode(&bytes[..bytes.len() - 1]).1.is_err());
        prop_assert!(decode(&[&bytes[..], &[0]].concat()).1.is_err());
    }

    /// Any bytes make a message that is written as they were, or none.
    #[test]
    fn any_bytes_are_a_message_or_none(
        kind in prop_oneof![any::<u8>(), prop::sample::select(Kind::ALL).prop_map(|kind| kind.0)],
        body in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..200),
    ) {
        if let Ok(message) = Message::decode(Kind(kind), &body) {
            let again = &message.encode(0, u32::MAX).unwrap()[HEADER_SIZE..];
            prop_assert_eq!(again.len(), body.len());
            // The lengths of a stat may be those of xen-9pfsd.
            if !matches!(message.kind(), Kind::RSTAT | Kind::TWSTAT) {
                prop_assert_eq!(again, &body[..]);
            }
        }
    }
}
