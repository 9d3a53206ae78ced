//! `confidence_stop` drafts longer where drafts are kept, as far as confidence tells.

use super::*;

/// Tokens drafted and emitted, per round.
fn per_round(outcome: &Outcome) -> (f64, f64) {
    let sum = |of: fn(&RoundRecord) -> u8| outcome.rounds.iter().map(|r| f64::from(of(r))).sum::<f64>();
    let rounds = outcome.rounds.len() as f64;
    (sum(|r| r.drafted) / rounds, sum(|r| r.emitted) / rounds)
}

/// What the rule gains where signals have this rank correlation: tokens per round beyond those of fixed
/// windows that draft as many (between two windows, a mixture of both), and the share of time per token saved
/// against the same window without it.
fn gains(signal: f64) -> (f64, f64) {
    let world = World { signal, requests: 300, ..World::default() };
    let stops = world.run(&policy(r#"{"confidence_stop": {"draft": "small", "max_window": 6}}"#));
    let (drafted, emitted) = per_round(&stops);
    let fixed = [2, 3, 4, 5, 6].map(|window| world.run(&fixed(&["small", "large"], &[window])));
    let points = fixed.each_ref().map(per_round);
    let between = points.windows(2).find(|pair| pair[0].0 <= drafted && drafted < pair[1].0).unwrap();
    let part = (drafted - between[0].0) / (between[1].0 - between[0].0);
    let as_many = between[0].1 + part * (between[1].1 - between[0].1);
    (emitted - as_many, 1.0 - stops.tpot_ms(0) / fixed[4].tpot_ms(0))
}

#[test]
fn confidence_stop_drafts_where_drafts_are_kept_as_far_as_confidence_tells() {
    let (tokens, time) = gains(0.8);
    assert!(tokens > 0.02 && time > 0.02, "{tokens} tokens a round and {time} of the time are gained");
    // Stopping by noise makes drafts uneven, and uneven drafts are worth less than even ones.
    let (tokens, time) = gains(0.001);
    assert!(tokens < -0.02 && time < 0.0, "{tokens} tokens a round and {time} of the time by noise");
}

#[test]
fn the_heuristic_schedule_finds_long_windows_for_requests_that_are_easy_to_draft() {
    let world = World {
        alphas: vec![[0.95, 0.95, 0.97], [0.5, 0.4, 0.7]],
        signal: 0.0,
        users: Some(4),
        ..World::default()
    };
    let heuristic =
        policy(r#"{"confidence_stop": {"draft": "small", "threshold": 0, "schedule": "heuristic"}}"#);
    let outcome = world.run(&heuristic);
    let mean = |class| {
        let own = outcome.decisions.iter().filter(|d| d.1.0 % 2 == class);
        let windows: Vec<f64> = own.map(|d| f64::from(d.2.block())).collect();
        windows.iter().sum::<f64>() / windows.len() as f64
    };
    let (easy, hard) = (mean(0), mean(1));
    assert!(easy > 8.0 && hard < 3.0, "mean windows of {easy} and {hard}");
}
