//! A set system with given pairwise acceptances: which sets of models agree, and how often.
//!
//! λ is a nonnegative measure on the non-empty sets of models with Σ_{S∋k} λ_S = 1 for every model
//! and Σ_{S∋i,k} λ_S = α_ik for every pair: distributions that are flat on disjoint cells, one cell
//! for each set. A small linear programme finds the λ with the most agreement of all.

use super::constant::{Matrix, ordered_pairs};

/// Most models: 63 sets, 21 constraints.
pub(crate) const MOST_MODELS: usize = 6;

/// λ: masks of models (bit m for model m) with their mass, largest first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SetSystem {
    pub models: usize,
    pub weights: Vec<(u8, f64)>,
}

impl SetSystem {
    /// The λ ≥ 0 with the marginals of `matrix` (pairs that are `None` are free) and the largest
    /// λ of all `models`; `None` when there is none.
    pub fn solve(models: usize, matrix: &Matrix) -> Option<Self> {
        let sets: Vec<u8> = (1..1u16 << models).map(|set| set as u8).collect();
        let all = *sets.last()?;
        let mut rows = Vec::new();
        let mut add = |members: u8, mass: f64| {
            let mut row: Vec<f64> =
                sets.iter().map(|set| f64::from(u8::from(set & members == members))).collect();
            row.push(mass);
            rows.push(row);
        };
        (0..models).for_each(|m| add(1 << m, 1.0));
        for (i, k) in ordered_pairs(models) {
            if let Some(rate) = matrix[i][k] {
                add(1 << i | 1 << k, rate);
            }
        }
        let objective: Vec<f64> = sets.iter().map(|&set| f64::from(u8::from(set == all))).collect();
        let solution = maximize(&objective, rows)?;
        let mut weights: Vec<(u8, f64)> =
            sets.into_iter().zip(solution).filter(|&(_, mass)| mass > ZERO).collect();
        weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Some(Self { models, weights })
    }

    /// The λ whose marginals are nearest to `matrix`: the sum of the changes, each times its pair's weight, is
    /// least. `weights[i][k]` is finite and above 0.
    pub fn nearest(models: usize, matrix: &Matrix, weights: &[[f64; MOST_MODELS]; MOST_MODELS]) -> Self {
        let sets: Vec<u8> = (1..1u16 << models).map(|set| set as u8).collect();
        let given: Vec<(usize, usize, f64)> =
            ordered_pairs(models).filter_map(|(i, k)| matrix[i][k].map(|rate| (i, k, rate))).collect();
        // Variables: the sets, then for each pair what its rate loses and what it gains.
        let mut rows = Vec::new();
        let mut add = |members: u8, mass: f64, changed: Option<usize>| {
            let mut row: Vec<f64> =
                sets.iter().map(|set| f64::from(u8::from(set & members == members))).collect();
            row.extend((0..given.len()).flat_map(|pair| {
                let own = f64::from(u8::from(changed == Some(pair)));
                [own, -own]
            }));
            row.push(mass);
            rows.push(row);
        };
        (0..models).for_each(|m| add(1 << m, 1.0, None));
        for (pair, &(i, k, rate)) in given.iter().enumerate() {
            add(1 << i | 1 << k, rate, Some(pair));
        }
        let mut objective = vec![0.0; sets.len()];
        objective.extend(given.iter().flat_map(|&(i, k, _)| [-weights[i][k]; 2]));
        let solution = maximize(&objective, rows).expect("every matrix is some change away from a system");
        let weights = sets.into_iter().zip(solution).filter(|&(_, mass)| mass > ZERO).collect();
        Self { models, weights }
    }

    /// Mass of the sets that hold all of `members`.
    pub fn mass(&self, members: u8) -> f64 {
        self.weights.iter().filter(|(set, _)| set & members == members).map(|(_, mass)| mass).sum()
    }

    /// Mass of the agreement of all.
    pub fn agreement(&self) -> f64 {
        self.mass(((1u16 << self.models) - 1) as u8)
    }

    /// λ^h = (λ − `taken`·[all]) / (1 − `taken`): what is left when all agree with probability
    /// `taken` by other means. `taken` is at most [`agreement`](Self::agreement), and below 1.
    pub fn without(&self, taken: f64) -> Self {
        let all = ((1u16 << self.models) - 1) as u8;
        let left =
            |&(set, mass): &(u8, f64)| (set, (if set == all { mass - taken } else { mass }) / (1.0 - taken));
        Self {
            models: self.models,
            weights: self.weights.iter().map(left).filter(|&(_, mass)| mass > 0.0).collect(),
        }
    }

