//! The laws of replay (invariant 11): one recording says what any other plan would have had accepted.
//!
//! Real decoders serve real prompts; their texts are scored; the simulator replays them from the scores alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use specrouter_engine::backend::Finished;
use specrouter_engine::sampling::Sampling;
use specrouter_engine::score::{Scorer, Text};
use specrouter_engine::selfcheck::{nested_pool, random_tasks};
use specrouter_engine::settings::Dtype;
use specrouter_engine::verify::Verify;
use specrouter_routing::chain::StopRule;
use specrouter_routing::dispatch::DispatcherConfig;
use specrouter_routing::ids::{ModelId, ReplicaId, RequestId};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policies::Logged;
use specrouter_routing::policy::Policy;
use specrouter_routing::profile::Linear;
use specrouter_routing::record::{Decoding, RoundRecord, TokenRecord};
use specrouter_routing::request::{Request, Truth};
use specrouter_sim::acceptance::{Recorded, Source};
use specrouter_sim::backend::SimBackend;
use specrouter_sim::cost::CostModel;
use specrouter_sim::drive::{Bounds, open_loop};
use specrouter_sim::simulator::Simulator;

use super::twins::{Make, Rows, World, plan, policies};

/// What every model says of the texts, by the run's luck.
fn scored(world: &World, texts: &BTreeMap<RequestId, Finished>) -> Vec<TokenRecord> {
    let mut models = nested_pool(6, (0.3, 0.2), Dtype::F32, 4096).unwrap();
    let mut scorer = Scorer::new(world.verify, Luck::new(4));
    let mut tokens = Vec::new();
    for (request, text) in texts {
        let task = &world.tasks[request.0 as usize];
        let text = Text {
            request: *request,
            prompt: &task.tokens,
            output: text.output(),
            sampling: world.sampling,
            seed: task.seed,
        };
        scorer.score(&mut models, text, |token| tokens.push(token.clone())).unwrap();
    }
    tokens
}

fn decoding(world: &World) -> Decoding {
    match (world.sampling.is_greedy(), world.verify) {
        (true, _) => Decoding::Greedy,
        (_, Verify::Coupled) => Decoding::Coupled,
        (_, Verify::Speculative) => Decoding::Speculative,
    }
}

/// Replays scored texts under a policy, with the luck of `seed`.
fn replay(world: &World, tokens: &[TokenRecord], policy: Box<dyn Policy>, seed: u64) -> Vec<RoundRecord> {
    let of = (0..world.tasks.len() as u32).collect();
    let recorded = Recorded::new(3, decoding(world), tokens, of).unwrap();
    let lengths: Vec<u32> =
        (0..world.tasks.len() as u32).map(|text| recorded.length(text).unwrap()).collect();
    let costs = Arc::new(CostModel::linear(Linear::constant(&[5e-5, 2e-4, 1e-3]).unwrap()));
    let luck = Luck::new(seed);
    let backend = SimBackend::new(Arc::new(Source::Recorded(recorded)), costs, luck, ReplicaId(0));
    let dispatcher = DispatcherConfig::RoundRobin.build(luck.stream(Stream::Dispatch));
    let mut simulator = Simulator::new(vec![(world.replica(policy), backend)], dispatcher);
    let (mut sink, mut watch) = (Rows::default(), |_| true);
    let mut bounds = Bounds { horizon: None, watch: &mut watch };
    let requests = world.requests().map(|request| {
        let truth = Truth::new(lengths[request.id.0 as usize]);
        Request { truth, ..request }
    });
    open_loop(&mut simulator, requests, &mut bounds, &mut sink).unwrap();
    simulator.close(&mut sink);
    sink.rounds
}

/// Position, tokens kept and tokens committed of every round.
fn lengths(rounds: &[RoundRecord]) -> BTreeMap<(RequestId, u32), (u32, u8, u8)> {
    rounds.iter().map(|r| ((r.request, r.round), (r.position, r.accepted, r.emitted))).collect()
}

#[track_caller]
fn same(what: &str, engine: &[RoundRecord], replay: &[RoundRecord]) {
    let (engine, replay) = (lengths(engine), lengths(replay));
    let odd = engine.iter().find(|(key, value)| replay.get(key) != Some(value));
    if let Some((key, value)) = odd {
        panic!("{what}: round {key:?}: the engine has {value:?}, replay {:?}", replay.get(key));
    }
    assert_eq!(engine.len(), replay.len(), "{what}");
}

