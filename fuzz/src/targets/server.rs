//! The simulation's store server, against a client that sends anything.

use xen_hal::DomId;
use xen_sim::store::Server;
use xenstore_client::wire::{HEADER_SIZE, Header};

pub(super) const SHORT: u32 = 5000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

pub(super) fn run(data: &[u8]) {
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
