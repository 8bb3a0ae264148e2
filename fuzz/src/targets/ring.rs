//! The store's client, against a server that writes anything into the ring's page, indices included, and rings.

use xen_hal::Port;
use xen_sim::Xen;
use xenstore_client::wire::offsets::{REPLIES, REQUESTS, SERVER_FEATURES};
use xenstore_client::wire::{HEADER_SIZE, Header};

pub(super) const SHORT: u32 = 500;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

pub(super) fn run(data: &[u8]) {
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
