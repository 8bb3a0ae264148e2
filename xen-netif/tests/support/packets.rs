//! Frames with TCP, UDP or something else in them.

use xen_netif::checksum;
use xen_netif::headers::Headers;

/// IPv6 and TCP behind so many bytes of destination options, in headers of at most 2048 bytes, with `payload` bytes. The
/// checksum is left blank.
pub fn tcp_v6(options: usize, payload: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(((options + 20 + payload) as u16).to_be_bytes());
    frame.extend([if options > 0 { 60 } else { 6 }, 64]);
    frame.extend([1; 32]);
    let mut rest = options;
    while rest > 0 {
        let own = rest.min(2048);
        rest -= own;
        let mut header = vec![0; own];
        (header[0], header[1]) = (if rest > 0 { 60 } else { 6 }, (own / 8 - 1) as u8);
        frame.extend(header);
    }
    frame.extend(tcp_header());
    frame.extend((0..payload).map(|at| (at * 7 + at / 256) as u8));
    if let Some(headers) = Headers::parse(&frame) {
        checksum::leave_blank(&mut frame, &headers);
    }
    frame
}

/// IPv4 and TCP, with `payload` bytes. The checksum is left blank.
pub fn tcp_v4(payload: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(((40 + payload) as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(tcp_header());
    frame.extend((0..payload).map(|at| (at * 7 + at / 256) as u8));
    let headers = Headers::parse(&frame).unwrap();
    checksum::complete_ipv4(&mut frame, &headers);
    checksum::leave_blank(&mut frame, &headers);
    frame
}

fn tcp_header() -> [u8; 20] {
    let mut header = [0; 20];
    header[..14].copy_from_slice(&[0, 80, 19, 136, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, 16]);
    header
}
