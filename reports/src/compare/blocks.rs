//! An interval from one run: blocks of requests longer than the longest busy period.
//!
//! Requests of one queue say nothing of each other once it has been empty: a busy period ends there.
//! Blocks of arrival time longer than the longest busy period, of either arm, are therefore nearly
//! independent, and [`LEAST`] of them give an interval. A queue that never empties has none, nor has
//! a closed loop.

use specrouter_routing::record::{RequestRecord, Status};
use specrouter_routing::units::Time;

use super::contrast::Contrast;
use super::metric::Metric;
use super::statistics::Difference;
use crate::collect::tpot;

/// Fewer blocks give no interval.
pub const LEAST: usize = 20;
/// More are joined: shorter blocks gain nothing.
const MOST: u64 = 200;

/// Blocks over the requests of two runs that met the same ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    first: Time,
    /// Nanoseconds of arrivals in one block.
    width: u64,
    count: usize,
}

impl Blocks {
    /// The blocks of two runs of the same requests; `None` where there are fewer than [`LEAST`].
    pub fn of(a: &[RequestRecord], b: &[RequestRecord]) -> Option<Self> {
        let mut busy: Vec<(Time, Time)> = a
            .iter()
            .chain(b)
            .filter_map(|r| match r.status {
                // Refused: it was never in the queue.
                Status::TooLong => None,
                // One that never ended leaves a queue that never emptied.
                Status::Running | Status::Waiting => Some((r.arrival, Time::from_nanos(u64::MAX))),
                Status::Finished => Some((r.arrival, r.last_token?)),
            })
            .collect();
        busy.sort_unstable();
        let (mut longest, mut begun, mut until) = (0, busy.first()?.0, busy.first()?.1);
        for &(arrival, end) in &busy {
            if arrival > until {
                (begun, until) = (arrival, end);
            }
            until = until.max(end);
            longest = longest.max(until.nanos() - begun.nanos());
        }
        let (first, last) = (busy.first()?.0, busy.last()?.0);
        let span = last.nanos() - first.nanos();
        // Longer than the longest, so one that fits exactly is one too many.
        let count = (span / longest.saturating_add(1).max(1)).min(MOST) as usize;
        (count >= LEAST).then(|| Self { first, width: span / count as u64 + 1, count })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// A mean latency compared over the blocks, of one class or of all; `None` for other metrics (a
    /// tail or a rate is the whole run's), and where fewer than [`LEAST`] blocks have requests of both.
    pub fn contrast(
        &self,
        metric: Metric,
        class: Option<u16>,
        a: &[RequestRecord],
        b: &[RequestRecord],
    ) -> Option<Contrast> {
        let value = |r: &RequestRecord| match metric {
            Metric::TtftMean => Some((r.first_token? - r.arrival).seconds()),
            Metric::TpotMean => tpot(r.first_token?, r.last_token?, r.output_tokens),
            _ => None,
        };
        let sums = |records: &[RequestRecord]| {
            let mut sums = vec![(0.0, 0u32); self.count];
            let own = records.iter().filter(|r| r.status == Status::Finished);
            for r in own.filter(|r| class.is_none_or(|class| r.class.0 == class)) {
                if let Some(value) = value(r) {
                    let at = ((r.arrival.nanos() - self.first.nanos()) / self.width) as usize;
                    let slot = &mut sums[at.min(self.count - 1)];
                    *slot = (slot.0 + value, slot.1 + 1);
                }
            }
            sums
        };
        let pairs: Vec<_> = sums(a).into_iter().zip(sums(b)).filter(|(a, b)| a.1 > 0 && b.1 > 0).collect();
        let n = pairs.len();
        if n < LEAST {
            return None;
        }
        let total = pairs.iter().fold([0.0; 4], |t, (a, b)| {
            [t[0] + a.0, t[1] + f64::from(a.1), t[2] + b.0, t[3] + f64::from(b.1)]
        });
        let ratio = |t: [f64; 4]| (t[0] / t[1] / (t[2] / t[3])).ln();
        let without = |(a, b): &((f64, u32), (f64, u32))| {
            ratio([total[0] - a.0, total[1] - f64::from(a.1), total[2] - b.0, total[3] - f64::from(b.1)])
        };
        let left: Vec<f64> = pairs.iter().map(without).collect();
        let (mean, n) = (left.iter().sum::<f64>() / n as f64, n as f64);
        let squares: f64 = left.iter().map(|v| (v - mean).powi(2)).sum();
        let error = ((n - 1.0) / n * squares).sqrt();
        let difference = Difference { mean: ratio(total), error, freedom: n - 1.0 };
        difference.mean.is_finite().then(|| Contrast::blocks(difference, pairs.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::request;

    /// A request every 100 ms whose first token takes `first` ms and whose four others `each` ms.
    fn run(n: u64, first: impl Fn(u64) -> u64, each: u64) -> Vec<RequestRecord> {
        let ms = |ms: u64| Time::from_nanos(ms * 1_000_000);
        let one = |i: u64| RequestRecord {
            arrival: ms(100 * i),
            first_token: Some(ms(100 * i + first(i))),
            last_token: Some(ms(100 * i + first(i) + 4 * each)),
            ..request(i, 0, 0, 0, 5)
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn blocks_are_longer_than_the_longest_busy_period() {
        let (a, b) = (run(400, |_| 10, 5), run(400, |i| 12 + i % 3, 5));
        let blocks = Blocks::of(&a, &b).unwrap();
        assert!(blocks.count == 200 && blocks.width > 100_000_000, "{blocks:?}");
        // One request that takes two seconds makes a busy period of two seconds.
        let slow = run(600, |i| if i == 7 { 2000 } else { 10 }, 5);
        let blocks = Blocks::of(&slow, &b).unwrap();
        assert!(blocks.width > 2_000_000_000 && blocks.count == 29, "{blocks:?}");
    }

    #[test]
    fn a_queue_that_never_empties_has_no_blocks() {
        let overlapping = run(400, |_| 90, 5);
        assert_eq!(Blocks::of(&overlapping, &overlapping), None);
        assert_eq!(Blocks::of(&run(5, |_| 10, 5), &run(5, |_| 10, 5)), None);
        assert_eq!(Blocks::of(&[], &[]), None);
    }

    #[test]
    fn an_interval_over_blocks_holds_the_effect_and_tails_have_none() {
        let (a, b) = (run(400, |i| 10 + i * 7 % 5, 5), run(400, |i| 20 + i * 3 % 7, 5));
        let blocks = Blocks::of(&a, &b).unwrap();
        let c = blocks.contrast(Metric::TtftMean, None, &a, &b).unwrap();
        let i = c.interval.unwrap();
        assert!((c.effect - (12.0 / 23.0 - 1.0)).abs() < 0.01 && i.low < c.effect && c.effect < i.high);
        assert!(i.high - i.low < 0.05 && c.test(1).unwrap().1 < 1e-6);
        let same = blocks.contrast(Metric::TpotMean, Some(0), &a, &b).unwrap();
        assert!(same.effect.abs() < 1e-12 && same.interval.unwrap().high.abs() < 1e-12);
        assert_eq!(blocks.contrast(Metric::TpotMean, Some(1), &a, &b), None);
        assert_eq!(blocks.contrast(Metric::TtftP99, None, &a, &b), None);
        let itself = blocks.contrast(Metric::TtftMean, None, &a, &a).unwrap();
        assert_eq!((itself.effect, itself.test(1)), (0.0, Some(("t over blocks", 1.0))));
    }
}
