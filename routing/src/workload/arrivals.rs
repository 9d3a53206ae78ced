//! Gaps between arrivals.
//!
//! A renewal process in *operational time*: gaps of mean 1 and the stated CV, drawn one by one,
//! and time runs through them at the rate of the moment. So a piecewise rate needs no thinning:
//! with exponential gaps it is exactly the inhomogeneous Poisson process, and otherwise bursts
//! keep their shape while the rate changes. A gap has the CV of the piece in which it begins.
//!
//! The first gap is the residual of a gap in progress (the process did not begin with the run), so
//! that the expected number of arrivals up to t is exactly the integral of the rate, at any CV.

use super::config::Arrivals;
use super::lengths::normal_quantile;
use crate::luck::Draws;
use crate::units::{NonNegative, Positive};

/// A stretch of time with one rate and one law of gaps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RatePiece {
    until_s: f64,
    rate_per_s: f64,
    gaps: GapLaw,
}

/// The pieces of open-loop arrivals; one without end for a constant rate. `None` for arrivals that
/// are not a renewal process.
pub(super) fn pieces(arrivals: &Arrivals) -> Option<Vec<RatePiece>> {
    let forever = |rate: Positive, cv: f64| {
        vec![RatePiece { until_s: f64::INFINITY, rate_per_s: rate.get(), gaps: GapLaw::with_cv(cv) }]
    };
    match arrivals {
        Arrivals::Poisson { rate_per_s } => Some(forever(*rate_per_s, 1.0)),
        Arrivals::Gamma { rate_per_s, cv } => Some(forever(*rate_per_s, cv.get())),
        Arrivals::Piecewise(pieces) => Some(
            pieces
                .iter()
                .map(|piece| RatePiece {
                    until_s: piece.until_s.get(),
                    rate_per_s: NonNegative::get(piece.rate_per_s),
                    gaps: GapLaw::with_cv(piece.cv.map_or(1.0, Positive::get)),
                })
                .collect(),
        ),
        Arrivals::ClosedLoop { .. } | Arrivals::Constant { .. } => None,
    }
}

/// Arrivals expected before `horizon_s`.
pub(super) fn expected(pieces: &[RatePiece], horizon_s: f64) -> f64 {
    let mut start = 0.0;
    let mut sum = 0.0;
    for piece in pieces {
        let end = piece.until_s.min(horizon_s);
        if end > start && piece.rate_per_s > 0.0 {
            sum += (end - start) * piece.rate_per_s;
        }
        start = piece.until_s;
    }
    sum
}

/// Where a renewal process stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Clock {
    now_s: f64,
    piece: usize,
    begun: bool,
}

impl Clock {
    /// Goes to the arrival of request `key` and gives its time in seconds; `None` past the last
    /// piece.
    pub(super) fn advance(&mut self, pieces: &[RatePiece], draws: &Draws, key: u64) -> Option<f64> {
        // Silent pieces hold no beginning of a gap.
        while pieces.get(self.piece)?.rate_per_s <= 0.0 {
            self.now_s = pieces[self.piece].until_s;
            self.piece += 1;
        }
        let gaps = pieces[self.piece].gaps;
        let mut left = if self.begun { gaps.draw(draws, key) } else { gaps.residual(draws, key) };
        self.begun = true;
        loop {
            let piece = pieces.get(self.piece)?;
            let room =
                if piece.rate_per_s > 0.0 { (piece.until_s - self.now_s) * piece.rate_per_s } else { 0.0 };
            if left < room {
                self.now_s += left / piece.rate_per_s;
                return Some(self.now_s);
            }
            left -= room;
            self.now_s = piece.until_s;
            self.piece += 1;
        }
    }
}

/// A law of gaps with mean 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum GapLaw {
    Exponential,
    Gamma { gamma: Gamma, next: Gamma },
}