fn worlds() -> [World; 2] {
    let warm = Sampling::new(0.9, None, Some(0.95)).unwrap();
    let world = |sampling, verify| World { sampling, verify, ..World::new(40) };
    [world(Sampling::greedy(), Verify::Speculative), world(warm, Verify::Coupled)]
}

/// The policies of the twins' test, and windows of their own.
fn all_policies() -> Vec<(&'static str, Make)> {
    let mut all = policies();
    all.push(("two levels, wide", || Box::new(super::twins::Always(plan(&[1, 2], &[8])))));
    all.push(("three levels, other windows", || Box::new(super::twins::Always(plan(&[0, 1, 2], &[1, 7])))));
    all.push(("two levels that stop", || {
        Box::new(super::twins::Always(plan(&[0, 2], &[6]).stopping(StopRule::EntropyAbove(3.0))))
    }));
    all
}

#[test]
fn invariant_11_a_trace_under_its_own_plans_has_the_lengths_it_had() {
    let (mut rounds, mut kept, mut whole, mut cycles) = (0, 0, 0, 0);
    for world in worlds() {
        for (name, policy) in all_policies() {
            let (rows, _, texts) = world.engine(policy());
            let tokens = scored(&world, &texts);
            let logged = Box::new(Logged::new(ModelId(2), &rows.rounds));
            same(name, &rows.rounds, &replay(&world, &tokens, logged, 0));
            rounds += rows.rounds.len();
            kept += rows.rounds.iter().filter(|r| r.accepted > 0 && r.accepted < r.drafted).count();
            cycles += rows.verifications.iter().filter(|v| v.cycle > 0).count();
            whole += rows.rounds.iter().filter(|r| r.accepted > 0 && r.accepted == r.drafted).count();
        }
    }
    assert!(rounds > 5_000 && kept > 500 && whole > 500, "{rounds} rounds, {kept} in part, {whole} whole");
    assert!(cycles > 500, "{cycles} second cycles");
}

#[test]
fn invariant_11_one_trace_foretells_what_other_plans_have_accepted_for_real() {
    for world in worlds() {
        // Recorded with the target alone: no draft was ever run.
        let (_, _, texts) = world.engine(Box::new(super::twins::Always(plan(&[2], &[]))));
        let tokens = scored(&world, &texts);
        for (name, policy) in all_policies() {
            // Adaptive policies live on times, so they are replayed with the plans they made.
            let (rows, _, _) = world.engine(policy());
            let logged = Box::new(Logged::new(ModelId(2), &rows.rounds));
            same(name, &rows.rounds, &replay(&world, &tokens, logged, 0));
            // The others are asked for their plans again.
            if !["specrouter", "goodput"].contains(&name) {
                same(&format!("{name}, asked"), &rows.rounds, &replay(&world, &tokens, policy(), 0));
            }
        }
    }
}

/// A score that is not the texts' own changes what is replayed: the comparison can fail.
#[test]
fn invariant_11_another_choice_changes_the_lengths() {
    let [world, _] = worlds();
    let (rows, _, texts) = world.engine(Box::new(super::twins::Always(plan(&[0, 2], &[5]))));
    let mut tokens = scored(&world, &texts);
    let agrees = tokens.iter().position(|t| t.position > 3 && t.models[0].choice == t.models[2].choice);
    tokens[agrees.unwrap()].models[0].choice = Some(u32::MAX);
    let logged = Box::new(Logged::new(ModelId(2), &rows.rounds));
    assert_ne!(lengths(&rows.rounds), lengths(&replay(&world, &tokens, logged, 0)));
}

/// Mean accepted length of each prompt's rounds; a prompt stands under many seeds.
fn by_prompt(rounds: &[RoundRecord], prompts: usize) -> (Vec<f64>, usize) {
    let mut sums = vec![(0u32, 0u32); prompts];
    let judged = rounds.iter().filter(|round| round.plan.depth() > 1);
    for round in judged.clone() {
        let sum = &mut sums[round.request.0 as usize % prompts];
        *sum = (sum.0 + u32::from(round.accepted), sum.1 + 1);
    }
    (sums.iter().map(|&(kept, rounds)| f64::from(kept) / f64::from(rounds)).collect(), judged.count())
}

