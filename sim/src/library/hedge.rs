//! `hedge` knows by probes what a bandit has to try.

use super::*;

const ARMS: &str = r#""arms": [{"chain": ["large"]}, {"chain": ["small", "large"], "windows": [2]},
    {"chain": ["small", "large"], "windows": [4]}, {"chain": ["small", "large"], "windows": [8]},
    {"chain": ["medium", "large"], "windows": [4]}]"#;

#[test]
fn hedge_ranks_by_probes_a_drafter_that_never_ran_where_a_bandit_loses_rounds() {
    // At the acceptance believed of the unseen, the small draft would be the best by far.
    let world = World { alphas: vec![[0.2, 0.2, 0.8]], ..World::default() };
    let lost = |name: &str| {
        let outcome = world.run(&policy(&format!(r#"{{"{name}": {{{ARMS}}}}}"#)));
        let medium = outcome.share(1.0, |plan| plan.to_string() == "1>2 (4)");
        let small = outcome.share(1.0, |plan| plan.models()[0].0 == 0);
        ((1.0 - medium) * outcome.decisions.len() as f64, small, outcome.tokens_per_s())
    };
    let (hedge, ucb) = (lost("hedge"), lost("ucb"));
    assert!(hedge.1 == 0.0 && ucb.1 > 0.0, "the small draft ran: {} and {}", hedge.1, ucb.1);
    assert!(hedge.0 * 4.0 < ucb.0, "rounds lost: {} and {}", hedge.0, ucb.0);
    assert!(hedge.2 > ucb.2, "tokens per second: {} and {}", hedge.2, ucb.2);
}

#[test]
fn hedge_sees_by_probes_that_another_drafter_has_become_the_best() {
    let world = World {
        alphas: vec![[0.2, 0.2, 0.8], [0.85, 0.85, 0.8]],
        phases: true,
        requests: 120,
        ..World::default()
    };
    let small = |probe_rounds: u32| {
        let line = format!(r#"{{"hedge": {{{ARMS}, "probe_rounds": {probe_rounds}}}}}"#);
        let outcome = world.run(&policy(&line));
        outcome.share(0.2, |plan| plan.models()[0].0 == 0)
    };
    let (seen, blind) = (small(32), small(1_000_000));
    assert!(seen > 0.9, "{seen} of the last decisions draft with the small model");
    assert!(blind < 0.5, "{blind} without looking");
}
