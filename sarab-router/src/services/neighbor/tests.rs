use alloc::string::ToString;

use proptest::prelude::*;

use super::*;
use crate::services::GATE_MAC;

const MAC: Mac = [0, 0x16, 0x3e, 0, 0, 1];
const OTHER_MAC: Mac = [0, 0x16, 0x3e, 0, 0, 2];
const OWN: Ipv4Addr = Ipv4Addr::new(10, 137, 0, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 137, 0, 8);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 8);
const CLIENT: Client<'static> = Client { mac: MAC, v4: &[OWN], v6: &[OWN_V6] };

fn arp_frame(operation: ArpOperation, mac: Mac, sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let packet = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(sender.0),
        source_protocol_addr: sender.1,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut bytes = vec![0; ETHERNET + packet.buffer_len()];
    frame::header(&mut bytes, mac, [0xff; 6], EthernetProtocol::Arp);
    packet.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET..]));
    bytes
}

fn ask(sender: Ipv4Addr, target: Ipv4Addr) -> Answer {
    arp(&arp_frame(ArpOperation::Request, MAC, (MAC, sender), target), GATE_MAC, &CLIENT)
}

#[test]
fn the_gate_has_all_addresses_but_the_clients() {
    for target in [OTHER, Ipv4Addr::new(10, 137, 0, 1), Ipv4Addr::new(192, 0, 2, 1)] {
        for sender in [OWN, NONE] {
            let Answer::Reply(reply) = ask(sender, target) else { panic!("{target} is not answered") };
            let (from, to, packet) = frame::parse(&reply, EthernetProtocol::Arp).unwrap();
            assert_eq!((from, to), (GATE_MAC, MAC));
            let packet = ArpRepr::parse(&ArpPacket::new_checked(packet).unwrap()).unwrap();
            let expected = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress(GATE_MAC),
                source_protocol_addr: target,
                target_hardware_addr: EthernetAddress(MAC),
                target_protocol_addr: sender,
            };
            assert_eq!(packet, expected);
        }
    }
    for target in [OWN, NONE, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::LOCALHOST] {
        assert_eq!(ask(OWN, target), Answer::Nothing, "{target}");
    }
    assert_eq!(ask(NONE, OWN), Answer::Nothing, "a probe (RFC 5227)");
}

#[test]
fn who_says_he_is_somebody_else_is_found_out() {
    let spoofed = |operation, mac, sender| match arp(&arp_frame(operation, mac, sender, OTHER), GATE_MAC, &CLIENT) {
        Answer::Spoofed(spoof) => spoof.to_string(),
        answer => panic!("{answer:?}"),
    };
    for operation in [ArpOperation::Request, ArpOperation::Reply] {
        assert_eq!(spoofed(operation, MAC, (MAC, OTHER)), "the address 10.137.0.8 is not the client's");
        let text = "the MAC 00-16-3e-00-00-02 is not the client's";
        assert_eq!(spoofed(operation, OTHER_MAC, (MAC, OWN)), text);
        assert_eq!(spoofed(operation, MAC, (OTHER_MAC, OWN)), text);
    }
    let reply = arp_frame(ArpOperation::Reply, MAC, (MAC, OWN), OTHER);
    assert_eq!(arp(&reply, GATE_MAC, &CLIENT), Answer::Nothing);
    let reply = arp_frame(ArpOperation::Reply, MAC, (MAC, NONE), OTHER);
    assert!(matches!(arp(&reply, GATE_MAC, &CLIENT), Answer::Spoofed(_)), "an answer has a sender");
}

fn discovery(kind: u8, mac: Mac, from: Ipv6Addr, target: Ipv6Addr, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if let Some((kind, mac)) = option {
        message.extend(frame::mac_option(kind, mac));
    }
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    frame::icmpv6((mac, from), (frame::group(to), to), &message)
}

fn solicit(from: Ipv6Addr, target: Ipv6Addr) -> Answer {
    let option = (!from.is_unspecified()).then_some((SOURCE_MAC, MAC));
    neighbor(&discovery(NEIGHBOR_SOLICITATION, MAC, from, target, option), GATE_MAC, &CLIENT)
}

