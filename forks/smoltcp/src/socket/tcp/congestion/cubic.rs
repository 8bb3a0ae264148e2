use crate::socket::tcp::RttEstimator;
use crate::time::{Duration, Instant};

use super::{Controller, after_idle, initial_window, is_limit};

// RFC 9438: beta is 0.7, C is 0.4, and the Reno-friendly window grows by 3 * (1 - beta) / (1 + beta) segments in a
// round trip. All is computed with integers: bytes, and milliseconds.
const BETA: (usize, usize) = (7, 10);
/// The window is this part of itself where it was lower than the time before (fast convergence).
const CONVERGENCE: (usize, usize) = (17, 20);
const ALPHA: (u64, u64) = (9, 17);

// HyStart++, RFC 9406.
const MIN_RTT_THRESH: Duration = Duration::from_millis(4);
const MAX_RTT_THRESH: Duration = Duration::from_millis(16);
const MIN_RTT_DIVISOR: u32 = 8;
const N_RTT_SAMPLE: u32 = 8;
const CSS_GROWTH_DIVISOR: usize = 4;
const CSS_ROUNDS: u32 = 5;

/// The end of slow start before something is lost: when round trips begin to take longer, the window grows slowly, and
/// if that goes on, slow start ends.
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct HyStart {
    last_min_rtt: Option<Duration>,
    min_rtt: Option<Duration>,
    samples: u32,
    /// In conservative slow start: the least round-trip time when it began, and its rounds.
    conservative: Option<(Duration, u32)>,
}

impl HyStart {
    /// Whether slow start is over.
    fn on_round(&mut self) -> bool {
        (self.last_min_rtt, self.min_rtt, self.samples) = (self.min_rtt, None, 0);
        if let Some((_, rounds)) = &mut self.conservative {
            *rounds += 1;
            return *rounds >= CSS_ROUNDS;
        }
        false
    }

    fn on_rtt(&mut self, rtt: Duration) {
        let least = self.min_rtt.map_or(rtt, |least| least.min(rtt));
        self.min_rtt = Some(least);
        self.samples += 1;
        if self.samples < N_RTT_SAMPLE {
            return;
        }
        if let Some((baseline, _)) = self.conservative {
            if least < baseline {
                self.conservative = None;
            }
        } else if let Some(last) = self.last_min_rtt {
            let threshold = (last / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
            if least >= last + threshold {
                self.conservative = Some((least, 0));
            }
        }
    }
}

/// What a loss changes.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Curve {
    cwnd: usize,
    ssthresh: usize,
    /// The window before the last loss, less for fast convergence.
    w_max: usize,
    /// The window before the last loss.
    cwnd_prior: usize,
    /// When the window's growth by the cubic function began.
    epoch: Option<Instant>,
    /// Milliseconds from there to where the function is at `origin`.
    k: u64,
    origin: usize,
    /// The window of Reno.
    w_est: usize,
}

/// RFC 9438.
#[derive(Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Cubic {
    curve: Curve,
    mss: usize,
    hystart: HyStart,
    /// Parts of bytes that the windows have not grown for yet.
    credit: u64,
    credit_est: u64,
    last_ack: Instant,
    prior: Option<Curve>,
}

impl Cubic {
    pub fn new() -> Cubic {
        Cubic {
            curve: Curve {
                cwnd: initial_window(super::super::DEFAULT_MSS),
                ssthresh: usize::MAX,
                w_max: 0,
                cwnd_prior: 0,
                epoch: None,
                k: 0,
                origin: 0,
                w_est: 0,
            },
            mss: super::super::DEFAULT_MSS,
            hystart: HyStart::default(),
            credit: 0,
            credit_est: 0,
            last_ack: Instant::ZERO,
            prior: None,
        }
    }

    fn reduce(&mut self, flight: usize) {
        self.prior = Some(self.curve);
        let curve = &mut self.curve;
        // Where less was used, less is known to be too much.
        let cwnd = curve.cwnd.min(flight);
        curve.w_max = if cwnd < curve.w_max {
            cwnd / CONVERGENCE.1 * CONVERGENCE.0
        } else {
            cwnd
        };
        curve.cwnd_prior = cwnd;
        curve.ssthresh = (cwnd / BETA.1 * BETA.0).max(2 * self.mss);
        curve.epoch = None;
        self.hystart = HyStart::default();
    }

