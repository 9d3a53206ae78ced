//! Did the system keep up with what arrived.

use std::fmt;

use serde::Serialize;
use specrouter_routing::tally::Series;
use specrouter_routing::units::Time;

/// Did the system keep up with what arrived, judged by the requests waiting for admission while
/// requests still arrived (from 0 to the last arrival, in four quarters).
///
/// - `OVERLOADED`: the mean queue grew from the second quarter to the third and to the fourth, was
///   then at least twice that of the second, and at least one request per replica. Latencies are
///   those of a longer and longer queue: they depend on how long the run was.
/// - `BACKLOGGED`: not that, but over the whole time at least one request waited at a replica for
///   every ten that ran.
/// - `STABLE`: neither.
///
/// A rule of thumb on one run, for reading a table; no test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Saturation {
    /// Requests hardly waited.
    Stable,
    /// Requests waited, but the queue did not keep growing.
    Backlogged,
    /// The queue grew as long as requests arrived.
    Overloaded,
}

impl Saturation {
    /// The label of a run with this series.
    pub fn of(series: &Series, last_arrival: Time, replicas: u32) -> Self {
        let width = series.width().nanos();
        // Whole stretches only; a quarter needs at least one.
        let arriving = ((last_arrival.nanos() / width) as usize + 1).min(series.stretches().len());
        if arriving < 4 {
            return Self::Stable;
        }
        let stretches = &series.stretches()[..arriving];
        let time = |n: usize| n as f64 * width as f64 * f64::from(replicas.max(1));
        let quarter = |k: usize| {
            let part = &stretches[arriving * k / 4..arriving * (k + 1) / 4];
            part.iter().map(|s| s.queued).sum::<f64>() / time(part.len())
        };
        let [second, third, fourth] = [quarter(1), quarter(2), quarter(3)];
        if second < third && third < fourth && fourth >= 2.0 * second && fourth >= 1.0 {
            return Self::Overloaded;
        }
        let queued: f64 = stretches.iter().map(|s| s.queued).sum();
        let running: f64 = stretches.iter().map(|s| s.running).sum();
        if queued > 0.0 && queued >= 0.1 * running { Self::Backlogged } else { Self::Stable }
    }

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "STABLE",
            Self::Backlogged => "BACKLOGGED",
            Self::Overloaded => "OVERLOADED",
        }
    }
}

impl fmt::Display for Saturation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue of `queue(stretch)` and ten running over 40 stretches.
    fn label(queue: impl Fn(u64) -> f64) -> Saturation {
        let mut series = Series::default();
        let width = series.width().nanos();
        for index in 0..40 {
            let stretch = series.at(Time::from_nanos(index * width));
            stretch.queued = queue(index) * width as f64;
            stretch.running = 10.0 * width as f64;
        }
        Saturation::of(&series, Time::from_nanos(40 * width - 1), 1)
    }

    #[test]
    fn a_growing_queue_is_overload_and_a_standing_one_a_backlog() {
        assert_eq!(label(|_| 0.0), Saturation::Stable);
        assert_eq!(label(|_| 0.5), Saturation::Stable);
        assert_eq!(label(|_| 4.0), Saturation::Backlogged);
        assert_eq!(label(|t| t as f64), Saturation::Overloaded);
        // A burst in the middle is over before the end.
        assert_eq!(label(|t| if (15..25).contains(&t) { 20.0 } else { 0.0 }), Saturation::Backlogged);
        // It grows, but from nothing to nearly nothing.
        assert_eq!(label(|t| t as f64 * 0.001), Saturation::Stable);
    }

    #[test]
    fn a_run_too_short_to_judge_is_not_called_overloaded() {
        let mut series = Series::default();
        series.at(Time::ZERO).queued = 1e12;
        assert_eq!(Saturation::of(&series, Time::ZERO, 1), Saturation::Stable);
    }
}
