//! Two stacks with a router between them whose other wire takes less than theirs, and says so.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use embassy_net::tcp::TcpSocket;
use embassy_net::{
    Config, ConfigV6, IpAddress, Ipv4Address, Ipv4Cidr, Ipv6Address, Ipv6Cidr, Stack, StackResources, StaticConfigV4,
    StaticConfigV6,
};
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};
use futures_util::future::{join, join_all};
use xen_hal::Clock;
use xen_netif::back::{Limits, Packet, Port};
use xen_netif::front::{Interface, Options};
use xen_netif::headers::{Headers, TCP};
use xen_sim::{Domain, check};

use support::network::{Bench, bench, beside};

const MACS: [&str; 2] = ["00:16:3e:00:00:01", "00:16:3e:00:00:02"];
const ADDRESSES: [(Ipv4Address, Ipv6Address); 2] = [
    (Ipv4Address::new(10, 0, 0, 1), Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    (Ipv4Address::new(10, 0, 0, 2), Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
];
const BYTES: usize = 300_000;

#[derive(Clone, Copy, Debug)]
struct Case {
    v6: bool,
    large: bool,
    checksums: bool,
    /// What the router's other wire takes, and what the router says of that.
    mtu: u16,
    said: u16,
}

fn start(domain: &Domain, interface: &Interface<Domain>, number: usize) -> Stack<'static> {
    let mut config = Config::ipv4_static(StaticConfigV4 {
        address: Ipv4Cidr::new(ADDRESSES[number].0, 24),
        gateway: None,
        dns_servers: Default::default(),
    });
    config.ipv6 = ConfigV6::Static(StaticConfigV6 {
        address: Ipv6Cidr::new(ADDRESSES[number].1, 64),
        gateway: None,
        dns_servers: Default::default(),
    });
    let resources = Box::leak(Box::new(StackResources::<4>::new()));
    let (stack, mut runner) = embassy_net::new(interface.device(), config, resources, number as u64 + 1);
    domain.spawn(async move { runner.run().await }).detach();
    stack
}

/// A router's answer to a packet of this many bytes, of which it quotes the beginning.
fn answer(packet: &[u8], headers: &Headers, len: usize, said: u16) -> Vec<u8> {
    let mut quoted = packet[headers.ip..headers.transport + 8].to_vec();
    if headers.v6 {
        quoted[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
    } else {
        quoted[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    }
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], packet[6..12].try_into().unwrap());
    let source = headers.addresses(packet);
    let mut frame = Vec::new();
    match headers.v6 {
        true => ethernet
            .ipv6(source[16..32].try_into().unwrap(), source[..16].try_into().unwrap(), 64)
            .icmpv6(Icmpv6Type::PacketTooBig { mtu: said.into() })
            .write(&mut frame, &quoted),
        false => {
            let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: said };
            ethernet
                .ipv4([10, 0, 0, 9], source[..4].try_into().unwrap(), 64)
                .icmpv4(Icmpv4Type::DestinationUnreachable(needed))
                .write(&mut frame, &quoted)
        }
    }
    .unwrap();
    frame
}

/// Passes packets on from one port to the other, each segment of which its wire takes. Counts others.
async fn route(from: &Port, to: &Port, case: Case, dropped: &Cell<u32>, domain: &Domain) {
    while let Some(packet) = from.receive().await {
        let headers = Headers::parse(&packet.bytes);
        if let Some(headers) = headers.filter(|headers| headers.protocol == TCP) {
            let header = headers.transport - headers.ip + headers.tcp_header(&packet.bytes).unwrap();
            let whole = headers.end - headers.ip;
            let len = packet.gso.map_or(whole, |(_, size)| (header + usize::from(size)).min(whole));
            if len > case.mtu.into() {
                dropped.set(dropped.get() + 1);
                let _ = from.send(answer(&packet.bytes, &headers, len, case.said).into());
                continue;
            }
        }
        while to.send(Packet { ..packet.clone() }).is_err() {
            domain.sleep(Duration::from_micros(100)).await;
        }
    }
}

