//! Advisories that no single driver's tests stand for: what outlives a device, what a connection that fails leaves, and
//! batches of copies. Each test names the advisory; docs/security.md lists them all.

#[path = "../../xen-blkif/tests/support/mod.rs"]
mod blkif;
#[path = "../../xen-netif/tests/support/mod.rs"]
mod netif;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join, select};
use xen_blkif::BlockDevice;
use xen_blkif::back as blkback;
use xen_blkif::front as blkfront;
use xen_blkif::protocol::{Operation, Segment, Status};
use xen_blkif::ramdisk::RamDisk;
use xen_hal::{Access, Clock, DomId, EventChannels, GrantRef, GrantTable, MapRequest, Mapping, Pages, Port as _};
use xen_netif::back::{Checksum, Limits, Packet, Port, SendError};
use xen_netif::front::{self as netfront, Interface, Options};
use xen_netif::protocol::{TxSlot, TxStatus, tx_flags};
use xen_ring::GrantablePage;
use xen_sim::{Domain, SimGrant, Toolstack, check};
use xenbus::EndReason;
use xenstore_client::{Restart, Store};

use blkif::block::{DEVICE, How, SECTORS, against_backend};
use netif::guest::{self, Guest};
use netif::network::{Bench, bench, frame, receive, send};

/// What a guest writes by hand in the place of a frontend, and how the backend's error node reads then.
struct ByHand {
    name: &'static str,
    keys: fn(&Rings) -> Vec<(&'static str, String)>,
    expected: &'static str,
}

/// Two pages that could be rings, and a port.
struct Rings {
    tx: u32,
    rx: u32,
    port: u32,
}

impl Rings {
    fn keys(&self) -> Vec<(&'static str, String)> {
        let text = |number: u32| number.to_string();
        vec![
            ("tx-ring-ref", text(self.tx)),
            ("rx-ring-ref", text(self.rx)),
            ("event-channel", text(self.port)),
            ("request-rx-copy", "1".into()),
        ]
    }

