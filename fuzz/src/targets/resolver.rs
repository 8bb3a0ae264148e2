//! A DNS server's answer to the resolver's question.

use sarab::network::resolver_fuzzing::{Answer, Family, dns_name, read};

use crate::input::Input;

pub(super) const SHORT: u32 = 20_000;

const NAME: &str = "www.example.org";
/// The name as it is sent.
const LABELS: &[u8] = b"\x03www\x07example\x03org\0";

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // The first byte chooses the family, the next are flags and numbers of records. A name is a pointer to another.
    let message = |kind: u8, header: [u8; 5], records: &[&[u8]]| [&[kind][..], &header, &records.concat()].concat();
    let start = |kind: u8, len: u8| [0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, len];
    let address = [&start(1, 4)[..], &[10, 9, 9, 1]].concat();
    let address_v6 = [&start(28, 16)[..], &[0xfd; 16]].concat();
    let alias = [&start(5, 4)[..], &[1, b'a', 0xc0, 16]].concat();
    let of_alias = [&[0xc0, 45, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4][..], &[10, 9, 9, 2]].concat();
    let zone = [&start(6, 24)[..], &[0xc0, 16, 0xc0, 16], &[0; 16], &[0, 0, 0, 99]].concat();
    vec![
        message(0, [0x81, 0x80, 1, 0, 0], &[&address]),
        message(1, [0x81, 0x80, 1, 0, 0], &[&address_v6]),
        message(0, [0x81, 0x80, 2, 0, 0], &[&alias, &of_alias]),
        message(0, [0x81, 0x83, 0, 1, 0], &[&zone]),
        message(1, [0x81, 0x80, 1, 1, 0], &[&alias, &zone]),
        message(0, [0x83, 0x80, 0, 0, 0], &[]),
        message(0, [0x81, 0x82, 0, 0, 0], &[]),
    ]
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.byte();
    let family = if kind & 1 == 0 { Family::V4 } else { Family::V6 };
    let message = if kind & 2 == 0 {
        let flags = [input.byte(), input.byte()];
        let counts = [0, 1, 0, input.byte(), 0, input.byte(), 0, input.byte()];
        let question = [LABELS, &[0, if kind & 1 == 0 { 1 } else { 28 }, 0, 1]].concat();
        [&[0, 7][..], &flags, &counts, &question, input.0].concat()
    } else {
        input.0.to_vec()
    };
    let answer = read(&message, 7, &dns_name(NAME), family);
    if message.get(..2) != Some(&[0, 7]) {
        assert_eq!(answer, None, "another question's");
    }
    match answer {
        Some(Answer::Addresses(addresses, seconds)) => {
            assert!((1..=16).contains(&addresses.len()) && seconds <= 24 * 60 * 60);
            for address in addresses {
                assert_eq!(address.is_ipv4(), family == Family::V4);
                assert!(!address.is_unspecified() && !address.is_multicast(), "{address}");
            }
        }
        Some(Answer::NoName(seconds) | Answer::NoAddress(seconds)) => assert!(seconds <= 300),
        Some(Answer::Alias(_, seconds)) => assert!(seconds <= 24 * 60 * 60),
        Some(Answer::Refused(_) | Answer::Truncated) | None => {}
    }
}
