//! `probe` finds the fastest arm by trying all, and tries again when the load is new.

use super::*;

fn probe(probe_rounds: u32, hold_rounds: u32) -> PolicyConfig {
    policy(&format!(
        r#"{{"probe": {{"probe_rounds": {probe_rounds}, "hold_rounds": {hold_rounds}, "arms": [{{"chain": ["large"]}},
            {{"chain": ["small", "large"], "windows": [1]}}, {{"chain": ["small", "large"], "windows": [4]}},
            {{"chain": ["medium", "large"], "windows": [4]}}, {{"chain": ["small", "large"], "windows": [16]}}]}}}}"#
    ))
}

/// How often an arm came up after another: the arm of 16, which is never the fastest, is run in
/// measurements only.
fn measurements(outcome: &Outcome) -> usize {
    let measured = |at: &usize| outcome.decisions[*at].2.windows() == [16];
    (1..outcome.decisions.len()).filter(|at| measured(at) && !measured(&(at - 1))).count()
}

fn world(users: u32) -> World {
    World { users: Some(users), requests: 1 << 40, output: 1000, horizon_s: Some(30.0), ..World::default() }
}

#[test]
fn probe_holds_the_arm_that_is_truly_fastest() {
    let arms: [(&[&str], &[u32]); 5] = [
        (&["large"], &[]),
        (&["small", "large"], &[1]),
        (&["small", "large"], &[4]),
        (&["medium", "large"], &[4]),
        (&["small", "large"], &[16]),
    ];
    let mut fastest = Vec::new();
    // Rounds enough for luck to even out: a lone request needs more than a crowd.
    for (users, rounds) in [(1, 150), (32, 50), (200, 20)] {
        let world = World { horizon_s: Some(60.0), ..world(users) };
        let speeds = arms.map(|(chain, windows)| world.run(&fixed(chain, windows)).round_tokens_per_s());
        let best = speeds.iter().copied().fold(0.0, f64::max);
        let outcome = world.run(&probe(rounds, 100_000));
        let held = outcome.decisions.last().unwrap().2;
        let again = world.run_policy(Box::new(specrouter_routing::policies::StaticChain::new(held)));
        assert!(again.round_tokens_per_s() > 0.98 * best, "{users} users: {held} of {speeds:.0?}");
        assert!(outcome.share(0.5, |plan| *plan == held) > 0.999, "{users} users: held");
        assert_eq!(measurements(&outcome), 1, "{users} users: measured once");
        fastest.push(held);
    }
    assert!(fastest[0] != fastest[2], "{fastest:?}: another arm in a crowd");
}

#[test]
fn probe_measures_again_when_the_load_is_new_and_when_its_time_is_over() {
    let ramp = World { users: None, gap_ms: 400.0, requests: 100, output: 3000, ..World::default() };
    let outcome = ramp.run(&probe(16, 100_000));
    assert!(measurements(&outcome) >= 4, "{} measurements on the way up", measurements(&outcome));
    let plain = ramp.run(&policy("\"target_only\"")).tokens_per_s();
    assert!(outcome.tokens_per_s() > 1.05 * plain, "what it finds pays for the search");
    let impatient = world(8).run(&probe(16, 300));
    assert!(measurements(&impatient) >= 3, "{} measurements at one load", measurements(&impatient));
}