/// Sampled: the lengths agree in the mean, for every chain over 20,000 rounds and more. Standard errors are clustered by
/// prompt, and the family of five chains is held at 0.001: Holm rejects one if the largest |t| has p < 0.0002.
#[test]
fn invariant_11_sampled_lengths_agree_in_the_mean() {
    const PROMPTS: usize = 40;
    /// Two-sided 0.0002 of Student's t with 39 degrees of freedom.
    const CRITICAL: f64 = 4.10;
    let seeds = 90;
    let tasks = random_tasks(256, PROMPTS, 8);
    // Task n of seed s: another seed of its own draws another text.
    let copies = |first: u64| -> World {
        let tasks = (0..seeds * PROMPTS)
            .map(|n| {
                let mut task = tasks[n % PROMPTS].clone();
                task.seed = first + n as u64;
                task
            })
            .collect();
        World { tasks, batch: 12, ..World::new(0) }
    };
    let recorded = copies(1_000_000);
    let (_, _, texts) = recorded.engine(Box::new(super::twins::Always(plan(&[2], &[]))));
    let tokens = scored(&recorded, &texts);
    let chains: [(&str, Make); 5] = [
        ("two levels", || Box::new(super::twins::Always(plan(&[0, 2], &[4])))),
        ("two levels, nearer", || Box::new(super::twins::Always(plan(&[1, 2], &[5])))),
        ("three levels", || Box::new(super::twins::Always(plan(&[0, 1, 2], &[2, 3])))),
        ("three levels that stop", || {
            Box::new(super::twins::Always(plan(&[0, 1, 2], &[4, 3]).stopping(StopRule::EntropyAbove(3.0))))
        }),
        ("switching", super::twins::switching),
    ];
    for (name, policy) in chains {
        let world = copies(0);
        let (rows, _, _) = world.engine(policy());
        let (real, rounds) = by_prompt(&rows.rounds, PROMPTS);
        let (replayed, _) = by_prompt(&replay(&recorded, &tokens, policy(), 5), PROMPTS);
        assert!(rounds >= 20_000, "{name}: {rounds} rounds");
        let differences: Vec<f64> = real.iter().zip(&replayed).map(|(a, b)| a - b).collect();
        let n = PROMPTS as f64;
        let mean = differences.iter().sum::<f64>() / n;
        let variance = differences.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>() / (n - 1.0);
        let t = mean / (variance / n).sqrt();
        let accepted = real.iter().sum::<f64>() / n;
        assert!((0.3..4.0).contains(&accepted), "{name}: {accepted}");
        assert!(
            t.abs() < CRITICAL,
            "{name}: {rounds} rounds, accepted {accepted:.3}, off by {mean:+.4}, t {t:.2}"
        );
    }
}

/// The shipped recordings replay where nothing else is at hand, and the law holds on the greedy one.
#[test]
fn the_shipped_recordings_replay_from_any_folder() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/data");
    let folder = super::program::Folder::new();
    let run = |args: &[&str]| {
        let output = folder.run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (name, seeds) in [("greedy", None), ("sampled", Some("3"))] {
        let trace = data.join(name).display().to_string();
        assert!(!run(&["trace", "check", &trace]).contains("missing"), "{name} is whole");
        let mut args = vec!["replay", &trace, "--out", name, "-q"];
        args.extend(seeds.into_iter().flat_map(|seeds| ["--seeds", seeds]));
        let table = run(&args);
        for row in ["target_only", "specrouter", "clairvoyant", "hindsight", "bound"] {
            assert!(table.contains(&format!("\n{row}")), "{name}: {row} in {table}");
        }
        let law = table.lines().find(|line| line.contains("law of replay")).unwrap();
        if name == "greedy" {
            let words: Vec<&str> = law.split_whitespace().collect();
            let of = words.iter().rposition(|word| *word == "of").unwrap();
            assert_eq!(words[of - 1], words[of + 1], "{law}");
        } else {
            assert!(table.contains("95 % interval over 3 seeds"), "{table}");
        }
    }
}
