//! What a sender makes of acknowledgments: what is lost, when it is sent again, and how much may be in flight.
//!
//! With selective acknowledgment this is RACK-TLP (RFC 8985), which tells loss from reordering by time; without it,
//! NewReno (RFC 6582) with limited transmit (RFC 3042). In both the window is reduced proportionally (RFC 6937), and that is
//! taken back if the peer has received all twice that was sent twice (RFC 3708).

use super::RttEstimator;
use super::congestion::Controller;
use super::scoreboard::{News, Scoreboard, Sent};
use crate::time::{Duration, Instant};
use crate::wire::TcpSeqNumber;

/// Duplicate acknowledgments that mean a loss, or segments' worth of selective ones.
const DUP_THRESHOLD: usize = 3;
/// Recoveries that the patience lasts which spurious ones have taught.
const PERSISTENCE: u8 = 16;
/// How long a peer may delay the acknowledgment of a single segment.
const WORST_ACK_DELAY: Duration = Duration::from_millis(200);
/// Timers are not that exact.
const PROBE_MARGIN: Duration = Duration::from_millis(5);
/// Paths change: a lower round-trip time than now's does not count for ever.
const MIN_RTT_LIFETIME: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
enum Phase {
    Open,
    /// After a loss that acknowledgments have told of, until all is acknowledged that was sent before.
    Recovery,
    /// The same after a timeout.
    Loss,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
enum Timer {
    /// Something has had its time then, in which it could have been overtaken.
    Reorder(Instant),
    /// Nothing was acknowledged for long; if the last segments are lost, nobody tells of it.
    Probe(Instant),
}

/// A probe for lost last segments.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Probe {
    end: TcpSeqNumber,
    /// It was data that had been sent before.
    again: bool,
}

/// What to compare with the peer's duplicates.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Undo {
    from: TcpSeqNumber,
    /// Bytes that were sent again, and that the peer has not told to have twice.
    resent: usize,
}

/// An acceptable acknowledgment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ack {
    pub(super) now: Instant,
    /// The first byte that is not acknowledged, and the first that was not sent.
    pub(super) una: TcpSeqNumber,
    pub(super) nxt: TcpSeqNumber,
    pub(super) sacks: [Option<(u32, u32)>; 3],
    /// How many there were of the same kind, where this is another one that tells nothing new.
    pub(super) duplicates: u8,
    pub(super) mss: usize,
}

#[derive(Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub(super) struct Recovery {
    board: Scoreboard,
    /// The peer acknowledges selectively.
    selective: bool,
    phase: Phase,
    /// Where the phase ends.
    recover: TcpSeqNumber,
    /// Timeouts since something was acknowledged.
    timeouts: u32,

    // Proportional rate reduction: bytes that have arrived and were sent since the recovery began, and were in
    // flight before; and the window that follows.
    prr_delivered: usize,
    prr_out: usize,
    prr_flight: usize,
    prr_window: usize,

    /// Without selective acknowledgment: bytes that duplicates say have arrived.
    arrived: usize,

    // RACK: what was sent last of all that has arrived, and how long that took.
    newest: Option<(Sent, Duration)>,
    min_rtt: Option<(Duration, Instant)>,
    /// Segments have overtaken others, of which the last ones took so much time.
    reordered: bool,
    overtaken: Duration,
    /// How many quarters of the round-trip time to wait, for how many recoveries, and until when one round trip
    /// lasts that has taught it.
    patience: u32,
    persistence: u8,
    lesson: Option<TcpSeqNumber>,

    timer: Option<Timer>,
    /// A probe is to be sent.
    probing: bool,
    probe: Option<Probe>,
    undo: Option<Undo>,

    /// Where this round trip ends, and the most that was in flight in it and in the last one.
    round: TcpSeqNumber,
    flights: [usize; 2],
    last_sent: Instant,
}

impl Recovery {
    pub(super) fn new() -> Recovery {
        let none = TcpSeqNumber(0);
        Recovery {
            board: Scoreboard::new(),
            selective: false,
            phase: Phase::Open,
            recover: none,
            timeouts: 0,
            prr_delivered: 0,
            prr_out: 0,
            prr_flight: 0,
            prr_window: 0,
            arrived: 0,
            newest: None,
            min_rtt: None,
            reordered: false,
            overtaken: Duration::ZERO,
            patience: 0,
            persistence: 0,
            lesson: None,
            timer: None,
            probing: false,
            probe: None,
            undo: None,
            round: none,
            flights: [0; 2],
            last_sent: Instant::ZERO,
        }
    }