    /// The cubic function at so many milliseconds.
    fn window_at(&self, millis: u64) -> usize {
        // More than any window needs, and no more than what fits when it is cubed.
        let offset = millis.abs_diff(self.curve.k).min(1_000_000);
        // C * t^3, in segments and seconds: 4 / 10 / 10^9 of a cubed millisecond.
        let cubed = u128::from(offset).pow(3) * self.mss as u128 * 4 / 10_000_000_000;
        let change = usize::try_from(cubed).unwrap_or(usize::MAX);
        if millis < self.curve.k {
            self.curve.origin.saturating_sub(change)
        } else {
            self.curve.origin.saturating_add(change)
        }
    }

    fn begin(&mut self, now: Instant) {
        let mss = self.mss as u64;
        let curve = &mut self.curve;
        curve.epoch = Some(now);
        curve.w_est = curve.cwnd;
        (self.credit, self.credit_est) = (0, 0);
        if curve.cwnd < curve.w_max {
            curve.origin = curve.w_max;
            // In milliseconds: the cubic root of (w_max - cwnd) / C segments, times 1000.
            curve.k =
                cube_root(((curve.w_max - curve.cwnd) as u64).saturating_mul(2_500_000_000) / mss);
        } else {
            (curve.origin, curve.k) = (curve.cwnd, 0);
        }
    }

    fn avoid_congestion(&mut self, now: Instant, len: usize, rtt: &RttEstimator) {
        let epoch = match self.curve.epoch {
            Some(epoch) => epoch,
            None => {
                self.begin(now);
                now
            }
        };
        let passed = now
            .total_micros()
            .saturating_sub(epoch.total_micros())
            .max(0) as u64;
        let srtt = rtt.srtt().map_or(0, |srtt| srtt.total_micros());
        let target = self.window_at((passed + srtt) / 1000);
        let current = self.window_at(passed / 1000);
        let curve = &mut self.curve;
        let cwnd = curve.cwnd as u64;

        // What Reno would have.
        let (part, whole) = if curve.w_est >= curve.cwnd_prior {
            (1, 1)
        } else {
            ALPHA
        };
        self.credit_est += (self.mss as u64).saturating_mul(len as u64) / whole * part;
        curve.w_est += (self.credit_est / cwnd) as usize;
        self.credit_est %= cwnd;

        if current < curve.w_est {
            curve.cwnd = curve.cwnd.max(curve.w_est);
        } else {
            let target = target.clamp(curve.cwnd, curve.cwnd / 2 * 3);
            self.credit += ((target - curve.cwnd) as u64).saturating_mul(len as u64);
            curve.cwnd += (self.credit / cwnd) as usize;
            self.credit %= cwnd;
        }
    }
}

impl Controller for Cubic {
    fn window(&self) -> usize {
        self.curve.cwnd
    }

    fn ssthresh(&self) -> usize {
        self.curve.ssthresh
    }

    fn on_ack(&mut self, now: Instant, len: usize, flight: usize, rtt: &RttEstimator) {
        let slow_start = self.curve.cwnd < self.curve.ssthresh;
        let last = core::mem::replace(&mut self.last_ack, now);
        if !is_limit(self.curve.cwnd, flight, self.mss, slow_start) {
            // Such time does not count.
            if let Some(epoch) = &mut self.curve.epoch
                && now > last
            {
                *epoch += now - last;
            }
            return;
        }
        if !slow_start {
            return self.avoid_congestion(now, len, rtt);
        }
        let len = match self.hystart.conservative {
            Some(_) => len / CSS_GROWTH_DIVISOR,
            None => len,
        };
        self.curve.cwnd = self.curve.cwnd.saturating_add(len).min(self.curve.ssthresh);
    }

    fn on_rtt(&mut self, rtt: Duration) {
        if self.curve.cwnd < self.curve.ssthresh {
            self.hystart.on_rtt(rtt);
        }
    }

    fn on_round(&mut self) {
        if self.curve.cwnd < self.curve.ssthresh && self.hystart.on_round() {
            self.curve.ssthresh = self.curve.cwnd;
        }
    }

    fn on_loss(&mut self, _now: Instant, flight: usize) {
        self.reduce(flight);
        self.curve.cwnd = self.curve.ssthresh;
    }

