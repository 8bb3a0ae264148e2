//! What peers have of this domain's pages, and how many each may keep that it is granted no longer.

use alloc::vec::Vec;

use xen_hal::DomId;

/// Those that were ever granted a page: few, of which most guests have one.
pub(super) struct Peers {
    entries: Vec<(DomId, PeerUse)>,
    /// How many pages a peer may keep in any case.
    max_kept: usize,
}

#[derive(Default)]
struct PeerUse {
    granted: usize,
    /// The most that `granted` was since it had nothing.
    max_granted: usize,
    /// Of dropped grants.
    kept: usize,
}

impl Peers {
    pub(super) const fn new() -> Peers {
        Peers { entries: Vec::new(), max_kept: 0 }
    }

    pub(super) fn allow(&mut self, max_kept: usize) {
        self.max_kept = max_kept;
    }

    /// None of them has anything any more.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    fn peer(&mut self, peer: DomId) -> &mut PeerUse {
        let index = self.entries.iter().position(|(id, _)| *id == peer).unwrap_or_else(|| {
            self.entries.push((peer, PeerUse::default()));
            self.entries.len() - 1
        });
        &mut self.entries[index].1
    }

    /// How many pages of dropped grants the peer still maps, where it is granted no more for that.
    pub(super) fn too_many_kept(&mut self, peer: DomId) -> Option<usize> {
        let max_kept = self.max_kept;
        let PeerUse { max_granted, kept, .. } = *self.peer(peer);
        (kept > 0 && kept >= max_granted.max(max_kept)).then_some(kept)
    }

    pub(super) fn count_granted(&mut self, peer: DomId) {
        let peer = self.peer(peer);
        peer.granted += 1;
        peer.max_granted = peer.max_granted.max(peer.granted);
    }

    /// A grant to the peer has ended, and its page is back or kept.
    pub(super) fn count_ended(&mut self, peer: DomId, kept: bool) {
        let peer = self.peer(peer);
        peer.granted -= 1;
        peer.kept += usize::from(kept);
        peer.forget_if_unused();
    }

    /// The peer has let go of a page that it had kept.
    pub(super) fn count_released(&mut self, peer: DomId) {
        let peer = self.peer(peer);
        peer.kept -= 1;
        peer.forget_if_unused();
    }
}

impl PeerUse {
    fn forget_if_unused(&mut self) {
        if self.granted == 0 && self.kept == 0 {
            self.max_granted = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: DomId = DomId(3);

    #[test]
    fn who_keeps_nothing_is_granted_pages() {
        let mut peers = Peers::new();
        // A table that was never used allows none yet.
        assert_eq!(peers.too_many_kept(PEER), None);
        peers.allow(256);
        assert_eq!(peers.too_many_kept(PEER), None);
        peers.count_granted(PEER);
        peers.count_ended(PEER, false);
        assert_eq!(peers.too_many_kept(PEER), None);
    }

    #[test]
    fn a_peer_may_keep_as_many_as_are_allowed_or_it_was_granted_at_a_time() {
        for (granted, most) in [(1, 256), (256, 256), (1000, 1000)] {
            let mut peers = Peers::new();
            peers.allow(256);
            (0..granted).for_each(|_| peers.count_granted(PEER));
            (0..granted).for_each(|_| peers.count_ended(PEER, true));
            for kept in granted..most {
                assert_eq!(peers.too_many_kept(PEER), None, "{kept} are kept");
                peers.count_granted(PEER);
                peers.count_ended(PEER, true);
            }
            assert_eq!(peers.too_many_kept(PEER), Some(most));
            assert_eq!(peers.too_many_kept(DomId(4)), None, "others are granted pages");
            peers.count_released(PEER);
            assert_eq!(peers.too_many_kept(PEER), None);
            (1..most).for_each(|_| peers.count_released(PEER));
            assert_eq!(peers.entries[0].1.max_granted, 0, "what it once had does not count for ever");
        }
    }
}