    /// Makes this about what lies between these two.
    pub(super) fn cover(
        &mut self,
        una: TcpSeqNumber,
        nxt: TcpSeqNumber,
        selective: bool,
        now: Instant,
    ) {
        self.selective = selective;
        self.board.cover(una, nxt, now);
        if self.phase == Phase::Open {
            // Numbers that are compared stay near each other.
            self.recover = una;
        }
    }

    /// Bytes that are on their way.
    pub(super) fn flight(&self) -> usize {
        self.board.flight().saturating_sub(self.arrived)
    }

    /// The time of a round trip without queues, as far as it is known.
    pub(super) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt.map(|(rtt, _)| rtt)
    }

    /// How much may be in flight.
    pub(super) fn window(&self, controller: &dyn Controller) -> usize {
        match (self.phase, controller.window()) {
            (Phase::Recovery, window) if window < usize::MAX => self.prr_window,
            (_, window) => window,
        }
    }

    /// The first bytes that are to be sent again.
    pub(super) fn first_lost(&self) -> Option<(TcpSeqNumber, TcpSeqNumber)> {
        self.board.first_lost()
    }

    pub(super) fn is_recovering(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Whether a segment is to be sent that nothing else asks for: with new data where there is any.
    pub(super) fn is_probing(&self) -> bool {
        self.probing
    }

    /// When [`Recovery::on_timer`] has something to do.
    pub(super) fn poll_at(&self) -> Option<Instant> {
        match self.timer? {
            Timer::Reorder(at) | Timer::Probe(at) => Some(at),
        }
    }

    /// New data is about to be sent, while none is in flight.
    pub(super) fn on_restart(
        &mut self,
        now: Instant,
        rto: Duration,
        controller: &mut dyn Controller,
    ) {
        if self.last_sent != Instant::ZERO && now > self.last_sent + rto {
            controller.on_idle(now - self.last_sent, rto);
            self.last_sent = now;
        }
    }

    pub(super) fn on_sent(
        &mut self,
        start: TcpSeqNumber,
        end: TcpSeqNumber,
        mss: usize,
        now: Instant,
        rtte: &RttEstimator,
    ) {
        let granule = rtte.srtt().map_or(Duration::ZERO, |srtt| srtt / 64);
        self.board.sent(start, end, now, granule);
        self.prr_out += end - start;
        self.last_sent = now;
        if core::mem::take(&mut self.probing) {
            self.probe = Some(Probe { end, again: false });
            self.timer = None;
        } else {
            self.set_probe(mss, now, rtte);
        }
    }

    pub(super) fn on_resent(&mut self, start: TcpSeqNumber, end: TcpSeqNumber, now: Instant) {
        self.board.resent(start, end, now);
        self.prr_out += end - start;
        self.last_sent = now;
        if core::mem::take(&mut self.probing) {
            self.probe = Some(Probe { end, again: true });
            self.timer = None;
        } else if let Some(undo) = &mut self.undo {
            undo.resent += end - start;
        }
    }

    /// Starts the timer of a probe where one may be needed.
    fn set_probe(&mut self, mss: usize, now: Instant, rtte: &RttEstimator) {
        if matches!(self.timer, Some(Timer::Reorder(_))) {
            return;
        }
        let useful = self.selective
            && self.phase == Phase::Open
            && self.probe.is_none()
            && self.board.sacked() == 0
            && self.board.flight() > 0;
        self.timer = match rtte.srtt() {
            Some(srtt) if useful => {
                let delay = if self.board.flight() <= mss {
                    WORST_ACK_DELAY
                } else {
                    PROBE_MARGIN
                };
                Some(Timer::Probe(now + srtt * 2 + delay))
            }
            _ => None,
        };
    }

    /// How long something may take to be acknowledged, before it is lost if something that was sent later is
    /// acknowledged, which took so long.
    fn patience(&self, newest: Duration, mss: usize, rtte: &RttEstimator) -> Duration {
        let Some(min_rtt) = self.min_rtt().or(rtte.srtt()) else {
            return newest;
        };
        if !self.reordered {
            let sure = self.phase != Phase::Open || self.board.sacked() >= DUP_THRESHOLD * mss;
            return newest + if sure { Duration::ZERO } else { min_rtt / 4 };
        }
        let srtt = rtte.srtt().unwrap_or(min_rtt);
        let window = match self.patience {
            0 => (min_rtt / 4).min(srtt),
            // What overtakes others takes little time, and is no measure.
            quarters => (srtt / 4 * quarters).min(srtt),
        };
        (newest + window).max((self.overtaken * 9 / 8).min(srtt * 2))
    }

    fn detect(&mut self, mss: usize, now: Instant, rtte: &RttEstimator) {
        if matches!(self.timer, Some(Timer::Reorder(_))) {
            self.timer = None;
        }
        let Some((newest, rtt)) = self.newest else {
            return;
        };
        if !self.selective || self.board.flight() == 0 {
            return;
        }
        let patience = self.patience(rtt, mss, rtte);
        let (_, wait) = self.board.detect(newest, patience, now);
        if let Some(wait) = wait {
            self.timer = Some(Timer::Reorder(now + wait));
        }
    }

    /// Begins a recovery, where something is lost and there is none yet.
    fn recover(
        &mut self,
        una: TcpSeqNumber,
        nxt: TcpSeqNumber,
        before: usize,
        now: Instant,
        controller: &mut dyn Controller,
    ) {
        if self.phase != Phase::Open || self.board.lost() == 0 {
            return;
        }
        self.phase = Phase::Recovery;
        self.recover = nxt;
        self.undo = Some(Undo {
            from: una,
            resent: 0,
        });
        self.probe = None;
        if matches!(self.timer, Some(Timer::Probe(_))) {
            self.timer = None;
        }
        controller.on_loss(now, self.most_in_flight());
        (self.prr_delivered, self.prr_out, self.prr_flight) = (0, 0, before.max(1));
    }

    fn most_in_flight(&self) -> usize {
        self.flights[0].max(self.flights[1])
    }

    /// How much may be in flight in a recovery, after so much has arrived.
    fn reduce(
        &mut self,
        delivered: usize,
        advances: bool,
        mss: usize,
        controller: &dyn Controller,
    ) {
        self.prr_delivered += delivered;
        let (flight, ssthresh) = (self.flight(), controller.ssthresh());
        let more = if flight > ssthresh {
            let share = (self.prr_delivered as u64)
                .saturating_mul(ssthresh as u64)
                .div_ceil(self.prr_flight as u64);
            (share as usize).saturating_sub(self.prr_out)
        } else {
            let most = self
                .prr_delivered
                .saturating_sub(self.prr_out)
                .max(delivered);
            (ssthresh - flight).min(most + if advances { mss } else { 0 })
        };
        // What is lost is sent again at once.
        let more = if self.prr_out == 0 {
            more.max(mss)
        } else {
            more
        };
        self.prr_window = flight.saturating_add(more);
    }

    /// Takes account of an acknowledgment.
    pub(super) fn on_ack(
        &mut self,
        ack: Ack,
        rtte: &mut RttEstimator,
        controller: &mut dyn Controller,
    ) {
        let Ack {
            now, una, nxt, mss, ..
        } = ack;
        let una_before = self.board.start();
        let acked = una - una_before;
        let before = self.flight();
        let lost_before = self.board.lost();
        let phase_before = self.phase;
        self.flights[0] = self.flights[0].max(before);

        let delivered = self.on_delivered(&ack, rtte, controller);
        let delivered = self.on_duplicates(&ack, acked, delivered);
        self.on_probe_ack(&ack, acked, controller);

        if acked > 0 {
            self.timeouts = 0;
            self.probing = false;
            if una >= self.round {
                self.round = nxt;
                self.flights = [0, self.flights[0]];
                controller.on_round();
            }
        }
        if self.phase != Phase::Open && una >= self.recover {
            self.phase = Phase::Open;
            self.arrived = 0;
            self.persistence = self.persistence.saturating_sub(1);
            if self.persistence == 0 {
                (self.patience, self.overtaken) = (0, Duration::ZERO);
            }
        }

        self.detect(mss, now, rtte);
        self.recover(una, nxt, before, now, controller);
        if self.phase == Phase::Recovery {
            let advances = acked > 0 && self.board.lost() <= lost_before;
            self.reduce(delivered, advances, mss, controller);
        }
        self.undo(controller);
        if acked > 0 && phase_before != Phase::Recovery && self.phase != Phase::Recovery {
            controller.on_ack(now, acked, self.most_in_flight(), rtte);
        }
        if acked > 0 || matches!(self.timer, Some(Timer::Probe(_))) && self.board.sacked() > 0 {
            self.set_probe(mss, now, rtte);
        }
    }

    /// Takes out what is acknowledged, and learns from when it was sent; how much of it is news.
    fn on_delivered(
        &mut self,
        ack: &Ack,
        rtte: &mut RttEstimator,
        controller: &mut dyn Controller,
    ) -> usize {
        let Ack { now, una, nxt, .. } = *ack;
        let mut tally = Tally {
            now,
            highest: self.board.highest_sacked().unwrap_or(self.board.start()),
            min_rtt: self.min_rtt(),
            delivered: 0,
            newest: self.newest,
            fresh: None,
            overtaken: None,
        };
        self.board.acked(una, |news| tally.note(news));
        // What is acknowledged selectively may have overtaken all else, and does not tell how long the way is.
        let in_order = tally.fresh;
        if self.selective {
            for (left, right) in ack.sacks.into_iter().flatten().map(block) {
                if una < left && left < right && right <= nxt {
                    self.board.sack(left, right, |news| tally.note(news));
                }
            }
        }
        self.newest = tally.newest;
        if let Some(overtaken) = tally.overtaken {
            self.reordered = true;
            if overtaken > self.overtaken {
                (self.overtaken, self.persistence) = (overtaken, PERSISTENCE);
            }
        }
        if let Some((first, last)) = in_order {
            rtte.sample(since(now, first));
            let rtt = since(now, last);
            controller.on_rtt(rtt);
            match self.min_rtt {
                Some((least, at)) if least <= rtt && since(now, at) < MIN_RTT_LIFETIME => (),
                _ => self.min_rtt = Some((rtt, now)),
            }
        }
        if self.selective {
            self.on_dsack(ack);
        }
        tally.delivered
    }

    /// The peer tells that it has received something twice: the first block says so where it is acknowledged already, or
    /// part of the second one (RFC 2883).
    fn on_dsack(&mut self, ack: &Ack) {
        let Some((left, right)) = ack.sacks[0].map(block) else {
            return;
        };
        let inside = ack.sacks[1]
            .map(block)
            .is_some_and(|(first, last)| first <= left && right <= last);
        if left >= right || !(right <= ack.una || inside && right <= ack.nxt) {
            return;
        }
        if self
            .probe
            .is_some_and(|probe| probe.again && probe.end == right)
        {
            // Both have arrived.
            self.probe = None;
            return;
        }
        let Some(undo) = &mut self.undo else { return };
        if left < undo.from || undo.resent == 0 {
            return;
        }
        undo.resent = undo.resent.saturating_sub(right - left);
        self.reordered = true;
        self.persistence = PERSISTENCE;
        if self.lesson.is_none_or(|end| ack.una >= end) {
            self.patience = (self.patience + 1).min(64);
            self.lesson = Some(ack.nxt);
        }
    }

    /// Without selective acknowledgment: each duplicate says that a segment has arrived, and the third one that the first
    /// is lost. So is what follows a part that is acknowledged in a recovery. How much has arrived with this one.
    fn on_duplicates(&mut self, ack: &Ack, acked: usize, delivered: usize) -> usize {
        if self.selective {
            return delivered;
        }
        let mss = ack.mss;
        if acked > 0 {
            let told = core::mem::take(&mut self.arrived);
            if self.phase == Phase::Recovery && ack.una < self.recover {
                self.arrived = told.saturating_sub(acked.saturating_sub(mss));
                if !self.board.is_front_again() {
                    self.board.lose_front(mss);
                }
                return acked.saturating_sub(told).max(mss.min(acked));
            }
            return acked;
        }
        if ack.duplicates == 0 || self.phase == Phase::Loss {
            return 0;
        }
        self.arrived = (self.arrived + mss).min(self.board.flight().saturating_sub(mss));
        if usize::from(ack.duplicates) == DUP_THRESHOLD && self.phase == Phase::Open {
            self.board.lose_front(mss);
        }
        mss
    }

    /// What the probe has brought to light: if only it has arrived, what it repeated was lost.
    fn on_probe_ack(&mut self, ack: &Ack, acked: usize, controller: &mut dyn Controller) {
        let Some(probe) = self.probe else { return };
        if ack.una < probe.end {
            return;
        }
        if !probe.again || (acked == 0 && ack.una == probe.end) {
            self.probe = None;
        } else if ack.una > probe.end {
            self.probe = None;
            if self.phase == Phase::Open {
                controller.on_loss(ack.now, self.most_in_flight());
            }
        }
    }

    /// Takes back a reduction where nothing was lost.
    fn undo(&mut self, controller: &mut dyn Controller) {
        let Some(undo) = self.undo else { return };
        if undo.resent > 0 || self.board.lost() > 0 {
            return;
        }
        // Not even sent again, or received twice.
        self.undo = None;
        controller.on_undo();
        self.phase = Phase::Open;
        self.arrived = 0;
    }

    /// Does what the time has come for.
    pub(super) fn on_timer(
        &mut self,
        (una, nxt): (TcpSeqNumber, TcpSeqNumber),
        mss: usize,
        now: Instant,
        rtte: &RttEstimator,
        controller: &mut dyn Controller,
    ) {
        match self.timer {
            Some(Timer::Reorder(at)) if at <= now => {
                let before = self.flight();
                self.detect(mss, now, rtte);
                self.recover(una, nxt, before, now, controller);
                if self.phase == Phase::Recovery {
                    self.reduce(0, false, mss, controller);
                }
            }
            Some(Timer::Probe(at)) if at <= now => {
                self.timer = None;
                self.probing = self.board.flight() > 0;
            }
            _ => (),
        }
    }

    /// The retransmission timer has expired: all is lost that the peer is not known to have.
    pub(super) fn on_timeout(
        &mut self,
        nxt: TcpSeqNumber,
        now: Instant,
        controller: &mut dyn Controller,
    ) {
        let again = match self.phase {
            Phase::Open => false,
            Phase::Recovery => true,
            Phase::Loss => self.timeouts > 0,
        };
        let flight = self.most_in_flight().max(self.flight());
        controller.on_timeout(now, flight, again);
        if !again {
            self.undo = Some(Undo {
                from: self.board.start(),
                resent: 0,
            });
        }
        self.board.lose_all();
        (self.phase, self.recover, self.arrived) = (Phase::Loss, nxt, 0);
        (self.timer, self.probe, self.probing) = (None, None, false);
        self.timeouts += 1;
    }
}

