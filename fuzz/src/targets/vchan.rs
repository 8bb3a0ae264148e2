//! Either end of a vchan, against a peer that writes anything to the page, its grants and the store.

use std::borrow::Cow;
use std::time::Duration;

use xen_hal::{Access, EventChannels, GrantRef, Port, PortNumber};
use xen_ring::SharedMemory;
use xen_sim::{Domain, SimPort, Xen};
use xen_vchan::{Channel, Client, Server};
use xenstore_client::wire::Request;
use xenstore_client::{Access as Allows, Permission};

use crate::input::Input;
use crate::peer::{grant_page, map, pause, read, write};
use crate::second::second_processor;

pub(super) const SHORT: u32 = 3000;

/// Indices, in pairs of the reader's and the writer's, and after them orders and states (`struct vchan_interface`).
const INDICES: [usize; 4] = [0, 4, 8, 12];
const ORDERS: usize = 16;
const STATES: usize = 20;
const GRANTS: usize = 24;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for end in 0..2 {
        // Rings of every kind, no second processor or one, honest steps, and then something else.
        for sizes in [[0, 1], [1, 0], [5, 3]] {
            for second in [&[0][..], &[0xc4, 3, 0x84, 9, 0x93]] {
                let steps = [0x81, 30, 0x91, 30, 0x82, 0xa1, 200, 0xc1, 5, 0x80, 9, 0x83, 1];
                seeds.push([&[3, end][..], &sizes, second, &steps].concat());
            }
        }
    }
    seeds
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let (own, peer) = (xen.domain(), xen.domain());
    match input.byte() & 1 {
        0 => against_server(&xen, &own, &peer, &mut input),
        _ => against_client(&xen, &own, &peer, &mut input),
    }
    xen.check_budgets();
    pause(&xen, Duration::from_secs(3));
    assert_eq!(own.mapped_pages(), 0, "the peer is gone, and its pages are still mapped");
    xen.end();
}

fn against_server(xen: &Xen, own: &Domain, peer: &Domain, input: &mut Input<'_>) {
    let sizes = [input.byte(), input.byte()].map(|size| usize::from(size) % 10 * 1000);
    let server = Server::new(own.clone(), &own.store(), peer.id(), 1).with_sizes(sizes[0], sizes[1]);
    let (mut server, domain) = (server.expect("there are such rings"), own.clone());
    own.spawn(async move {
        for _ in 0..4 {
            if let Ok(channel) = server.accept().await {
                use_channel(&domain, channel);
            }
        }
    })
    .detach();
    let path = format!("/local/domain/{}/data/vchan/{}/1", own.id().0, peer.id().0);
    pause(xen, Duration::from_micros(500));
    let (Some(reference), Some(port)) =
        (read(xen, &format!("{path}/ring-ref")), read(xen, &format!("{path}/event-channel")))
    else {
        panic!("the server has not written its keys")
    };
    let page = map(peer, own.id(), GrantRef(reference));
    let port = peer.bind_interdomain(own.id(), PortNumber(port)).expect("a port");
    page.store_byte(STATES, 1);
    port.notify();
    second_processor(peer, input);
    disturb(xen, input, &page, &port);
    peer.one_processor();
    page.store_byte(STATES, 0);
    port.notify();
}

fn against_client(xen: &Xen, own: &Domain, peer: &Domain, input: &mut Input<'_>) {
    let page = grant_page(peer, own.id(), Access::ReadWrite);
    let reference = page.reference().expect("it is granted");
    page.store(ORDERS, 10 | 11 << 16);
    let orders = [input.byte(), input.byte()];
    if orders[0] > 1 {
        page.store(ORDERS, u32::from(orders[0] % 16 + 8) | u32::from(orders[1] % 16 + 8) << 16);
        (0..64).for_each(|index| page.store(GRANTS + index * 4, reference.0));
    }
    page.store(STATES, u32::from_le_bytes([2, 1, 1, 0]));
    second_processor(peer, input);
    let port = peer.alloc_unbound(own.id()).expect("a port");
    let (client, domain) = (Client::new(own.clone(), &own.store(), peer.id(), 1), own.clone());
    own.spawn(async move {
        if let Ok(channel) = client.connect().await {
            use_channel(&domain, channel);
        }
    })
    .detach();
    let path = format!("/local/domain/{}/data/vchan/{}/1", peer.id().0, own.id().0);
    let permissions = [Permission::new(peer.id(), Allows::None), Permission::new(own.id(), Allows::Read)];
    for (key, value) in [("ring-ref", reference.0), ("event-channel", port.number().0)] {
        let path = format!("{path}/{key}");
        write(xen, peer.id(), &path, value);
        let permissions = Cow::Borrowed(&permissions[..]);
        let request = Request::SetPerms { path: &path, permissions };
        xen.server().borrow_mut().act(peer.id(), request).expect("it owns the node");
    }
    pause(xen, Duration::from_micros(500));
    disturb(xen, input, &page, &port);
    peer.one_processor();
    page.store_byte(STATES + 1, 0);
    port.notify();
}

/// Does to the page what the input says.
fn disturb(xen: &Xen, input: &mut Input<'_>, page: &SharedMemory, port: &SimPort) {
    while !input.0.is_empty() {
        let choice = input.byte();
        let pair = usize::from(choice >> 4 & 1) * 2;
        match choice & 3 {
            // An index moves by anything.
            0 => {
                let index = INDICES[usize::from(choice >> 2 & 3)];
                let step = if choice & 0x20 == 0 { u32::from(input.byte()) } else { input.word() };
                page.store(index, page.load(index).wrapping_add(step));
            }
            // The peer writes so much, or reads everything.
            1 if choice & 0x20 == 0 => {
                let to = page.load(INDICES[pair + 1]).wrapping_add(input.byte().into());
                page.store(INDICES[pair + 1], to);
            }
            1 => page.store(INDICES[pair], page.load(INDICES[pair + 1])),
            // States and notification bits.
            2 => page.store_byte(STATES + usize::from(choice >> 2 & 3), input.byte()),
            _ => {
                let at = usize::from(input.byte()) * 4;
                page.store(at, input.word());
            }
        }
        if choice & 0x80 != 0 {
            port.notify();
            pause(xen, Duration::from_micros(30));
        }
    }
    port.notify();
    pause(xen, Duration::from_millis(2));
}

/// Reads to the end, and writes as long as that is possible.
fn use_channel(own: &Domain, channel: Channel<Domain>) {
    let sizes = [channel.end().reads(), channel.end().writes()].map(|side| channel.layout().size(side) as usize);
    let (mut reader, mut writer) = channel.split();
    own.spawn(async move {
        let mut bytes = [0; 3000];
        while let Ok(len @ 1..) = reader.read(&mut bytes).await {
            assert!(len <= sizes[0], "more than the ring has");
        }
    })
    .detach();
    own.spawn(async move {
        while let Ok(len) = writer.write(&[7; 700]).await {
            assert!(len <= sizes[1], "more than the ring has");
            if writer.write_message(b"a message").await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    })
    .detach();
}