impl GapLaw {
    /// Gamma gaps with this CV; exponential at 1.
    pub(super) fn with_cv(cv: f64) -> Self {
        let shape = 1.0 / (cv * cv);
        if (shape - 1.0).abs() < 1e-9 {
            Self::Exponential
        } else {
            Self::Gamma { gamma: Gamma::new(shape), next: Gamma::new(shape + 1.0) }
        }
    }

    fn draw(&self, draws: &Draws, key: u64) -> f64 {
        match self {
            Self::Exponential => exponential(draws, key, 0),
            Self::Gamma { gamma, .. } => gamma.draw(draws, key, 0) / gamma.shape,
        }
    }

    /// What is left of a gap met at a random moment: that gap is drawn in proportion to its length
    /// (a gamma law of one more shape), and the moment is uniform in it.
    fn residual(&self, draws: &Draws, key: u64) -> f64 {
        match self {
            Self::Exponential => exponential(draws, key, 0),
            Self::Gamma { gamma, next } => draws.uniform(key, 0) * next.draw(draws, key, 1) / gamma.shape,
        }
    }
}

/// An exponential number of mean 1 from the draw with key `(key, at)`.
#[inline]
pub(super) fn exponential(draws: &Draws, key: u64, at: u64) -> f64 {
    -libm::log(1.0 - draws.uniform(key, at))
}

/// A gamma law of scale 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gamma {
    shape: f64,
    d: f64,
    c: f64,
}

impl Gamma {
    /// The law with this shape, above 0.
    pub(super) fn new(shape: f64) -> Self {
        let d = if shape < 1.0 { shape + 1.0 } else { shape } - 1.0 / 3.0;
        Self { shape, d, c: 1.0 / libm::sqrt(9.0 * d) }
    }

