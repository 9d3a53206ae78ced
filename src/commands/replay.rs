//! `specrouter replay`: policies compared on a recorded trace.

#[cfg(feature = "engine")]
use specrouter_reports::{
    fit::FitReport,
    gap::{Gap, GapArm},
};
use specrouter_routing::policies::Logged;
use specrouter_routing::policy::Policy;
use specrouter_routing::record::{RequestRecord, RoundRecord, Sink, Wants};

use super::run::{Told, execute, on_interrupt};
#[cfg(feature = "engine")]
use super::{record::Rig, run::arms::once};
#[cfg(feature = "engine")]
use crate::args::Format;
use crate::args::ReplayArgs;
use crate::failure::Failure;
use crate::references;
use crate::scenario::{Asked, Replayed, Scenario, default_name, resolve_replay};
#[cfg(feature = "engine")]
use crate::scenario::{Recording, executed::resolve_execution};
use crate::simulate::simulate_policy;
use crate::trace;

/// Replays the trace under every policy, prints the table and writes the report.
///
/// # Errors
/// [`Failure::BadInput`] for a trace that cannot be replayed, [`Failure::Interrupted`] after Ctrl-C with what had
/// finished written, [`Failure::Failed`] for the rest.
pub fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let trace = trace::open_one_of(&args.trace).map_err(Failure::BadInput)?;
    let asked = Asked {
        hardware: args.hardware.as_deref(),
        profile: args.profile.as_deref(),
        policies: &args.policies,
        seeds: args.seeds,
        requests: args.requests,
        sets: &args.sets,
    };
    let replayed = resolve_replay(&trace, &asked).map_err(Failure::BadInput)?;
    #[cfg(feature = "engine")]
    let execution = match args.execute {
        true => Some(resolve_execution(&trace, &replayed, &args.models).map_err(Failure::BadInput)?),
        false => None,
    };
    let Replayed { mut scenario, rounds, .. } = replayed;
    let mut notes = Vec::new();
    notes.extend(law(&scenario, &rounds, trace.run().decoding.by_agreement())?);
    let (mut bound, stop) = (None, on_interrupt()?);
    if !args.no_references && !args.dry_run {
        let best = references::hindsight_arm(&scenario, &scenario.workload, &stop)?;
        scenario.arms.push(references::clairvoyant_arm(&scenario));
        scenario.arms.extend(best);
        bound = references::bound(&scenario, &scenario.workload, &stop)?;
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Failure::Interrupted("no arm had begun".into()));
        }
    }
    let told = Told {
        stop,
        bound,
        out: args
            .out
            .clone()
            .unwrap_or_else(|| std::path::Path::new("out").join(default_name(trace.folder()))),
        jobs: args.jobs,
        format: args.format,
        quiet: args.quiet,
        command: command(args),
        notes,
    };
    if args.dry_run {
        return super::dry_run::print_replay(&scenario, &told.notes, args.format);
    }
    execute(&scenario, &told)?;
    #[cfg(feature = "engine")]
    if let Some(recording) = execution {
        beside(&scenario, &recording, &told)?;
    }
    Ok(())
}

/// Runs the requests again on the real models, and shows what was executed beside what was foretold.
#[cfg(feature = "engine")]
fn beside(scenario: &Scenario, recording: &Recording, told: &Told) -> Result<(), Failure> {
    let mut rig = Rig::open(recording, &told.stop)?;
    let out = told.out.join("executed");
    let done = rig.run(recording, &out, told.quiet, &told.stop)?;
    let mut arms = Vec::new();
    for (arm, measured) in recording.arms.iter().zip(done) {
        let replay = |&seed: &u64| once(scenario, arm, &scenario.workload, seed, &told.stop);
        let foretold = vec![scenario.seeds.iter().map(replay).collect::<anyhow::Result<Vec<_>>>()?];
        arms.push(GapArm { policy: arm.name.clone(), measured, foretold });
    }
    if told.stop.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(Failure::Interrupted(format!("what was executed is in {}", out.display())));
    }
    let gap = Gap { ways: vec!["replayed".into()], arms };
    let page = FitReport {
        title: format!("Executed and replayed: {}", scenario.name),
        facts: vec![("executed on".into(), rig.device.clone())],
        sections: gap.sections(),
        notes: Vec::new(),
        command: told.command.clone(),
    };
    crate::files::put(&told.out.join("executed.html"), &page.html().map_err(anyhow::Error::new)?)?;
    match told.format {
        Format::Table => super::print(&page.text()),
        Format::Json => {
            super::print_json(&serde_json::json!({ "rows": gap.rows(), "rankings": gap.rankings() }))
        }
    }
}

