//! How often a test finds a difference where there is none: one policy against itself, again and again.
//!
//! Both sides of a comparison meet the same requests under every seed and toss coins of their own, so whatever a test
//! calls a difference is none. The test of reports is held against tests on requests, which take those of one queue for
//! independent.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use specrouter_reports::collect::tpot;
use specrouter_reports::compare::{Contrast, Difference, mann_whitney};
use specrouter_reports::{Keep, Metric};
use specrouter_routing::record::RequestRecord;
use specrouter_routing::workload::Workload;
use specrouter_sim::drive::Ended;

use crate::args::{CompareArgs, Format};
use crate::commands::run::arms::{kept, on_threads};
use crate::commands::run::{cores, on_interrupt, progress};
use crate::failure::Failure;
use crate::scenario::{self, Scenario};
use crate::simulate::{Seed, capacity_of};
use crate::table::Table;

/// Loads of scenarios that sweep none.
const LOADS: [f64; 3] = [0.1, 0.5, 0.9];
/// A p value below this counts.
const LEVEL: f64 = 0.05;
/// Coins of the second side lie this far from those of the first.
const OTHER_COINS: u64 = 1 << 42;
const METRICS: [Metric; 3] = [Metric::TtftMean, Metric::TpotMean, Metric::Goodput];
/// The tests: those of reports, of paired arms and of others, then those that take requests for replications.
const TESTS: [&str; 6] = [
    "by seed",
    "by seed, other requests",
    "requests, paired t",
    "requests, Welch",
    "requests, Mann-Whitney",
    "other requests, Welch",
];
/// Does each test find a difference.
type Found = [bool; TESTS.len()];

/// One line of the table.
#[derive(Serialize)]
struct Line {
    load: f64,
    metric: Metric,
    comparisons: usize,
    /// Share of comparisons in which the test by seed has p < 0.05.
    by_seed: f64,
    /// 95 % interval of that share (Wilson).
    low: f64,
    high: f64,
    /// The same of the test of arms that are not paired: Welch's t by seed, the first half of the seeds against the
    /// other side's second half, which met other requests.
    unpaired_by_seed: f64,
    /// Tests that take requests for replications: t on the differences of each request.
    requests_paired: f64,
    /// Welch's t on all requests of one side and all of the other.
    requests_welch: f64,
    /// Mann and Whitney's on the same.
    requests_mann_whitney: f64,
    /// Welch's t on requests of the halves that met other requests.
    unpaired_requests_welch: f64,
}

/// Makes the table and prints it.
///
/// # Errors
/// [`Failure::BadInput`] for a scenario that cannot be run, [`Failure::Interrupted`] after Ctrl-C,
/// [`Failure::Failed`] for the rest.
pub fn run(name: &str, args: &CompareArgs) -> Result<(), Failure> {
    let mut sets = args.sets.clone();
    sets.extend(args.seeds.map(|seeds| format!("seeds={seeds}")));
    sets.extend((!args.policies.is_empty()).then(|| format!("policies=[{}]", args.policies.join(", "))));
    let scenario = scenario::resolve(name, &sets).map_err(Failure::input)?;
    if scenario.seeds.len() < 2 {
        return Err(Failure::input(anyhow::anyhow!("expected 2 seeds or more in a comparison, got 1")));
    }
    let stop = on_interrupt()?;
    let loads = scenario.loads.clone().unwrap_or_else(|| LOADS.to_vec());
    let reached = capacity_of(&scenario, &scenario.arms[0], &mut |_| !stop.load(Ordering::Relaxed))?;
    let interrupted = || Failure::Interrupted("nothing is counted in part".into());
    if stop.load(Ordering::Relaxed) {
        return Err(interrupted());
    }
    let capacity = reached.ok_or_else(|| {
        anyhow::anyhow!("{}: too few requests finished to say what it can serve", scenario.arms[0].name)
    })?;
    let at = |&load: &f64| Ok((load, scenario.at_rate(load * capacity)?));
    let workloads: Vec<(f64, Workload)> =
        loads.iter().map(at).collect::<anyhow::Result<_>>().map_err(Failure::BadInput)?;
    let count = args.comparisons as usize;
    let jobs = workloads.len() * count;
    let runs = 2 * scenario.seeds.len() as u64;
    let requests = workloads.iter().map(|(_, w)| w.size().requests * runs * count as u64).sum();
    let bar = progress::bar(requests, jobs, args.quiet);
    let threads = args.jobs.map_or_else(cores, NonZeroUsize::get).min(jobs);
    let done = on_threads(jobs, threads, &stop, &|index| {
        let (load, comparison) = (index / count, index % count);
        let workload = &workloads[load].1;
        let done = compare(&scenario, workload, comparison as u64, &stop)?;
        bar.job_done(workload.size().requests * runs);
        Ok(done)
    });
    bar.finish();
    let done: Vec<[Found; 3]> = done?.into_iter().flatten().collect();
    if done.len() < jobs {
        return Err(interrupted());
    }
    let lines: Vec<Line> = loads
        .iter()
        .zip(done.chunks(count))
        .flat_map(|(&load, done)| {
            METRICS.iter().enumerate().map(move |(index, &metric)| line(load, metric, index, done))
        })
        .collect();
    if args.format == Format::Json {
        let (policy, seeds) = (&scenario.arms[0].name, scenario.seeds.len());
        return super::super::print_json(&serde_json::json!({
            "scenario": scenario.name, "policy": policy, "seeds": seeds, "level": LEVEL, "capacity_per_s": capacity, "lines": lines,
        }));
    }
    let mut table = Table::new(&[&["load", "metric", TESTS[0], "95 % interval"][..], &TESTS[1..]].concat());
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    for line in &lines {
        table.row(vec![
            line.load.to_string(),
            line.metric.name().to_owned(),
            percent(line.by_seed),
            format!("{} to {}", percent(line.low), percent(line.high)),
            percent(line.unpaired_by_seed),
            percent(line.requests_paired),
            percent(line.requests_welch),
            percent(line.requests_mann_whitney),
            percent(line.unpaired_requests_welch),
        ]);
    }
    let words = format!(
        "{} against itself: the same requests, other coins; {count} comparisons of {} seeds at each load, a share of the {capacity:.2} requests/s that it serves\np < {LEVEL} in so many of them:\n",
        scenario.arms[0].name,
        scenario.seeds.len(),
    );
    super::super::print(&(words + &table.text()))
}

