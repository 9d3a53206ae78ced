//! The cells of a check: every way of serving that must not change an output.

use std::fmt;

use specrouter_routing::chain::{ChainPlan, StopRule};
use specrouter_routing::ids::ModelId;

use crate::sampling::Sampling;
use crate::verify::Verify;

/// How tokens are chosen where outputs are functions of target and seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decoding {
    /// The likeliest token.
    Greedy,
    /// Levels share their noise.
    Coupled(Sampling),
}

impl Decoding {
    /// Parameters of every request.
    pub fn sampling(&self) -> Sampling {
        match self {
            Self::Greedy => Sampling::greedy(),
            Self::Coupled(sampling) => *sampling,
        }
    }

    /// How blocks are verified.
    pub fn verify(&self) -> Verify {
        match self {
            Self::Greedy => Verify::Speculative,
            Self::Coupled(_) => Verify::Coupled,
        }
    }
}

/// How much KV memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// For the whole batch.
    Roomy,
    /// For about half of it: sequences are preempted.
    Tight,
}

/// Who plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planning {
    /// The cell's chain, always.
    Fixed,
    /// Another chain in every round, the cell's in every other.
    EveryRound,
}

/// What is varied, and the values of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// Pools of equal size, by name.
    pub pools: Vec<String>,
    /// Chains, as models of the pool.
    pub chains: Vec<Vec<u8>>,
    /// Windows from the lowest up; a chain takes as many as it needs, from the first on and round again.
    pub windows: Vec<Vec<u32>>,
    /// Most sequences at once.
    pub batches: Vec<u32>,
    /// KV memory.
    pub memories: Vec<Memory>,
    /// Policies.
    pub plannings: Vec<Planning>,
    /// Greedy, and coupled at several parameters.
    pub decodings: Vec<Decoding>,
    /// When the lowest level stops early.
    pub stops: Vec<StopRule>,
}

/// How many factors there are.
pub const FACTORS: usize = 8;

/// The factors' names, in the order of [`Cell`].
pub const NAMES: [&str; FACTORS] =
    ["pool", "chain", "windows", "batch", "memory", "policy", "decoding", "stop rule"];

/// A choice of one value for each factor, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell(pub [usize; FACTORS]);

impl Factors {
    /// The factors for `pools` of `models` models each: every chain, four sets of windows, batches of 1, 3, 8 and
    /// 17, memory roomy and tight, a fixed chain and one that switches every round, greedy and three kinds of
    /// coupled decoding.
    ///
    /// - `unsure`: top probability below which, and entropy above which, a draft stops.
    ///
    /// # Panics
    /// Never: the temperatures are in range.
    pub fn new(pools: Vec<String>, models: u8, unsure: (f32, f32)) -> Self {
        let chain = |lower: u32| -> Vec<u8> {
            (0..models - 1).filter(|m| lower >> m & 1 == 1).chain([models - 1]).collect()
        };
        let coupled = |temperature, top_k, top_p| {
            let sampling = Sampling::new(temperature, top_k, top_p);
            Decoding::Coupled(sampling.expect("the parameters are in range"))
        };
        Self {
            pools,
            chains: (0..1 << (models - 1)).map(chain).collect(),
            windows: vec![vec![1], vec![7, 2, 1], vec![2, 5, 3], vec![4]],
            batches: vec![1, 3, 8, 17],
            memories: vec![Memory::Roomy, Memory::Tight],
            plannings: vec![Planning::Fixed, Planning::EveryRound],
            decodings: vec![
                Decoding::Greedy,
                coupled(0.6, None, Some(0.95)),
                coupled(1.0, None, None),
                coupled(1.3, Some(40), Some(0.9)),
            ],
            stops: vec![
                StopRule::Never,
                StopRule::TopProbabilityBelow(unsure.0),
                StopRule::EntropyAbove(unsure.1),
            ],
        }
    }

    /// How many values each factor has.
    pub fn sizes(&self) -> [usize; FACTORS] {
        [
            self.pools.len(),
            self.chains.len(),
            self.windows.len(),
            self.batches.len(),
            self.memories.len(),
            self.plannings.len(),
            self.decodings.len(),
            self.stops.len(),
        ]
    }

    /// Few cells in which every pair of values of two factors occurs.
    pub fn pairwise(&self) -> Vec<Cell> {
        pairwise(&self.sizes()).into_iter().map(Cell).collect()
    }

    /// Every cell, but for those that are another: the target alone, always, has no windows and no stop rule.
    pub fn all(&self) -> Vec<Cell> {
        let sizes = self.sizes();
        let mut cells = vec![Cell([0; FACTORS])];
        for (factor, &size) in sizes.iter().enumerate() {
            let with = |cell: &Cell, value| {
                let mut values = cell.0;
                values[factor] = value;
                Cell(values)
            };
            cells = cells.iter().flat_map(|cell| (0..size).map(move |value| with(cell, value))).collect();
        }
        cells.retain(|cell| {
            let plain = self.chains[cell.0[1]].len() == 1 && self.plannings[cell.0[5]] == Planning::Fixed;
            !plain || cell.0[2] == 0 && cell.0[7] == 0
        });
        cells
    }

