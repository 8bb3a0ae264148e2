//! The 9pfs frontend, against a backend that answers anything.

use std::time::Duration;

use xen_9pfs::front::{self, Attach};
use xen_9pfs::protocol::{Header, Kind, Message, NOTAG, Qid, VERSION};
use xen_9pfs::ring;
use xen_hal::{Access, Clock, EventChannels, GrantRef, GrantTable, MapRequest, Port, PortNumber};
use xen_ring::SharedMapping;
use xen_sim::{Domain, Xen};

use crate::input::Input;
use crate::peer::{attach, map, pause, read, until_state, write};
use crate::second::second_processor;

pub(super) const SHORT: u32 = 1000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // A ring of 16 pages, no second processor, the version and two requests answered; then something else.
    let begin = [0, 4, 0, 0x81, 0x82, 0, 0x82, 1];
    let steps: [&[u8]; 5] =
        [&[0x83, 0, 2], &[0x84, 0, 105, 13, 1, 2, 3], &[0x80, 9, 1], &[0x85, 1, 2, 3, 4], &[0xa3, 5, 0x81]];
    steps.iter().map(|step| [&begin[..], step].concat()).collect()
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let (guest, server) = (xen.domain(), xen.domain());
    let order = u32::from(input.byte());
    let (front, back) = attach(&xen, "9pfs", (&guest, &server), 0, &[]);
    start_users(&guest);
    let offers = [("versions", 1), ("max-rings", 1), ("max-ring-page-order", order.max(1)), ("state", 2)];
    for (key, value) in offers {
        write(&xen, server.id(), &format!("{back}/{key}"), value);
    }
    until_state(&xen, &front, 3);
    let reference = GrantRef(read(&xen, &format!("{front}/ring-ref0")).expect("it is written"));
    let port = PortNumber(read(&xen, &format!("{front}/event-channel-0")).expect("it is written"));
    let interface = map(&server, guest.id(), reference);
    let order = ring::read_order(&interface);
    assert!((ring::MIN_ORDER..=ring::MAX_ORDER).contains(&order), "ring_order = {order}");
    let references = (0..1 << order).map(|index| ring::read_reference(&interface, index));
    let request = |reference| MapRequest { peer: guest.id(), reference, access: Access::ReadWrite };
    let requests: Vec<_> = [reference].into_iter().chain(references).map(request).collect();
    let memory = SharedMapping::new(server.map(&requests).expect("a mapping")).expect("the frontend grants it");
    let port = server.bind_interdomain(guest.id(), port).expect("a port");
    write(&xen, server.id(), &format!("{back}/state"), 4);
    pause(&xen, Duration::from_micros(200));
    second_processor(&server, &mut input);
    let (responses, requests) = (ring::responses(order), ring::requests(order));
    let mut produced = 0_u32;
    while !input.0.is_empty() {
        let choice = input.byte();
        // It takes all requests, or leaves them.
        if choice & 0x40 == 0 {
            memory.store(requests.consumer, memory.load(requests.producer));
        }
        let tag = |input: &mut Input<'_>| if choice & 0x20 == 0 { input.byte().into() } else { NOTAG };
        let qid = Qid { kind: 0x80, version: 1, path: 2 };
        let bytes = match choice & 7 {
            0 => (0..input.byte() % 40).map(|_| input.byte()).collect(),
            1 => encode(NOTAG, Message::Rversion { msize: 8192, version: VERSION }),
            2 => encode(tag(&mut input), Message::Rattach { qid }),
            3 => encode(tag(&mut input), Message::Rlerror { ecode: input.byte().into() }),
            // A header of any size, and a body of another.
            4 => {
                let (tag, kind, size) = (tag(&mut input), Kind(input.byte()), u32::from(input.byte()));
                let header = Header { size: if choice & 8 == 0 { size + 7 } else { size << 10 }, kind, tag };
                let body = (0..size.min(60)).map(|_| input.byte());
                header.to_bytes().into_iter().chain(body).collect()
            }
            5 => encode(NOTAG, Message::Rversion { msize: input.word() % 40_000, version: VERSION }),
            // An index moves.
            _ => {
                let index = [responses.producer, responses.consumer, requests.consumer, requests.producer]
                    [usize::from(input.byte() % 4)];
                memory.store(index, memory.load(index).wrapping_add(input.word()));
                Vec::new()
            }
        };
        for byte in bytes {
            memory.write(responses.data + (produced & (responses.size - 1)) as usize, &[byte]);
            produced = produced.wrapping_add(1);
        }
        if choice & 7 < 6 {
            memory.store(responses.producer, produced);
        }
        if choice & 0x80 != 0 {
            port.notify();
            pause(&xen, Duration::from_micros(30));
        }
    }
    port.notify();
    pause(&xen, Duration::from_millis(2));
    server.one_processor();
    drop((interface, memory, port));
    xen.check_budgets();
    xen.end();
}

fn encode(tag: u16, message: Message<'_>) -> Vec<u8> {
    message.encode(tag, u32::MAX).expect("it is short")
}

/// Some who use the share, and some who give up.
fn start_users(guest: &Domain) {
    let store = guest.store();
    let (share, runner) = front::connect(&store, guest.clone(), "device/9pfs/0", front::Options::default());
    guest.spawn(async move { drop(runner.await) }).detach();
    for fid in 0..10_u32 {
        let (share, clock) = (share.clone(), guest.clone());
        let user = async move {
            for turn in 0..20 {
                if fid == 0 || turn % 8 == 7 {
                    let _ = share.version().await;
                }
                let _ = share.attach(fid, Attach::default()).await;
                clock.sleep(Duration::from_micros(10)).await;
            }
        };
        let (user, clock) = (guest.spawn(user), guest.clone());
        guest
            .spawn(async move {
                clock.sleep(Duration::from_micros(300 * u64::from(fid))).await;
                match fid % 3 {
                    2 => drop(user),
                    _ => user.await,
                }
            })
            .detach();
    }
}