#[test]
fn the_gate_has_all_ipv6_addresses_too() {
    let local = frame::link_local(MAC);
    let gate: Ipv6Addr = "fe80::fcff:ffff:feff:ffff".parse().unwrap();
    for target in [OTHER_V6, gate, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)] {
        for from in [OWN_V6, local, Ipv6Addr::UNSPECIFIED] {
            let Answer::Reply(reply) = solicit(from, target) else { panic!("{target} is not answered") };
            let reply = Discovery::parse(&reply).unwrap();
            assert_eq!((reply.mac, reply.from, reply.kind), (GATE_MAC, target, NEIGHBOR_ADVERTISEMENT));
            assert_eq!((reply.target(), reply.option(TARGET_MAC)), (target, Some(GATE_MAC)));
        }
    }
    for target in [OWN_V6, local, ALL_NODES, Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST] {
        assert_eq!(solicit(OWN_V6, target), Answer::Nothing, "{target}");
        assert_eq!(solicit(Ipv6Addr::UNSPECIFIED, target), Answer::Nothing, "{target}");
    }
    // A probe of an address that is taken is answered to all.
    let Answer::Reply(reply) = solicit(Ipv6Addr::UNSPECIFIED, OTHER_V6) else { panic!() };
    assert_eq!((&reply[..6], &reply[38..54], reply[58]), (&MAC[..], &ALL_NODES.octets()[..], 0xa0));
    let Answer::Reply(reply) = solicit(OWN_V6, OTHER_V6) else { panic!() };
    assert_eq!((&reply[38..54], reply[58]), (&OWN_V6.octets()[..], 0xe0));
}

#[test]
fn ipv6_senders_are_checked() {
    let gate = frame::link_local(GATE_MAC);
    let spoofed = |kind, mac, from, target, option| {
        matches!(neighbor(&discovery(kind, mac, from, target, option), GATE_MAC, &CLIENT), Answer::Spoofed(_))
    };
    for from in [OTHER_V6, gate] {
        assert!(spoofed(NEIGHBOR_SOLICITATION, MAC, from, OTHER_V6, None), "{from}");
        assert!(spoofed(NEIGHBOR_ADVERTISEMENT, MAC, OWN_V6, from, None), "{from}");
    }
    assert!(spoofed(NEIGHBOR_SOLICITATION, OTHER_MAC, OWN_V6, OTHER_V6, None));
    assert!(spoofed(NEIGHBOR_SOLICITATION, MAC, OWN_V6, OTHER_V6, Some((SOURCE_MAC, OTHER_MAC))));
    assert!(spoofed(NEIGHBOR_ADVERTISEMENT, MAC, OWN_V6, OWN_V6, Some((TARGET_MAC, OTHER_MAC))));
    // Its second half is an option: the MTU.
    let mtu = Ipv6Addr::from_bits(0x0501_0000_0000_0500);
    assert!(spoofed(ROUTER_ADVERTISEMENT, MAC, frame::link_local(MAC), mtu, None));
    assert!(!spoofed(NEIGHBOR_ADVERTISEMENT, MAC, OWN_V6, OWN_V6, Some((TARGET_MAC, MAC))));
}

#[test]
fn what_is_not_valid_is_nothing() {
    let good = discovery(NEIGHBOR_SOLICITATION, MAC, OWN_V6, OTHER_V6, Some((SOURCE_MAC, MAC)));
    assert!(matches!(neighbor(&good, GATE_MAC, &CLIENT), Answer::Reply(_)));
    // The hop limit, the code, the checksum, an option's length.
    for (at, value) in [(21, 64), (55, 1), (57, good[57] ^ 1), (79, 0), (79, 2), (20, 17), (12, 8)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(neighbor(&bad, GATE_MAC, &CLIENT), Answer::Nothing, "byte {at}");
    }
    for len in 0..good.len() {
        assert_eq!(neighbor(&good[..len], GATE_MAC, &CLIENT), Answer::Nothing, "{len} bytes");
    }
}

proptest! {
    #[test]
    fn any_bytes(frame in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..3_u8) {
        let mut frame = frame;
        let starts: [&[u8]; 3] = [
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255],
            &[],
        ];
        if frame.len() > 30 {
            let start = starts[usize::from(kind)];
            frame[12..12 + start.len()].copy_from_slice(start);
            frame[6..12].copy_from_slice(&MAC);
        }
        for answer in [arp(&frame, GATE_MAC, &CLIENT), neighbor(&frame, GATE_MAC, &CLIENT)] {
            if let Answer::Reply(reply) = answer {
                prop_assert_eq!(&reply[..12], &[MAC, GATE_MAC].concat()[..]);
            }
        }
    }
}
