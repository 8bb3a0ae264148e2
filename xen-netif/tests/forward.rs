//! A domain of ours between a guest and a network, which passes on packets: netback on one side, netfront on the other.

mod support;

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use xen_hal::Clock;
use xen_netif::back::{Checksum, Limits, Packet, Port, SendError};
use xen_netif::front::{Interface, Options, Packets};
use xen_sim::{Domain, Faults, Xen, check};

use support::network::{Bench, bench, beside, frame, receive, send};

/// Frames each way.
const FRAMES: u64 = 60;
/// Frames from this length on are passed on where they are.
const LARGE: usize = 8192;

/// The guest and its network's domain, which is a guest itself, of the network's backend.
fn between(xen: &Xen, limits: Limits, network: Limits) -> (Bench, Bench) {
    let inside = bench(xen, limits);
    let outside = beside(xen, inside.toolstack.clone(), network);
    let outside = Bench { front: inside.back.clone(), ..outside };
    (inside, outside)
}

async fn pass_out(port: &Port, uplink: &Packets<Domain>) {
    while let Some(packet) = port.receive().await {
        while !uplink.has_room(packet.bytes.len()) {
            wait_for_room(uplink).await;
        }
        uplink.send(packet).unwrap();
    }
}

async fn wait_for_room(uplink: &Packets<Domain>) {
    let mut woken = false;
    poll_fn(|cx| {
        uplink.register(cx);
        if std::mem::replace(&mut woken, true) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn pass_in(uplink: &Packets<Domain>, port: &Port) {
    loop {
        let packet = poll_fn(|cx| uplink.poll_receive(cx)).await;
        port.room(&packet).await;
        port.send(packet).unwrap();
    }
}

/// Connects both sides.
async fn connect(
    inside: &Bench,
    outside: &Bench,
    options: Options,
) -> (Interface<Domain>, [Rc<Port>; 2], Interface<Domain>) {
    inside.attach(&[]).await;
    outside.attach(&[]).await;
    let (guest, port) = inside.connect(Options::default()).await;
    let (uplink, network) = outside.connect_by(&inside.store, options).await;
    (guest, [port, network], uplink)
}

#[test]
fn what_is_passed_on_is_what_came() {
    check("passed on", 24, |xen| {
        let faults =
            Faults { spurious_events: 10, eagain: 10, store_delay: Duration::from_micros(50), ..Faults::default() };
        xen.set_faults(faults);
        let seed = xen.seed();
        // Pages for none, for some and for all.
        let pages = [0, 20, 64, 256][(seed % 4) as usize];
        let (inside, outside) =
            between(xen, Limits::default().with_to_guest(4 << 20).with_pages(pages), Limits::default());
        let before = inside.back.in_use();
        xen.run(async move {
            let spare = [0, 17, 128][(seed / 4 % 3) as usize];
            let options = Options::default().with_receive_pages(32 << (seed % 3)).with_spare_pages(spare);
            let (guest, [port, network], uplink) = connect(&inside, &outside, options).await;
            let packets = uplink.packets();
            let size =
                |index: u64| 60 + ((index * 7919 + seed * 104_729) % [60, 9000, 65_000][(index % 3) as usize]) as usize;
            let mut device = guest.device();
            let out = async {
                for index in 0..FRAMES {
                    send(&mut device, &frame(size(index), index)).await;
                }
                for index in 0..FRAMES {
                    assert!(receive(&mut device).await == frame(size(index), index), "to the guest, {index}");
                }
            };
            let back = async {
                for index in 0..FRAMES {
                    let packet = network.receive().await.unwrap();
                    assert!(packet.bytes == frame(size(index), index), "from the guest, {index}");
                }
                for index in 0..FRAMES {
                    let bytes = frame(size(index), index).into();
                    let packet = Packet { bytes, checksum: Checksum::Valid, gso: None };
                    while network.send(packet.clone()) == Err(SendError::Full) {
                        outside.back.sleep(Duration::from_micros(100)).await;
                    }
                }
            };
            {
                let ends = std::pin::pin!(futures_util::future::join(out, back));
                let ways = futures_util::future::join(pass_out(&port, &packets), pass_in(&packets, &port));
                futures_util::future::select(ends, std::pin::pin!(ways)).await;
            }
            let done = uplink.statistics();
            assert_eq!((done.sent, done.received, done.unsent, done.dropped), (FRAMES, FRAMES, 0, 0), "{done:?}");
            let large = (0..FRAMES).filter(|index| size(*index) >= LARGE).count() as u64;
            assert!(done.granted <= large && (done.granted > 0) == (pages > 0), "{done:?}, {large} of them large");
            drop((device, guest, packets, uplink));
            inside.back.sleep(Duration::from_secs(1)).await;
            for own in [&inside, &outside] {
                assert!(own.toolstack.detach("vif", own.front.id(), own.back.id(), 0).await.unwrap(), "closed in time");
            }
            inside.back.sleep(Duration::from_secs(1)).await;
            assert_eq!((inside.back.in_use().grants, inside.back.in_use().mapped), (before.grants, 0));
        });
        xen.end();
    });
}

/// One frame at a time: large ones are copied by the hypervisor alone, one operation for each page at the guest's side.
#[test]
fn large_frames_are_not_copied_here() {
    check("not copied", 8, |xen| {
        let (inside, outside) = between(xen, Limits::default(), Limits::default());
        xen.run(async move {
            let options = Options::default().with_spare_pages(64);
            let (guest, [port, network], uplink) = connect(&inside, &outside, options).await;
            let (packets, mut device) = (uplink.packets(), guest.device());
            for index in 0..FRAMES {
                let bytes = frame(LARGE + (index * 941) as usize, index);
                let pages = bytes.len().div_ceil(4096) as u64;
                send(&mut device, &bytes).await;
                packets.send(port.receive().await.unwrap()).unwrap();
                assert!(network.receive().await.unwrap().bytes == bytes);
                network.send(bytes.clone().into()).unwrap();
                let copied = uplink.statistics().copied;
                let packet = poll_fn(|cx| packets.poll_receive(cx)).await;
                let between = port.statistics().copy_operations;
                port.send(packet).unwrap();
                assert!(receive(&mut device).await == bytes);
                let after = port.statistics().copy_operations;
                // Those that lie across the area's end are copied here.
                let in_place = uplink.statistics().copied == copied;
                assert!(!in_place || after - between <= pages + 1, "{pages} pages take {} copies", after - between);
            }
            let done = uplink.statistics();
            assert_eq!(done.granted, FRAMES);
            assert!(done.copied <= FRAMES / 4, "{done:?}");
        });
        xen.end();
    });
}

/// The network's backend goes while it has frames that it has not answered, since it takes one at a time: their pages return
/// all the same.
#[test]
fn lent_pages_return_when_the_backend_goes() {
    check("backend goes", 12, |xen| {
        let (inside, outside) = between(xen, Limits::default().with_pages(64), Limits::default().with_from_guest(1));
        xen.run(async move {
            let (guest, [port, _], uplink) = connect(&inside, &outside, Options::default()).await;
            let (packets, mut device) = (uplink.packets(), guest.device());
            let connected = inside.back.in_use().grants;
            for index in 0..3 {
                send(&mut device, &frame(60_000, index)).await;
                packets.send(port.receive().await.unwrap()).unwrap();
            }
            assert!(inside.back.in_use().grants >= connected + 2 * 15);
            drop((packets, uplink));
            inside.back.sleep(Duration::from_secs(1)).await;
            assert!(outside.toolstack.detach("vif", outside.front.id(), outside.back.id(), 0).await.unwrap());
            inside.back.sleep(Duration::from_secs(1)).await;
            assert_eq!(inside.back.in_use().grants, 0);
            // All of the pool's pages are there again.
            for index in 0..3 {
                send(&mut device, &frame(65_000, index)).await;
            }
            for index in 0..3 {
                let packet = port.receive().await.unwrap();
                assert!(packet.bytes == frame(65_000, index) && packet.bytes.memory() > 65_536, "{index} is in pages");
            }
        });
        xen.end();
    });
}
