//! Signals of a quality that is known.

use super::super::made::{FLAT, Law, evidence};
use super::*;

const VARIED: Law = Law { mean: 0.5, noise: 0.1, ..FLAT };

#[test]
fn the_rank_correlation_of_signals_is_the_one_they_were_made_with() {
    // Overlap N(.5, .1), top probability that plus N(0, .2): Pearson .447, Spearman 6/π·asin(.447 / 2).
    let pearson = 0.1 / 0.05f64.sqrt();
    let known = 6.0 / std::f64::consts::PI * (pearson / 2.0).asin();
    let found = quality(&evidence(VARIED, 3, 300, Some(100), 4, 7)).unwrap();
    assert_eq!(found.len(), 3);
    for pair in found {
        assert!((pair.top_probability - known).abs() < 0.02, "{pair:?} for {known}");
        assert!((pair.entropy + known).abs() < 0.02 && pair.positions == 30_000, "{pair:?}");
    }
}

#[test]
fn what_the_class_already_says_is_not_the_signals_merit() {
    let mut seen = evidence(Law { noise: 0.0, ..VARIED }, 2, 40, Some(100), 4, 8);
    seen.classes.push("other".into());
    for text in seen.texts.iter_mut().skip(20) {
        text.class = 1;
        text.overlaps[0].iter_mut().for_each(|overlap| *overlap += 0.3);
        text.top_probability[0].iter_mut().for_each(|top| *top += 9.0);
    }
    let found = quality(&seen).unwrap()[0];
    assert!(found.top_probability.abs() < 1e-9, "{found:?}");
}

#[test]
fn levels_that_move_together_correlate() {
    let found = levels(&evidence(VARIED, 3, 50, Some(100), 4, 9)).unwrap();
    assert_eq!((found.len(), found[0].first, found[0].second), (1, 0, 1));
    assert!(found[0].correlation > 0.99, "{found:?}");
}

#[test]
fn the_mapping_is_the_identity_or_a_rising_curve() {
    let mut seen = evidence(VARIED, 2, 300, Some(100), 4, 10);
    let sampled = mapping(&seen, Decoding::Speculative).unwrap();
    assert!(sampled[0].points.is_empty() && sampled[0].residual == 0.0);
    // Greedy: agreement is certain above a top probability of one half, impossible below it.
    for text in &mut seen.texts {
        let tops = &text.top_probability[0];
        text.overlaps[0] = tops.iter().map(|&top| f32::from(u8::from(top > 0.5))).collect();
    }
    let greedy = &mapping(&seen, Decoding::Greedy).unwrap()[0];
    assert!(greedy.points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{greedy:?}");
    let at = |top: f64| greedy.points.iter().rev().find(|p| p.0 < top).unwrap().1;
    assert!(at(0.4) < 0.01 && at(0.6) > 0.99, "{greedy:?}");
}

#[test]
fn falling_neighbours_are_pooled() {
    let bins = [(0.0, 0.1), (1.0, 0.5), (2.0, 0.3), (3.0, 0.4), (4.0, 0.9)];
    let curve = rising(&bins);
    assert!(curve.iter().zip([0.1, 0.4, 0.4, 0.4, 0.9]).all(|(a, b)| (a - b).abs() < 1e-12), "{curve:?}");
}

#[test]
fn few_positions_are_not_enough() {
    let few = evidence(VARIED, 2, 10, Some(19), 4, 1);
    insta::assert_snapshot!(quality(&few).unwrap_err(), @"not enough data: 190 scored positions, 200 needed");
    assert!(levels(&few).is_err() && mapping(&few, Decoding::Greedy).is_err());
}
