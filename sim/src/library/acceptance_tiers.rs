//! `acceptance_tiers` holds its tier under noise, and never sees that passes are full.

use super::*;

/// Changes of window from one decision to the next.
fn changes(outcome: &Outcome) -> usize {
    outcome.decisions.windows(2).filter(|pair| pair[0].2.block() != pair[1].2.block()).count()
}

#[test]
fn acceptance_tiers_hold_under_noise_by_hysteresis() {
    // Of three tokens of this acceptance little more than half a one is kept: the boundary to tier 1.
    let world = World {
        alphas: vec![[0.5, 0.38, 0.6]],
        signal: 0.0,
        users: Some(4),
        requests: 120,
        ..World::default()
    };
    let with = world.run(&policy(r#"{"acceptance_tiers": {"draft": "small"}}"#));
    let without = world.run(&policy(r#"{"acceptance_tiers": {"draft": "small", "hysteresis_down": 0}}"#));
    let (with, without) = (changes(&with), changes(&without));
    assert!(without >= 5 * with.max(1), "{with} changes of tier with hysteresis, {without} without");
}

#[test]
fn acceptance_tiers_speculate_under_overload_and_lose_to_goodput() {
    let rates = |users| {
        let world = World { users: Some(users), requests: u64::from(users) * 2 + 20, ..World::default() };
        let tiers = world.run(&policy(r#"{"acceptance_tiers": {"draft": "small"}}"#));
        assert!(tiers.decisions.iter().all(|d| d.2.depth() == 2), "there is no tier without a draft");
        let others = [policy(r#"{"goodput": {"draft": "small"}}"#), PolicyConfig::TargetOnly];
        let [goodput, plain] = others.map(|other| world.run(&other).tokens_per_s());
        (tiers.tokens_per_s(), goodput, plain)
    };
    let (tiers, goodput, plain) = rates(1);
    assert!(tiers > 0.97 * goodput && tiers > 1.5 * plain, "alone: {tiers}, {goodput}, {plain} tokens/s");
    let (tiers, goodput, plain) = rates(200);
    assert!(tiers < 0.85 * goodput && tiers < 0.9 * plain, "200 users: {tiers}, {goodput}, {plain} tokens/s");
}
