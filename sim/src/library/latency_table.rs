//! `latency_table` knows load and does not see text.

use super::*;

const TABLE: &str =
    r#"{"latency_table": {"draft": "small", "rates": [0.6, 0.36, 0.216, 0.13, 0.078, 0.047, 0.028, 0.017]}}"#;

fn world(users: u32, alpha: f64) -> World {
    World {
        alphas: vec![[0.5, alpha, 0.5]],
        signal: 0.0,
        users: Some(users),
        requests: 1 << 40,
        output: 1000,
        horizon_s: Some(20.0),
        ..World::default()
    }
}

fn mean_window(outcome: &Outcome) -> f64 {
    let all: u32 = outcome.decisions.iter().map(|d| d.2.block()).sum();
    f64::from(all) / outcome.decisions.len() as f64
}

#[test]
fn latency_table_has_the_right_draft_length_at_every_load_for_the_rates_it_was_given() {
    let mut last = f64::INFINITY;
    for users in [1, 16, 64, 256] {
        let world = world(users, 0.6);
        let outcome = world.run(&policy(TABLE));
        let statics =
            (1..=6).map(|window| world.run(&fixed(&["small", "large"], &[window])).round_tokens_per_s());
        let best = statics.fold(world.run(&policy("\"target_only\"")).round_tokens_per_s(), f64::max);
        let (speed, window) = (outcome.round_tokens_per_s(), mean_window(&outcome));
        assert!(speed > 0.975 * best, "{users} users: {speed:.0} tokens/s, the best length {best:.0}");
        assert!(window < last, "{users} users: drafts of {window}, of fewer {last}");
        last = window;
    }
}

#[test]
fn latency_table_does_not_see_acceptance_collapse() {
    let (good, bad) = (world(16, 0.6), world(16, 0.1));
    let (before, after) = (good.run(&policy(TABLE)), bad.run(&policy(TABLE)));
    assert!(
        (mean_window(&before) - mean_window(&after)).abs() < 0.05,
        "the same drafts whatever comes of them"
    );
    let goodput = bad.run(&policy(r#"{"goodput": {"draft": "small"}}"#)).round_tokens_per_s();
    let table = after.round_tokens_per_s();
    assert!(table < 0.9 * goodput, "{table:.0} tokens/s, of one that sees {goodput:.0}");
}