    fn with(&self, key: &'static str, value: &str) -> Vec<(&'static str, String)> {
        self.keys().into_iter().filter(|(other, _)| *other != key).chain([(key, value.into())]).collect()
    }
}

/// The guest writes what makes no connection possible (Linux: no queues at all, CVE-2026-45890; cleaning up after half a
/// connection, CVE-2026-99286 and 99287), while the application looks at the statistics (XSA-526). Nothing is left, and the
/// next connection works.
#[test]
fn xsa_526_and_cve_2026_45890_99286_and_99287_an_interface_that_cannot_be_connected() {
    let cases = [
        ByHand {
            name: "no queues",
            keys: |rings| rings.with("multi-queue-num-queues", "0"),
            expected: "multi-queue-num-queues = 0",
        },
        ByHand {
            name: "queues",
            keys: |rings| rings.with("multi-queue-num-queues", "4294967295"),
            expected: "multi-queue-num-queues = 4294967295",
        },
        ByHand { name: "first ring", keys: |rings| rings.with("tx-ring-ref", "9999"), expected: "gref 9999" },
        ByHand { name: "second ring", keys: |rings| rings.with("rx-ring-ref", "9999"), expected: "gref 9999" },
        ByHand { name: "port", keys: |rings| rings.with("event-channel", "7777"), expected: "" },
        ByHand { name: "no port", keys: |rings| rings.with("event-channel-tx", "7777"), expected: "" },
        ByHand {
            name: "no copy",
            keys: |rings| rings.with("request-rx-copy", "0"),
            expected: "request-rx-copy is not 1",
        },
    ];
    for ByHand { name, keys, expected } in cases {
        check(name, 4, move |xen| {
            let bench = bench(xen, Limits::default());
            let dom0 = xen.dom0();
            let looked = Rc::new(Cell::new(0_u64));
            let looks = looked.clone();
            xen.run(async move {
                bench.attach(&[]).await;
                let (guest, back) = (&bench.front, &bench.back);
                let store = guest.store();
                let state = Toolstack::paths("vif", guest.id(), back.id(), 0).1 + "/state";
                store.wait_for(&state, |state| state.filter(|state| *state == b"2").map(drop)).await.unwrap();
                let port = bench.ports.borrow()[0].clone();
                let rings = port.rings();
                // The application looks as often as it can.
                let watching = dom0.spawn({
                    let (port, dom0) = (port.clone(), dom0.clone());
                    async move {
                        loop {
                            looks.set(looks.get() + 1 + port.statistics().from_guest + rings.to_string().len() as u64);
                            dom0.sleep(Duration::from_micros(20)).await;
                        }
                    }
                });
                let offered = (granted(guest, back.id()), granted(guest, back.id()));
                let bell = guest.alloc_unbound(back.id()).unwrap();
                let reference = |page: &GrantablePage<SimGrant>| page.reference().unwrap().0;
                let rings = Rings { tx: reference(&offered.0), rx: reference(&offered.1), port: bell.number().0 };
                for (key, value) in keys(&rings) {
                    store.set(&format!("device/vif/0/{key}"), value.as_str()).await.unwrap();
                }
                store.set("device/vif/0/state", "4").await.unwrap();
                let error = format!("/local/domain/{}/error/backend/vif/{}/0/error", back.id().0, guest.id().0);
                let text: String = bench
                    .toolstack
                    .store()
                    .wait_for(&error, |text| Some(String::from_utf8(text?.to_vec()).unwrap()))
                    .await
                    .unwrap();
                assert!(text.contains(expected), "{name}: {text}");
                dom0.sleep(Duration::from_millis(50)).await;
                assert!(!port.is_up());
                assert_eq!(guest.in_use().mapped, 0, "{name}: no page of the guest's is mapped");
                assert!(back.in_use().ports <= 1, "{name}: the store's port alone");
                drop((offered, bell));
                // As a guest that begins anew.
                for (key, _) in keys(&rings) {
                    store.remove(&format!("device/vif/0/{key}")).await.unwrap();
                }
                store.set("device/vif/0/state", "6").await.unwrap();
                dom0.sleep(Duration::from_millis(20)).await;
                store.set("device/vif/0/state", "1").await.unwrap();
                let interface = connect(&bench, &store, Options::default().with_receive_pages(32)).await;
                let mut device = interface.device();
                send(&mut device, &frame(100, 3)).await;
                assert_eq!(port.receive().await.unwrap().bytes, frame(100, 3));
                watching.cancel().await;
            });
            assert!(looked.get() > 100, "the application looked {} times", looked.get());
        });
    }
}

/// Drives the interface of a guest that has a connection to the store already, once its port is up.
async fn connect(bench: &Bench, store: &Store, options: Options) -> Interface<Domain> {
    let domain = bench.front.clone();
    let (interface, runner) = netfront::connect(store, domain.clone(), "device/vif/0", options);
    domain.spawn(async move { drop(runner.await) }).detach();
    interface.ready().await.unwrap();
    while !bench.ports.borrow().last().unwrap().is_up() {
        domain.sleep(Duration::from_micros(100)).await;
    }
    interface
}

fn granted(domain: &Domain, peer: DomId) -> GrantablePage<SimGrant> {
    let mut page = GrantablePage::<SimGrant>::new(domain.alloc_page().unwrap());
    page.grant(domain, peer, Access::ReadWrite).unwrap();
    page
}

/// The table of multicast groups goes with the connection, while frames go both ways (XSA-527); what the application holds
/// of the interface outlives it (XSA-526).
#[test]
fn xsa_526_and_527_what_an_application_holds_of_an_interface_outlives_its_guest() {
    check("groups", 30, |xen| {
        let bench = bench(xen, Limits::default());
        let pauses: Vec<_> = (0..4).map(|_| Duration::from_micros(200 + xen.random(4000))).collect();
        let store = bench.front.store();
        xen.run(async move {
            bench.attach(&[]).await;
            let options = Options::default().with_multicast_control(true).with_receive_pages(32);
            let group = |number: u8| [1, 0, 0x5e, 0, 0, number];
            let to = |number| {
                let mut bytes = frame(60, 0);
                bytes[..6].copy_from_slice(&group(number));
                Packet::from(bytes)
            };
            let mut held = Vec::new();
            for pause in pauses {
                let interface = connect(&bench, &store, options).await;
                let port = bench.ports.borrow().last().unwrap().clone();
                held.push((port.clone(), port.rings()));
                assert_eq!(port.send(to(1)), Err(SendError::Multicast), "no group is left from before");
                let mut device = interface.device();
                let guest = async {
                    for number in (0..60).cycle() {
                        interface.join(group(number));
                        send(&mut device, &frame(1000, 1)).await;
                        interface.leave(group(number.wrapping_sub(20)));
                        bench.front.sleep(Duration::from_micros(30)).await;
                    }
                };
                let host = async {
                    for number in (0..60).cycle() {
                        let _ = port.send(to(number));
                        while let Either::Left((Some(_), _)) =
                            select(std::pin::pin!(port.receive()), bench.back.sleep(Duration::from_micros(10))).await
                        {
                        }
                    }
                };
                {
                    let work = std::pin::pin!(join(guest, host));
                    select(work, bench.back.sleep(pause)).await;
                }
                // The guest closes the interface, in the middle of it all.
                drop((device, interface));
                while port.is_up() {
                    let _ = port.send(to(3));
                    bench.back.sleep(Duration::from_micros(50)).await;
                }
                assert_eq!(port.send(to(1)), Err(SendError::Down));
            }
            assert!(bench.toolstack.detach("vif", bench.front.id(), bench.back.id(), 0).await.unwrap());
            bench.ports.borrow_mut().clear();
            for (port, rings) in held {
                assert!(port.statistics().from_guest > 0);
                assert!(rings.is_alive() && rings.to_string().starts_with("not connected"));
                assert!(port.receive().await.is_none() || !port.is_up());
                let last = Rc::strong_count(&port) == 1;
                drop(port);
                assert!(!last || rings.to_string() == "closed");
            }
        });
    });
}

/// What a disk has done is told once, as numbers of its own, whenever and however its guest goes (XSA-528); and a guest's
/// handle shows its disk's last numbers when the disk is gone.
#[test]
fn xsa_528_statistics_outlive_the_disk() {
    check("statistics", 10, |xen| {
        let toolstack = xen.toolstack();
        let (front, back, dom0) = (xen.domain(), xen.domain(), xen.dom0());
        let told = Rc::<RefCell<Vec<blkback::Statistics>>>::default();
        let (store, domain, ended) = (back.store(), back.clone(), told.clone());
        back.spawn(async move {
            let open = async |_: &blkback::Attachment| Ok(RamDisk::new(domain.clone(), SECTORS).unwrap());
            let ended = |_: &blkback::Attachment, statistics| ended.borrow_mut().push(statistics);
            let limits = blkback::Limits::default();
            drop(blkback::serve(&store, domain.clone(), limits, open, ended).await);
        })
        .detach();
        let front_store = front.store();
        let pauses: Vec<_> = (0..4).map(|_| Duration::from_micros(1500 + xen.random(6000))).collect();
        xen.run(async move {
            let path = format!("device/vbd/{DEVICE}");
            for (turn, pause) in pauses.into_iter().enumerate() {
                let nodes = [("params", "disk"), ("mode", "w")];
                toolstack.attach_with("vbd", front.id(), back.id(), DEVICE, &nodes).await.unwrap();
                let options = blkfront::Options::default();
                let (disk, runner) = blkfront::connect(&front_store, front.clone(), &path, options);
                let driver = front.spawn(runner);
                let user = async {
                    let mut bytes = [0; 4096];
                    while disk.read_bytes(0, &mut bytes).await.is_ok() {}
                };
                let ending = async {
                    disk.write_bytes(0, &[1; 4096]).await.unwrap();
                    dom0.sleep(pause).await;
                    // In turn: an orderly end, and a guest that stops without a word.
                    if turn % 2 == 1 {
                        driver.cancel().await;
                    }
                    let _ = toolstack.detach("vbd", front.id(), back.id(), DEVICE).await.unwrap();
                };
                let looking = async {
                    loop {
                        let _ = (disk.statistics(), disk.geometry());
                        front.sleep(Duration::from_micros(500)).await;
                    }
                };
                let work = std::pin::pin!(join(user, ending));
                select(work, std::pin::pin!(looking)).await;
                dom0.sleep(Duration::from_millis(50)).await;
                assert_eq!(told.borrow().len(), turn + 1, "told once");
                assert_eq!(told.borrow()[turn].writes, 1);
                let last = disk.statistics();
                assert!(last.connections == 1 && disk.read_bytes(0, &mut [0; 512]).await.is_err());
                assert_eq!(disk.statistics().connections, last.connections);
                assert_eq!(front.in_use().mapped, 0);
            }
        });
    });
}

/// One call of the hypervisor copies to and from the same pages, and others, at offsets side by side (XSA-523 is what Xen
/// made of that): every sector is where it belongs.
#[test]
fn xsa_523_a_batch_of_mixed_copies_is_right() {
    check("batch", 20, |xen| {
        let seed = xen.seed();
        let statistics = against_backend(xen, How::default(), async move |guest| {
            let sector = |number: u64| [(seed + number) as u8 | 1; 512];
            // Sectors of both pages in turn, to places that cannot be merged.
            for number in 0..16_u64 {
                let (page, part) = (number % 2, number / 2);
                guest.data[page as usize].write(part as usize * 512, &sector(number));
                let segment = Segment::new(guest.reference(page as usize), part as u8, part as u8);
                let mut request = guest.direct(Operation::Write, number * 4, segment);
                request.id = number;
                guest.push(&request);
            }
            guest.publish();
            for _ in 0..16 {
                assert_eq!(guest.response().await.map(|response| response.status), Some(Status::Okay));
            }
            // Back into a third page and a first, backwards, between writes of what is there already.
            for number in 0..16_u64 {
                let (page, part) = (2 - 2 * (number % 2), 7 - number / 2);
                let segment = Segment::new(guest.reference(page as usize), part as u8, part as u8);
                let mut request = guest.direct(Operation::Read, number * 4, segment);
                request.id = number;
                guest.push(&request);
                let again = Segment::new(guest.reference(1), 0, 0);
                let mut request = guest.direct(Operation::Write, 1 + 4 * (number % 15), again);
                request.id = 16 + number;
                guest.push(&request);
            }
            guest.publish();
            for _ in 0..32 {
                assert_eq!(guest.response().await.map(|response| response.status), Some(Status::Okay));
            }
            for number in 0..16_u64 {
                let (page, part) = (2 - 2 * (number % 2), 7 - number / 2);
                let mut bytes = [0; 512];
                guest.data[page as usize].read(part as usize * 512, &mut bytes);
                assert_eq!(bytes, sector(number), "sector {number}");
            }
        });
        assert!(statistics.grant_copies < 16, "{} calls for 48 requests", statistics.grant_copies);
    });
}

/// The guest is restored on a host where its backend does not come back, or not as it was, and then the interface is
/// removed (XSA-465: Linux crashed there, with no queues). The next one works.
#[test]
fn xsa_465_an_interface_that_is_removed_after_a_restore_without_a_backend() {
    check("no backend", 40, |xen| {
        let bench = bench(xen, Limits::default());
        let store = bench.front.store();
        let domain = bench.front.clone();
        let pause = Duration::from_micros(xen.random(3000));
        xen.run(async move {
            bench.attach(&[]).await;
            let options = Options::default().with_receive_pages(32);
            let (interface, runner) = netfront::connect(&store, domain.clone(), "device/vif/0", options);
            let driver = domain.spawn(runner);
            interface.ready().await.unwrap();
            let (at_front, at_back) = Toolstack::paths("vif", domain.id(), bench.back.id(), 0);
            for comes_back in [true, false] {
                let quiesced = store.quiesce().await.unwrap();
                bench.toolstack.store().remove(&at_back).await.unwrap();
                bench.toolstack.store().remove(&at_front).await.unwrap();
                match comes_back {
                    true => bench.attach(&[]).await,
                    // The frontend's directory alone, as a toolstack that has failed half-way leaves it.
                    false => {
                        let outcome = bench.toolstack.store().set(&format!("{at_front}/state"), "1").await;
                        outcome.unwrap();
                    }
                }
                domain.suspend_and_restore();
                quiesced.resume(Restart::New);
                domain.sleep(pause).await;
                if comes_back {
                    interface.ready().await.unwrap();
                }
            }
            let mut device = interface.device();
            // Nobody takes frames, and nothing waits for ever.
            {
                let sending = std::pin::pin!(async {
                    for index in 0..1000 {
                        send(&mut device, &frame(100, index)).await;
                    }
                });
                select(sending, domain.sleep(Duration::from_millis(20))).await;
            }
            bench.toolstack.store().remove(&at_front).await.unwrap();
            domain.sleep(Duration::from_millis(50)).await;
            assert_eq!(interface.statistics().connections, 2);
            bench.attach(&[]).await;
            interface.ready().await.unwrap();
            let last = || bench.ports.borrow().last().unwrap().clone();
            while !last().is_up() {
                domain.sleep(Duration::from_micros(100)).await;
            }
            let port = last();
            port.send(frame(99, 9).into()).unwrap();
            assert_eq!(receive(&mut device).await, frame(99, 9));
            drop((device, interface));
            assert!(driver.await.is_ok());
            assert_eq!(domain.in_use().grants, 0);
        });
    });
}

/// Headers over slots of single bytes, where Linux took them for one piece (XSA-423), or ran over the end of its tables
/// (XSA-432); and slots of nothing (XSA-448), which are refused.
#[test]
fn xsa_423_432_and_448_headers_in_many_small_slots_and_slots_of_nothing() {
    check("small slots", 20, |xen| {
        let packet = tcp_frame(200);
        let expected = packet.clone();
        let taken = Rc::<RefCell<Vec<Packet>>>::default();
        let seen = taken.clone();
        let opened = move |domain: Domain, port: Port| {
            let seen = seen.clone();
            let take = async move {
                while let Some(packet) = port.receive().await {
                    seen.borrow_mut().push(packet);
                }
            };
            domain.spawn(take).detach();
        };
        let first = 14 + (xen.seed() % 20) as usize;
        let error = guest::against(xen, opened, async move |guest| {
            let flags = tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED;
            // 18 slots: the first, 16 of a byte or two, and the rest.
            let mut lengths = vec![first];
            lengths.extend((0..16).map(|index| 1 + index % 2));
            lengths.push(packet.len() - lengths.iter().sum::<usize>());
            guest.send(&slots(guest, &packet, &lengths, flags));
            for _ in &lengths {
                assert!(guest.response().await.is_some());
            }
            for empty in [1, 9, 17] {
                let mut lengths = lengths.clone();
                lengths.insert(empty, 0);
                lengths.truncate(18);
                guest.send(&slots(guest, &packet, &lengths, flags));
                assert_eq!(guest.response().await.map(|response| response.status), Some(TxStatus::Error));
                for _ in 1..lengths.len() {
                    assert!(guest.response().await.is_some());
                }
            }
        });
        assert_eq!(error, None);
        let taken = taken.borrow();
        let [packet] = &taken[..] else { panic!("{} packets have come", taken.len()) };
        assert!(packet.bytes == expected && packet.checksum == Checksum::Blank && packet.gso.is_none());
    });
}

fn tcp_frame(payload: usize) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    let mut bytes = Vec::new();
    builder.tcp(80, 5000, 7, 9).write(&mut bytes, &vec![7; payload]).unwrap();
    bytes
}