    /// The sets that hold `inside` and not `outside`, to draw from.
    pub fn table(&self, inside: usize, outside: Option<usize>) -> Table {
        let out = outside.map_or(0, |m| 1u8 << m);
        let chosen = self.weights.iter().filter(|(set, _)| set >> inside & 1 == 1 && set & out == 0);
        let mut sum = 0.0;
        let mut entries: Vec<(f64, u8)> = Vec::new();
        for &(set, mass) in chosen {
            sum += mass;
            entries.push((sum, set));
        }
        for entry in &mut entries {
            entry.0 /= sum;
        }
        let mut table = Table { entries, whole: [0; CELLS] };
        for cell in 0..CELLS {
            let (low, high) = (cell as f64 / CELLS as f64, (cell + 1) as f64 / CELLS as f64);
            let first = table.entries.iter().find(|entry| low < entry.0);
            table.whole[cell] = first.filter(|entry| high <= entry.0).map_or(0, |entry| entry.1);
        }
        table
    }
}

/// Cells of `[0, 1)` that say at once which set is drawn.
const CELLS: usize = 256;

/// Sets with their cumulative probability.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    entries: Vec<(f64, u8)>,
    /// The set that a cell lies in as a whole; 0 where it lies in several.
    whole: [u8; CELLS],
}

impl Table {
    /// No set has mass.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The set at quantile `u` in `[0, 1)` (below 0 as at 0); the empty set if no set has mass.
    #[inline]
    pub fn draw(&self, u: f64) -> u8 {
        match self.whole[((u * CELLS as f64) as i32).clamp(0, CELLS as i32 - 1) as usize] {
            0 => self.search(u),
            set => set,
        }
    }

    fn search(&self, u: f64) -> u8 {
        let found = self.entries.iter().find(|entry| u < entry.0).or(self.entries.last());
        found.map_or(0, |&(_, set)| set) // Rounding may leave the last sum under 1.
    }
}

/// What counts as no mass: far above rounding, far below anything a user writes.
const ZERO: f64 = 1e-11;
/// How far the marginals may be missed.
const FEASIBLE: f64 = 1e-9;

/// Maximizes `objective · x` over x ≥ 0 with `rows` (coefficients, then the right-hand side, which is
/// ≥ 0) as equalities: the dense two-phase simplex with Bland's rule, which cannot cycle. `None` when
/// nothing satisfies the rows. The set system is bounded, so the optimum is finite.
fn maximize(objective: &[f64], rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let (variables, constraints) = (objective.len(), rows.len());
    let width = variables + constraints + 1;
    // Columns: the variables, one artificial per row, the right-hand side.
    let mut tableau: Vec<Vec<f64>> = rows
        .into_iter()
        .enumerate()
        .map(|(r, row)| {
            let mut full = vec![0.0; width];
            full[..variables].copy_from_slice(&row[..variables]);
            full[variables + r] = 1.0;
            full[width - 1] = row[variables];
            full
        })
        .collect();
    let mut basis: Vec<usize> = (variables..variables + constraints).collect();

    let mut first = vec![0.0; width];
    first[variables..variables + constraints].fill(-1.0);
    optimize(&mut tableau, &mut basis, &first, width - 1);
    let missed: f64 =
        (0..constraints).filter(|&r| basis[r] >= variables).map(|r| tableau[r][width - 1]).sum();
    if missed > FEASIBLE {
        return None;
    }
    // Artificials that are left in the basis stand at 0: they leave for any variable of their row;
    // a row that has none repeats another.
    for r in 0..constraints {
        if basis[r] >= variables
            && let Some(column) = (0..variables).find(|&c| libm::fabs(tableau[r][c]) > FEASIBLE)
        {
            pivot(&mut tableau, &mut basis, r, column);
        }
    }
    let mut second = vec![0.0; width];
    second[..variables].copy_from_slice(objective);
    optimize(&mut tableau, &mut basis, &second, variables);

    let mut solution = vec![0.0; variables];
    for (row, &variable) in tableau.iter().zip(&basis) {
        if variable < variables {
            solution[variable] = row[width - 1].max(0.0);
        }
    }
    Some(solution)
}

/// Pivots until no column below `columns` improves `objective`.
fn optimize(tableau: &mut [Vec<f64>], basis: &mut [usize], objective: &[f64], columns: usize) {
    const PIVOT: f64 = 1e-10;
    let rhs = objective.len() - 1;
    loop {
        // Bland: the first column that improves, and of the rows that bind first the one whose
        // basic variable comes first.
        let gain = |column: usize| {
            objective[column]
                - tableau.iter().zip(basis.iter()).map(|(row, &b)| objective[b] * row[column]).sum::<f64>()
        };
        let Some(column) = (0..columns).find(|&column| !basis.contains(&column) && gain(column) > PIVOT)
        else {
            return;
        };
        let mut leaving: Option<(usize, f64)> = None;
        for (r, row) in tableau.iter().enumerate() {
            if row[column] > PIVOT {
                let ratio = row[rhs].max(0.0) / row[column];
                let better = leaving.is_none_or(|(best, least)| {
                    ratio < least - 1e-12 || (ratio <= least + 1e-12 && basis[r] < basis[best])
                });
                if better {
                    leaving = Some((r, leaving.map_or(ratio, |(_, least)| least.min(ratio))));
                }
            }
        }
        let Some((row, _)) = leaving else { return };
        pivot(tableau, basis, row, column);
    }
}

