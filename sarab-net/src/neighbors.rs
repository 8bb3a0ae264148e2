//! Which MAC an address of the link has: learnt and aged as RFC 4861, section 7.3, and Linux do, for ARP as well. Nothing
//! here does input or output, or reads a clock.
//!
//! Anybody on a link can speak in any number of names. So there are three tables, and no name gets from one into the next by
//! talk alone: addresses that nothing was sent to are forgotten before those that something was sent to, and of these the
//! one goes first that has been quiet for the longest time. Whoever is in use stays.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use lru::LruCache;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Neighbours that something was sent to.
const MAX_KNOWN: usize = 2048;
/// Neighbours that have asked for this host, and that nothing was sent to yet.
const MAX_HEARD: usize = 1024;
/// Addresses that are being asked for.
const MAX_RESOLVING: usize = 1024;
/// Packets that wait for one address, and the bytes of all that wait.
const MAX_WAITING: usize = 8;
const MAX_WAITING_BYTES: usize = 256 << 10;
/// How often an address is asked for, and how far apart (RFC 4861: MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT,
/// RETRANS_TIMER; Linux has the same for ARP).
const MAX_REQUESTS: u8 = 3;
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer counts (REACHABLE_TIME), times 0.5 to 1.5.
const REACHABLE: Duration = Duration::from_secs(30);
/// From the first packet after that to the first probe (DELAY_FIRST_PROBE_TIME).
const DELAY: Duration = Duration::from_secs(5);

/// Something to be asked: who has `address`, of the neighbour who had it last, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) address: IpAddr,
    pub(crate) to: Option<Mac>,
}

/// What a neighbour said, and how much it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// It answers a request of this host.
    pub(crate) solicited: bool,
    /// It counts against what was known.
    pub(crate) overrides: bool,
}

enum State {
    Reachable(Duration),
    Stale,
    /// In use again; probed from then on.
    Delay(Duration),
    /// So many probes were sent, and the next is due then.
    Probe(u8, Duration),
}

struct Neighbor {
    mac: Mac,
    state: State,
}

struct Resolving {
    /// Requests that were sent.
    asked: u8,
    due: Duration,
    since: Duration,
    waiting: VecDeque<Vec<u8>>,
}

pub(crate) struct Neighbors {
    permanent: Vec<(IpAddr, Mac)>,
    known: LruCache<IpAddr, Neighbor>,
    heard: LruCache<IpAddr, Mac>,
    resolving: BTreeMap<IpAddr, Resolving>,
    /// By when they came.
    oldest: BTreeSet<(Duration, IpAddr)>,
    /// When something is due for an address of `known` or `resolving`.
    timers: BTreeSet<(Duration, IpAddr)>,
    waiting_bytes: usize,
    random: u32,
    /// Packets that were dropped because nobody answered for their address, or too many waited.
    pub(crate) dropped: u64,
}

impl State {
    fn due(&self) -> Option<Duration> {
        match *self {
            State::Delay(due) | State::Probe(_, due) => Some(due),
            State::Reachable(_) | State::Stale => None,
        }
    }
}

impl Neighbors {
    pub(crate) fn new(seed: u64) -> Neighbors {
        Neighbors {
            permanent: Vec::new(),
            known: LruCache::unbounded(),
            heard: LruCache::unbounded(),
            resolving: BTreeMap::new(),
            oldest: BTreeSet::new(),
            timers: BTreeSet::new(),
            waiting_bytes: 0,
            random: seed as u32 | 1,
            dropped: 0,
        }
    }

    /// These have these MACs, whatever they say.
    pub(crate) fn set_permanent(&mut self, permanent: Vec<(IpAddr, Mac)>) {
        self.permanent = permanent;
    }

    /// Forgets all that have said who they are: the link may be another one.
    pub(crate) fn clear(&mut self) {
        let permanent = core::mem::take(&mut self.permanent);
        *self = Neighbors { permanent, dropped: self.dropped, ..Neighbors::new(self.random.into()) };
    }

    /// How many neighbours are known.
    pub(crate) fn len(&self) -> usize {
        self.known.len() + self.heard.len()
    }