fn line(load: f64, metric: Metric, index: usize, done: &[[Found; 3]]) -> Line {
    let rate = |test: usize| done.iter().filter(|own| own[index][test]).count() as f64 / done.len() as f64;
    let (low, high) = wilson(rate(0), done.len() as f64);
    Line {
        load,
        metric,
        comparisons: done.len(),
        by_seed: rate(0),
        low,
        high,
        unpaired_by_seed: rate(1),
        requests_paired: rate(2),
        requests_welch: rate(3),
        requests_mann_whitney: rate(4),
        unpaired_requests_welch: rate(5),
    }
}

/// Wilson's 95 % interval of a share of `n`.
fn wilson(share: f64, n: f64) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    ((middle - half) / scale, (middle + half) / scale)
}

/// Values by seed and request.
type Requests = BTreeMap<(u64, u64), f64>;

/// One side of a comparison.
#[derive(Default)]
struct Side {
    /// A value a seed, by metric.
    seeds: [Vec<f64>; 3],
    /// A value a request, by metric.
    requests: [Requests; 3],
}

/// What each test says of each metric in one comparison of the policy with itself; `None` when it was interrupted.
fn compare(
    scenario: &Scenario,
    workload: &Workload,
    comparison: u64,
    stop: &AtomicBool,
) -> anyhow::Result<Option<[Found; 3]>> {
    let mut sides = [Side::default(), Side::default()];
    let seeds = scenario.seeds.len() as u64;
    for n in 0..seeds {
        let requests = scenario.raw.seed.wrapping_add(comparison * seeds + n);
        for (side, offset) in sides.iter_mut().zip([0, OTHER_COINS]) {
            let seed = Seed { requests, coins: requests.wrapping_add(offset) };
            let watch = &mut |_| !stop.load(Ordering::Relaxed);
            let done = kept(scenario, &scenario.arms[0], workload, seed, Keep::Requests, watch)?;
            if done.ended == Ended::Interrupted || stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            for (index, metric) in METRICS.into_iter().enumerate() {
                side.seeds[index].extend(metric.shown(&done.summary.summary));
                let values = done.requests.iter().filter_map(|r| Some(((n, r.id.0), value(metric, r)?)));
                side.requests[index].extend(values);
            }
        }
    }
    let [a, b] = &sides;
    Ok(Some(std::array::from_fn(|index| {
        let ((a, own), (b, other)) =
            ((&a.seeds[index], &a.requests[index]), (&b.seeds[index], &b.requests[index]));
        let test = |c: Option<Contrast>| Some(c?.test(1)?.1);
        let welch = |a: &[f64], b: &[f64]| Difference::welch(a, b)?.test();
        let of = |side: &Requests, seeds: Range<u64>| -> Vec<f64> {
            side.iter().filter(|((seed, _), _)| seeds.contains(seed)).map(|(_, value)| *value).collect()
        };
        let both = own.iter().filter_map(|(key, value)| Some(value - other.get(key)?));
        let differences: Vec<f64> = both.collect();
        let half = seeds / 2;
        let (pool, others) = (of(own, 0..seeds), of(other, 0..seeds));
        let halves = a.get(..half as usize).zip(b.get(half as usize..));
        [
            test(Contrast::paired(a, b)),
            halves.and_then(|(a, b)| test(Contrast::unpaired(a, b))),
            Difference::of(&differences).and_then(|d| d.test()),
            welch(&pool, &others),
            Some(mann_whitney(&pool, &others)),
            welch(&of(own, 0..half), &of(other, half..seeds)),
        ]
        .map(|p| p.is_some_and(|p| p < LEVEL))
    })))
}

/// What a metric is the mean of.
fn value(metric: Metric, r: &RequestRecord) -> Option<f64> {
    match metric {
        Metric::TtftMean => Some((r.first_token? - r.arrival).seconds()),
        Metric::TpotMean => tpot(r.first_token?, r.last_token?, r.output_tokens),
        _ => Some(f64::from(u8::from(r.slo_met?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_share_is_wilsons() {
        // 50 of 1,000, worked out by another program.
        let (low, high) = wilson(0.05, 1000.0);
        assert!((low - 0.038_130_262).abs() < 1e-7 && (high - 0.065_313_820).abs() < 1e-7, "{low} {high}");
    }
}
