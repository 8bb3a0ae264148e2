//! Frames of strangers that smoltcp 0.13 panics at, and with it the domain.
//!
//! Anybody on the network can answer a DHCP request, or say that he is a router:
//! - A DHCP server's router that is no single host's address (0.0.0.0, which some servers send for want of one, a multicast
//!   or the broadcast address) becomes the gateway, and the first packet through it ends at an assertion in
//!   `iface/neighbor.rs`.
//! - A DHCP answer from 0.0.0.0 makes that the server; the renewal of the lease ends at an assertion in `dispatch_ip`.
//! - A router advertisement's prefix of more than 128 bits ends at one in `Ipv6Cidr::new`, a multicast prefix in
//!   `check_ip_addrs`. That is where smoltcp's own `ConfigV6::Slaac` is used, which `ip6=auto` has nothing to do with.
//!
//! A new version of smoltcp is to be checked for these: the tests (`xen-sim/tests/strangers.rs`) show that they are needed.

use core::net::Ipv4Addr;
use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken};

/// A device that gives the stack no frame that it panics at.
pub struct Guarded<D>(pub D);

/// A frame of a [`Guarded`] device.
pub struct GuardedFrame<T>(T);

impl<T: RxToken> RxToken for GuardedFrame<T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, read: F) -> R {
        self.0.consume(|frame| match guard(frame) {
            true => read(frame),
            // A frame of nothing is dropped by the stack.
            false => read(&mut []),
        })
    }
}

impl<D: Driver> Driver for Guarded<D> {
    type RxToken<'a>
        = GuardedFrame<D::RxToken<'a>>
    where
        Self: 'a;
    type TxToken<'a>
        = D::TxToken<'a>
    where
        Self: 'a;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        self.0.receive(cx).map(|(frame, token)| (GuardedFrame(frame), token))
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<Self::TxToken<'_>> {
        self.0.transmit(cx)
    }

    fn link_state(&mut self, cx: &mut Context<'_>) -> LinkState {
        self.0.link_state(cx)
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn hardware_address(&self) -> HardwareAddress {
        self.0.hardware_address()
    }
}

const ETHERNET: usize = 14;

/// Whether the stack may have a frame. What harms it alone in a frame that it needs is taken out.
fn guard(frame: &mut [u8]) -> bool {
    let Some((header, packet)) = frame.split_at_mut_checked(ETHERNET) else { return true };
    match [header[12], header[13]] {
        [0x08, 0x00] => guard_dhcp(packet).unwrap_or(true),
        [0x86, 0xdd] => is_good_advertisement(packet).unwrap_or(true),
        _ => true,
    }
}

/// `None` where the packet is something else, or too short to be this.
fn guard_dhcp(packet: &mut [u8]) -> Option<bool> {
    const UDP: u8 = 17;
    const SERVER_TO_CLIENT: [u8; 4] = [0, 67, 0, 68];
    /// Where the options begin in a message (RFC 2131).
    const OPTIONS: usize = 240;
    const PAD: u8 = 0;
    const ROUTER: u8 = 3;
    const END: u8 = 255;
    let header = usize::from(packet.first()? & 15) * 4;
    if *packet.get(9)? != UDP || *packet.get(header..)?.first_chunk()? != SERVER_TO_CLIENT {
        return None;
    }
    let server = *packet[12..].first_chunk::<4>()?;
    let datagram = &mut packet[header..];
    let (udp, message) = datagram.split_at_mut_checked(8)?;
    let mut options = message.get_mut(OPTIONS..)?;
    loop {
        match options {
            [PAD, ..] => options = &mut options[1..],
            [] | [END, ..] | [_] => break,
            [code, len, rest @ ..] => {
                let value = rest.get_mut(..usize::from(*len));
                let Some(value) = value else { break };
                if let (ROUTER, Some(router)) = (*code, value.first_chunk::<4>())
                    && !is_host(*router)
                {
                    // No router, and no checksum, which UDP can do without.
                    value.fill(PAD);
                    (*code, *len) = (PAD, PAD);
                    udp[6..8].fill(0);
                    options = rest;
                } else {
                    let end = usize::from(*len);
                    options = &mut rest[end..];
                }
            }
        }
    }
    Some(is_host(server))
}

/// Whether an address can be a single host's.
pub(super) fn is_host(address: impl Into<Ipv4Addr>) -> bool {
    let address = address.into();
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
}

