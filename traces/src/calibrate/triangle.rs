//! What pairs that were never seen can be: total variation is a metric, so rejections obey the triangle.
//!
//! `|(1 − α_ij) − (1 − α_jk)| ≤ 1 − α_ik ≤ (1 − α_ij) + (1 − α_jk)` for every j, at the same prefixes; where
//! choices must agree, for the rate of disagreement. Source: `algorithms.md` 1.3.

use specrouter_routing::record::{pair_index, pairs};

/// Tightens intervals of acceptance, one for each pair of `models` in the order of [`pairs`], until no triangle
/// says more. `None` in is `[0, 1]`; a pair that was seen keeps what came in.
pub fn bounds(models: usize, seen: &[Option<(f64, f64)>]) -> Vec<(f64, f64)> {
    let mut known: Vec<(f64, f64)> = seen.iter().map(|pair| pair.unwrap_or((0.0, 1.0))).collect();
    let at = |i: usize, k: usize| pair_index(models, i.min(k), i.max(k));
    // Each sweep carries a bound one model further.
    for _ in 0..models {
        for (pair, (i, k)) in pairs(models).enumerate().filter(|&(pair, _)| seen[pair].is_none()) {
            for j in (0..models).filter(|&j| j != i && j != k) {
                let ((low_ij, high_ij), (low_jk, high_jk)) = (known[at(i, j)], known[at(j, k)]);
                let apart = (low_ij - high_jk).max(low_jk - high_ij).max(0.0);
                let (low, high) = known[pair];
                known[pair] = (low.max(low_ij + low_jk - 1.0), high.min(1.0 - apart));
            }
        }
    }
    known
}

/// A point for a pair never seen: the largest product of the acceptances by way of another model (coins
/// that know nothing of each other), which always lies in the triangle of its own models. `None` where no
/// way leads from one to the other.
pub fn guess(models: usize, seen: &[Option<f64>], i: usize, k: usize) -> Option<f64> {
    let at = |i: usize, k: usize| seen[pair_index(models, i.min(k), i.max(k))];
    let by = (0..models).filter(|&j| j != i && j != k);
    by.filter_map(|j| Some(at(i, j)? * at(j, k)?)).max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sides_bound_the_third() {
        // Pairs of three: 01, 02, 12.
        let found = bounds(3, &[Some((0.8, 0.8)), None, Some((0.9, 0.9))]);
        assert!((found[1].0 - 0.7).abs() < 1e-12 && (found[1].1 - 0.9).abs() < 1e-12, "{found:?}");
        let guessed = guess(3, &[Some(0.8), None, Some(0.9)], 0, 2).unwrap();
        assert!((guessed - 0.72).abs() < 1e-12);
        assert_eq!(guess(3, &[Some(0.8), None, None], 0, 2), None);
    }

    #[test]
    fn intervals_widen_the_bound_and_far_pairs_are_reached() {
        let wide = bounds(3, &[Some((0.75, 0.85)), None, Some((0.9, 0.95))]);
        assert!((wide[1].0 - 0.65).abs() < 1e-12 && (wide[1].1 - 0.95).abs() < 1e-12, "{wide:?}");
        // Four in a row: 01, 12, 23 seen; 03 by way of two others.
        let row = bounds(4, &[Some((0.9, 0.9)), None, None, Some((0.9, 0.9)), None, Some((0.9, 0.9))]);
        assert!((row[2].0 - 0.7).abs() < 1e-12, "{row:?}");
        assert_eq!(bounds(2, &[None]), [(0.0, 1.0)]);
    }

    #[test]
    fn bounds_hold_for_every_three_distributions() {
        let toy = [[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.6, 0.25, 0.15], [0.05, 0.05, 0.9]];
        let overlap =
            |a: usize, b: usize| toy[a].iter().zip(toy[b]).map(|(x, y)| f64::min(*x, y)).sum::<f64>();
        for hidden in 0..6 {
            let all: Vec<f64> = pairs(4).map(|(i, k)| overlap(i, k)).collect();
            let seen: Vec<Option<(f64, f64)>> =
                all.iter().enumerate().map(|(p, &a)| (p != hidden).then_some((a, a))).collect();
            let (low, high) = bounds(4, &seen)[hidden];
            assert!(low <= all[hidden] + 1e-12 && all[hidden] <= high + 1e-12, "{hidden}: {low} {high}");
        }
    }
}
