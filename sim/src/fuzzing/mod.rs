//! What the fuzz targets run, with any bytes: a panic is a bug. The tests run it with random ones.

mod block;
mod disturb;
mod net;

pub use block::{blkback, blkfront};
pub use net::{netback, netfront};

use xen_hal::{DomId, Port};
use xenstore_client::wire::offsets::{REPLIES, REQUESTS, SERVER_FEATURES};
use xenstore_client::wire::{HEADER_SIZE, Header, Op, Request, ServerError};
use xenstore_client::xenbus::State;
use xenstore_client::{FromValue, Path, Permission};

use crate::store::Server;
use crate::world::Xen;

/// Everything that reads bytes from the wire.
pub fn packet(data: &[u8]) {
    let Some((header, payload)) = data.split_first_chunk::<HEADER_SIZE>() else { return };
    let header = Header::from_bytes(header);
    assert_eq!(Header::from_bytes(&header.to_bytes()), header);
    let _ = ServerError::parse(payload).to_string();
    let _ =
        (u32::from_value(payload), bool::from_value(payload), Path::from_value(payload), State::from_value(payload));
    let _ = std::str::from_utf8(payload).map(str::parse::<Permission>);
    let Some(op) = Op::from_number(header.op) else { return };
    if let Ok(request) = Request::parse(op, payload) {
        let mut packet = Vec::new();
        if request.encode(header.request, header.transaction, &mut packet).is_ok() {
            let again = Request::parse(op, &packet[HEADER_SIZE..]).expect("what was encoded can be read");
            assert_eq!(again.op(), request.op());
        }
    }
}

/// The simulation's server, against a client that sends anything.
pub fn server(data: &[u8]) {
    let mut server = Server::new();
    let domain = DomId(1);
    server.create_domain(domain);
    server.introduce(domain);
    let mut rest = data;
    while let Some((header, after)) = rest.split_first_chunk::<HEADER_SIZE>() {
        let mut header = Header::from_bytes(header);
        // Few kinds, few transactions, short payloads: so that something comes of it.
        header.op %= 30;
        header.transaction %= 4;
        let len = (header.len as usize % 64).min(after.len());
        header.len = len as u32;
        server.handle(domain, header, &after[..len]);
        while let Some(packet) = server.take_output(domain, 0) {
            let answer = Header::from_bytes(packet[..HEADER_SIZE].try_into().expect("a header"));
            assert_eq!(answer.len as usize, packet.len() - HEADER_SIZE);
        }
        rest = &after[len..];
    }
}

/// The client, against a server that writes anything into the ring's page, indices included, and rings.
pub fn ring(data: &[u8]) {
    let (seed, data) = data.split_at(data.len().min(1));
    let xen = Xen::new(u64::from(seed.first().copied().unwrap_or(0)));
    let (domain, page, port) = xen.domain_and_server();
    let mut rest = data.iter().copied();
    page.store(SERVER_FEATURES, rest.next().unwrap_or(0).into());
    let store = domain.store();
    let busy = domain.spawn(async move {
        let mut watch = None;
        for index in 0..20_u32 {
            match index % 4 {
                0 => drop(store.read("a").await),
                1 => drop(store.transaction(async |t| t.set("a", &index).await).await),
                2 => watch = store.watch("a").await.ok(),
                _ => drop(store.list("a").await),
            }
        }
        drop(watch);
    });
    let mut next = move || rest.next();
    while let Some(choice) = next() {
        xen.settle();
        let mut number = || u32::from(next().unwrap_or(0)) | u32::from(next().unwrap_or(0)) << 8;
        match choice % 4 {
            0 => {
                let offset = [2048, 2052, 2056, 2060, 2064, 2068, 2072][choice as usize / 4 % 7];
                let value = number();
                page.store(offset, if choice > 127 { value << 16 } else { value % 2100 });
            }
            1 => page.write(number() as usize % 2040, &number().to_le_bytes()),
            // Something like an answer, often to what was asked.
            _ => {
                let asked = page.load(REQUESTS.consumer);
                let mut header = [0; HEADER_SIZE];
                for (index, byte) in header.iter_mut().enumerate() {
                    let mut found = [0];
                    page.read((asked as usize + index) % 1024, &mut found);
                    *byte = found[0];
                }
                let mut header = Header::from_bytes(&header);
                let skip = HEADER_SIZE as u32 + header.len;
                if choice & 4 != 0 {
                    page.store(REQUESTS.consumer, asked.wrapping_add(skip));
                }
                let kind = number();
                if kind & 1 != 0 {
                    header.op = kind >> 8;
                }
                let payload: Vec<u8> = (0..kind % 24).map(|_| number() as u8).collect();
                header.len = payload.len() as u32;
                let producer = page.load(REPLIES.producer);
                let bytes: Vec<u8> = header.to_bytes().into_iter().chain(payload).collect();
                for (index, byte) in bytes.iter().enumerate() {
                    page.write(1024 + (producer as usize + index) % 1024, &[*byte]);
                }
                page.store(REPLIES.producer, producer.wrapping_add(bytes.len() as u32));
            }
        }
        port.notify();
    }
    xen.settle();
    drop(busy);
    xen.end();
}