    fn on_timeout(&mut self, _now: Instant, flight: usize, again: bool) {
        if !again {
            self.reduce(flight);
        }
        self.curve.epoch = None;
        self.curve.cwnd = self.mss;
    }

    fn on_undo(&mut self) {
        if let Some(prior) = self.prior.take() {
            let now = self.curve;
            self.curve = prior;
            self.curve.cwnd = prior.cwnd.max(now.cwnd);
        }
    }

    fn on_idle(&mut self, idle: Duration, rto: Duration) {
        let before = self.curve.cwnd;
        self.curve.cwnd = after_idle(before, self.mss, idle, rto);
        if self.curve.cwnd < before {
            // It has been found to be good once.
            self.curve.ssthresh = self.curve.ssthresh.max(before / 4 * 3);
        }
        self.curve.epoch = None;
    }

    fn set_mss(&mut self, mss: usize) {
        self.mss = mss;
        self.curve.cwnd = initial_window(mss);
    }
}

/// The largest integer whose cube is not more.
fn cube_root(value: u64) -> u64 {
    let mut root = 0_u64;
    // 2^22 cubed is more than a u64 holds.
    for bit in (0..22).rev() {
        let next = root | 1 << bit;
        if next * next * next <= value {
            root = next;
        }
    }
    root
}

#[cfg(test)]
mod test {
    use super::*;

    const MSS: usize = 1000;

    fn cubic() -> Cubic {
        let mut cubic = Cubic::new();
        cubic.set_mss(MSS);
        cubic
    }

    /// So much time with a full window, and an acknowledgment for each two segments.
    fn run(cubic: &mut Cubic, from: i64, to: i64, rtt: i64) {
        let mut estimator = RttEstimator::default();
        estimator.sample(Duration::from_millis(rtt as u64));
        for now in (from..to).step_by(rtt as usize) {
            cubic.on_round();
            let window = cubic.window();
            let mut acked = 0;
            while acked < window {
                let at =
                    Instant::from_micros(now * 1000 + rtt * 1000 * acked as i64 / window as i64);
                cubic.on_ack(at, 2 * MSS, window, &estimator);
                acked += 2 * MSS;
            }
        }
    }

    #[test]
    fn cubic_slow_start_doubles() {
        let mut cubic = cubic();
        assert_eq!(cubic.window(), 10 * MSS);
        run(&mut cubic, 0, 300, 100);
        assert_eq!(cubic.window(), 80 * MSS);
    }

    #[test]
    fn cubic_returns_to_where_it_lost() {
        let mut cubic = cubic();
        cubic.curve.cwnd = 1000 * MSS;
        cubic.on_loss(Instant::ZERO, 1000 * MSS);
        assert_eq!((cubic.window(), cubic.ssthresh()), (700 * MSS, 700 * MSS));
        // The cubic root of 300 segments / 0.4 is 9.08 s.
        let mut last = 0;
        for (second, least, most) in [
            (3, 890, 915),
            (6, 983, 992),
            (9, 998, 1002),
            (12, 1005, 1015),
            (15, 1070, 1100),
        ] {
            run(&mut cubic, last, second * 1000, 100);
            last = second * 1000;
            let window = cubic.window() / MSS;
            assert!(
                (least..=most).contains(&window),
                "{window} segments after {second} s"
            );
        }
    }

    #[test]
    fn cubic_is_no_slower_than_reno() {
        let mut cubic = cubic();
        cubic.curve.cwnd = 20 * MSS;
        cubic.on_loss(Instant::ZERO, 20 * MSS);
        assert_eq!(cubic.window(), 14 * MSS);
        // 0.53 segments in each round trip to where it was, then one.
        run(&mut cubic, 0, 110, 10);
        assert!(
            (19 * MSS..=21 * MSS).contains(&cubic.window()),
            "{}",
            cubic.window()
        );
        run(&mut cubic, 110, 310, 10);
        assert!(
            (36 * MSS..=42 * MSS).contains(&cubic.window()),
            "{}",
            cubic.window()
        );
    }

