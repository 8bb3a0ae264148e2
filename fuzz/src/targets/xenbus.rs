//! XenBus in all drivers, against a peer that writes any value into any of its keys at any time.

use std::time::Duration;

use xen_blkif::ramdisk::RamDisk;
use xen_hal::{Access, DomId, EventChannels, Port};
use xen_sim::{Domain, Xen};
use xenbus::Failure;
use xenstore_client::wire::Request;

use crate::input::Input;
use crate::net::MAC;
use crate::peer::{attach, grant_page, pause, write, write_bytes};

pub(super) const SHORT: u32 = 50;

/// What a frontend says to its backend, and the other way round.
const FRONT_DISK: &[&str] = &[
    "ring-ref",
    "event-channel",
    "protocol",
    "feature-persistent",
    "ring-page-order",
    "num-ring-pages",
    "ring-ref0",
    "ring-ref1",
];
const BACK_DISK: &[&str] = &[
    "sectors",
    "sector-size",
    "physical-sector-size",
    "info",
    "feature-barrier",
    "feature-flush-cache",
    "feature-discard",
    "discard-granularity",
    "discard-alignment",
    "discard-secure",
    "discard-enable",
    "feature-persistent",
    "feature-max-indirect-segments",
    "max-ring-page-order",
    "mode",
    "online",
];
const FRONT_NET: &[&str] = &[
    "tx-ring-ref",
    "rx-ring-ref",
    "event-channel",
    "event-channel-tx",
    "event-channel-rx",
    "request-rx-copy",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-no-csum-offload",
    "feature-ipv6-csum-offload",
    "feature-rx-notify",
    "request-multicast-control",
    "multi-queue-num-queues",
];
const BACK_NET: &[&str] = &[
    "feature-rx-copy",
    "feature-rx-flip",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-no-csum-offload",
    "feature-ipv6-csum-offload",
    "feature-multicast-control",
    "feature-dynamic-multicast-control",
    "feature-split-event-channels",
    "multi-queue-max-queues",
    "mac",
    "mtu",
    "online",
];
const BACK_SHARE: &[&str] = &["versions", "max-rings", "max-ring-page-order", "online"];

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // Connected in the ordinary way, then a key and a state.
    (0..5).map(|end| vec![0, end, 0x17, 3, 0x17, 4, 0x20, 40, 0x01, 3, 9, 0x17, 5, 0x20, 40, 0x17, 6]).collect()
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let (own, peer) = (xen.domain(), xen.domain());
    let end = input.byte();
    let (class, device) = match end & 5 {
        0 => ("vbd", 51712),
        1 => ("vif", 0),
        _ => ("9pfs", 0),
    };
    let under_test_is_back = end & 2 == 0 && class != "9pfs";
    let keys = match (under_test_is_back, class) {
        (true, "vbd") => FRONT_DISK,
        (true, _) => FRONT_NET,
        (false, "vbd") => BACK_DISK,
        (false, "9pfs") => BACK_SHARE,
        (false, _) => BACK_NET,
    };
    let (front, back) = if under_test_is_back { (peer.clone(), own.clone()) } else { (own.clone(), peer.clone()) };
    match (under_test_is_back, class) {
        (true, "vbd") => start_blkback(&own),
        (true, _) => start_netback(&own),
        (false, _) => {}
    }
    let nodes: &[(&str, &str)] = if class == "vbd" { &[("mode", "w")] } else { &[("mac", MAC)] };
    let (front_path, back_path) = attach(&xen, class, (&front, &back), device, nodes);
    if class == "vif" {
        write(&xen, DomId::DOM0, &format!("{front_path}/mac"), MAC);
    }
    match (under_test_is_back, class) {
        (false, "vbd") => start_blkfront(&own),
        (false, "9pfs") => start_9pfsfront(&own),
        (false, _) => start_netfront(&own),
        (true, _) => {}
    }
    let online = format!("{back_path}/online");
    let path = if under_test_is_back { front_path } else { back_path };
    // What a good peer would name.
    let rings = [grant_page(&peer, own.id(), Access::ReadWrite), grant_page(&peer, own.id(), Access::ReadWrite)];
    let port = peer.alloc_unbound(own.id()).expect("a port");
    let reference = |index: usize| rings[index].reference().expect("it is granted").0;
    let good = [reference(0), reference(1), port.number().0];
    let put = |key: &str, value: &[u8]| {
        // What the store refuses, such as a value that is too long, is not written.
        let _ = write_bytes(&xen, peer.id(), &format!("{path}/{key}"), value);
    };
    while !input.0.is_empty() {
        let choice = input.byte();
        let key = keys[usize::from(input.byte()) % keys.len()];
        match choice % 8 {
            0..=2 => put(key, &value(&mut input, good)),
            3 => {
                let path = format!("{path}/{key}");
                let _ = xen.server().borrow_mut().act(peer.id(), Request::Rm { path: &path });
            }
            // Everything that a good one needs.
            4 => {
                let needed: &[(&str, u32)] = match (under_test_is_back, class) {
                    (true, "vbd") => &[("ring-ref", good[0]), ("event-channel", good[2])],
                    (true, _) => &[
                        ("tx-ring-ref", good[0]),
                        ("rx-ring-ref", good[1]),
                        ("event-channel", good[2]),
                        ("request-rx-copy", 1),
                    ],
                    (false, "vbd") => &[("sectors", 64), ("sector-size", 512), ("info", 0)],
                    (false, "9pfs") => &[("versions", 1), ("max-rings", 1), ("max-ring-page-order", 4)],
                    (false, _) => &[("feature-rx-copy", 1)],
                };
                needed.iter().for_each(|(key, value)| put(key, value.to_string().as_bytes()));
            }
            // The toolstack's own wish.
            5 => write(&xen, DomId::DOM0, &online, input.byte() & 1),
            6 => {}
            _ => put("state", (input.byte() % 9).to_string().as_bytes()),
        }
        if choice & 0x10 != 0 {
            pause(&xen, Duration::from_micros(50 << (choice >> 5)));
        }
    }
    let (toolstack, front_id, back_id) = (xen.toolstack(), front.id(), back.id());
    // It is removed, whoever has written what.
    xen.run(async move { drop(toolstack.detach(class, front_id, back_id, device).await) });
    pause(&xen, Duration::from_secs(2));
    if under_test_is_back {
        assert_eq!(peer.in_use().mapped, 0, "pages stay mapped");
        assert!(own.in_use().ports <= 1, "the store's port alone: {:?}", own.in_use());
    }
    drop((rings, port));
    xen.check_budgets();
    xen.end();
}

