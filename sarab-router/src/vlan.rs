//! Tags of VLANs (IEEE 802.1Q), for sub-interfaces on a trunk.

use xen_netif::Buffer;

const TAG: [u8; 2] = [0x81, 0x00];
const MACS: usize = 12;
const ID: u16 = 0xfff;

/// Which VLAN a frame is of; `None` where it is of none, or has a priority alone.
pub fn tag_of(frame: &[u8]) -> Option<u16> {
    let [a, b, c, d] = *frame.get(MACS..)?.first_chunk()?;
    let id = u16::from_be_bytes([c, d]) & ID;
    ([a, b] == TAG && id != 0).then_some(id)
}

/// Takes the tag out of a frame that has one.
pub fn untag(frame: &mut Buffer) {
    if frame.len() >= MACS + 4 {
        frame.remove(MACS..MACS + 4);
    }
}

/// Puts a tag into a frame.
pub fn tag(frame: &mut Buffer, id: u16) {
    let [c, d] = (id & ID).to_be_bytes();
    frame.insert(MACS.min(frame.len()), &[TAG[0], TAG[1], c, d]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn a_tag_goes_in_and_out() {
        let plain: Vec<u8> = (0..60).collect();
        let mut frame = Buffer::from(plain.clone());
        tag(&mut frame, 0xabc);
        assert_eq!((tag_of(&frame), frame.len()), (Some(0xabc), 64));
        untag(&mut frame);
        assert_eq!((tag_of(&frame), frame), (None, plain.into()));
        let mut short = Buffer::from(vec![0; 15]);
        untag(&mut short);
        assert_eq!((tag_of(&short), short.len()), (None, 15));
        // A priority is no VLAN.
        let mut priority = vec![0; 60];
        priority[12..16].copy_from_slice(&[0x81, 0, 0xe0, 0]);
        assert_eq!(tag_of(&priority), None);
    }
}
