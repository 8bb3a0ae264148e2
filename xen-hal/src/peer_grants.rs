//! How many pages a peer has of this domain's, for implementors of [`GrantTable`](crate::GrantTable).

/// What one peer has of this domain's pages, and how many it may keep that it is granted no longer: as many as the
/// implementor allows in any case, or as it was ever granted at a time. A backend that is to close unmaps its pages only
/// after their grants have ended.
///
/// # Examples
///
/// ```
/// use xen_hal::PeerGrants;
///
/// let mut peer = PeerGrants::default();
/// peer.begin();
/// peer.end(true); // dropped while the peer maps the page
/// assert_eq!(peer.too_many_kept(1), Some(1));
/// peer.release();
/// assert_eq!(peer.too_many_kept(1), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerGrants {
    granted: usize,
    /// The most that `granted` was since the peer had nothing.
    max_granted: usize,
    /// Pages that the peer still maps, and whose grants were dropped.
    kept: usize,
}

impl PeerGrants {
    /// A page is granted to the peer.
    pub const fn begin(&mut self) {
        self.granted += 1;
        if self.granted > self.max_granted {
            self.max_granted = self.granted;
        }
    }

    /// A grant has ended; with `kept`, the peer still maps the page.
    pub const fn end(&mut self, kept: bool) {
        self.granted -= 1;
        self.kept += kept as usize;
        self.forget_if_unused();
    }

    /// The peer has let go of a page that it had kept.
    pub const fn release(&mut self) {
        self.kept -= 1;
        self.forget_if_unused();
    }

    /// How many pages the peer keeps, where those are so many that it is granted no more. `max` are allowed in any case.
    pub const fn too_many_kept(&self, max: usize) -> Option<usize> {
        if self.kept > 0 && self.kept >= max && self.kept >= self.max_granted { Some(self.kept) } else { None }
    }

    const fn forget_if_unused(&mut self) {
        if self.granted == 0 && self.kept == 0 {
            self.max_granted = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_nothing_is_granted_pages() {
        let mut peer = PeerGrants::default();
        assert_eq!(peer.too_many_kept(0), None, "a table that was never used allows none yet");
        peer.begin();
        peer.end(false);
        assert_eq!((peer.too_many_kept(0), peer), (None, PeerGrants::default()));
    }

    #[test]
    fn a_peer_may_keep_as_many_as_are_allowed_or_it_was_granted_at_a_time() {
        const MAX: usize = 256;
        for (granted, most) in [(1, 256), (256, 256), (1000, 1000)] {
            let mut peer = PeerGrants::default();
            (0..granted).for_each(|_| peer.begin());
            (0..granted).for_each(|_| peer.end(true));
            for kept in granted..most {
                assert_eq!(peer.too_many_kept(MAX), None, "{kept} are kept");
                peer.begin();
                peer.end(true);
            }
            assert_eq!(peer.too_many_kept(MAX), Some(most));
            peer.release();
            assert_eq!(peer.too_many_kept(MAX), None);
            (1..most).for_each(|_| peer.release());
            assert_eq!(peer, PeerGrants::default(), "what it once had does not count for ever");
        }
    }
}
