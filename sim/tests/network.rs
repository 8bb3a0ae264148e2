//! netfront and netback against each other.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use embassy_net_driver::{Driver, RxToken as _, TxToken as _};
use etherparse::PacketBuilder;
use xen_hal::Clock;
use xen_netif::back::{self, Limits, Packet, Port, Refused, Statistics, Sum};
use xen_netif::checksum;
use xen_netif::front::{self, Device, Interface, Options};
use xen_netif::headers::Headers;
use xen_netif::protocol::Gso;
use xen_sim::{Domain, Faults, Toolstack, Xen, check};

const MAC: &str = "00:16:3e:01:02:03";

/// A guest with an interface, and a domain that serves it.
struct Bench {
    front: Domain,
    back: Domain,
    toolstack: Toolstack,
    ports: Rc<RefCell<Vec<Rc<Port>>>>,
}

fn bench(xen: &Xen, limits: Limits) -> Bench {
    let (front, back) = (xen.domain(), xen.domain());
    let ports = Rc::<RefCell<Vec<_>>>::default();
    let (store, domain, opened) = (back.store(), back.clone(), ports.clone());
    back.spawn(async move {
        let opened = |port| {
            opened.borrow_mut().push(Rc::new(port));
            Ok(())
        };
        drop(back::serve(&store, domain.clone(), domain.clone(), domain, limits, opened).await);
    })
    .detach();
    Bench { front, back, toolstack: xen.toolstack(), ports }
}

impl Bench {
    async fn attach(&self, nodes: &[(&str, &str)]) {
        let nodes: Vec<_> = [("mac", MAC)].into_iter().chain(nodes.iter().copied()).collect();
        self.toolstack.attach_with("vif", self.front.id(), self.back.id(), 0, &nodes).await.unwrap();
        let own = format!("/local/domain/{}/device/vif/0/mac", self.front.id().0);
        self.toolstack.store().set(&own, MAC).await.unwrap();
    }

    async fn connect(&self, options: Options) -> (Interface<Domain>, Rc<Port>) {
        let domain = self.front.clone();
        let store = domain.store();
        let (interface, runner) =
            front::connect(&store, domain.clone(), domain.clone(), domain.clone(), "device/vif/0", options);
        domain.spawn(async move { drop(runner.await) }).detach();
        interface.ready().await.unwrap();
        let port = self.ports.borrow()[0].clone();
        while !port.is_up() {
            domain.sleep(Duration::from_micros(100)).await;
        }
        (interface, port)
    }
}

async fn send(device: &mut Device<Domain>, frame: &[u8]) {
    poll_fn(|cx| match device.transmit(cx) {
        Some(token) => {
            token.consume(frame.len(), |bytes| bytes.copy_from_slice(frame));
            Poll::Ready(())
        }
        None => Poll::Pending,
    })
    .await
}

async fn receive(device: &mut Device<Domain>) -> Vec<u8> {
    poll_fn(|cx| match device.receive(cx) {
        Some((token, _)) => Poll::Ready(token.consume(|bytes| bytes.to_vec())),
        None => Poll::Pending,
    })
    .await
}

fn frame(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at as u64 * 31 + at as u64 / 256 + seed) as u8).collect();
    // To one host.
    bytes[0] &= 0xfe;
    bytes
}

fn tcp(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(80, 5000, 7, 9);
    builder.write(&mut bytes, &frame(payload.max(1), 1)[..payload]).unwrap();
    bytes
}