/// Makes `column` basic in `row`.
fn pivot(tableau: &mut [Vec<f64>], basis: &mut [usize], row: usize, column: usize) {
    let scale = tableau[row][column];
    tableau[row].iter_mut().for_each(|cell| *cell /= scale);
    let chosen = tableau[row].clone();
    for (r, other) in tableau.iter_mut().enumerate() {
        let factor = other[column];
        if r != row && libm::fabs(factor) > 0.0 {
            other.iter_mut().zip(&chosen).for_each(|(cell, from)| *cell -= factor * from);
            other[column] = 0.0;
        }
    }
    basis[row] = column;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use specrouter_routing::chain::MAX_MODELS;

    use super::*;

    fn matrix(pairs: &[(usize, usize, f64)]) -> Matrix {
        let mut matrix = [[None; MAX_MODELS]; MAX_MODELS];
        for &(i, k, rate) in pairs {
            matrix[i][k] = Some(rate);
        }
        matrix
    }

    #[track_caller]
    fn check_marginals(system: &SetSystem, matrix: &Matrix) {
        for i in 0..system.models {
            assert!((system.mass(1 << i) - 1.0).abs() < 1e-8, "{system:?}");
        }
        for (i, k) in ordered_pairs(system.models) {
            if let Some(rate) = matrix[i][k] {
                assert!((system.mass(1 << i | 1 << k) - rate).abs() < 1e-8, "{i} {k} {rate} {system:?}");
            }
        }
        assert!(system.weights.iter().all(|&(_, mass)| mass > 0.0));
    }

    #[test]
    fn three_distributions_have_a_set_system_with_the_most_agreement() {
        // p1 = (.2, .5, .3), p2 = (.4, .4, .2), p3 = (.6, .25, .15): overlaps .8, .8, .6.
        let toy = matrix(&[(0, 1, 0.8), (1, 2, 0.8), (0, 2, 0.6)]);
        let system = SetSystem::solve(3, &toy).unwrap();
        check_marginals(&system, &toy);
        assert!((system.agreement() - 0.6).abs() < 1e-9, "{system:?}");
    }

    #[test]
    fn matrices_that_no_distributions_have_are_refused() {
        assert_eq!(SetSystem::solve(3, &matrix(&[(0, 1, 0.9), (1, 2, 0.9), (0, 2, 0.5)])), None);
        // Four models: the pairs {0,1}, {2,3} far apart within, close across; every triangle holds.
        let four = matrix(&[(0, 1, 0.0), (2, 3, 0.0), (0, 2, 0.6), (0, 3, 0.4), (1, 2, 0.4), (1, 3, 0.6)]);
        check_marginals(&SetSystem::solve(4, &four).unwrap(), &four);
        let pentagonal =
            matrix(&[(0, 1, 0.0), (0, 2, 0.0), (1, 2, 0.0), (0, 3, 0.5), (1, 3, 0.5), (2, 3, 0.5)]);
        assert_eq!(SetSystem::solve(4, &pentagonal), None);
    }

    #[test]
    fn pairs_that_are_not_given_are_free() {
        let system = SetSystem::solve(3, &matrix(&[(0, 1, 0.7), (1, 2, 0.8)])).unwrap();
        assert!((system.agreement() - 0.7).abs() < 1e-9);
    }

    #[test]
    fn what_is_left_of_a_system_keeps_its_marginals() {
        let toy = matrix(&[(0, 1, 0.8), (1, 2, 0.8), (0, 2, 0.6)]);
        let left = SetSystem::solve(3, &toy).unwrap().without(0.5);
        for (i, k, rate) in [(0, 1, 0.8), (1, 2, 0.8), (0, 2, 0.6)] {
            assert!((0.5 + 0.5 * left.mass(1 << i | 1 << k) - rate).abs() < 1e-9);
        }
    }

    proptest! {
        #[test]
        fn every_set_system_has_its_matrix_solved(models in 2usize..=6, raw in prop::collection::vec(0.0f64..1.0, 63), sparse in 0.0f64..0.95) {
            // Random masses, then singletons that bring every model to 1.
            let sets = (1u16 << models) - 1;
            let mut mass: Vec<f64> =
                (1..=sets).map(|s| if raw[s as usize - 1] < sparse { 0.0 } else { raw[s as usize - 1] }).collect();
            let of = |mass: &[f64], members: u16| -> f64 {
                (1..=sets).filter(|s| s & members == members).map(|s| mass[s as usize - 1]).sum()
            };
            let most = (0..models).map(|m| of(&mass, 1 << m)).fold(1e-9, f64::max);
            mass.iter_mut().for_each(|m| *m /= most);
            for m in 0..models {
                mass[(1usize << m) - 1] += 1.0 - of(&mass, 1 << m);
            }
            let mut matrix = [[None; MAX_MODELS]; MAX_MODELS];
            for (i, k) in ordered_pairs(models) {
                matrix[i][k] = Some(of(&mass, 1 << i | 1 << k));
            }
            let system = SetSystem::solve(models, &matrix).expect("made from a system");
            check_marginals(&system, &matrix);
            prop_assert!(system.agreement() >= mass[sets as usize - 1] - 1e-7);
        }
    }
}
