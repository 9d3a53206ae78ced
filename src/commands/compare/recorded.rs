//! What ran, read back from its tables into the summaries that a run has in memory.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use anyhow::{Context, bail};
use specrouter_reports::{ArmResult, Collector, Facts, Keep, Kind, SeedResult, SeedSummary, StudyArm};
use specrouter_routing::policies::PolicyConfig;
use specrouter_routing::record::{RequestRecord, Sink};
use specrouter_routing::tally::Tally;
use specrouter_routing::units::Time;
use specrouter_sim::cost::HardwareSpec;
use specrouter_traces::{Table, Trace};

use super::sources::{named, unknown};
use crate::catalog;
use crate::scenario::{CostsRef, RawScenario};
use crate::trace;

/// One arm of a recording.
#[derive(Default)]
struct Read {
    pool: Vec<String>,
    /// Its place among the policies of its scenario.
    place: usize,
    seeds: Vec<SeedSummary>,
    /// Requests of every seed, by seed.
    requests: BTreeMap<u64, Vec<RequestRecord>>,
}

/// The arms recorded at or below `path`: all, or those that `policy` names.
///
/// # Errors
/// No trace, a policy that none is of, tables that cannot be read.
pub fn read(path: &Path, policy: Option<&str>, notes: &mut Vec<String>) -> anyhow::Result<Vec<StudyArm>> {
    let mut arms: Vec<((String, Option<f64>), Read)> = Vec::new();
    for folder in trace::find(path)? {
        let trace = Trace::open(&folder)?;
        if !trace.manifest().ended {
            notes.push(format!("{}: left out, its run did not end", folder.display()));
            continue;
        }
        let key = (trace.run().policy.clone(), load(&folder));
        let at = match arms.iter().position(|arm| arm.0 == key) {
            Some(at) => at,
            None => {
                let (_, raw) = trace::scenario(&trace, &[])?;
                let labels = raw.policies.iter().map(PolicyConfig::label);
                let place = labels.take_while(|label| *label != key.0).count();
                arms.push((key, Read { pool: trace.run().pool(), place, ..Read::default() }));
                arms.len() - 1
            }
        };
        let (summary, requests) = summary(&trace)?;
        let own = &mut arms[at].1;
        if own.requests.insert(summary.seed, requests).is_some() {
            bail!("{}: seed {} of {} is here twice", path.display(), summary.seed, trace.run().policy);
        }
        own.seeds.push(summary);
    }
    arms.sort_by_key(|arm| arm.1.place);
    if let Some(wanted) = policy {
        let names: Vec<&str> = arms.iter().map(|arm| arm.0.0.as_str()).collect();
        let kept = named(&names, wanted);
        if !kept.contains(&true) {
            let known: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            bail!(unknown(wanted, &known));
        }
        let mut index = 0;
        arms.retain(|_| {
            index += 1;
            kept[index - 1]
        });
    }
    if arms.is_empty() {
        bail!("{}: expected a run that ended, got none", path.display());
    }
    // The arm that hosts most knows the target; another target's text is another output.
    let target = arms.iter().max_by_key(|arm| arm.1.pool.len()).and_then(|arm| arm.1.pool.last().cloned());
    let common: Vec<u64> = arms[0].1.requests.keys().copied().collect();
    let shared = |seed: &u64| arms.iter().all(|arm| arm.1.requests.contains_key(seed));
    let common: Vec<u64> = common.into_iter().filter(shared).collect();
    Ok(arms
        .into_iter()
        .map(|((policy, load), mut read)| {
            read.seeds.sort_by_key(|seed| seed.seed);
            let group = format!("recorded {load:?} {:016x}", met(&read.requests, &common));
            let one = read.requests.len() == 1;
            let requests = read.requests.into_values().next().filter(|_| one).unwrap_or_default();
            let other_output = read.pool.last() != target.as_ref();
            let arm = ArmResult {
                policy,
                label: String::new(),
                other_output,
                load,
                pool: read.pool,
                seeds: read.seeds,
            };
            let source = path.display().to_string();
            StudyArm { arm, source, kind: Kind::Recorded, group, reference: false, requests, bound: None }
        })
        .collect())
}

/// The load in a trace's path: `arms/POLICY/load-0.5/seed-7`.
fn load(folder: &Path) -> Option<f64> {
    folder.parent()?.file_name()?.to_str()?.strip_prefix("load-")?.parse().ok()
}

/// Says whether two arms met the same requests under these seeds: who, of which class, with which prompt and limit. (The
/// output is the arm's own where it is sampled, and in a closed loop so is the arrival.)
fn met(requests: &BTreeMap<u64, Vec<RequestRecord>>, seeds: &[u64]) -> u64 {
    let mut hash = DefaultHasher::new();
    for seed in seeds {
        let own = requests.get(seed).into_iter().flatten();
        let mut own: Vec<_> = own.map(|r| (r.id, r.class.0, r.prompt_tokens, r.limit)).collect();
        own.sort_unstable();
        (seed, own).hash(&mut hash);
    }
    hash.finish()
}

