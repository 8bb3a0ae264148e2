//! Everything that reads a packet of the store's protocol.

use xenbus::State;
use xenstore_client::wire::{HEADER_SIZE, Header, Op, Request, ServerError};
use xenstore_client::{FromValue, Path, Permission};

pub(super) const SHORT: u32 = 100000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

pub(super) fn run(data: &[u8]) {
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
