use crate::config::ASSEMBLER_MAX_SEGMENT_COUNT;
use crate::time::{Duration, Instant};
use crate::wire::TcpSeqNumber;

/// Each hole of the peer's is a run here, and so is what lies between two of them; what was sent at other times
/// as well.
const MAX_RUNS: usize = 4 * ASSEMBLER_MAX_SEGMENT_COUNT;

/// Memory for as many as there have been at once; most connections never have more than a few.
#[cfg(feature = "alloc")]
type Runs = alloc::vec::Vec<Run>;
#[cfg(not(feature = "alloc"))]
type Runs = heapless::Vec<Run, MAX_RUNS>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub(super) enum State {
    /// On its way, for all that is known.
    Flight,
    /// To be sent again.
    Lost,
    /// The peer has it.
    Sacked,
}

/// Bytes that were sent in a row and share their fate. A run begins where the one before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Run {
    end: TcpSeqNumber,
    /// When the first and the last of it was sent, the last time.
    first: Instant,
    last: Instant,
    state: State,
    /// It was sent more than once.
    again: bool,
}

/// A time and place in what was sent, in the order of sending.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) end: TcpSeqNumber,
}

impl Sent {
    pub(super) fn is_before(&self, other: &Sent) -> bool {
        self.at < other.at || (self.at == other.at && self.end < other.end)
    }
}

/// What an acknowledgment has told about a run, for the first time.
#[derive(Debug, Clone, Copy)]
pub(super) struct News {
    pub(super) sent: Sent,
    /// When it was sent at the earliest: runs join what was sent at about the same time.
    pub(super) earliest: Instant,
    pub(super) again: bool,
    pub(super) len: usize,
}

/// What is known of bytes that were sent and are not acknowledged: a bounded number of runs. Where there is no room for
/// more, what the peer says goes unheard; nothing is sent less often for it than it has to be.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub(super) struct Scoreboard {
    start: TcpSeqNumber,
    runs: Runs,
    /// Bytes in these states.
    sacked: usize,
    lost: usize,
}

impl Scoreboard {
    pub(super) const fn new() -> Scoreboard {
        Scoreboard {
            start: TcpSeqNumber(0),
            runs: Runs::new(),
            sacked: 0,
            lost: 0,
        }
    }

    pub(super) fn start(&self) -> TcpSeqNumber {
        self.start
    }

    fn end(&self) -> TcpSeqNumber {
        self.runs.last().map_or(self.start, |run| run.end)
    }

    /// There is room for it.
    fn insert(&mut self, index: usize, run: Run) {
        debug_assert!(self.runs.len() < MAX_RUNS);
        let _ = self.runs.insert(index, run);
    }

    fn start_of(&self, index: usize) -> TcpSeqNumber {
        match index {
            0 => self.start,
            _ => self.runs[index - 1].end,
        }
    }

    pub(super) fn sacked(&self) -> usize {
        self.sacked
    }

    pub(super) fn lost(&self) -> usize {
        self.lost
    }

    /// Bytes that are on their way.
    pub(super) fn flight(&self) -> usize {
        self.end() - self.start - self.sacked - self.lost
    }

    /// The end of the last run that the peer has, if it has any.
    pub(super) fn highest_sacked(&self) -> Option<TcpSeqNumber> {
        if self.sacked == 0 {
            return None;
        }
        self.runs
            .iter()
            .rev()
            .find(|run| run.state == State::Sacked)
            .map(|run| run.end)
    }

    /// Makes this about what lies between these two, whatever it was about before.
    pub(super) fn cover(&mut self, una: TcpSeqNumber, nxt: TcpSeqNumber, now: Instant) {
        if una < self.start || nxt < self.end() || self.end() < una {
            *self = Scoreboard::new();
        }
        if self.runs.is_empty() {
            self.start = una;
        }
        if self.end() < nxt {
            self.sent(self.end(), nxt, now, Duration::ZERO);
        }
    }

    fn count(&mut self) {
        (self.sacked, self.lost) = (0, 0);
        let mut start = self.start;
        for run in self.runs.iter() {
            match run.state {
                State::Flight => (),
                State::Lost => self.lost += run.end - start,
                State::Sacked => self.sacked += run.end - start,
            }
            start = run.end;
        }
    }

    /// Joins neighbours that differ in nothing but a little time.
    fn compact(&mut self, granule: Duration) {
        let mut kept = 0;
        for index in 0..self.runs.len() {
            let run = self.runs[index];
            if kept > 0 {
                let last = &mut self.runs[kept - 1];
                let same = last.state == run.state
                    && (run.state == State::Sacked
                        || (last.again == run.again && near(last.first, run.last, granule)));
                if same {
                    last.end = run.end;
                    last.first = last.first.min(run.first);
                    last.last = last.last.max(run.last);
                    continue;
                }
            }
            self.runs[kept] = run;
            kept += 1;
        }
        self.runs.truncate(kept);
    }