    #[test]
    fn cubic_converges() {
        let mut cubic = cubic();
        cubic.curve.cwnd = 100 * MSS;
        cubic.on_loss(Instant::ZERO, 100 * MSS);
        assert_eq!(cubic.curve.w_max, 100 * MSS);
        cubic.on_loss(Instant::ZERO, 70 * MSS);
        assert_eq!(cubic.curve.w_max, 59_500);
        // Of what was not used nothing is known.
        cubic.curve.cwnd = 100 * MSS;
        cubic.on_loss(Instant::ZERO, 20 * MSS);
        assert_eq!(cubic.window(), 14 * MSS);
        cubic.on_loss(Instant::ZERO, 0);
        assert_eq!(cubic.window(), 2 * MSS);
    }

    #[test]
    fn cubic_does_not_grow_unused() {
        let mut cubic = cubic();
        let rtt = RttEstimator::default();
        cubic.on_ack(Instant::ZERO, 10 * MSS, 5 * MSS, &rtt);
        assert_eq!(cubic.window(), 10 * MSS);
        cubic.on_loss(Instant::ZERO, 10 * MSS);
        run(&mut cubic, 0, 100, 10);
        let before = cubic.window();
        for second in 1..1000 {
            cubic.on_ack(Instant::from_secs(second), 2 * MSS, 2 * MSS, &rtt);
        }
        assert_eq!(cubic.window(), before);
        // Nor is there a jump afterwards for the time that has passed.
        run(&mut cubic, 999_000, 999_010, 10);
        assert!(
            cubic.window() <= before + 2 * MSS,
            "{} of {before}",
            cubic.window()
        );
    }

    #[test]
    fn cubic_timeout_and_undo() {
        let mut cubic = cubic();
        cubic.on_timeout(Instant::ZERO, 10 * MSS, false);
        assert_eq!((cubic.window(), cubic.ssthresh()), (MSS, 7 * MSS));
        cubic.on_timeout(Instant::ZERO, MSS, true);
        assert_eq!((cubic.window(), cubic.ssthresh()), (MSS, 7 * MSS));
        cubic.on_undo();
        assert_eq!((cubic.window(), cubic.ssthresh()), (10 * MSS, usize::MAX));
        cubic.on_undo();
        assert_eq!(cubic.window(), 10 * MSS);
    }

    #[test]
    fn cubic_slow_start_ends_when_queues_grow() {
        let mut cubic = cubic();
        let rtt = RttEstimator::default();
        let mut round = |cubic: &mut Cubic, millis: u64| {
            cubic.on_round();
            let window = cubic.window();
            for _ in 0..10 {
                cubic.on_rtt(Duration::from_millis(millis));
                cubic.on_ack(Instant::ZERO, window / 10, window, &rtt);
            }
            cubic.window() as f64 / window as f64
        };
        assert!(round(&mut cubic, 50) > 1.9);
        assert!(round(&mut cubic, 53) > 1.9);
        // After eight samples it is a queue, and then none after all.
        assert!(round(&mut cubic, 60) < 1.8);
        assert!(round(&mut cubic, 53) < 1.5);
        round(&mut cubic, 60);
        for _ in 0..4 {
            assert_eq!(cubic.ssthresh(), usize::MAX);
            assert!(round(&mut cubic, 61) < 1.3);
        }
        cubic.on_round();
        assert_eq!(cubic.ssthresh(), cubic.window());
    }

    #[test]
    fn cubic_extremes() {
        for (flight, now) in [(0, 0), (usize::MAX, i64::MAX), (1 << 30, -5), (1, i64::MAX)] {
            let mut cubic = cubic();
            cubic.curve.cwnd = 1 << 30;
            cubic.on_loss(Instant::ZERO, flight);
            for len in [0, 1, 1 << 30] {
                let rtt = RttEstimator::default();
                cubic.on_ack(Instant::from_micros(now), len, cubic.window(), &rtt);
                cubic.on_ack(Instant::ZERO, len, cubic.window(), &rtt);
            }
            cubic.on_idle(Duration::MAX, Duration::ZERO);
            assert!(cubic.window() >= 2 * MSS);
        }
    }

    #[test]
    fn test_cube_root() {
        for root in (0..2_000_000_u64).step_by(997) {
            let cube = root * root * root;
            assert_eq!(cube_root(cube), root);
            assert_eq!(cube_root(cube + 3 * root), root);
            if root > 0 {
                assert_eq!(cube_root(cube - 1), root - 1);
            }
        }
    }
}
