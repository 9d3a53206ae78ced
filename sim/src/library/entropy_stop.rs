//! `entropy_stop` moves AdaEDL's bound until the share of drafted tokens that is kept is the one asked for.

use super::*;

/// Kept over drafted tokens.
fn share(rounds: &[RoundRecord]) -> f64 {
    let sum = |of: fn(&RoundRecord) -> u8| rounds.iter().map(|r| f64::from(of(r))).sum::<f64>();
    sum(|r| r.accepted) / sum(|r| r.drafted)
}

#[test]
fn entropy_stop_brings_the_share_of_drafts_kept_to_its_target_from_both_sides() {
    let world = World { signal: 0.8, users: Some(16), requests: 160, ..World::default() };
    let shares = |lambda: f64, target: f64| {
        let line =
            format!(r#"{{"entropy_stop": {{"draft": "small", "target": {target}, "lambda": {lambda}}}}}"#);
        let rounds = world.run(&policy(&line)).rounds;
        (share(&rounds[..rounds.len() / 100]), share(&rounds[rounds.len() / 2..]))
    };
    // From a bound under which whole windows are drafted, and from one over which a single token is.
    for (lambda, target) in [(0.0, 0.4), (1.0, 0.4), (0.0, 0.5)] {
        let (before, after) = shares(lambda, target);
        let side = if lambda < 0.5 { target - before } else { before - target };
        assert!(side > 0.1, "λ = {lambda} begins on its side of {target}, at {before}");
        assert!((after - target).abs() < 0.02, "from λ = {lambda} and {before} to {after}, not {target}");
    }
}

#[test]
fn svip_drafts_shorter_where_entropy_is_high() {
    let world = World { signal: 0.8, requests: 100, ..World::default() };
    let drafted = |threshold: f64| {
        let line =
            format!(r#"{{"entropy_stop": {{"draft": "small", "rule": "svip", "threshold": {threshold}}}}}"#);
        let rounds = world.run(&policy(&line)).rounds;
        rounds.iter().map(|r| f64::from(r.drafted)).sum::<f64>() / rounds.len() as f64
    };
    let lengths = [0.0, 0.775, 1.2, 100.0].map(drafted);
    assert!(lengths.is_sorted_by(|a, b| a * 1.2 < *b), "drafts of {lengths:?} tokens");
    assert!(lengths[0] <= 1.0 && lengths[3] > 15.0, "drafts of {lengths:?} tokens");
}
