//! Invariant 7, by enumeration: the joint law of the committed text is the target's, whatever the
//! chain, the windows, the stop rule and the policy (rules R1 to R5).

use super::enumerate::{Law, Setup, distance, law, target_law};
use super::policies::{OneEach, reactive};
use super::*;
use specrouter_routing::policies::{PolicyConfig, catalog};

/// Three models that agree in part.
pub fn family(vocabulary: u32, seed: u64) -> World {
    World::new((0..3).map(|m| Table::random(vocabulary, seed, m, 0.9)).collect())
}

pub fn job(sampling: Sampling) -> Job {
    Job { prompt: vec![1, 0], limit: 30, sampling, seed: 3, stop: vec![] }
}

#[track_caller]
fn lossless(setup: &Setup) -> Law {
    lossless_to(setup, 4)
}

#[track_caller]
fn lossless_to(setup: &Setup, tokens: usize) -> Law {
    let found = law(setup, tokens);
    let total: f64 = found.of.values().sum();
    assert!((total - 1.0).abs() < 1e-12, "chances add up to {total}");
    let target = target_law(&setup.world, setup.jobs.last().unwrap(), tokens);
    let off = distance(&found.of, &target);
    assert!(off < 1e-12, "off by {off:e} after {} runs", found.runs);
    found
}

const STOPS: [StopRule; 3] =
    [StopRule::Never, StopRule::TopProbabilityBelow(0.55), StopRule::EntropyAbove(0.95)];

#[test]
fn invariant_7_static_chains_with_every_stop_rule_are_lossless() {
    let windows: [&[u32]; 5] = [&[1, 1], &[2, 1], &[1, 2], &[2, 2], &[3, 3]];
    for (index, &windows) in windows.iter().enumerate() {
        for stop in STOPS {
            let world = family(2, 10 + index as u64);
            let found =
                lossless(&Setup::always(world, job(plain()), plan(&[0, 1, 2], windows).stopping(stop)));
            assert!(found.kept > 0 && found.rejected > 0, "intermediate verdicts of both kinds");
        }
    }
}

#[test]
fn invariant_7_larger_vocabularies_are_lossless() {
    for (vocabulary, windows) in [(3, [2, 2]), (3, [3, 2]), (3, [2, 3]), (4, [2, 1]), (5, [2, 1])] {
        let world = family(vocabulary, 20);
        let found = lossless(&Setup::always(world, job(plain()), plan(&[0, 1, 2], &windows)));
        assert!(found.states > 5_000);
    }
    lossless(&Setup::always(family(3, 21), job(plain()), plan(&[0, 2], &[3])));
    lossless(&Setup::always(family(5, 22), job(plain()), plan(&[1, 2], &[3])));
}

#[test]
fn invariant_7_a_policy_that_reacts_to_what_was_rolled_back_is_lossless() {
    for (seed, stop) in STOPS.into_iter().enumerate() {
        let plans = [
            plan(&[0, 1, 2], &[2, 2]).stopping(stop),
            plan(&[2], &[]),
            plan(&[0, 2], &[2]).stopping(stop),
            plan(&[0, 1, 2], &[3, 1]),
            plan(&[1, 2], &[1]),
        ];
        let world = family(2, 30 + seed as u64);
        // Seven tokens: three rounds and more on every path.
        let found = lossless_to(&Setup::new(world, job(plain()), move || reactive(&plans)), 7);
        assert!(found.kept > 0 && found.rejected > 0);
    }
}

