//! An address that this host takes for its own: others are asked whether they have it, then told that it is this host's
//! (RFC 5227 for IPv4; RFC 4862, section 5.4, with RFC 4429's optimism for IPv6). Nothing here does input or output, or
//! reads a clock.
//!
//! The address is used from the start, for a host on the link answers within milliseconds and a guest that waited would be
//! seconds late: so IPv4's probes are 100 ms apart, where RFC 5227 has one to two seconds.

use core::time::Duration;

const PROBES: u8 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// RFC 4862: DupAddrDetectTransmits, and RetransTimer after it.
const PROBES_V6: u8 = 1;
const PROBE_INTERVAL_V6: Duration = Duration::from_secs(1);
/// Between two answers to who has the address as well (RFC 5227, DEFEND_INTERVAL).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Probe,
    Announce,
}

/// What to do about another host that has the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// It had the address first.
    Taken,
    /// It is told whose it is.
    Defend,
    /// It was told just now.
    Known,
}

#[derive(Debug)]
pub(crate) struct Claim {
    is_v6: bool,
    probes: u8,
    announcements: u8,
    due: Option<Duration>,
    defended: Option<Duration>,
}

impl Claim {
    /// Asks from now on.
    pub(crate) fn new(is_v6: bool, now: Duration) -> Claim {
        Claim { is_v6, probes: 0, announcements: 0, due: Some(now), defended: None }
    }

    /// Whether others are still being asked.
    pub(crate) fn is_probing(&self) -> bool {
        self.announcements == 0 && self.due.is_some()
    }

    pub(crate) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Tells everybody again, at once: after a restore or a migration, or where a cable was pulled. Whoever has the address
    /// now is asked first.
    pub(crate) fn restart(&mut self, now: Duration) {
        *self = Claim { defended: self.defended, ..Claim::new(self.is_v6, now) };
    }

    /// Nothing more is sent: there is no link.
    pub(crate) fn pause(&mut self) {
        self.due = None;
    }

    pub(crate) fn poll(&mut self, now: Duration) -> Option<Step> {
        self.due.filter(|due| *due <= now)?;
        let (probes, interval) = match self.is_v6 {
            true => (PROBES_V6, PROBE_INTERVAL_V6),
            false => (PROBES, PROBE_INTERVAL),
        };
        if self.probes < probes {
            self.probes += 1;
            self.due = Some(now + interval);
            return Some(Step::Probe);
        }
        self.announcements += 1;
        self.due = (self.announcements < ANNOUNCEMENTS).then_some(now + ANNOUNCE_INTERVAL);
        Some(Step::Announce)
    }

    /// Another host has the address, or asks for it as one that wants to have it.
    pub(crate) fn conflict(&mut self, now: Duration) -> Conflict {
        if self.is_probing() {
            return Conflict::Taken;
        }
        if self.defended.is_some_and(|at| now < at + DEFEND_INTERVAL) {
            return Conflict::Known;
        }
        self.defended = Some(now);
        Conflict::Defend
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn steps(claim: &mut Claim) -> Vec<(Duration, Step)> {
        core::iter::from_fn(|| {
            let at = claim.due()?;
            Some((at, claim.poll(at)?))
        })
        .collect()
    }

    #[test]
    fn others_are_asked_then_told() {
        use Step::{Announce, Probe};
        let mut claim = Claim::new(false, millis(0));
        assert!(claim.is_probing());
        let expected = [(0, Probe), (100, Probe), (200, Probe), (300, Announce), (2300, Announce)];
        assert_eq!(steps(&mut claim), expected.map(|(at, step)| (millis(at), step)));
        assert!(!claim.is_probing());
        claim.restart(millis(9000));
        assert_eq!(steps(&mut claim).len(), 5);
        let expected = [(0, Probe), (1000, Announce), (3000, Announce)];
        assert_eq!(steps(&mut Claim::new(true, millis(0))), expected.map(|(at, step)| (millis(at), step)));
    }

    #[test]
    fn who_had_it_first_keeps_it_and_who_comes_later_is_told_now_and_then() {
        let mut claim = Claim::new(false, millis(0));
        claim.poll(millis(0));
        assert_eq!(claim.conflict(millis(50)), Conflict::Taken);
        steps(&mut claim);
        assert_eq!(claim.conflict(millis(5000)), Conflict::Defend);
        assert_eq!(claim.conflict(millis(14_000)), Conflict::Known);
        assert_eq!(claim.conflict(millis(15_000)), Conflict::Defend);
    }
}