#[test]
fn frames_of_any_size_go_both_ways() {
    check("both ways", 24, |xen| {
        let faults =
            Faults { spurious_events: 10, eagain: 10, store_delay: Duration::from_micros(50), ..Faults::default() };
        xen.set_faults(faults);
        let seed = xen.seed();
        let bench = bench(xen, Limits { from_guest: 100 << 10, to_guest: 4 << 20 });
        let before = bench.back.in_use();
        xen.run(async move {
            bench.attach(&[]).await;
            let options =
                Options { receive_pages: 32 << (seed % 4), transmit_pages: 17 + seed as usize, ..Options::default() };
            let (interface, port) = bench.connect(options).await;
            let size =
                |index: u64| 14 + ((index * 7919 + seed * 104_729) % [60, 1500, 65_000][(index % 3) as usize]) as usize;
            const FRAMES: u64 = 100;
            let mut device = interface.device();
            let guest = async {
                for index in 0..FRAMES {
                    send(&mut device, &frame(size(index), index)).await;
                }
                for index in 0..FRAMES {
                    assert!(receive(&mut device).await == frame(size(index), index), "to the guest, {index}");
                }
            };
            let host = async {
                for index in 0..FRAMES {
                    let packet = port.receive().await.unwrap();
                    assert!(packet.bytes == frame(size(index), index), "from the guest, {index}");
                }
                for index in 0..FRAMES {
                    let packet = Packet { bytes: frame(size(index), index), sum: Sum::Good, gso: None };
                    while port.send(packet.clone()) == Err(Refused::Full) {
                        bench.back.sleep(Duration::from_micros(100)).await;
                    }
                }
            };
            futures_util::future::join(guest, host).await;
            let statistics = port.statistics();
            assert_eq!((statistics.from_guest, statistics.to_guest, statistics.refused), (FRAMES, FRAMES, 0));
            assert!(statistics.grant_copies < 2 * FRAMES, "{statistics:?}");
            assert_eq!((interface.statistics().received, interface.statistics().dropped), (FRAMES, 0));
            drop((device, interface));
            bench.front.sleep(Duration::from_secs(1)).await;
            assert!(
                bench.toolstack.detach("vif", bench.front.id(), bench.back.id(), 0).await.unwrap(),
                "closed in time"
            );
            assert_eq!(port.receive().await, None);
            bench.front.sleep(Duration::from_secs(1)).await;
            assert_eq!((bench.front.in_use().grants, bench.front.in_use().mapped), (0, 0));
            assert_eq!(bench.back.in_use().grants, before.grants);
            assert!(bench.back.in_use().ports <= 1, "the store's port alone");
        });
        xen.end();
    });
}

#[test]
fn each_guest_gets_what_it_takes() {
    for (large, sums) in [(true, true), (false, true), (false, false)] {
        check("features", 10, move |xen| {
            let bench = bench(xen, Limits::default());
            xen.run(async move {
                bench.attach(&[]).await;
                let options = Options { large_segments: large, checksums: sums, ..Options::default() };
                let (interface, port) = bench.connect(options).await;
                let mut device = interface.device();
                let whole = tcp(10_000);
                let mut blank = whole.clone();
                checksum::leave_blank(&mut blank, &Headers::parse(&whole).unwrap());
                port.send(Packet { bytes: blank, sum: Sum::Blank, gso: Some((Gso::TcpV4, 1000)) }).unwrap();
                let mut payload = Vec::<u8>::new();
                let mut frames = 0;
                while payload.len() < 10_000 {
                    let bytes = receive(&mut device).await;
                    let headers = Headers::parse(&bytes).unwrap();
                    // Of a whole one the guest knows that it is good.
                    assert!(large || checksum::is_right(&bytes, &headers));
                    payload.extend(&bytes[headers.transport + 20..headers.end]);
                    frames += 1;
                }
                assert!(payload == whole[54..]);
                assert_eq!(frames, if large { 1 } else { 10 });
                assert_eq!(interface.statistics().dropped, 0);
                // And back: what is left blank is known to be.
                send(&mut device, &tcp(500)).await;
                let mut packet = port.receive().await.unwrap();
                assert_eq!(packet.sum, if sums { Sum::Blank } else { Sum::There });
                let headers = Headers::parse(&packet.bytes).unwrap();
                if sums {
                    checksum::complete(&mut packet.bytes, &headers);
                }
                assert!(packet.bytes == tcp(500));
            });
        });
    }
}