    /// What follows all else is sent for the first time. What is sent within a `granule` counts as sent at once.
    pub(super) fn sent(
        &mut self,
        start: TcpSeqNumber,
        end: TcpSeqNumber,
        now: Instant,
        granule: Duration,
    ) {
        debug_assert!(start == self.end() || self.runs.is_empty());
        if self.runs.is_empty() {
            self.start = start;
        }
        if self.runs.len() == MAX_RUNS {
            self.compact(Duration::from_secs(1));
        }
        if !self.runs.is_empty() {
            let full = self.runs.len() == MAX_RUNS;
            let index = self.runs.len() - 1;
            let last = &mut self.runs[index];
            let same = last.state == State::Flight && !last.again;
            if full || (same && near(last.first, now, granule)) {
                (last.end, last.last) = (end, now);
                if !same {
                    (last.state, last.first) = (State::Flight, now);
                    self.count();
                }
                return;
            }
        }
        self.insert(
            self.runs.len(),
            Run {
                end,
                first: now,
                last: now,
                state: State::Flight,
                again: false,
            },
        );
    }

    /// Has a run begin at this place, which is in the middle of what was sent; its index.
    fn split(&mut self, at: TcpSeqNumber) -> Option<usize> {
        let index = self.runs.iter().position(|run| at < run.end)?;
        if at == self.start_of(index) {
            return Some(index);
        }
        if self.runs.len() == MAX_RUNS {
            return None;
        }
        let run = self.runs[index];
        self.insert(index, Run { end: at, ..run });
        Some(index + 1)
    }

    /// The peer has all before `una`. Tells what it was not known to have.
    pub(super) fn acked(&mut self, una: TcpSeqNumber, mut news: impl FnMut(News)) {
        let mut whole = 0;
        while whole < self.runs.len() && self.start < una {
            let run = self.runs[whole];
            let end = run.end.min(una);
            let len = end - self.start;
            match run.state {
                State::Sacked => self.sacked -= len,
                State::Lost => self.lost -= len,
                State::Flight => (),
            }
            if run.state != State::Sacked {
                news(News {
                    sent: Sent { at: run.last, end },
                    earliest: run.first,
                    again: run.again,
                    len,
                });
            }
            self.start = end;
            whole += usize::from(end == run.end);
        }
        if whole > 0 {
            self.runs.copy_within(whole.., 0);
            self.runs.truncate(self.runs.len() - whole);
        }
        if self.runs.is_empty() {
            self.start = una;
        }
    }

    /// The peer has what lies between these two, which were sent. Tells what it was not known to have.
    pub(super) fn sack(
        &mut self,
        left: TcpSeqNumber,
        right: TcpSeqNumber,
        mut news: impl FnMut(News),
    ) {
        let (left, right) = (left.max(self.start), right.min(self.end()));
        if left >= right {
            return;
        }
        // For the most part it is known.
        let first = self.runs.iter().position(|run| left < run.end).unwrap_or(0);
        if self.runs[first].state == State::Sacked && right <= self.runs[first].end {
            return;
        }
        if self.runs.len() + 2 > MAX_RUNS {
            self.compact(Duration::from_millis(1));
        }
        if self.runs.len() + 2 > MAX_RUNS {
            self.compact(Duration::from_secs(1));
        }
        let Some(first) = self.split(left) else {
            return;
        };
        let last = match right == self.end() {
            true => Some(self.runs.len()),
            false => self.split(right),
        };
        let Some(last) = last else { return };
        for index in first..last {
            let start = self.start_of(index);
            let run = &mut self.runs[index];
            let len = run.end - start;
            match run.state {
                State::Sacked => continue,
                State::Lost => self.lost -= len,
                State::Flight => (),
            }
            self.sacked += len;
            run.state = State::Sacked;
            news(News {
                sent: Sent {
                    at: run.last,
                    end: run.end,
                },
                earliest: run.first,
                again: run.again,
                len,
            });
        }
        self.join(first.saturating_sub(1), last.min(self.runs.len() - 1));
    }

    /// Joins what the peer has among these runs.
    fn join(&mut self, first: usize, last: usize) {
        let mut index = last;
        while index > first {
            if self.runs[index].state == State::Sacked
                && self.runs[index - 1].state == State::Sacked
            {
                self.runs[index - 1].end = self.runs[index].end;
                self.runs.remove(index);
            }
            index -= 1;
        }
    }

