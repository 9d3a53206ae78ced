//! Estimates of acceptance against the law that made the data.

use super::super::made::{FLAT, Law, evidence};
use super::*;

/// The mean overlap over all positions that a law has, texts of any length: no clamp reaches it here.
fn fits(law: Law, window: u32, seed: u64) -> PairFit {
    matrix(&evidence(law, 2, 2000, Some(120), window, seed), None)[0]
}

#[test]
fn with_one_alpha_both_estimates_are_unbiased_whatever_the_window() {
    for window in [1, 3, 8] {
        let fit = fits(FLAT, window, 3);
        let (scores, rounds) = (fit.scores.unwrap(), fit.rounds.unwrap());
        assert!((scores.mean - 0.7).abs() < 1e-6);
        assert!((rounds.mean - 0.7).abs() < 4.0 * rounds.standard_error, "window {window}: {rounds:?}");
        assert!(rounds.standard_error < 0.002, "{rounds:?}");
    }
}

#[test]
fn with_two_regimes_scores_are_unbiased_and_rounds_are_low_by_what_is_known() {
    // Regimes .9 and .1 along the text. algorithms.md 2.6: -19.8, -8.1, -4.3, -2.5 % at windows 1, 3, 5, 8 where
    // whole requests differ and count by positions; here runs of 400 tokens are almost that.
    let law = Law { mean: 0.5, regime_spread: 0.4, stay: 400.0, ..FLAT };
    let mut before = 0.0;
    for (window, known) in [(1, -0.198), (3, -0.081), (5, -0.043), (8, -0.025)] {
        let fit = matrix(&evidence(law, 2, 4000, Some(400), window, 9), None)[0];
        let (scores, rounds) = (fit.scores.unwrap(), fit.rounds.unwrap());
        assert!((scores.mean - 0.5).abs() < 4.0 * scores.standard_error, "{scores:?}");
        let bias = rounds.mean / scores.mean - 1.0;
        println!("window {window}: {bias:.4}, known {known}");
        assert!((bias - known).abs() < 0.02 && bias < 0.0, "window {window}: {bias} for {known}");
        assert!(window == 1 || bias > before, "longer windows see more of the good stretches");
        before = bias;
        assert_eq!((fit.origin, fit.acceptance), (Origin::Scores, Some(scores.mean)));
    }
}

#[test]
fn intervals_over_requests_cover_what_they_say() {
    // 1,000 traces of each number of requests: their own spread, regimes, noise and log-normal lengths.
    let law = Law { mean: 0.6, request_spread: 0.1, regime_spread: 0.15, stay: 25.0, noise: 0.08 };
    for requests in [60, 120, 240] {
        let covered = (0..1000u64)
            .filter(|trace| {
                let seen = evidence(law, 2, requests, None, 4, 1000 + trace);
                let found = matrix(&seen, None)[0].scores.unwrap();
                assert_eq!(found.requests as u64, requests);
                found.low <= 0.6 && 0.6 <= found.high
            })
            .count();
        println!("{requests} requests: {covered} of 1000");
        assert!((930..=970).contains(&covered), "{requests} requests: {covered} of 1000");
    }
}

#[test]
fn too_few_requests_are_not_enough_and_then_the_triangle_speaks() {
    let mut few = evidence(FLAT, 3, 19, Some(50), 4, 1);
    insta::assert_snapshot!(matrix(&few, None)[0].scores.unwrap_err(), @"not enough data: 19 requests, 20 needed");
    assert!(matrix(&few, None).iter().all(|pair| pair.acceptance.is_none()));
    // Blocks of two pairs, from sources that name no request: numbers without intervals, and the third bounded.
    few.texts.clear();
    let block = |drafter, verifier, accepted| Block {
        cluster: None,
        class: 0,
        drafter,
        verifier,
        drafted: 1,
        accepted,
        rejected: accepted == 0,
    };
    few.blocks =
        (0..10).flat_map(|i| [block(0, 1, u32::from(i < 8)), block(1, 2, u32::from(i < 9))]).collect();
    let found = matrix(&few, None);
    assert_eq!((found[0].acceptance, found[0].interval, found[0].origin), (Some(0.8), None, Origin::Rounds));
    let third = found[1];
    assert_eq!((third.drafter, third.verifier, third.origin), (0, 2, Origin::Triangle));
    let (low, high) = third.interval.unwrap();
    assert!(
        (low - 0.7).abs() < 1e-9
            && (high - 0.9).abs() < 1e-9
            && (third.acceptance.unwrap() - 0.72).abs() < 1e-9
    );
    // Without a way to it, nothing is said.
    few.blocks.retain(|block| block.drafter == 0);
    assert_eq!(matrix(&few, None)[1].acceptance, None);
}

#[test]
fn arms_of_one_run_are_no_new_requests() {
    let mut once = evidence(Law { request_spread: 0.1, ..FLAT }, 2, 60, Some(50), 4, 2);
    let alone = matrix(&once, None)[0].scores.unwrap();
    once.texts.extend(once.texts.clone());
    let twice = matrix(&once, None)[0].scores.unwrap();
    assert_eq!(alone.requests, twice.requests);
    assert!((alone.standard_error - twice.standard_error).abs() < 1e-12);
}

#[test]
fn positions_and_depths_are_told_apart() {
    let mut seen = evidence(FLAT, 2, 400, Some(70), 4, 6);
    for text in &mut seen.texts {
        text.overlaps[0].iter_mut().take(8).for_each(|overlap| *overlap = 0.4);
    }
    let stretches = by_position(&seen, 0);
    let means: Vec<f64> = stretches.iter().map(|s| (s.acceptance.mean * 100.0).round()).collect();
    assert_eq!(means, [40.0, 40.0, 40.0, 40.0, 70.0, 70.0, 70.0, 70.0]);
    assert_eq!((stretches[7].from, stretches[7].to), (64, 127));
    let depths = by_depth(&seen, 0, 1);
    assert_eq!(depths.len(), 4);
    let off = |d: &Depth| (d.acceptance.mean - 0.7).abs() / d.acceptance.standard_error;
    assert!(depths.iter().all(|d| off(d) < 4.0), "{depths:?}");
}
