//! What anybody on a network can send to a TCP/IP stack that asks for its configuration.

mod support;

use std::time::Duration;

use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_net::{Ipv4Address, Stack};
use support::config;
use support::segment::{MAC, Segment};
use xen_hal::Clock;
use xen_sim::{Xen, check};

const SERVER: [u8; 4] = [10, 0, 0, 1];

/// What a DHCP server says.
#[derive(Clone, Copy)]
struct Server {
    address: [u8; 4],
    router: [u8; 4],
}

impl Server {
    /// Its answer to a frame, where that is a request for an address.
    fn answer(self, request: &[u8]) -> Option<Vec<u8>> {
        let message = request.get(42..)?;
        if request[12..14] != [8, 0] || request[23] != 17 || request[36..38] != [0, 67] || message.len() < 243 {
            return None;
        }
        // DISCOVER is answered with OFFER, REQUEST with ACK.
        let kind = if message[242] == 1 { 2 } else { 5 };
        let mut reply = vec![0_u8; 240];
        reply[..4].copy_from_slice(&[2, 1, 6, 0]);
        reply[4..8].copy_from_slice(&message[4..8]);
        reply[16..20].copy_from_slice(&[10, 0, 0, 7]);
        reply[28..34].copy_from_slice(&MAC);
        reply[236..240].copy_from_slice(&[99, 130, 83, 99]);
        reply.extend([53, 1, kind, 54, 4]);
        reply.extend(SERVER);
        reply.extend([51, 4, 0, 0, 0, 60, 1, 4, 255, 255, 255, 0, 3, 4]);
        reply.extend(self.router);
        reply.push(255);
        let len = 20 + 8 + reply.len() as u16;
        let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[8, 0, 0x45, 0]].concat();
        frame.extend(len.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend(self.address);
        frame.extend([255; 4]);
        frame.extend([0, 67, 0, 68]);
        frame.extend((len - 20).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(reply);
        Some(frame)
    }
}

/// A router advertisement of a prefix.
fn advertisement(prefix: [u8; 16], bits: u8) -> Vec<u8> {
    let router = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut frame =
        [&[0x33, 0x33, 0, 0, 0, 1][..], &[2, 0, 0, 0, 0, 9], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 48, 58, 255]].concat();
    frame.extend(router);
    frame.extend(all_nodes);
    frame.extend([134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend([3, 4, bits, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0]);
    frame.extend(prefix);
    let words = frame[22..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum = words.sum::<u32>() + 58 + 48;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[56..58].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame
}

/// Runs a stack for ten minutes on a segment where `server` answers, if there is one, and `frames` come.
fn configured(xen: &Xen, server: Option<Server>, frames: Vec<Vec<u8>>) -> Stack<'static> {
    let guest = xen.domain();
    let wire = Segment::default();
    let config = if server.is_some() { config("dhcp", "") } else { config("", "auto") };
    let (stack, _) = support::stack(&guest, wire.clone(), config, 1, &Default::default());
    let clock = guest.clone();
    xen.run(async move {
        frames.into_iter().for_each(|frame| wire.deliver(frame));
        let (mut receive, mut send) = ([PacketMetadata::EMPTY; 2], [PacketMetadata::EMPTY; 2]);
        let (mut received, mut sent) = ([0; 256], [0; 256]);
        let mut socket = UdpSocket::new(stack, &mut receive, &mut received, &mut send, &mut sent);
        socket.bind(1000).unwrap();
        for second in 0..600 {
            for _ in 0..10 {
                let request = wire.take();
                if let Some(answer) = request.and_then(|request| server?.answer(&request)) {
                    wire.deliver(answer);
                }
                clock.sleep(Duration::from_millis(100)).await;
            }
            // The stack looks at what it was advertised with the next frame.
            wire.deliver(vec![0; 60]);
            // Something for beyond the router.
            if second % 10 == 0 && stack.is_config_up() {
                let _ = socket.send_to(b"hello", (Ipv4Address::new(192, 0, 2, 1), 7)).await;
            }
        }
    });
    stack
}

#[test]
fn a_dhcp_server_can_say_what_it_likes() {
    const GOOD: Server = Server { address: SERVER, router: [10, 0, 0, 1] };
    check("a good server", 1, |xen| {
        let config = configured(xen, Some(GOOD), Vec::new()).config_v4().expect("an address");
        assert_eq!(config.gateway, Some(Ipv4Address::new(10, 0, 0, 1)));
    });
    for router in [[0; 4], [224, 0, 0, 1], [255; 4]] {
        check("a router that is none", 1, |xen| {
            let server = Server { router, ..GOOD };
            let config = configured(xen, Some(server), Vec::new()).config_v4().expect("an address");
            assert_eq!((config.address.address(), config.gateway), (Ipv4Address::new(10, 0, 0, 7), None));
        });
    }
    check("a server that is nobody", 1, |xen| {
        let server = Server { address: [0; 4], ..GOOD };
        assert!(configured(xen, Some(server), Vec::new()).config_v4().is_none());
    });
}

#[test]
fn a_router_can_advertise_what_it_likes() {
    let mut prefix = [0; 16];
    (prefix[0], prefix[1]) = (0xfd, 0x12);
    let multicast = [[0xff, 5].as_slice(), &[0; 14]].concat().try_into().unwrap();
    check("a good router", 1, move |xen| {
        let frames = vec![advertisement(prefix, 200), advertisement(multicast, 64), advertisement(prefix, 64)];
        let config = configured(xen, None, frames).config_v6().expect("an address of the good prefix");
        assert_eq!(config.address.address().octets()[..2], prefix[..2]);
    });
}