/// The command that makes the report again.
fn command(args: &ReplayArgs) -> String {
    let mut command = format!("specrouter replay {}", args.trace.display());
    args.hardware.iter().for_each(|hardware| command += &format!(" --hardware {hardware}"));
    args.profile.iter().for_each(|profile| command += &format!(" --profile {profile}"));
    args.policies.iter().for_each(|policy| command += &format!(" --policy '{policy}'"));
    args.sets.iter().for_each(|set| command += &format!(" --set {set}"));
    args.requests.iter().for_each(|requests| command += &format!(" --requests {requests}"));
    #[cfg(feature = "engine")]
    if args.execute {
        command += " --execute";
    }
    args.seeds.iter().for_each(|seeds| command += &format!(" --seeds {seeds}"));
    command
}

/// The law of replay on this very trace: under its own plans, what is replayed has the accepted lengths that were
/// recorded. Certain where choices must agree; of a sampled trace, means are compared.
fn law(scenario: &Scenario, rounds: &[RoundRecord], certain: bool) -> anyhow::Result<Option<String>> {
    if !rounds.iter().any(|round| round.drafted > 0) {
        return Ok(None);
    }
    // Plans are given, so memory must not shorten them.
    let mut roomy = scenario.clone();
    roomy.kv_tokens = u64::from(roomy.limits.context) * u64::from(roomy.limits.max_running.max(1));
    let target = references::target(scenario);
    let logged = |_| Ok(Box::new(Logged::new(target, rounds)) as Box<dyn Policy>);
    let members: Vec<usize> = (0..scenario.pool.len()).collect();
    let mut replayed = Rounds::default();
    let seed = scenario.raw.seed;
    simulate_policy(&roomy, &members, &logged, &scenario.workload, seed, &mut replayed, &mut |_| true)?;
    if certain {
        let mut all = replayed.0;
        all.sort_unstable_by_key(|round| (round.request, round.round));
        let found = |round: &RoundRecord| {
            let key = (round.request, round.round);
            let at = all.binary_search_by_key(&key, |r| (r.request, r.round)).ok()?;
            Some((all[at].position, all[at].accepted, all[at].emitted))
        };
        let same =
            |round: &&RoundRecord| found(round) == Some((round.position, round.accepted, round.emitted));
        let reproduced = rounds.iter().filter(same).count();
        return Ok(Some(format!(
            "law of replay: under its logged plans the trace has the accepted length it had in {reproduced} of {} rounds",
            rounds.len()
        )));
    }
    let mean = |rounds: &[RoundRecord]| {
        let judged: Vec<f64> =
            rounds.iter().filter(|r| r.drafted > 0).map(|r| f64::from(r.accepted)).collect();
        judged.iter().sum::<f64>() / judged.len().max(1) as f64
    };
    Ok(Some(format!(
        "law of replay: under its logged plans a round keeps {:.3} drafted tokens in the mean, recorded were {:.3} in {} rounds",
        mean(&replayed.0),
        mean(rounds),
        rounds.len()
    )))
}

/// Keeps rounds.
#[derive(Default)]
struct Rounds(Vec<RoundRecord>);

impl Sink for Rounds {
    fn wants(&self) -> Wants {
        Wants { rounds: true, ..Wants::default() }
    }

    fn request(&mut self, _: &RequestRecord) {}

    fn round(&mut self, record: &RoundRecord) {
        self.0.push(*record);
    }
}
