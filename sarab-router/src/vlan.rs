//! Tags of VLANs (IEEE 802.1Q), for sub-interfaces on a trunk.

use alloc::vec::Vec;

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
pub fn untag(frame: &mut Vec<u8>) {
    if frame.len() >= MACS + 4 {
        frame.copy_within(..MACS, 4);
        frame.drain(..4);
    }
}

/// Puts a tag into a frame.
pub fn tag(frame: &mut Vec<u8>, id: u16) {
    let at = MACS.min(frame.len());
    let [c, d] = (id & ID).to_be_bytes();
    frame.splice(at..at, [TAG[0], TAG[1], c, d]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_tag_goes_in_and_out() {
        let plain: Vec<u8> = (0..60).collect();
        let mut frame = plain.clone();
        tag(&mut frame, 0xabc);
        assert_eq!((tag_of(&frame), frame.len()), (Some(0xabc), 64));
        untag(&mut frame);
        assert_eq!((tag_of(&frame), frame), (None, plain));
        let mut short = vec![0; 15];
        untag(&mut short);
        assert_eq!((tag_of(&short), short.len()), (None, 15));
        // A priority is no VLAN.
        let mut priority = vec![0; 60];
        priority[12..16].copy_from_slice(&[0x81, 0, 0xe0, 0]);
        assert_eq!(tag_of(&priority), None);
    }
}
