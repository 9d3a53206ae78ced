//! Bandits over plans: `ucb` and what it is rewarded for, `exp3` in a world that changes, `thompson`
//! and where it explores.

use super::*;

/// A share of decisions whose plan is `plan`, as it is written: `0>2 (4)`.
fn share(outcome: &Outcome, part: f64, plan: &str) -> f64 {
    outcome.share(part, |chain| chain.to_string() == plan)
}

#[test]
fn ucb_as_published_prefers_the_long_slow_chain_and_with_time_in_its_reward_does_not() {
    // A chain of three commits twice the tokens of a round, in three times its time.
    let world = World {
        times_ms: [(0.5, 0.002), (8.0, 0.01), (10.0, 0.06)],
        alphas: vec![[0.7, 0.6, 0.9]],
        ..World::default()
    };
    let run = |reward: &str| {
        let arms = r#"[{"chain": ["large"]}, {"chain": ["small", "large"], "windows": [4]},
            {"chain": ["small", "medium", "large"], "windows": [2, 8]}]"#;
        world.run(&policy(&format!(r#"{{"ucb": {{"arms": {arms}, "reward": "{reward}"}}}}"#)))
    };
    let (published, timed) = (run("accepted"), run("tokens_per_second"));
    let long = |outcome: &Outcome| share(outcome, 0.5, "0>1>2 (2, 8)");
    assert!(long(&published) > 0.95 && long(&timed) < 0.05, "{} {}", long(&published), long(&timed));
    assert!(share(&timed, 0.5, "0>2 (4)") > 0.9);
    let gain = timed.tokens_per_s() / published.tokens_per_s();
    assert!(gain > 1.3, "{gain}");
    let best = world.run(&fixed(&["small", "large"], &[4])).tokens_per_s();
    assert!(timed.tokens_per_s() > 0.97 * best, "{} of {best}", timed.tokens_per_s());
}

#[test]
fn exp3_recovers_when_the_best_plan_changes_in_mid_run() {
    // The small draft is the better one for the first half of the requests, and useless after it.
    let world = World {
        alphas: vec![[0.85, 0.85, 0.8], [0.1, 0.1, 0.8]],
        phases: true,
        requests: 240,
        ..World::default()
    };
    let arms = r#"[{"chain": ["large"]}, {"chain": ["small", "large"], "windows": [4]},
        {"chain": ["medium", "large"], "windows": [4]}]"#;
    let gamma = 0.05;
    let outcome = world.run(&policy(&format!(r#"{{"exp3": {{"arms": {arms}, "gamma": {gamma}}}}}"#)));
    let last = outcome.requests.iter().position(|request| request.1 == ClassId(1)).unwrap();
    let change = outcome.requests[last].0;
    let before: Vec<usize> =
        (0..outcome.decisions.len()).filter(|&i| outcome.decisions[i].1 < change).collect();
    let of = |part: &[usize], plan: &str| {
        part.iter().filter(|&&i| outcome.decisions[i].2.to_string() == plan).count() as f64
            / part.len() as f64
    };
    let (first, then) = (of(&before[before.len() / 2..], "0>2 (4)"), share(&outcome, 0.25, "1>2 (4)"));
    assert!(first > 0.6 && then > 0.6, "{first} of the small draft, then {then} of the medium");

    // What is logged is the chance of a choice: none is below the floor, and choices weighted by its
    // inverse are as many of each plan as of any other.
    let mut weighted = BTreeMap::<String, f64>::new();
    for (decision, prediction) in outcome.decisions.iter().zip(&outcome.predictions) {
        let chance = f64::from(prediction.unwrap().propensity);
        assert!(chance > gamma / 3.0 - 1e-6 && chance <= 1.0, "{chance}");
        *weighted.entry(decision.2.to_string()).or_default() += 1.0 / chance / outcome.decisions.len() as f64;
    }
    assert!(weighted.len() == 3 && weighted.values().all(|w| (0.75..1.25).contains(w)), "{weighted:?}");
}

#[test]
fn thompson_explores_where_the_best_could_be() {
    let arms = r#"[{"chain": ["large"]}, {"chain": ["small", "large"], "windows": [1]},
        {"chain": ["small", "large"], "windows": [4]}, {"chain": ["medium", "large"], "windows": [4]},
        {"chain": ["small", "medium", "large"], "windows": [2, 4]}]"#;
    let world = World { requests: 120, ..World::default() };
    let outcome = world.run(&policy(&format!(r#"{{"thompson": {{"arms": {arms}}}}}"#)));
    let of = |plan| share(&outcome, 1.0, plan);
    let (best, close) = (of("0>1>2 (2, 4)"), of("0>2 (4)") + of("1>2 (4)"));
    let hopeless = of("2") + of("0>2 (1)");
    // Uniform exploration would give the two hopeless plans of four others half of it.
    assert!(best > 0.6 && hopeless < 0.2 * (1.0 - best), "{best} best, {close} close, {hopeless} hopeless");
    let plain = of("2");
    assert!(plain < 0.05 * (1.0 - best), "half as fast as the best, {plain} of decisions");
}