/// Policies of the product, quick to learn so that they change their minds within four tokens.
#[test]
fn invariant_7_the_policies_of_the_product_are_lossless() {
    let quick = r#""half_life": 1.0, "probe_rounds": 1, "max_window": 2, "hysteresis": 0.0"#;
    let arms = r#""hold_rounds": 1, "arms": [{"chain": ["toy-0", "toy-1", "toy-2"], "windows": [2, 1]},
        {"chain": ["toy-2"]}, {"chain": ["toy-0", "toy-2"], "windows": [2]}]"#;
    let configs = [
        r#""target_only""#.to_owned(),
        r#"{"fixed_model": {"model": "toy-0"}}"#.to_owned(),
        r#"{"static": {"chain": ["toy-0", "toy-1", "toy-2"], "windows": [2, 1]}}"#.to_owned(),
        format!(r#"{{"specrouter": {{"scope": "per_request", {quick}}}}}"#),
        format!(r#"{{"specrouter": {{"scope": "per_batch", {quick}}}}}"#),
        r#"{"goodput": {"draft": "toy-0", "max_window": 3, "weight": 0.9}}"#.to_owned(),
        r#"{"batch_table": {"chain": ["toy-0", "toy-1", "toy-2"], "table": [{"up_to": 4, "windows": [2, 1]}],
            "disable": {"below": 0.6, "verifications": 1}}}"#
            .to_owned(),
        r#"{"acceptance_tiers": {"draft": "toy-0", "tiers": [1, 2, 4], "weight": 0.9, "warm_up": 0,
            "update_every": 1, "hysteresis_down": 0}}"#
            .to_owned(),
        r#"{"censored_ema": {"draft": "toy-0", "max_window": 4, "initial": 1, "weight": 0.9}}"#.to_owned(),
        r#"{"confidence_stop": {"draft": "toy-0", "max_window": 4, "threshold": 0.55,
            "schedule": "heuristic", "initial_window": 1}}"#
            .to_owned(),
        r#"{"confidence_stop": {"draft": "toy-0", "max_window": 4, "threshold": 0.55}}"#.to_owned(),
        r#"{"entropy_stop": {"draft": "toy-0", "max_window": 4, "lambda": 0.3, "target": 0.7, "epsilon": 0.5,
            "beta_share": 0, "beta_lambda": 0}}"#
            .to_owned(),
        r#"{"entropy_stop": {"draft": "toy-0", "rule": "svip", "max_window": 4, "threshold": 0.95}}"#.to_owned(),
        r#"{"latency_table": {"draft": "toy-0", "max_window": 3}}"#.to_owned(),
        r#"{"probe": {"probe_rounds": 1, "hold_rounds": 1, "arms": [
            {"chain": ["toy-0", "toy-1", "toy-2"], "windows": [2, 1]}, {"chain": ["toy-1", "toy-2"], "windows": [1]}]}}"#
            .to_owned(),
        r#"{"adaptive_verification": {"draft": "toy-0", "max_window": 4, "refresh_rounds": 1, "prior": 0.5,
            "half_life": 1.0}}"#
            .to_owned(),
        r#"{"slo_aware": {"draft": "toy-0", "max_window": 4, "budget": 5, "least_survival": 0.1, "prior": 0.5,
            "half_life": 1.0}}"#
            .to_owned(),
        r#"{"chain_router": {"max_window": 2, "probe_rounds": 1, "initial_acceptance": 0.6}}"#.to_owned(),
        format!(r#"{{"ucb": {{{arms}, "exploration": 1.0}}}}"#),
        format!(r#"{{"exp3": {{{arms}, "learning_rate": 2.0}}}}"#),
        format!(r#"{{"thompson": {{{arms}, "discount": 0.5}}}}"#),
        format!(r#"{{"hedge": {{{arms}, "probe_rounds": 1, "half_life": 2.0}}}}"#),
        r#"{"decision_table": {"half_life": 1, "initial_acceptance": 0.65, "forget_passes": 4, "hysteresis": 0.2,
            "rules": [
                {"when": {"acceptance_at_least": 0.6}, "chain": ["toy-0", "toy-1", "toy-2"], "windows": [2, 1]},
                {"when": {"context_at_least": 4}, "chain": ["toy-0", "toy-2"], "windows": [3]}]}}"#
            .to_owned(),
    ];
    let mut unseen: Vec<&str> = catalog().iter().map(|entry| entry.name).collect();
    for (index, config) in configs.into_iter().enumerate() {
        let config: PolicyConfig = serde_json::from_str(&config).unwrap();
        unseen.retain(|name| *name != config.name());
        let plain_decoding = ["target_only", "fixed_model"].contains(&config.name());
        let (mut world, name) = (family(3, 90 + index as u64), config.name());
        world.limits.max_block = 4;
        let setup = Setup::new(world, job(plain()), move || policies::remembering(&config, 4));
        let found = lossless(&setup);
        assert!(plain_decoding || found.states > 250, "{name} speculated: {} states", found.states);
    }
    assert_eq!(unseen, Vec::<&str>::new(), "the whole library is enumerated");
}

#[test]
fn invariant_7_top_k_and_top_p_are_lossless() {
    let cuts =
        [(0.7, Some(2), None), (1.3, None, Some(0.8)), (0.9, Some(3), Some(0.7)), (1.0, Some(1), None)];
    for (seed, (temperature, top_k, top_p)) in cuts.into_iter().enumerate() {
        let sampling = Sampling::new(temperature, top_k, top_p).unwrap();
        let world = family(4, 40 + seed as u64);
        lossless(&Setup::always(world, job(sampling), plan(&[0, 1, 2], &[2, 1])));
    }
}

#[test]
fn invariant_7_stop_tokens_and_limits_are_lossless() {
    for (seed, limit) in [(50, 30), (51, 3), (52, 2)] {
        let job = Job { stop: vec![1], limit, ..job(plain()) };
        let setup = Setup::always(family(3, seed), job, plan(&[0, 1, 2], &[2, 2]));
        lossless(&setup);
    }
}

/// A greedy request, older, decodes plainly and takes memory away from the one that is watched, which
/// is preempted with blocks pending.
#[test]
fn invariant_7_preemption_in_mid_round_is_lossless() {
    let mut preempted = 0;
    for (seed, windows) in [(60, [2, 2]), (61, [3, 1]), (62, [1, 3])] {
        let mut world = family(2, seed);
        world.kv = vec![48, 48, 28];
        world.limits.hold_passes = Some(1); // Their rounds do not begin together.
        let prompt = vec![0, 1, 1, 0, 1];
        let older = Job { prompt, limit: 18, sampling: Sampling::greedy(), seed: 1, stop: vec![] };
        let watched = plan(&[0, 1, 2], &windows);
        let mut setup = Setup::new(world, job(plain()), move || {
            (Box::new(OneEach(vec![plan(&[2], &[]), watched])), Default::default())
        });
        setup.jobs.insert(0, older);
        preempted += lossless(&setup).preempted;
    }
    assert!(preempted > 100, "blocks were pending when caches went");
}
