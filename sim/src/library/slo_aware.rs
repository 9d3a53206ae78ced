//! `slo_aware` drafts for those who are in a hurry.

use super::*;

/// The share of a class's requests that met their SLO, and its mean draft.
fn met(outcome: &Outcome, class: u16) -> (f64, f64) {
    let own: Vec<_> = outcome.requests.iter().filter(|r| r.1 == ClassId(class)).collect();
    let met = own.iter().filter(|r| r.3 == Some(true)).count() as f64 / own.len() as f64;
    let drafts = outcome.decisions.iter().filter(|d| d.1.0 % 2 == u64::from(class)).map(|d| d.2.block());
    let drafts: Vec<u32> = drafts.collect();
    (met, f64::from(drafts.iter().sum::<u32>()) / drafts.len() as f64)
}

#[test]
fn slo_aware_keeps_tight_slos_that_no_single_window_keeps() {
    // Half of the requests want a token every 14 ms, half every 40; each token of a verification
    // costs, so that drafts for all slow all down.
    let world = World {
        times_ms: [(0.2, 0.002), (2.0, 0.01), (10.0, 0.3)],
        alphas: vec![[0.8, 0.7, 0.8]; 2],
        tpot_ms: vec![14.0, 40.0],
        users: Some(24),
        requests: 1 << 40,
        output: 500,
        horizon_s: Some(60.0),
        ..World::default()
    };
    let aware = world.run(&policy(r#"{"slo_aware": {"draft": "small", "budget": 64}}"#));
    let ((tight, long), (loose, short)) = (met(&aware, 0), met(&aware, 1));
    assert!(tight > 0.7 && loose > 0.99, "SLOs met: {tight:.2} of the tight, {loose:.2} of the loose");
    assert!(long > short + 2.0, "drafts of {long:.1} for the tight, {short:.1} for the loose");
    for window in 0..=6 {
        let single = if window == 0 {
            world.run(&policy("\"target_only\""))
        } else {
            world.run(&fixed(&["small", "large"], &[window]))
        };
        // Each is as fast for the loose or faster: what they do not need.
        assert!(single.tpot_ms(1) < aware.tpot_ms(1));
        let kept = met(&single, 0).0;
        assert!(kept < tight - 0.5, "windows of {window} keep {kept:.2} of the tight, slo_aware {tight:.2}");
    }
}
