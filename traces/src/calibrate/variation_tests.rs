//! The parts of the variance against the law that made it.

use super::super::made::{FLAT, Law, evidence};
use super::*;

#[track_caller]
fn near(found: Measured, truth: f64, what: &str) {
    println!("{what}: {:.4} +- {:.4} for {truth}", found.value, found.standard_error);
    let off = (found.value - truth).abs();
    assert!(off < 4.0 * found.standard_error && off < 0.2 * truth, "{what}: {found:?} for {truth}");
}

#[test]
fn spread_regime_run_length_and_noise_come_back() {
    for (law, seed) in [
        (Law { mean: 0.5, request_spread: 0.08, regime_spread: 0.1, stay: 40.0, noise: 0.0 }, 1),
        (Law { mean: 0.5, request_spread: 0.1, regime_spread: 0.15, stay: 10.0, noise: 0.1 }, 2),
        (Law { mean: 0.5, request_spread: 0.05, regime_spread: 0.2, stay: 25.0, noise: 0.05 }, 3),
    ] {
        let seen = evidence(law, 3, 1500, Some(300), 4, seed);
        // Three levels: two drafts, each moved in proportion to its own rejection.
        let found = of_drafts(&seen).unwrap();
        near(found.request_spread, law.request_spread, "request spread");
        let regime = found.regime.expect("the regime is plain");
        near(regime.spread, law.regime_spread, "regime");
        near(regime.stay_tokens, law.stay, "stay");
        assert!((found.noise - law.noise).abs() < 0.01, "noise {} for {}", found.noise, law.noise);
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let requests = Law { mean: 0.5, request_spread: 0.1, noise: 0.1, ..FLAT };
    let found = of_drafts(&evidence(requests, 2, 1000, Some(200), 4, 4)).unwrap();
    assert_eq!(found.regime, None, "{:?}", found.regime);
    near(found.request_spread, 0.1, "request spread");
    // No spread between requests: the sampling of 200 noisy tokens (.007) is not taken for one.
    let noise = Law { mean: 0.5, noise: 0.1, ..FLAT };
    let found = of_drafts(&evidence(noise, 2, 1000, Some(200), 4, 5)).unwrap();
    assert!(found.request_spread.value < 0.003 && found.regime.is_none(), "{found:?}");
    assert!((found.noise - 0.1).abs() < 0.002);
}

#[test]
fn runs_as_long_as_the_texts_are_a_spread_between_requests() {
    let law = Law { mean: 0.5, regime_spread: 0.1, stay: 1e6, noise: 0.05, ..FLAT };
    let found = of_drafts(&evidence(law, 2, 400, Some(60), 4, 7)).unwrap();
    assert_eq!(found.regime, None);
    near(found.request_spread, 0.1, "request spread");
}

#[test]
fn a_class_has_its_own_mean_and_that_is_no_spread() {
    let law = Law { mean: 0.5, request_spread: 0.05, noise: 0.05, ..FLAT };
    let mut seen = evidence(law, 2, 600, Some(100), 4, 6);
    seen.classes = vec!["a".into(), "b".into()];
    for text in seen.texts.iter_mut().step_by(2) {
        text.class = 1;
        text.overlaps[0].iter_mut().for_each(|overlap| *overlap += 0.2);
    }
    near(of_drafts(&seen).unwrap().request_spread, 0.05, "request spread");
    let own = spreads(&seen, 1).unwrap();
    assert!(
        (own[0].mean - 0.7).abs() < 0.01 && (own[0].deviation - 0.05).abs() < 0.01,
        "{:?}",
        own[0].deviation
    );
    let (a, b) = own[0].beta.unwrap();
    assert!((a / (a + b) - own[0].mean).abs() < 1e-9 && own[0].observed.len() == 300);
}

#[test]
fn few_requests_and_short_texts_are_not_enough() {
    let error = |models, requests, tokens| {
        of_drafts(&evidence(FLAT, models, requests, Some(tokens), 4, 1)).unwrap_err()
    };
    insta::assert_snapshot!(error(2, 19, 50), @"not enough data: 19 scored requests, 20 needed");
    insta::assert_snapshot!(error(2, 50, 3), @"not enough data: 3 tokens a text, 4 needed");
    insta::assert_snapshot!(error(1, 50, 50), @"not enough data: 1 models, 2 needed");
    assert_eq!(beta(0.5, 0.0), None);
    assert_eq!(beta(0.5, 0.6), None);
}