    /// The plan of a chain under the cell's windows and stop rule.
    ///
    /// # Panics
    /// Never for factors of [`new`](Self::new): their chains are in order, and their windows add up to a block.
    fn plan_of(&self, chain: usize, cell: &Cell) -> ChainPlan {
        let models: Vec<ModelId> = self.chains[chain].iter().map(|&m| ModelId(m)).collect();
        let windows: Vec<u32> =
            self.windows[cell.0[2]].iter().copied().cycle().take(models.len() - 1).collect();
        let plan = ChainPlan::new(&models, &windows).expect("the factors hold chains and windows that fit");
        plan.stopping(self.stops[cell.0[7]])
    }

    /// The cell's plan.
    pub fn plan(&self, cell: &Cell) -> ChainPlan {
        self.plan_of(cell.0[1], cell)
    }

    /// Plans of every chain, under the cell's windows and stop rule.
    pub fn plans(&self, cell: &Cell) -> Vec<ChainPlan> {
        (0..self.chains.len()).map(|chain| self.plan_of(chain, cell)).collect()
    }

    /// The cell's batch.
    pub fn batch(&self, cell: &Cell) -> u32 {
        self.batches[cell.0[3]]
    }

    /// The cell's memory.
    pub fn memory(&self, cell: &Cell) -> Memory {
        self.memories[cell.0[4]]
    }

    /// Who plans in the cell.
    pub fn planning(&self, cell: &Cell) -> Planning {
        self.plannings[cell.0[5]]
    }

    /// How the cell's tokens are chosen.
    pub fn decoding(&self, cell: &Cell) -> Decoding {
        self.decodings[cell.0[6]]
    }

    /// The value of one factor, as a table shows it.
    pub fn value(&self, factor: usize, index: usize) -> String {
        match factor {
            0 => self.pools[index].clone(),
            1 => joined(&self.chains[index], ">"),
            2 => joined(&self.windows[index], ", "),
            3 => self.batches[index].to_string(),
            4 => format!("{:?}", self.memories[index]).to_lowercase(),
            5 => match self.plannings[index] {
                Planning::Fixed => "fixed".to_owned(),
                Planning::EveryRound => "switches every round".to_owned(),
            },
            6 => decoding(&self.decodings[index]),
            _ => match self.stops[index] {
                StopRule::Never => "never".to_owned(),
                StopRule::TopProbabilityBelow(p) => format!("top probability < {p}"),
                StopRule::EntropyAbove(h) => format!("entropy > {h}"),
            },
        }
    }

    /// Every value of the cell, in one line.
    pub fn describe(&self, cell: &Cell) -> String {
        let values = NAMES.iter().enumerate().map(|(i, name)| format!("{name} {}", self.value(i, cell.0[i])));
        joined(&values.collect::<Vec<_>>(), "; ")
    }
}

fn joined<T: fmt::Display>(items: &[T], by: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(by)
}

fn decoding(decoding: &Decoding) -> String {
    // Sampling shows itself as JSON only, where absent parameters are absent.
    match decoding {
        Decoding::Greedy => "greedy".to_owned(),
        Decoding::Coupled(sampling) => {
            let json = serde_json::to_string(sampling).unwrap_or_default();
            format!("coupled {}", json.replace(['{', '}', '"'], "").replace(':', " ").replace(',', ", "))
        }
    }
}

/// Rows that hold every pair of values of two factors at least once. Greedy: each row begins with a pair that
/// is missing and takes, factor by factor, the value that adds most; the first of several.
fn pairwise<const N: usize>(sizes: &[usize; N]) -> Vec<[usize; N]> {
    let mut missing = Vec::new();
    for b in 1..N {
        for a in 0..b {
            missing.extend(
                (0..sizes[a]).flat_map(|i| (0..sizes[b]).map(move |j| (a, i, b, j))).collect::<Vec<_>>(),
            );
        }
    }
    let mut rows = Vec::new();
    while let Some(&(a, i, b, j)) = missing.first() {
        let mut row = [usize::MAX; N];
        (row[a], row[b]) = (i, j);
        for factor in 0..N {
            if row[factor] != usize::MAX {
                continue;
            }
            let adds = |value: usize| {
                let mut with = row;
                with[factor] = value;
                missing.iter().filter(|&&(a, i, b, j)| with[a] == i && with[b] == j).count()
            };
            // Values take turns where nothing is added, so that none is favoured.
            let turn = rows.len();
            let best = (0..sizes[factor]).max_by_key(|&value| {
                (
                    adds(value),
                    std::cmp::Reverse((value + sizes[factor] - turn % sizes[factor]) % sizes[factor]),
                )
            });
            row[factor] = best.unwrap_or(0);
        }
        missing.retain(|&(a, i, b, j)| row[a] != i || row[b] != j);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
#[path = "cells_tests.rs"]
mod tests;