/// A number, a text, what a good peer would write, or anything.
fn value(input: &mut Input<'_>, good: [u32; 3]) -> Vec<u8> {
    match input.byte() {
        small @ 0..0x60 => small.to_string().into_bytes(),
        0x60..0x70 => good[0].to_string().into_bytes(),
        0x70..0x78 => good[1].to_string().into_bytes(),
        0x78..0x80 => good[2].to_string().into_bytes(),
        0x80..0x90 => input.word().to_string().into_bytes(),
        0x90..0x98 => format!("{}{:010}", input.word(), input.word()).into_bytes(),
        0x98..0xa0 => b"x86_64-abi".to_vec(),
        0xa0..0xa8 => b"x86_32-abi".to_vec(),
        0xa8..0xb0 => vec![b'9'; usize::from(input.byte()) * 8],
        0xb0..0xb8 => Vec::new(),
        len => (0..len % 24).map(|_| input.byte()).collect(),
    }
}

fn start_blkback(domain: &Domain) {
    use xen_blkif::back::{Attachment, Limits, Statistics, serve};
    let (store, memory) = (domain.store(), domain.clone());
    let disk = RamDisk::new(domain.clone(), 64).expect("memory for 64 sectors");
    domain
        .spawn(async move {
            let open = async |_: &Attachment| Ok::<_, Failure>(disk.clone());
            let ended = |_: &Attachment, _: Statistics| {};
            drop(serve(&store, memory, Limits::default(), open, ended).await);
        })
        .detach();
}

fn start_netback(domain: &Domain) {
    use xen_netif::back::{Limits, Port, serve};
    let (store, memory) = (domain.store(), domain.clone());
    domain
        .spawn(async move {
            let spawner = memory.clone();
            let opened = |port: Port| {
                let sink = async move { while port.receive().await.is_some() {} };
                spawner.spawn(sink).detach();
                Ok(())
            };
            drop(serve(&store, memory.clone(), Limits::default(), opened).await);
        })
        .detach();
}

fn start_blkfront(domain: &Domain) {
    use xen_blkif::BlockDevice;
    use xen_blkif::front::{Options, connect};
    let store = domain.store();
    let (disk, runner) = connect(&store, domain.clone(), "device/vbd/51712", Options::default());
    domain.spawn(async move { drop(runner.await) }).detach();
    domain
        .spawn(async move {
            let _ = disk.ready().await;
            let mut bytes = vec![0; disk.geometry().sector_size.max(512) as usize];
            let _ = disk.read_bytes(0, &mut bytes).await;
        })
        .detach();
}

fn start_9pfsfront(domain: &Domain) {
    use xen_9pfs::front::{Options, connect};
    let store = domain.store();
    let (share, runner) = connect(&store, domain.clone(), "device/9pfs/0", Options::default());
    domain.spawn(async move { drop(runner.await) }).detach();
    domain
        .spawn(async move {
            let _ = share.root().read("a", 100).await;
        })
        .detach();
}

fn start_netfront(domain: &Domain) {
    use xen_netif::front::{Options, connect};
    let store = domain.store();
    let options = Options::default().with_receive_pages(32).with_transmit_pages(20);
    let (interface, runner) = connect(&store, domain.clone(), "device/vif/0", options);
    domain.spawn(async move { drop(runner.await) }).detach();
    domain
        .spawn(async move {
            let _ = interface.ready().await;
        })
        .detach();
}