    /// The MAC that a packet for this address goes to now, where one is known.
    pub(crate) fn lookup(&mut self, address: IpAddr, now: Duration) -> Option<Mac> {
        if let Some((_, mac)) = self.permanent.iter().find(|(permanent, _)| *permanent == address) {
            return Some(*mac);
        }
        if let Some(neighbor) = self.known.get_mut(&address) {
            let is_old = match neighbor.state {
                State::Reachable(until) => until <= now,
                State::Stale => true,
                State::Delay(_) | State::Probe(..) => false,
            };
            if is_old {
                neighbor.state = State::Delay(now + DELAY);
                self.timers.insert((now + DELAY, address));
            }
            return Some(neighbor.mac);
        }
        let mac = self.heard.pop(&address)?;
        self.insert(address, mac, State::Delay(now + DELAY));
        Some(mac)
    }

    /// Keeps a packet until the address of its neighbour is known. Whether the address is to be asked for now.
    pub(crate) fn wait(&mut self, address: IpAddr, packet: &[u8], now: Duration) -> bool {
        let is_new = !self.resolving.contains_key(&address);
        if is_new {
            if self.resolving.len() == MAX_RESOLVING
                && let Some(&(_, oldest)) = self.oldest.first()
            {
                self.give_up(oldest);
            }
            let due = now + REQUEST_INTERVAL;
            self.resolving.insert(address, Resolving { asked: 1, due, since: now, waiting: VecDeque::new() });
            self.oldest.insert((now, address));
            self.timers.insert((due, address));
        }
        while self.waiting_bytes + packet.len() > MAX_WAITING_BYTES && self.drop_oldest(address) {}
        let Some(resolving) = self.resolving.get_mut(&address) else { return false };
        if resolving.waiting.len() == MAX_WAITING
            && let Some(first) = resolving.waiting.pop_front()
        {
            self.waiting_bytes -= first.len();
            self.dropped += 1;
        }
        if self.waiting_bytes + packet.len() > MAX_WAITING_BYTES {
            self.dropped += 1;
        } else {
            self.waiting_bytes += packet.len();
            resolving.waiting.push_back(packet.to_vec());
        }
        is_new
    }

    /// Gives up whom has been asked for the longest time, but for `except`; `false` where there is nobody.
    fn drop_oldest(&mut self, except: IpAddr) -> bool {
        let oldest = self.oldest.iter().map(|(_, address)| *address).find(|address| *address != except);
        oldest.is_some_and(|oldest| {
            self.give_up(oldest);
            true
        })
    }

    /// A neighbour has said that an address is its own. Returns what waited for that.
    pub(crate) fn claimed(&mut self, address: IpAddr, mac: Mac, claim: Claim, now: Duration) -> VecDeque<Vec<u8>> {
        if let Some(resolving) = self.remove_resolving(address) {
            let state = if claim.solicited { self.reachable(now) } else { State::Stale };
            self.insert(address, mac, state);
            return resolving.waiting;
        }
        let reachable = self.reachable(now);
        if let Some(neighbor) = self.known.peek_mut(&address) {
            let is_news = neighbor.mac != mac;
            let old = neighbor.state.due();
            if is_news && !claim.overrides {
                // RFC 4861, section 7.2.5: it is asked again.
                if matches!(neighbor.state, State::Reachable(_)) {
                    neighbor.state = State::Stale;
                }
                return VecDeque::new();
            }
            neighbor.mac = mac;
            if claim.solicited {
                neighbor.state = reachable;
            } else if is_news {
                neighbor.state = State::Stale;
            }
            if let Some(due) = old.filter(|_| neighbor.state.due().is_none()) {
                self.timers.remove(&(due, address));
            }
        } else if claim.overrides
            && let Some(known) = self.heard.peek_mut(&address)
        {
            *known = mac;
        }
        VecDeque::new()
    }

    /// A neighbour has asked for this host: an answer will be sent to it soon. Returns what waited for its address.
    pub(crate) fn heard(&mut self, address: IpAddr, mac: Mac, now: Duration) -> VecDeque<Vec<u8>> {
        let waited = self.claimed(address, mac, Claim { solicited: false, overrides: true }, now);
        if !self.known.contains(&address) {
            if self.heard.len() == MAX_HEARD && !self.heard.contains(&address) {
                self.heard.pop_lru();
            }
            self.heard.put(address, mac);
        }
        waited
    }

