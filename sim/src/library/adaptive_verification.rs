//! `adaptive_verification` gives each sequence the draft that its own history earns, and the batch
//! no more of them than its passes bear.

use super::*;

const ADAPTIVE: &str = r#"{"adaptive_verification": {"draft": "small"}}"#;

/// A cheap draft, and a verification of which each token costs.
fn world(users: u32) -> World {
    World {
        times_ms: [(0.2, 0.002), (2.0, 0.01), (10.0, 0.06)],
        signal: 0.0,
        users: Some(users),
        requests: 1 << 40,
        output: 1000,
        horizon_s: Some(30.0),
        ..World::default()
    }
}

#[test]
fn adaptive_verification_drafts_longer_for_those_who_keep_more_and_less_for_all_in_a_crowd() {
    let windows = |users| {
        let world = World { alphas: vec![[0.85, 0.8, 0.9], [0.6, 0.4, 0.7]], ..world(users) };
        let outcome = world.run(&policy(ADAPTIVE));
        [0, 1].map(|class| {
            let own = outcome.decisions.iter().filter(|d| d.1.0 % 2 == class).map(|d| d.2.block());
            let own: Vec<u32> = own.collect();
            f64::from(own.iter().sum::<u32>()) / own.len() as f64
        })
    };
    let (few, many) = (windows(16), windows(160));
    assert!(few[0] > few[1] + 1.5 && many[0] > many[1] + 1.0, "{few:?} of 16, {many:?} of 160");
    assert!(few.iter().sum::<f64>() > many.iter().sum::<f64>() + 1.5, "{few:?} of 16, {many:?} of 160");
}

#[test]
fn adaptive_verification_beats_every_single_window_where_requests_differ_and_passes_are_full() {
    let world = World { spread: 0.25, ..world(128) };
    let adaptive = world.run(&policy(ADAPTIVE)).round_tokens_per_s();
    let best = (0..=6).map(|window| {
        let config =
            if window == 0 { policy("\"target_only\"") } else { fixed(&["small", "large"], &[window]) };
        world.run(&config).round_tokens_per_s()
    });
    let best = best.fold(0.0, f64::max);
    assert!(adaptive > 1.05 * best, "{adaptive:.0} tokens/s, the best single window {best:.0}");
}
