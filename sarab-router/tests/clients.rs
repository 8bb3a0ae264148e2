//! What a gate answers on a client's port, asked by clients that others wrote: smoltcp's DHCP client, and sarab-net's stack.

mod support;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use embassy_net::StackResources;
use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState};
use proptest::prelude::*;
use sarab_net::{Config, EthernetDevice, Ipv4, Ipv6, Route};
use sarab_router::services::advertise::{self, Prefix, Schedule};
use sarab_router::services::dhcp::{self, Offer, Response};
use sarab_router::services::neighbor::{Answer, Client, arp, neighbor};
use sarab_router::services::{GATE_MAC, Mac};
use smoltcp::iface::{Interface, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, Ipv4Cidr};
use support::{Received, Room};
use xen_hal::Clock;
use xen_sim::{Domain, Xen, check};

const MAC: Mac = [0, 0x16, 0x3e, 0, 0, 1];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 137, 0, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 137, 0, 7);

/// smoltcp's device: what it is to receive, and what it has sent.
#[derive(Default)]
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let outcome = write(&mut frame);
        self.0.push_back(frame);
        outcome
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.incoming.pop_front()?), Tx(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ethernet, 1514);
        capabilities
    }
}

/// What smoltcp's client is given, from the first message to the second renewal: its address, router and servers each time.
fn lease(offer: &Offer) -> Vec<(Ipv4Cidr, Option<Ipv4Addr>, Vec<Ipv4Addr>)> {
    let mut wire = Wire::default();
    let config = smoltcp::iface::Config::new(EthernetAddress(MAC).into());
    let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
    let mut sockets = SocketSet::new(Vec::new());
    let handle = sockets.add(dhcpv4::Socket::new());
    let (mut given, mut acks) = (Vec::new(), 0);
    for second in 0..offer.lease * 2 {
        let now = Instant::from_secs(i64::from(second));
        for _ in 0..4 {
            interface.poll(now, &mut wire, &mut sockets);
            while let Some(frame) = wire.outgoing.pop_front() {
                let client = Client { mac: MAC, v4: &[offer.address], v6: &[] };
                if let Answer::Reply(reply) = arp(&frame, GATE_MAC, &client) {
                    wire.incoming.push_back(reply);
                }
                if let Some(reply) = dhcp::respond(&frame, offer).into_frame() {
                    acks += u32::from(reply[42 + 242] == 5);
                    wire.incoming.push_back(reply);
                }
            }
            match sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
                Some(dhcpv4::Event::Configured(config)) => {
                    interface.update_ip_addrs(|addresses| {
                        addresses.clear();
                        addresses.push(config.address.into()).unwrap();
                    });
                    assert_eq!(config.server.identifier, offer.server);
                    given.push((config.address, config.router, config.dns_servers.to_vec()));
                }
                Some(dhcpv4::Event::Deconfigured) if !given.is_empty() => panic!("the lease was lost"),
                _ => {}
            }
        }
    }
    assert!(acks >= 3, "it was renewed");
    given
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn smoltcps_client_gets_what_is_offered(last in 2_u8..254, prefix_len in 16_u8..=24, servers in 0_usize..4, seconds in 60_u32..200) {
        let address = Ipv4Addr::new(10, 137, 0, last);
        let mut offer = Offer::new(MAC, address, prefix_len, SERVER);
        offer.name_servers = (0..servers as u8).map(|at| Ipv4Addr::new(10, 139, 1, 1 + at)).collect();
        offer.lease = seconds;
        let given = lease(&offer);
        prop_assert_eq!(&given[0], &(Ipv4Cidr::new(address, prefix_len), Some(SERVER), offer.name_servers.clone()));
        prop_assert!(given.iter().all(|other| *other == given[0]));
    }
}

/// An Ethernet link with a stack at one end, and a gate's port at the other.
#[derive(Clone, Default)]
struct Port(Rc<RefCell<PortState>>);

#[derive(Default)]
struct PortState {
    to_client: VecDeque<Vec<u8>>,
    waker: Option<Waker>,
    outgoing: support::Frames,
}