/// What an acknowledgment tells.
struct Tally {
    now: Instant,
    /// What had arrived before of what was sent last.
    highest: TcpSeqNumber,
    min_rtt: Option<Duration>,
    delivered: usize,
    newest: Option<(Sent, Duration)>,
    /// When the oldest and the newest was sent of what was sent once.
    fresh: Option<(Instant, Instant)>,
    /// How long at most it took what was overtaken.
    overtaken: Option<Duration>,
}

impl Tally {
    fn note(&mut self, news: News) {
        self.delivered += news.len;
        let rtt = since(self.now, news.earliest);
        if news.again {
            // Perhaps what was sent first has arrived.
            if self.min_rtt.is_some_and(|least| rtt < least) {
                return;
            }
        } else {
            let (first, last) = self.fresh.unwrap_or((news.earliest, news.earliest));
            self.fresh = Some((first.min(news.earliest), last.max(news.earliest)));
            if news.sent.end < self.highest {
                self.overtaken = self.overtaken.max(Some(rtt));
            }
        }
        if self
            .newest
            .is_none_or(|(newest, _)| newest.is_before(&news.sent))
        {
            self.newest = Some((news.sent, rtt));
        }
    }
}

fn block((left, right): (u32, u32)) -> (TcpSeqNumber, TcpSeqNumber) {
    (TcpSeqNumber(left as i32), TcpSeqNumber(right as i32))
}

fn since(now: Instant, then: Instant) -> Duration {
    Duration::from_micros(
        now.total_micros()
            .saturating_sub(then.total_micros())
            .max(0) as u64,
    )
}