    /// The first bytes that are lost.
    pub(super) fn first_lost(&self) -> Option<(TcpSeqNumber, TcpSeqNumber)> {
        if self.lost == 0 {
            return None;
        }
        let index = self.runs.iter().position(|run| run.state == State::Lost)?;
        Some((self.start_of(index), self.runs[index].end))
    }

    /// Whether the first bytes were sent more than once.
    pub(super) fn is_front_again(&self) -> bool {
        !self.runs.is_empty() && self.runs[0].again
    }

    /// Bytes are sent again.
    pub(super) fn resent(&mut self, start: TcpSeqNumber, end: TcpSeqNumber, now: Instant) {
        let (start, end) = (start.max(self.start), end.min(self.end()));
        if start >= end {
            return;
        }
        if self.runs.len() + 2 > MAX_RUNS {
            self.compact(Duration::from_secs(1));
        }
        let first = self
            .split(start)
            .or_else(|| self.runs.iter().position(|run| start < run.end));
        let Some(first) = first else { return };
        // Where there is no room, more than this counts as sent.
        let last = match end == self.end() {
            true => self.runs.len(),
            false => self.split(end).unwrap_or(first + 1),
        };
        for run in &mut self.runs[first..last] {
            if run.state != State::Sacked {
                (run.state, run.again) = (State::Flight, true);
                (run.first, run.last) = (now, now);
            }
        }
        // What is sent again in the same moment is one run.
        if first > 0 {
            let (before, run) = (self.runs[first - 1], self.runs[first]);
            if before.state == State::Flight
                && run.state == State::Flight
                && before.again
                && before.first == now
            {
                self.runs.remove(first - 1);
            }
        }
        self.count();
    }

    /// So many bytes at the front are lost.
    pub(super) fn lose_front(&mut self, len: usize) {
        if self.runs.is_empty() {
            return;
        }
        let end = self.start + len.min(self.end() - self.start);
        let last = match end == self.end() {
            true => self.runs.len(),
            false => self.split(end).unwrap_or(1),
        };
        for run in &mut self.runs[..last] {
            if run.state != State::Sacked {
                run.state = State::Lost;
            }
        }
        self.count();
    }

    /// All is lost that the peer is not known to have; and what it has said is not to be believed if it
    /// lacks the first of it now.
    pub(super) fn lose_all(&mut self) {
        let reneged = !self.runs.is_empty() && self.runs[0].state == State::Sacked;
        for run in self.runs.iter_mut() {
            if run.state == State::Flight || reneged {
                run.state = State::Lost;
            }
        }
        self.compact(Duration::MAX);
        self.count();
    }

    /// Nothing is lost after all of what was not sent again.
    pub(super) fn lose_nothing(&mut self) {
        for run in self.runs.iter_mut() {
            if run.state == State::Lost {
                run.state = State::Flight;
            }
        }
        self.lost = 0;
    }

    /// What was sent before `newest` and should have arrived by now is lost: it had so much `time`. Returns how much is
    /// lost now that was not, and how long it takes until more is.
    pub(super) fn detect(
        &mut self,
        newest: Sent,
        time: Duration,
        now: Instant,
    ) -> (usize, Option<Duration>) {
        let (mut start, mut lost, mut wait) = (self.start, 0, None::<Duration>);
        let before = self.lost;
        for run in self.runs.iter_mut() {
            let sent = Sent {
                at: run.last,
                end: run.end,
            };
            if run.state == State::Flight && sent.is_before(&newest) {
                let deadline = run.last + time;
                if deadline <= now {
                    run.state = State::Lost;
                    lost += run.end - start;
                } else {
                    wait = wait.max(Some(deadline - now));
                }
            }
            start = run.end;
        }
        self.lost = before + lost;
        (lost, wait)
    }
}

fn near(first: Instant, second: Instant, granule: Duration) -> bool {
    first.total_micros().abs_diff(second.total_micros()) <= granule.total_micros()
}

#[cfg(test)]
mod test {
    use super::*;
    use std::vec::Vec;

    fn seq(number: i32) -> TcpSeqNumber {
        // Across the wrap.
        TcpSeqNumber(i32::MAX.wrapping_add(number - 50))
    }

    fn at(millis: i64) -> Instant {
        Instant::from_millis(millis)
    }

    /// 100 bytes, of which each ten were sent in another millisecond.
    fn board() -> Scoreboard {
        let mut board = Scoreboard::new();
        for index in 0..10 {
            board.sent(
                seq(index * 10),
                seq(index * 10 + 10),
                at(index.into()),
                Duration::ZERO,
            );
        }
        board
    }

