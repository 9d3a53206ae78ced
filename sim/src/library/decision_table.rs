//! `decision_table` does what its first fitting rule says, and its acceptance is a class's own.

use super::*;

/// Of the requests of a class (two of them, in turn): the share of decisions whose chain is this deep.
fn depth(outcome: &Outcome, class: u64, depth: usize) -> f64 {
    let own = || outcome.decisions.iter().filter(|d| d.1.0 % 2 == class);
    own().filter(|d| d.2.depth() == depth).count() as f64 / own().count() as f64
}

#[test]
fn decision_table_decides_by_the_first_rule_that_fits() {
    let table = policy(
        r#"{"decision_table": {
            "rules": [
                {"when": {"class": "class-0", "batch_at_most": 8}, "chain": ["small", "medium", "large"], "windows": [2, 4]},
                {"when": {"batch_at_most": 24, "context_at_least": 100}, "chain": ["small", "large"], "windows": [3]}
            ]}}"#,
    );
    let run = |users| {
        let requests = u64::from(users) * 4;
        World { alphas: vec![[0.7, 0.6, 0.8]; 2], users: Some(users), requests, ..World::default() }
            .run(&table)
    };
    let few = run(6);
    assert_eq!([depth(&few, 0, 3), depth(&few, 1, 3)], [1.0, 0.0], "the first rule is of one class");
    assert!(
        depth(&few, 1, 2) > 0.4 && depth(&few, 1, 1) > 0.2,
        "the second waits for 100 tokens: {} and {}",
        depth(&few, 1, 2),
        depth(&few, 1, 1)
    );
    let (some, many) = (run(20), run(120));
    assert!(depth(&some, 0, 3) < 0.2 && depth(&some, 0, 2) > 0.4, "the first rule is for small batches");
    assert!(many.share(1.0, |plan| plan.depth() == 1) > 0.9, "no rule is for large ones");
}

#[test]
fn decision_table_leaves_a_useless_draft_alone_and_asks_again() {
    let table = policy(
        r#"{"decision_table": {"forget_passes": 500, "rules": [
            {"when": {"acceptance_at_least": 0.5}, "chain": ["small", "large"], "windows": [4]}]}}"#,
    );
    // One class is easy, of the other the small model knows nothing.
    let world = World {
        alphas: vec![[0.9, 0.8, 0.85], [0.1, 0.1, 0.8]],
        users: Some(4),
        requests: 80,
        signal: 0.0,
        ..World::default()
    };
    let outcome = world.run(&table);
    assert!(depth(&outcome, 0, 2) > 0.98, "the easy class drafts");
    let asked = depth(&outcome, 1, 2);
    assert!(0.003 < asked && asked < 0.1, "the other asks now and then: {asked}");
    let late = outcome.decisions.iter().rev().find(|d| d.1.0 % 2 == 1 && d.2.depth() == 2);
    assert!(late.unwrap().0.seconds() > 0.5 * outcome.end_s, "to the end of the run");
    // Alone, it costs as much as plain decoding.
    let alone = World { alphas: vec![[0.1, 0.1, 0.8]], signal: 0.0, ..World::default() };
    let tpot = |policy: &PolicyConfig| alone.run(policy).tpot_ms(0);
    let [table, always, never] =
        [&table, &fixed(&["small", "large"], &[4]), &PolicyConfig::TargetOnly].map(tpot);
    assert!(table < 1.02 * never && never < 0.95 * always, "{table} to {never} and {always} ms a token");
}