async fn exchange(socket: &mut TcpSocket<'_>) {
    let byte = |at: usize| (at * 31 + at / 251) as u8;
    let (mut reader, mut writer) = socket.split();
    let send = async {
        let mut at = 0;
        while at < BYTES {
            let bytes: Vec<u8> = (at..BYTES.min(at + 5000)).map(byte).collect();
            at += writer.write(&bytes).await.unwrap();
        }
        writer.flush().await.unwrap();
    };
    let receive = async {
        let mut at = 0;
        let mut bytes = [0; 5000];
        while at < BYTES {
            let len = reader.read(&mut bytes).await.unwrap();
            assert!(len > 0, "closed after {at} bytes");
            assert!(bytes[..len].iter().enumerate().all(|(index, found)| *found == byte(at + index)), "wrong at {at}");
            at += len;
        }
    };
    join(send, receive).await;
}

fn large_packets_arrive(case: Case) {
    check(&format!("path MTU, {case:?}"), 6, move |xen| {
        let first = bench(xen, Limits::default());
        let second = beside(xen, first.toolstack.clone(), Limits::default());
        xen.run(async move {
            let options = Options::default().with_large_segments(case.large).with_checksums(case.checksums);
            let benches = [&first, &second];
            let connect = async |bench: &Bench, number: usize| {
                bench.attach(&[]).await;
                let mac = format!("/local/domain/{}/device/vif/0/mac", bench.front.id().0);
                bench.toolstack.store().set(&mac, MACS[number]).await.unwrap();
                bench.connect(options).await
            };
            let (a, a_port) = connect(benches[0], 0).await;
            let (b, b_port) = connect(benches[1], 1).await;
            let dropped = Rc::new(Cell::new(0));
            for (from, to) in [(&a_port, &b_port), (&b_port, &a_port)] {
                let (from, to, dropped, domain) = (from.clone(), to.clone(), dropped.clone(), first.back.clone());
                first.back.spawn(async move { route(&from, &to, case, &dropped, &domain).await }).detach();
            }
            let (a, b) = (start(&first.front, &a, 0), start(&second.front, &b, 1));
            join_all([a.wait_config_up(), b.wait_config_up()]).await;
            let server = async {
                let (mut incoming, mut outgoing) = (vec![0; 65535], vec![0; 65535]);
                let mut socket = TcpSocket::new(a, &mut incoming, &mut outgoing);
                socket.accept(80).await.unwrap();
                exchange(&mut socket).await;
            };
            let client = async {
                let (mut incoming, mut outgoing) = (vec![0; 65535], vec![0; 65535]);
                let mut socket = TcpSocket::new(b, &mut incoming, &mut outgoing);
                let (v4, v6) = ADDRESSES[0];
                let address = if case.v6 { IpAddress::Ipv6(v6) } else { IpAddress::Ipv4(v4) };
                socket.connect((address, 80)).await.unwrap();
                exchange(&mut socket).await;
            };
            let before = first.front.now();
            join(server, client).await;
            // The router has said it once or a few times to each, while more was on its way.
            let (took, dropped) = (first.front.now() - before, dropped.get());
            assert!((2..200).contains(&dropped), "{dropped} packets were too large");
            assert!(took < Duration::from_secs(30), "{took:?}");
        });
    });
}

const PLAIN: Case = Case { v6: false, large: true, checksums: true, mtu: 1400, said: 1400 };

#[test]
fn what_a_router_drops_goes_out_again_in_smaller_segments() {
    for v6 in [false, true] {
        large_packets_arrive(Case { v6, ..PLAIN });
        // Cut by the guest itself, since it makes the checksums; then without large segments.
        large_packets_arrive(Case { v6, checksums: false, ..PLAIN });
        large_packets_arrive(Case { v6, large: false, ..PLAIN });
        large_packets_arrive(Case { v6, large: false, checksums: false, ..PLAIN });
    }
    large_packets_arrive(Case { v6: true, mtu: 1280, said: 1280, ..PLAIN });
}

#[test]
fn an_old_router_says_nothing_of_its_mtu() {
    for large in [true, false] {
        large_packets_arrive(Case { mtu: 1006, said: 0, large, ..PLAIN });
    }
}