    fn sack(board: &mut Scoreboard, left: i32, right: i32) -> usize {
        let mut len = 0;
        board.sack(seq(left), seq(right), |news| len += news.len);
        check(board);
        len
    }

    fn check(board: &Scoreboard) {
        let mut again = board.clone();
        again.count();
        assert_eq!((again.sacked, again.lost), (board.sacked, board.lost));
        for index in 0..board.runs.len() {
            assert!(board.start_of(index) < board.runs[index].end);
        }
    }

    #[test]
    fn acknowledgments_are_news_once() {
        let mut board = board();
        assert_eq!(board.flight(), 100);
        assert_eq!(sack(&mut board, 25, 45), 20);
        assert_eq!(sack(&mut board, 25, 45), 0);
        assert_eq!(sack(&mut board, 20, 50), 10);
        assert_eq!((board.flight(), board.sacked()), (70, 30));
        assert_eq!(board.highest_sacked(), Some(seq(50)));
        let mut news = Vec::new();
        board.acked(seq(55), |new| news.push((new.len, new.sent.at)));
        assert_eq!(news, [(10, at(0)), (10, at(1)), (5, at(5))]);
        assert_eq!((board.flight(), board.sacked()), (45, 0));
        check(&board);
        board.acked(seq(100), |_| ());
        assert_eq!((board.flight(), board.runs.len()), (0, 0));
    }

    #[test]
    fn what_was_not_sent_is_not_acknowledged() {
        let mut board = board();
        for (left, right) in [
            (-10, 0),
            (100, 110),
            (50, 50),
            (60, 50),
            (200, 300),
            (-300, -200),
        ] {
            assert_eq!(sack(&mut board, left, right), 0, "{left} {right}");
        }
        assert_eq!(sack(&mut board, -10, 5), 5);
        assert_eq!(sack(&mut board, 95, 500), 5);
    }

    #[test]
    fn what_was_sent_before_is_lost_in_time() {
        let mut board = board();
        sack(&mut board, 50, 60);
        let newest = Sent {
            at: at(5),
            end: seq(60),
        };
        let time = Duration::from_millis(100);
        assert_eq!(
            board.detect(newest, time, at(100)),
            (10, Some(Duration::from_millis(4)))
        );
        assert_eq!(board.first_lost(), Some((seq(0), seq(10))));
        assert_eq!(board.detect(newest, time, at(110)), (40, None));
        assert_eq!((board.flight(), board.lost()), (40, 50));
        check(&board);
        board.resent(seq(0), seq(10), at(110));
        board.resent(seq(10), seq(25), at(110));
        assert_eq!(board.first_lost(), Some((seq(25), seq(30))));
        assert_eq!((board.flight(), board.lost()), (65, 25));
        check(&board);
        // It is not lost again before something is acknowledged that was sent later.
        assert_eq!(board.detect(newest, time, at(1000)), (0, None));
        let newest = Sent {
            at: at(111),
            end: seq(40),
        };
        assert_eq!(board.detect(newest, time, at(1000)).0, 65);
        board.lose_all();
        assert_eq!((board.flight(), board.lost()), (0, 90));
        board.lose_nothing();
        assert_eq!((board.flight(), board.lost()), (90, 0));
    }

    #[test]
    fn a_peer_that_reneges_is_not_believed() {
        let mut board = board();
        sack(&mut board, 0, 10);
        sack(&mut board, 20, 30);
        board.lose_all();
        assert_eq!((board.lost(), board.sacked()), (100, 0));
    }

    #[test]
    fn there_are_no_more_runs_than_there_is_room_for() {
        let mut board = Scoreboard::new();
        for index in 0..1000 {
            board.sent(
                seq(index * 10),
                seq(index * 10 + 10),
                at(i64::from(index) * 5000),
                Duration::ZERO,
            );
            check(&board);
        }
        assert_eq!(board.flight(), 10_000);
        for index in 0..1000 {
            sack(&mut board, index * 10 + 3, index * 10 + 5);
            board.resent(seq(index * 10 + 7), seq(index * 10 + 8), at(index.into()));
            check(&board);
        }
        board.sent(seq(10_000), seq(10_010), at(1), Duration::ZERO);
        assert_eq!(board.end(), seq(10_010));
        check(&board);
        board.lose_front(55);
        check(&board);
        board.acked(seq(9999), |_| ());
        check(&board);
        board.cover(seq(9999), seq(10_020), at(2));
        assert_eq!(board.flight() + board.sacked() + board.lost(), 21);
        board.cover(seq(20_000), seq(20_000), at(2));
        assert_eq!((board.flight(), board.runs.len()), (0, 0));
    }
}
