//! Tests of fits accept what is true and refuse what is not.

use super::super::made::{FLAT, Law, evidence};
use super::super::variation::spreads;
use super::*;

#[test]
fn one_coin_is_accepted_where_there_is_one_and_refused_where_there_are_two() {
    let (window, test) = one_coin(&evidence(FLAT, 2, 800, Some(100), 4, 11), 0, 1).unwrap();
    assert!(window == 4 && test.freedom == Some(3) && test.p > 0.001, "{test:?}");
    let two = Law { mean: 0.5, regime_spread: 0.3, ..FLAT };
    let (_, test) = one_coin(&evidence(two, 2, 800, Some(100), 4, 11), 0, 1).unwrap();
    assert!(test.p < 1e-6, "{test:?}");
}

#[test]
fn p_values_of_a_true_fit_are_spread_evenly() {
    let ps: Vec<f64> =
        (0..200).map(|seed| one_coin(&evidence(FLAT, 2, 60, Some(60), 3, seed), 0, 1).unwrap().1.p).collect();
    let below = |p: f64| ps.iter().filter(|&&x| x < p).count() as f64 / 200.0;
    // Three standard errors of a share of 200.
    assert!(
        (below(0.5) - 0.5).abs() < 0.107 && (below(0.1) - 0.1).abs() < 0.064,
        "{} {}",
        below(0.5),
        below(0.1)
    );
}

#[test]
fn rounds_agree_with_the_scores_they_were_made_from_and_with_no_others() {
    let law = Law { mean: 0.6, request_spread: 0.1, regime_spread: 0.15, noise: 0.05, ..FLAT };
    let mut seen = evidence(law, 2, 400, Some(100), 5, 12);
    let true_scores = rounds_against_scores(&seen, 0).unwrap();
    let test = true_scores.test.unwrap();
    assert!(test.p > 0.001 && test.freedom == Some(5), "{test:?}");
    assert!(true_scores.judged > 20_000 && true_scores.kept < true_scores.judged);
    seen.texts.iter_mut().for_each(|text| text.overlaps[0].iter_mut().for_each(|o| *o -= 0.03));
    let wrong = rounds_against_scores(&seen, 0).unwrap().test.unwrap();
    assert!(wrong.p < 1e-6, "{wrong:?}");
}

#[test]
fn scores_of_0_and_1_leave_nothing_to_chance() {
    let mut seen = evidence(FLAT, 2, 60, Some(60), 4, 13);
    seen.texts.iter_mut().for_each(|text| text.overlaps[0].fill(1.0));
    seen.placed.iter_mut().for_each(|placed| placed.accepted = placed.drafted);
    let all = rounds_against_scores(&seen, 0).unwrap();
    assert_eq!((all.test, all.kept as f64), (None, all.foretold));
}

#[test]
fn a_beta_law_fits_its_own_and_not_two_points() {
    // Uniform between requests is Beta(1, 1) stretched; of little spread about the middle it is near a Beta.
    let near = Law { mean: 0.5, request_spread: 0.2, noise: 0.05, ..FLAT };
    let spread = &spreads(&evidence(near, 2, 100, Some(200), 4, 14), 0).unwrap()[0];
    assert!(beta_shape(spread).unwrap().p > 0.01, "{:?}", beta_shape(spread));
    let mut two = spread.clone();
    two.observed = (0..400).map(|i| if i < 200 { 0.3 } else { 0.7 }).collect();
    assert!(beta_shape(&two).unwrap().p < 1e-6);
    (two.observed, two.mean) = (vec![0.5; 100], 0.5);
    insta::assert_snapshot!(beta_shape(&two).unwrap_err(), @"not enough data: 1 different requests, 2 needed");
}

#[test]
fn the_law_of_the_distance_has_its_known_values() {
    // Critical values of large samples: 1.358 / √n at 5 %, 1.628 / √n at 1 %.
    for (critical, p) in [(1.358, 0.05), (1.628, 0.01)] {
        assert!((kolmogorov(critical / 1e3, 1e6) - p).abs() < 3e-4);
    }
    assert!((kolmogorov(1e-4, 100.0) - 1.0).abs() < 1e-12);
}