/// `None` where the packet is something else, or too short to be this.
fn is_good_advertisement(packet: &[u8]) -> Option<bool> {
    const HOP_BY_HOP: u8 = 0;
    const ICMPV6: u8 = 58;
    const ADVERTISEMENT: u8 = 134;
    const PREFIX: u8 = 3;
    let (mut next, mut rest) = (*packet.get(6)?, packet.get(40..)?);
    while next == HOP_BY_HOP {
        next = *rest.first()?;
        rest = rest.get((usize::from(*rest.get(1)?) + 1) * 8..)?;
    }
    if next != ICMPV6 || *rest.first()? != ADVERTISEMENT {
        return None;
    }
    let mut options = rest.get(16..)?;
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * 8;
        let option = options.get(..len).filter(|_| len > 0)?;
        if kind == PREFIX && option.get(2).is_some_and(|bits| *bits > 128) {
            return Some(false);
        }
        if kind == PREFIX && option.get(16) == Some(&0xff) {
            return Some(false);
        }
        options = &options[len..];
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    /// A DHCP answer with these options from this address.
    fn answer(server: [u8; 4], options: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET + 20 + 8 + 240];
        (frame[12], frame[14], frame[23]) = (8, 0x45, 17);
        frame[26..30].copy_from_slice(&server);
        frame[34..38].copy_from_slice(&[0, 67, 0, 68]);
        frame[40..42].fill(0xaa);
        frame.extend(options);
        frame
    }

    #[test]
    fn a_router_that_is_no_host_is_taken_out_and_nothing_else() {
        let server = [10, 0, 0, 1];
        for router in [[0; 4], [255; 4], [224, 0, 0, 1], [239, 255, 255, 250]] {
            let mut frame =
                answer(server, &[&[53, 1, 5, 0, 3, 4][..], &router, &[1, 4, 255, 255, 255, 0, 255]].concat());
            let mut expected = answer(server, &[53, 1, 5, 0, 0, 0, 0, 0, 0, 0, 1, 4, 255, 255, 255, 0, 255]);
            expected[40..42].fill(0);
            assert!(guard(&mut frame));
            assert_eq!(frame, expected);
        }
        for options in [
            &[3, 4, 10, 0, 0, 2, 255][..],
            &[255, 3, 4, 0, 0, 0, 0],
            &[3, 4, 0, 0, 0],
            &[3, 3, 0, 0, 0],
            &[3],
            &[3, 200],
            &[],
        ] {
            let mut frame = answer(server, options);
            assert!(guard(&mut frame));
            assert_eq!(frame, answer(server, options));
        }
        // The second of two.
        let mut frame = answer(server, &[3, 4, 10, 0, 0, 2, 3, 4, 0, 0, 0, 0]);
        assert!(guard(&mut frame) && frame.ends_with(&[3, 4, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn an_answer_from_nobody_is_dropped() {
        for server in [[0; 4], [255; 4], [224, 0, 0, 1]] {
            assert!(!guard(&mut answer(server, &[53, 1, 5])));
            let mut other = answer(server, &[53, 1, 5]);
            other[35] = 66;
            assert!(guard(&mut other), "another port");
        }
    }

    /// A router advertisement with these options.
    fn advertisement(hop_by_hop: bool, options: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET + 40];
        (frame[12], frame[13], frame[20]) = (0x86, 0xdd, if hop_by_hop { 0 } else { 58 });
        if hop_by_hop {
            frame.extend([58, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        frame.push(134);
        frame.extend([0; 15]);
        frame.extend(options);
        frame
    }

    #[test]
    fn prefixes_that_are_none_are_dropped() {
        let prefix = |bits: u8, first: u8| {
            let mut option = vec![0; 32];
            (option[0], option[1], option[2], option[3], option[16]) = (3, 4, bits, 0xc0, first);
            option
        };
        for hop_by_hop in [false, true] {
            let guard = |options: &[u8]| guard(&mut advertisement(hop_by_hop, options));
            let mtu = [5, 1, 0, 0, 0, 0, 5, 220];
            assert!(guard(&prefix(64, 0x20)) && guard(&prefix(128, 0xfd)) && guard(&mtu) && guard(&[]));
            for bad in [prefix(129, 0x20), prefix(255, 0x20), prefix(64, 0xff)] {
                assert!(!guard(&bad));
                assert!(!guard(&[&mtu[..], &prefix(64, 0x20), &bad].concat()));
            }
            assert!(guard(&[3, 0, 200]) && guard(&[3]) && guard(&[5, 9, 1]), "the stack takes no part of these");
        }
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut random = 1_u64;
        for frame in [answer([10, 0, 0, 1], &[3, 4, 0, 0, 0, 0, 61, 3]), advertisement(true, &[3, 4, 200, 0])] {
            for len in 0..=frame.len() {
                for _ in 0..20 {
                    let mut frame = frame[..len].to_vec();
                    for _ in 0..random % 4 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let at = (random >> 33) as usize % frame.len().max(1);
                        if let Some(byte) = frame.get_mut(at) {
                            *byte = (random >> 20) as u8;
                        }
                    }
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    guard(&mut frame);
                }
            }
        }
    }
}
