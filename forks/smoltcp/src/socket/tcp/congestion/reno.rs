use crate::socket::tcp::RttEstimator;
use crate::time::{Duration, Instant};

use super::{Controller, after_idle, initial_window, is_limit};

/// RFC 5681, with the initial window of RFC 6928.
#[derive(Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Reno {
    cwnd: usize,
    mss: usize,
    ssthresh: usize,
    /// Acknowledged bytes that the window has not grown for yet.
    acked: usize,
    /// Window and threshold before the last loss.
    prior: (usize, usize),
}

impl Reno {
    pub fn new() -> Self {
        Reno {
            cwnd: initial_window(super::super::DEFAULT_MSS),
            mss: super::super::DEFAULT_MSS,
            ssthresh: usize::MAX,
            acked: 0,
            prior: (0, 0),
        }
    }

    fn reduce(&mut self, flight: usize) {
        self.prior = (self.cwnd, self.ssthresh);
        self.ssthresh = (self.cwnd.min(flight) / 2).max(2 * self.mss);
        self.acked = 0;
    }
}

impl Controller for Reno {
    fn window(&self) -> usize {
        self.cwnd
    }

    fn ssthresh(&self) -> usize {
        self.ssthresh
    }

    fn on_ack(&mut self, _now: Instant, len: usize, flight: usize, _rtt: &RttEstimator) {
        let slow_start = self.cwnd < self.ssthresh;
        if !is_limit(self.cwnd, flight, self.mss, slow_start) {
            return;
        }
        if slow_start {
            self.cwnd = self.cwnd.saturating_add(len).min(self.ssthresh);
        } else {
            self.acked += len;
            if self.acked >= self.cwnd {
                self.acked -= self.cwnd;
                self.cwnd += self.mss;
            }
        }
    }

    fn on_loss(&mut self, _now: Instant, flight: usize) {
        self.reduce(flight);
        self.cwnd = self.ssthresh;
    }

    fn on_timeout(&mut self, _now: Instant, flight: usize, again: bool) {
        if !again {
            self.reduce(flight);
        }
        self.cwnd = self.mss;
    }

    fn on_undo(&mut self) {
        self.cwnd = self.cwnd.max(self.prior.0);
        self.ssthresh = self.ssthresh.max(self.prior.1);
    }

    fn on_idle(&mut self, idle: Duration, rto: Duration) {
        self.cwnd = after_idle(self.cwnd, self.mss, idle, rto);
    }

    fn set_mss(&mut self, mss: usize) {
        self.mss = mss;
        self.cwnd = initial_window(mss);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const MSS: usize = 1460;

    fn reno() -> Reno {
        let mut reno = Reno::new();
        reno.set_mss(MSS);
        reno
    }

    fn acks(reno: &mut Reno, len: usize, flight: usize) {
        reno.on_ack(Instant::ZERO, len, flight, &RttEstimator::default());
    }

    #[test]
    fn reno_grows_by_what_is_acknowledged_then_by_a_segment_in_a_window() {
        let mut reno = reno();
        assert_eq!(reno.window(), 10 * MSS);
        acks(&mut reno, 4 * MSS, 10 * MSS);
        assert_eq!(reno.window(), 14 * MSS);
        reno.on_loss(Instant::ZERO, 14 * MSS);
        assert_eq!((reno.window(), reno.ssthresh()), (7 * MSS, 7 * MSS));
        for _ in 0..7 {
            assert_eq!(reno.window(), 7 * MSS);
            acks(&mut reno, MSS, 7 * MSS);
        }
        assert_eq!(reno.window(), 8 * MSS);
    }

    #[test]
    fn reno_does_not_grow_unused() {
        let mut reno = reno();
        acks(&mut reno, 4 * MSS, 5 * MSS);
        assert_eq!(reno.window(), 10 * MSS);
        reno.on_idle(Duration::from_secs(100), Duration::from_secs(1));
        assert_eq!(reno.window(), 10 * MSS);
        reno.cwnd = 100 * MSS;
        reno.on_idle(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(reno.window(), 50 * MSS);
        reno.on_idle(Duration::from_secs(100), Duration::from_secs(1));
        assert_eq!(reno.window(), 10 * MSS);
    }

    #[test]
    fn reno_timeout_and_undo() {
        let mut reno = reno();
        reno.on_timeout(Instant::ZERO, 10 * MSS, false);
        assert_eq!((reno.window(), reno.ssthresh()), (MSS, 5 * MSS));
        reno.on_timeout(Instant::ZERO, MSS, true);
        assert_eq!((reno.window(), reno.ssthresh()), (MSS, 5 * MSS));
        reno.on_undo();
        assert_eq!((reno.window(), reno.ssthresh()), (10 * MSS, usize::MAX));
    }
}