/// Slots for a packet in pieces of these lengths, each at its place in the second page; the first one's size is the whole's.
fn slots(guest: &Guest, packet: &[u8], lengths: &[usize], flags: u16) -> Vec<TxSlot> {
    guest.data[1].write(0, packet);
    let mut offset = 0;
    let mut slots = Vec::new();
    for (index, len) in lengths.iter().enumerate() {
        let more = if index + 1 < lengths.len() { tx_flags::MORE_DATA } else { 0 };
        let (size, own) = if index == 0 { (lengths.iter().sum(), flags) } else { (*len, 0) };
        slots.push(guest.slot(offset as u16, size as u16, own | more));
        offset += len;
    }
    slots
}

/// A backend that maps all that it is granted, keeps it, and has the frontend connect again and again.
#[test]
fn xsa_396_a_backend_that_keeps_all_pages_of_each_connection_takes_no_more_than_a_bound() {
    const MAX_KEPT: usize = 256;
    // What an interface grants.
    const CONNECTION: usize = 258;
    check("kept connections", 3, |xen| {
        let machine = xen.clone();
        xen.run(async move {
            let (guest, back) = (machine.domain(), machine.domain());
            let toolstack = machine.toolstack();
            toolstack.attach_with("vif", guest.id(), back.id(), 0, &[("feature-rx-copy", "1")]).await.unwrap();
            let (own, path) = Toolstack::paths("vif", guest.id(), back.id(), 0);
            toolstack.store().set(&format!("{own}/mac"), "00:16:3e:00:00:01").await.unwrap();
            let (front_store, store) = (guest.store(), back.store());
            let (interface, runner) =
                netfront::connect(&front_store, guest.clone(), "device/vif/0", Options::default());
            let driver = guest.spawn(runner);
            let mut kept = Vec::new();
            let (mut next, mut refused) = (8, 0);
            for _ in 0..20 {
                for state in ["2", "4"] {
                    store.set(&format!("{path}/state"), state).await.unwrap();
                    back.sleep(Duration::from_millis(20)).await;
                }
                // References count up.
                let first = next;
                for reference in first..first + 2 * CONNECTION as u32 {
                    for access in [Access::ReadWrite, Access::ReadOnly] {
                        let reference = GrantRef(reference);
                        let map = back.map(&[MapRequest { peer: guest.id(), reference, access }]).unwrap();
                        if map.page(0).is_ok() {
                            next = reference.0 + 1;
                            kept.push(map);
                            break;
                        }
                    }
                }
                for state in ["5", "6"] {
                    store.set(&format!("{path}/state"), state).await.unwrap();
                    back.sleep(Duration::from_millis(20)).await;
                }
                let (_, deferred) = machine.in_use();
                assert!(deferred <= MAX_KEPT + CONNECTION, "{deferred} pages are kept");
                let error = format!("/local/domain/{}/error/device/vif/0/error", guest.id().0);
                let error: Option<String> = toolstack.store().get(&error).await.unwrap();
                refused += u32::from(error.is_some_and(|error| error.contains("has not unmapped")));
            }
            assert!(kept.len() >= CONNECTION && refused > 0, "{} pages mapped, refused {refused} times", kept.len());
            kept.clear();
            assert_eq!(machine.in_use().1, 0);
            toolstack.store().remove(&own).await.unwrap();
            // Whoever has it would wait for it to be plugged in again.
            drop(interface);
            assert_eq!(driver.await, Ok(EndReason::Removed));
        });
    });
}
