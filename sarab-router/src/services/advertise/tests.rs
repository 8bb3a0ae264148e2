use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscRepr};

use super::*;

const MAC: Mac = [0, 0x16, 0x3e, 0, 0, 1];

fn config() -> Config {
    let mut config = Config::default();
    config.prefixes.push(Prefix::autonomous("fd00:1:2:3::99/64".parse().unwrap()));
    config.mtu = Some(1400);
    config.name_servers = vec!["fd00::53".parse().unwrap(), "fd00::54".parse().unwrap()];
    config.search = vec!["lan.example".into(), "corp.example.".into(), "".into()];
    config
}

/// The options behind an advertisement's fixed part.
fn options(frame: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &frame[14 + 40 + 16..];
    let mut options = Vec::new();
    while !rest.is_empty() {
        let (option, more) = rest.split_at(usize::from(rest[1]) * 8);
        options.push((option[0], option[2..].to_vec()));
        rest = more;
    }
    options
}

#[test]
fn an_advertisement_says_what_is_configured() {
    let frame = advertisement(&config(), None);
    assert_eq!(frame[..12], [0x33, 0x33, 0, 0, 0, 1, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    assert_eq!((packet.hop_limit(), packet.dst_addr()), (255, ALL_NODES));
    assert_eq!(packet.src_addr(), "fe80::fcff:ffff:feff:ffff".parse::<Ipv6Addr>().unwrap());
    let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    let checksums = ChecksumCapabilities::default();
    let parsed = Icmpv6Repr::parse(&packet.src_addr(), &packet.dst_addr(), &message, &checksums).unwrap();
    let Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert { hop_limit, router_lifetime, lladdr, mtu, prefix_info, .. }) =
        parsed
    else {
        panic!("{parsed:?}")
    };
    assert_eq!((hop_limit, router_lifetime.secs(), mtu), (64, 1800, Some(1400)));
    assert_eq!(lladdr.unwrap().as_bytes(), GATE_MAC);
    let prefix = prefix_info.unwrap();
    assert_eq!((prefix.prefix, prefix.prefix_len), ("fd00:1:2:3::".parse().unwrap(), 64));
    assert_eq!(
        (prefix.flags.bits(), prefix.valid_lifetime.secs(), prefix.preferred_lifetime.secs()),
        (0x40, 86_400, 14_400)
    );
    let options = options(&frame);
    assert_eq!(options.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 5, 3, 25, 31]);
    assert_eq!(options[3].1.len(), 2 + 4 + 32);
    assert!(options[4].1[6..].starts_with(b"\x03lan\x07example\0\x04corp\x07example\0"));
}

#[test]
fn the_last_one_takes_all_back() {
    let frame = advertisement(&config().ceasing(), Some((MAC, frame::link_local(MAC))));
    assert_eq!((&frame[..6], &frame[60..62]), (&MAC[..], &[0, 0][..]));
    assert!(options(&frame).iter().filter(|(kind, _)| *kind >= 25).all(|(_, value)| value[2..6] == [0; 4]));
}

#[test]
fn what_does_not_fit_is_left_out() {
    let mut config = config();
    config.prefixes = vec![config.prefixes[0]; 100];
    let frame = advertisement(&config, None);
    assert!(frame.len() <= 14 + 1280 && frame.len() > 1200);
    assert!(options(&frame).iter().filter(|(kind, _)| *kind == 3).count() > 30);
}

#[test]
fn solicitations_are_the_clients_own() {
    let client = Client { mac: MAC, v4: &[], v6: &[] };
    let solicit = |mac: Mac, from: Ipv6Addr, option: Option<Mac>| {
        let mut message = vec![ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(option.into_iter().flat_map(|mac| frame::mac_option(SOURCE_MAC, mac)));
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
        solicits_router(&frame::icmpv6((mac, from), (frame::group(to), to), &message), GATE_MAC, &client)
    };
    let (own, none) = (frame::link_local(MAC), Ipv6Addr::UNSPECIFIED);
    assert_eq!(solicit(MAC, own, Some(MAC)), Ok(true));
    assert_eq!(solicit(MAC, none, None), Ok(true));
    assert_eq!(solicit(MAC, none, Some(MAC)), Ok(false), "not valid");
    assert_eq!(solicit(GATE_MAC, own, None), Err(Spoof::Mac(GATE_MAC)));
    assert_eq!(solicit(MAC, own, Some(GATE_MAC)), Err(Spoof::Mac(GATE_MAC)));
    let foreign = "fd00::1".parse().unwrap();
    assert!(matches!(solicit(MAC, foreign, None), Err(Spoof::Address(_))));
    assert_eq!(solicits_router(&advertisement(&config(), None), GATE_MAC, &client), Ok(false));
}

#[test]
fn the_first_come_soon_and_then_there_are_few() {
    let mut schedule = Schedule::new(Duration::ZERO, 1);
    let (mut now, mut sent) = (Duration::ZERO, Vec::new());
    while now < Duration::from_secs(3600) {
        assert!(schedule.poll(now) && !schedule.poll(now));
        sent.push(now);
        now = schedule.next();
    }
    assert_eq!(sent[0], Duration::ZERO);
    assert!(sent[2] <= 2 * MAX_INITIAL_INTERVAL && sent[3] >= sent[2] + INTERVAL / 3, "{sent:?}");
    assert!((7..=22).contains(&sent.len()), "{sent:?}");
}

proptest! {
    #[test]
    fn solicitations_are_answered_soon_but_not_often(
        seed: u64,
        asked in proptest::collection::vec(0_u64..5_000, 1..200),
    ) {
        let mut schedule = Schedule::new(Duration::ZERO, seed);
        let (mut now, mut last, mut sent) = (Duration::ZERO, None, 0_u32);
        for pause in asked {
            let until = now + Duration::from_millis(pause);
            while schedule.next() <= until {
                now = now.max(schedule.next());
                prop_assert!(schedule.poll(now));
                prop_assert!(last.is_none_or(|last| now >= last + MIN_DELAY_BETWEEN_RAS));
                (last, sent) = (Some(now), sent + 1);
            }
            now = until;
            schedule.solicit(now);
            prop_assert!(schedule.next() <= now + MIN_DELAY_BETWEEN_RAS);
        }
        prop_assert!(u64::from(sent) <= now.as_secs() / 3 + 1);
    }
}
