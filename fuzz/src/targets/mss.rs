//! The segment sizes of connections, learnt from what both ends of them send.

use xen_netif::fuzzing::Flows;
use xen_netif::headers::{Headers, TCP};

use crate::frame::frame;
use crate::input::Input;

pub(super) const SHORT: u32 = 2000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // SYN, SYN and ACK, ACK, of either protocol.
    let frame = |kind: u8, flags: u8| [kind, 0, 1, 1, 0, 0, 0, 5, 0, 0, 0, 6, flags, 5, 0x78, 0, 0, 0];
    let handshake = |kind| {
        [[0, 0, 0, 0, 0, 0].as_slice(), &frame(kind, 2), &[1], &frame(kind, 0x12), &[0], &frame(kind, 0x10)].concat()
    };
    vec![handshake(0), handshake(1)]
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut flows = Flows::default();
    let mtu = [1500, 1500, 68, 65535][usize::from(input.byte() % 4)];
    while !input.0.is_empty() {
        let outgoing = input.byte() & 1 != 0;
        let (mut bytes, _) = frame(&mut input, 0);
        let Some(headers) = Headers::parse(&bytes) else { continue };
        if headers.protocol != TCP {
            continue;
        }
        let (before, len) = (bytes.clone(), bytes.len());
        match outgoing {
            true => {
                if let Some(size) = flows.outgoing(&mut bytes, &headers, mtu) {
                    assert!(size > 0 && size < mtu.max(2), "segments of {size} bytes, MTU {mtu}");
                }
            }
            false => flows.incoming(&mut bytes, &headers, mtu),
        }
        // No more than an option of two bytes is changed.
        assert_eq!(bytes.len(), len);
        assert!(before.iter().zip(&bytes).filter(|(old, new)| old != new).count() <= 2);
    }
}