impl Port {
    fn deliver(&self, frame: Vec<u8>) {
        let mut state = self.0.borrow_mut();
        state.to_client.push_back(frame);
        state.waker.take().into_iter().for_each(Waker::wake);
    }

    fn take(&self) -> Option<Vec<u8>> {
        self.0.borrow().outgoing.borrow_mut().pop_front()
    }
}

impl Driver for Port {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Received, Room)> {
        let mut state = self.0.borrow_mut();
        state.waker = Some(cx.waker().clone());
        let room = Room::Frames(state.outgoing.clone());
        state.to_client.pop_front().map(|frame| (Received(frame), room))
    }

    fn transmit(&mut self, _: &mut Context<'_>) -> Option<Room> {
        Some(Room::Frames(self.0.borrow().outgoing.clone()))
    }

    fn link_state(&mut self, _: &mut Context<'_>) -> LinkState {
        LinkState::Up
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = 1514;
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(MAC)
    }
}

impl EthernetDevice for Port {}

/// A gate's port, without anything behind it.
async fn gate(port: Port, clock: Domain, offer: Offer, config: advertise::Config, v6: Vec<Ipv6Addr>) {
    let mut schedule = Schedule::new(clock.now(), 1);
    let client = Client { mac: MAC, v4: &[offer.address], v6: &v6 };
    loop {
        while let Some(frame) = port.take() {
            let own = [arp(&frame, GATE_MAC, &client), neighbor(&frame, GATE_MAC, &client)];
            for answer in own {
                match answer {
                    Answer::Reply(reply) => port.deliver(reply),
                    Answer::Nothing => {}
                    Answer::Spoofed(spoof) => panic!("{spoof}"),
                }
            }
            match dhcp::respond(&frame, &offer) {
                Response::Reply(reply) => port.deliver(reply),
                Response::Declined => panic!("the client has found its address taken"),
                _ => {}
            }
            if advertise::solicits_router(&frame, GATE_MAC, &client).unwrap() {
                schedule.solicit(clock.now());
            }
        }
        if schedule.poll(clock.now()) {
            port.deliver(advertise::advertisement(&config, None));
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn sarab_nets_stack_has_addresses_and_routes() {
    check("stack", 3, |xen: &Xen| {
        let domain = xen.domain();
        let port = Port::default();
        let mut offer = Offer::new(MAC, ADDRESS, 32, SERVER);
        (offer.name_servers, offer.lease) = (vec![Ipv4Addr::new(10, 139, 1, 1)], 600);
        let mut config = advertise::Config::default();
        config.prefixes.push(Prefix::autonomous("fd00:7::/64".parse().unwrap()));
        let resources = Box::leak(Box::new(StackResources::<0>::new()));
        let both = Config { ipv4: Ipv4::Dhcp, ipv6: Ipv6::Auto, ..Config::default() };
        let (_, mut runner, configurator, interface) = sarab_net::new(port.clone(), both, resources, xen.seed());
        domain.spawn(async move { runner.run().await }).detach();
        let said = Rc::new(RefCell::new(Vec::new()));
        let lines = said.clone();
        domain.spawn(configurator.run(move |line| lines.borrow_mut().push(line.to_string()))).detach();
        let own: Ipv6Addr = "fd00:7::216:3eff:fe00:1".parse().unwrap();
        let clock = xen.dom0();
        clock.spawn(gate(port, clock.clone(), offer, config, vec![own])).detach();
        xen.run(async move {
            clock.sleep(Duration::from_secs(10)).await;
            let addresses = interface.addresses();
            assert_eq!(addresses.ipv4, Some(Ipv4Cidr::new(ADDRESS, 32)), "{:?}", said.borrow());
            assert_eq!(addresses.ipv6.map(|address| address.address()), Some(own));
            assert!(addresses.routes.contains(&Route::default_via(SERVER)), "{:?}", addresses.routes);
            let router: Ipv6Addr = "fe80::fcff:ffff:feff:ffff".parse().unwrap();
            assert!(addresses.routes.contains(&Route::default_via(router)), "{:?}", addresses.routes);
            // Beyond a lease and a router's lifetime.
            clock.sleep(Duration::from_secs(3000)).await;
            assert_eq!(interface.addresses(), addresses);
        });
    });
}