    /// What is to be asked now.
    pub(crate) fn poll(&mut self, now: Duration, mut ask: impl FnMut(Request)) {
        while let Some(&(due, address)) = self.timers.first().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, address));
            if let Some(resolving) = self.resolving.get_mut(&address) {
                if resolving.asked < MAX_REQUESTS {
                    resolving.asked += 1;
                    resolving.due = now + REQUEST_INTERVAL;
                    self.timers.insert((resolving.due, address));
                    ask(Request { address, to: None });
                } else {
                    self.give_up(address);
                }
            } else if let Some(neighbor) = self.known.peek_mut(&address) {
                let sent = match neighbor.state {
                    State::Delay(_) => 0,
                    State::Probe(sent, _) => sent,
                    State::Reachable(_) | State::Stale => continue,
                };
                if sent == MAX_REQUESTS {
                    // The next packet has it asked of all.
                    self.known.pop(&address);
                    continue;
                }
                let due = now + REQUEST_INTERVAL;
                neighbor.state = State::Probe(sent + 1, due);
                self.timers.insert((due, address));
                ask(Request { address, to: Some(neighbor.mac) });
            }
        }
    }

    /// When something is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    fn insert(&mut self, address: IpAddr, mac: Mac, state: State) {
        self.heard.pop(&address);
        if self.known.len() == MAX_KNOWN
            && let Some((address, neighbor)) = self.known.pop_lru()
            && let Some(due) = neighbor.state.due()
        {
            self.timers.remove(&(due, address));
        }
        if let Some(due) = state.due() {
            self.timers.insert((due, address));
        }
        self.known.put(address, Neighbor { mac, state });
    }

    fn remove_resolving(&mut self, address: IpAddr) -> Option<Resolving> {
        let resolving = self.resolving.remove(&address)?;
        self.oldest.remove(&(resolving.since, address));
        self.timers.remove(&(resolving.due, address));
        self.waiting_bytes -= resolving.waiting.iter().map(Vec::len).sum::<usize>();
        Some(resolving)
    }

    fn give_up(&mut self, address: IpAddr) {
        if let Some(resolving) = self.remove_resolving(address) {
            self.dropped += resolving.waiting.len() as u64;
        }
    }

    fn reachable(&mut self, now: Duration) -> State {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        State::Reachable(now + REACHABLE / 2 + REACHABLE * (self.random >> 16) / 0xffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const ANSWER: Claim = Claim { solicited: true, overrides: true };
    const NEWS: Claim = Claim { solicited: false, overrides: true };
    const WEAK: Claim = Claim { solicited: false, overrides: false };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn host(number: u32) -> IpAddr {
        Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number)).into()
    }

    fn neighbors() -> Neighbors {
        Neighbors::new(1)
    }

    impl Neighbors {
        fn asks(&mut self, now: u64) -> Vec<Request> {
            let mut asked = Vec::new();
            self.poll(secs(now), |request| asked.push(request));
            asked
        }

        fn check(&self) {
            let due = self.known.iter().filter_map(|(address, known)| Some((known.state.due()?, *address)));
            let due = due.chain(self.resolving.iter().map(|(address, resolving)| (resolving.due, *address)));
            assert_eq!(due.collect::<BTreeSet<_>>(), self.timers);
            let waiting = self.resolving.values().flat_map(|resolving| &resolving.waiting).map(Vec::len).sum::<usize>();
            assert_eq!(waiting, self.waiting_bytes);
            assert_eq!(self.oldest.len(), self.resolving.len());
            assert!(self.known.len() <= MAX_KNOWN && self.heard.len() <= MAX_HEARD);
            assert!(self.resolving.len() <= MAX_RESOLVING && self.waiting_bytes <= MAX_WAITING_BYTES);
        }
    }

    #[test]
    fn packets_wait_for_an_answer() {
        let mut all = neighbors();
        assert_eq!(all.lookup(A, secs(0)), None);
        assert!(all.wait(A, &[1], secs(0)));
        assert!(!all.wait(A, &[2], secs(0)), "it was asked for just now");
        let waited = all.claimed(A, MAC, ANSWER, secs(0));
        assert_eq!(waited, [[1], [2]]);
        assert_eq!(all.lookup(A, secs(1)), Some(MAC));
        assert!(all.asks(14).is_empty(), "it counts for 15 seconds at least");
        all.check();
    }

    #[test]
    fn who_does_not_answer_is_asked_three_times() {
        let mut all = neighbors();
        all.wait(A, &[1], secs(0));
        let request = Request { address: A, to: None };
        assert_eq!((all.asks(1), all.asks(2)), (alloc::vec![request], alloc::vec![request]));
        assert!(all.asks(3).is_empty());
        assert_eq!((all.dropped, all.next()), (1, None));
        assert!(all.wait(A, &[1], secs(4)), "and again for the next packet");
        all.check();
    }

    #[test]
    fn only_who_is_in_use_is_probed_and_forgotten_without_an_answer() {
        let mut all = neighbors();
        all.wait(A, &[1], secs(0));
        all.claimed(A, MAC, ANSWER, secs(0));
        assert!(all.asks(1000).is_empty() && all.next().is_none());
        assert_eq!(all.lookup(A, secs(1000)), Some(MAC));
        let probe = Request { address: A, to: Some(MAC) };
        assert!(all.asks(1004).is_empty());
        assert_eq!(all.asks(1005), [probe]);
        all.claimed(A, MAC, ANSWER, secs(1005));
        assert_eq!(all.next(), None);
        all.lookup(A, secs(2000));
        assert_eq!((all.asks(2005), all.asks(2006), all.asks(2007)).2, [probe]);
        assert_eq!(all.lookup(A, secs(2007)), Some(MAC));
        assert!(all.asks(2008).is_empty());
        assert_eq!(all.lookup(A, secs(2008)), None);
        all.check();
    }

    #[test]
    fn another_address_counts_at_once_where_it_is_told_to_override() {
        let mut all = neighbors();
        all.wait(A, &[1], secs(0));
        all.claimed(A, MAC, ANSWER, secs(0));
        all.claimed(A, OTHER, WEAK, secs(1));
        assert_eq!(all.lookup(A, secs(1)), Some(MAC));
        assert!(all.next().is_some(), "but it is asked");
        all.claimed(A, OTHER, NEWS, secs(2));
        assert_eq!(all.lookup(A, secs(2)), Some(OTHER));
        all.check();
    }

    #[test]
    fn news_of_strangers_teach_nothing() {
        let mut all = neighbors();
        all.claimed(A, MAC, NEWS, secs(0));
        assert_eq!((all.lookup(A, secs(0)), all.len()), (None, 0));
        all.heard(A, MAC, secs(0));
        assert_eq!(all.lookup(A, secs(0)), Some(MAC));
    }

    #[test]
    fn a_thousand_neighbours_are_remembered() {
        let mut all = neighbors();
        for number in 0..1024 {
            all.wait(host(number), &[0; 60], secs(0));
        }
        for number in 0..1024 {
            assert_eq!(all.claimed(host(number), MAC, ANSWER, secs(0)).len(), 1, "{number}");
        }
        assert!((0..1024).all(|number| all.lookup(host(number), secs(1)).is_some()));
        assert_eq!(all.dropped, 0);
        all.check();
    }

    #[test]
    fn noise_pushes_out_nobody_who_is_in_use() {
        let mut all = neighbors();
        for number in 0..1000 {
            all.heard(host(number), MAC, secs(0));
            all.lookup(host(number), secs(0));
        }
        for number in 1000..100_000 {
            all.heard(host(number), OTHER, secs(1));
        }
        assert!((0..1000).all(|number| all.lookup(host(number), secs(2)) == Some(MAC)));
        // Answers to all of them do, but not whoever is talked to meanwhile.
        for number in 1000..100_000 {
            all.heard(host(number), OTHER, secs(3));
            all.lookup(host(number), secs(3));
            assert_eq!(all.lookup(host(0), secs(3)), Some(MAC));
        }
        all.check();
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut all = neighbors();
        for number in 0..10_000 {
            for _ in 0..20 {
                all.wait(host(number), &[0; 1500], secs(u64::from(number) / 100));
            }
            if number % 100 == 0 {
                all.check();
            }
        }
        assert!(all.dropped > 190_000);
        let last = all.claimed(host(9999), MAC, ANSWER, secs(100));
        assert_eq!(last.len(), MAX_WAITING, "the newest are kept");
        all.wait(A, &[0; MAX_WAITING_BYTES + 1], secs(100));
        all.check();
    }

    #[test]
    fn any_order_of_events() {
        let (mut all, mut random, mut now) = (neighbors(), 1_u64, Duration::ZERO);
        for step in 0..200_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = random >> 33;
            let (address, mac) = (host((pick >> 4) as u32 % 3000), [2, 0, 0, 0, 0, (pick >> 20) as u8 % 3]);
            now += Duration::from_millis(pick % 7 * 10);
            match pick % 8 {
                0 | 1 => drop(all.lookup(address, now)),
                2 | 3 => {
                    if all.lookup(address, now).is_none() {
                        all.wait(address, &[0; 100], now);
                    }
                }
                4 => drop(all.claimed(address, mac, ANSWER, now)),
                5 => drop(all.claimed(address, mac, WEAK, now)),
                6 => drop(all.heard(address, mac, now)),
                _ => all.poll(now, |_| {}),
            }
            if step % 500 == 0 {
                all.check();
            }
        }
    }
}