#[test]
fn xsa_392_a_guest_that_takes_nothing_holds_a_bounded_queue() {
    check("queue", 10, |xen| {
        let bench = bench(xen, Limits { to_guest: 100_000, ..Limits::default() });
        xen.run(async move {
            bench.attach(&[]).await;
            let (interface, port) = bench.connect(Options { receive_pages: 32, ..Options::default() }).await;
            let mut refused = 0;
            for index in 0..1000 {
                refused += u32::from(port.send(frame(1500, index).into()) == Err(Refused::Full));
                bench.back.sleep(Duration::from_micros(10)).await;
            }
            // Those that fill its ring, and those that fill the queue.
            assert!((800..1000).contains(&refused), "{refused}");
            // What waits is dropped in the end.
            bench.back.sleep(Duration::from_secs(11)).await;
            assert_eq!(port.send(frame(1500, 1).into()), Ok(()));
            let Statistics { dropped, .. } = port.statistics();
            assert!(dropped > u64::from(refused) + 50, "{dropped}");
            drop(interface);
        });
    });
}

#[test]
fn multicast_control() {
    check("multicast", 10, |xen| {
        let bench = bench(xen, Limits::default());
        xen.run(async move {
            bench.attach(&[]).await;
            let (interface, port) = bench.connect(Options { multicast_control: true, ..Options::default() }).await;
            let mut device = interface.device();
            let to = |address: [u8; 6]| {
                let mut bytes = frame(60, 0);
                bytes[..6].copy_from_slice(&address);
                Packet::from(bytes)
            };
            let (group, other) = ([1, 0, 0x5e, 0, 0, 1], [1, 0, 0x5e, 0, 0, 2]);
            assert_eq!(port.send(to(group)), Err(Refused::Multicast));
            assert_eq!(port.send(to([0xff; 6])), Ok(()));
            assert!(interface.join(group));
            bench.front.sleep(Duration::from_millis(5)).await;
            assert_eq!((port.send(to(group)), port.send(to(other))), (Ok(()), Err(Refused::Multicast)));
            assert_eq!(receive(&mut device).await[..6], [0xff; 6]);
            assert_eq!(receive(&mut device).await[..6], group);
            assert!(interface.leave(group));
            bench.front.sleep(Duration::from_millis(5)).await;
            assert_eq!(port.send(to(group)), Err(Refused::Multicast));
        });
    });
}

#[test]
fn a_rate_is_kept() {
    check("rate", 10, |xen| {
        let bench = bench(xen, Limits::default());
        xen.run(async move {
            // 10,000 bytes in 50 ms.
            bench.attach(&[("rate", "10000,50000")]).await;
            let (interface, port) = bench.connect(Options::default()).await;
            let mut device = interface.device();
            let start = bench.front.now();
            let guest = async {
                for index in 0..100 {
                    send(&mut device, &frame(1000, index)).await;
                }
            };
            let host = async {
                for index in 0..100 {
                    assert!(port.receive().await.unwrap().bytes == frame(1000, index));
                }
            };
            futures_util::future::join(guest, host).await;
            let took = bench.front.now() - start;
            assert!((Duration::from_millis(400)..Duration::from_millis(700)).contains(&took), "{took:?}");
        });
    });
}

/// The guest is gone at any moment, in the middle of everything.
#[test]
fn xsa_374_a_guest_that_dies_under_load() {
    check("death", 60, |xen| {
        let bench = bench(xen, Limits::default());
        let pause = Duration::from_micros(xen.random(3000));
        xen.run(async move {
            bench.attach(&[]).await;
            let (interface, port) = bench.connect(Options::default()).await;
            let mut device = interface.device();
            bench
                .front
                .spawn(async move {
                    for index in 0.. {
                        send(&mut device, &frame(3000, index)).await;
                    }
                })
                .detach();
            let (toolstack, ids) = (bench.toolstack.clone(), (bench.front.id(), bench.back.id()));
            let killer = async {
                bench.back.sleep(pause).await;
                drop(interface);
                bench.front.destroy();
                let (at_front, at_back) = Toolstack::paths("vif", ids.0, ids.1, 0);
                toolstack.store().remove(&at_front).await.unwrap();
                toolstack.store().remove(&at_back).await.unwrap();
            };
            let reader = async {
                while port.receive().await.is_some() {
                    let _ = port.send(frame(3000, 0).into());
                }
            };
            futures_util::future::join(killer, reader).await;
            bench.back.sleep(Duration::from_secs(1)).await;
            assert!(bench.back.in_use().ports <= 1, "the store's port alone");
        });
    });
}