    /// A draw; it uses the keys `(key, from)`, `(key, from + 1)`, and so on, two on average.
    ///
    /// Source: Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS
    /// 26 (3), 2000; shapes below 1 by its section 6.
    pub(super) fn draw(&self, draws: &Draws, key: u64, from: u64) -> f64 {
        let mut at = from + 1;
        loop {
            let (u, w) = draws.uniform_pair(key, at);
            at += 1;
            let x = normal_quantile(u);
            let v = 1.0 + self.c * x;
            if v <= 0.0 {
                continue;
            }
            let v = v * v * v;
            let x2 = x * x;
            if w < 1.0 - 0.0331 * x2 * x2 || libm::log(w) < 0.5 * x2 + self.d * (1.0 - v + libm::log(v)) {
                let large = self.d * v;
                return if self.shape < 1.0 {
                    large * libm::exp(-exponential(draws, key, from) / self.shape)
                } else {
                    large
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};
    use crate::workload::config::Piece;

    fn draws(seed: u64) -> Draws {
        Luck::new(seed).stream(Stream::Arrival)
    }

    fn times(pieces: &[RatePiece], seed: u64, count: u64) -> Vec<f64> {
        let (draws, mut clock) = (draws(seed), Clock::default());
        (0..count).map_while(|key| clock.advance(pieces, &draws, key)).collect()
    }

    /// Mean and CV of gaps agree with `rate` and `cv` within four standard errors.
    #[track_caller]
    fn check_gaps(rate: f64, cv: f64) {
        let arrivals =
            Arrivals::Gamma { rate_per_s: Positive::new(rate).unwrap(), cv: Positive::new(cv).unwrap() };
        let times = times(&pieces(&arrivals).unwrap(), 5, 400_001);
        let gaps: Vec<f64> = times.windows(2).map(|t| (t[1] - t[0]) * rate).collect();
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        assert!((mean - 1.0).abs() < 4.0 * cv / n.sqrt(), "mean {mean}");
        // The variance of a sample variance comes from the fourth central moment, 3σ⁴ + 6σ⁴cv² for gamma gaps.
        let variance = gaps.iter().map(|g| (g - 1.0).powi(2)).sum::<f64>() / n;
        let error = cv * cv * ((2.0 + 6.0 * cv * cv) / n).sqrt();
        assert!((variance - cv * cv).abs() < 4.0 * error, "variance {variance} ± {error}");
    }

    #[test]
    fn gaps_have_the_stated_rate_and_cv() {
        for (rate, cv) in [(12.0, 1.0), (12.0, 1.5), (0.3, 0.5), (1e6, 0.1), (2.5, 4.0)] {
            check_gaps(rate, cv);
        }
    }

    #[test]
    fn a_bursty_process_starts_in_its_stride() {
        // Without the residual first gap the expected count would be off by (cv² − 1)/2 = 12.
        let arrivals =
            Arrivals::Gamma { rate_per_s: Positive::new(1.0).unwrap(), cv: Positive::new(5.0).unwrap() };
        let pieces = pieces(&arrivals).unwrap();
        let counts: Vec<f64> = (0..4000)
            .map(|seed| times(&pieces, seed, 10_000).iter().filter(|t| **t < 10.0).count() as f64)
            .collect();
        let n = counts.len() as f64;
        let mean = counts.iter().sum::<f64>() / n;
        let error = (counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / n / n).sqrt();
        assert!((mean - 10.0).abs() < 4.0 * error, "{mean} ± {error}");
        assert!(error < 0.6, "the check must be able to tell 10 from 22: {error}");
    }

    #[test]
    fn each_piece_has_its_own_rate() {
        let piece = |until, rate| Piece {
            until_s: Positive::new(until).unwrap(),
            rate_per_s: NonNegative::new(rate).unwrap(),
            cv: None,
        };
        let plan = [piece(1000.0, 5.0), piece(1500.0, 0.0), piece(2000.0, 40.0), piece(2500.0, 0.0)];
        let pieces = pieces(&Arrivals::Piecewise(plan.to_vec())).unwrap();
        let times = times(&pieces, 9, u64::MAX);
        assert!(times.is_sorted());
        let within = |a: f64, b: f64| times.iter().filter(|t| (a..b).contains(*t)).count() as f64;
        for (from, to, expected) in [(0.0, 1000.0, 5000.0f64), (1500.0, 2000.0, 20_000.0)] {
            assert!((within(from, to) - expected).abs() < 4.0 * expected.sqrt(), "{}", within(from, to));
        }
        assert_eq!(within(1000.0, 1500.0) + within(2000.0, 1e9), 0.0);
        assert!((expected(&pieces, 1600.0) - 9000.0).abs() < 1e-6);
    }

    #[test]
    fn gamma_draws_agree_with_an_independent_sampler() {
        use rand_distr::Distribution;
        for shape in [0.05, 0.5, 2.0, 30.0] {
            let (ours, draws) = (Gamma::new(shape), draws(3));
            let theirs = rand_distr::Gamma::new(shape, 1.0).unwrap();
            let n = 40_000u64;
            let mut a: Vec<f64> = (0..n).map(|key| ours.draw(&draws, key, 0)).collect();
            let mut generator = Luck::new(3).stream(Stream::Test).generator(0);
            let mut b: Vec<f64> = (0..n).map(|_| theirs.sample(&mut generator)).collect();
            a.sort_by(f64::total_cmp);
            b.sort_by(f64::total_cmp);
            // Two-sample Kolmogorov and Smirnov at 1 in 10^4: 2.23 sqrt(2/n).
            let (mut i, mut j, mut gap) = (0, 0, 0i64);
            while i < a.len() && j < b.len() {
                if a[i] <= b[j] {
                    i += 1
                } else {
                    j += 1
                }
                gap = gap.max((i as i64 - j as i64).abs());
            }
            let distance = gap as f64 / n as f64;
            assert!(distance < 2.23 * (2.0 / n as f64).sqrt(), "shape {shape}: {distance}");
        }
    }
}