/// One recorded run.
fn summary(trace: &Trace) -> anyhow::Result<(SeedSummary, Vec<RequestRecord>)> {
    let run = trace.run();
    let requests = trace.requests()?;
    let mut collector = Collector::new(Keep::Summary);
    requests.iter().for_each(|request| collector.request(request));
    let (_, raw) = trace::scenario(trace, &[])?;
    let (tally, last_pass) = tally(trace)?;
    // The clock stopped after the last token, or the last pass where that came to nothing.
    let last_token = requests.iter().filter_map(|request| request.last_token).max();
    let device = device(&raw);
    let result = SeedResult {
        seed: run.seed,
        columns: collector.columns,
        tally,
        end: last_token.unwrap_or(Time::ZERO).max(last_pass),
        replicas: raw.replicas.max(1),
        devices_per_replica: raw.tensor_parallel.max(1),
        dollars_per_device_hour: device.as_ref().map(|spec| spec.sheet.dollars_per_hour.get()),
        watts_per_device: device.as_ref().map(|spec| spec.sheet.watts.get()),
        kv_blocks_total: run.kv_tokens / u64::from(raw.limits.block_size.max(1))
            * run.models.len() as u64
            * u64::from(raw.replicas.max(1)),
    };
    let facts = Facts { pool: run.pool(), classes: run.classes.clone() };
    Ok((result.reduce(&facts), requests))
}

/// The device of the catalog that was simulated: it has a price. A real one has none that anybody wrote down.
fn device(raw: &RawScenario) -> Option<HardwareSpec> {
    match &raw.hardware {
        Some(CostsRef::Named(name)) if catalog::is_path(name) => catalog::hardware_file(Path::new(name)).ok(),
        Some(CostsRef::Named(name)) => catalog::hardware(name).ok(),
        _ => None,
    }
}

/// What passes and rounds add up to, where those tables were kept; and when the last pass ended.
fn tally(trace: &Trace) -> anyhow::Result<(Tally, Time)> {
    let mut tally = Tally::new(trace.run().models.len());
    let mut last = Time::ZERO;
    if trace.has(Table::Passes) {
        for pass in trace.passes()? {
            if pass.model.index() >= tally.models.len() {
                let folder = trace.folder().display();
                bail!(
                    "{folder}: expected {} models, got a pass of number {}",
                    tally.models.len(),
                    pass.model
                );
            }
            tally.pass(pass.model, &pass.shape, pass.duration);
            let end = pass.start + pass.duration;
            last = last.max(end);
            let span = pass.duration.nanos() as f64;
            let stretch = tally.series.at(end);
            stretch.busy_nanos += span;
            stretch.queued += span * f64::from(pass.queued);
            stretch.running += span * f64::from(pass.running);
            stretch.kv_blocks += span * pass.kv_blocks_used as f64;
        }
    }
    if trace.has(Table::Rounds) {
        for round in trace.rounds().context("its rounds")? {
            tally.rounds += 1;
            tally.emitted_tokens += u64::from(round.emitted);
            tally.drafted_tokens += u64::from(round.drafted);
            tally.accepted_tokens += u64::from(round.accepted);
        }
    }
    Ok((tally, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_recording_is_read_back_as_it_ran() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/data/greedy");
        let mut notes = Vec::new();
        let arms = read(&data, None, &mut notes).unwrap();
        assert_eq!((arms.len(), notes.len()), (4, 0));
        for own in &arms {
            let summary = &own.arm.seeds[0].summary;
            assert_eq!((summary.requests.finished, summary.output_tokens), (30, 2630), "{}", own.arm.policy);
            assert!(summary.tpot_s.is_some() && summary.end_s > 0.5 && summary.idle < 0.5);
            assert_eq!(own.group, arms[0].group, "greedy arms met the same requests");
            assert_eq!(own.requests.len(), 30);
        }
        assert_eq!(
            arms[0].arm.policy, "target_only",
            "as in their scenario, whose first is what others are compared with"
        );
        let plain = arms.iter().find(|own| own.arm.policy == "target_only").unwrap();
        assert_eq!(plain.arm.seeds[0].summary.accepted_length, Some(1.0));
        let one = read(&data, Some("specrouter"), &mut notes).unwrap();
        assert!(one.len() == 1 && one[0].arm.seeds[0].summary.accepted_length.unwrap() > 1.0);
        let error = read(&data, Some("spectrouter"), &mut notes).unwrap_err();
        insta::assert_snapshot!(error, @"`spectrouter` names no arm of this source; did you mean `specrouter`?");
    }

    #[test]
    fn a_load_is_read_from_where_the_trace_lies() {
        assert_eq!(load(Path::new("out/arms/specrouter/load-0.5/seed-3")), Some(0.5));
        assert_eq!(load(Path::new("out/arms/specrouter/seed-3")), None);
    }
}
