//! `specrouter run league --dry-run`: how much a league is, without running it.

use super::only::Only;
use super::run::Asked;
use super::{Cell, League, Seeds, Variant};
use crate::references::static_plans;

/// What a league comes to.
pub struct Size {
    /// What, and how much, in words.
    pub facts: Vec<(String, String)>,
    /// The policies of the file.
    pub policies: Vec<String>,
}

impl League {
    /// Resolves every cell, so that what cannot be run is known, and counts.
    ///
    /// # Errors
    /// A cell that cannot be resolved, and cells that the league does not have.
    pub fn size(&self, asked: &Asked<'_>) -> anyhow::Result<Size> {
        let raw = &self.raw;
        let only = Only::read(self, asked.only)?;
        let seeds = |seeds: Seeds| seeds.up_to(asked.seeds).len();
        let (mut cells, mut tuning, mut measuring, mut requests) = (0, 0, 0, 0);
        let mut statics = 0;
        for pool in 0..raw.pools.len() {
            let wanted = |regime: usize, variant: usize| only.has(pool, regime, variant);
            let regimes = 0..raw.regimes.len();
            let tuned = regimes.clone().any(|r| (0..raw.variants.len()).any(|v| wanted(r, v)));
            for regime in regimes {
                for (index, variant) in raw.variants.iter().enumerate() {
                    let cell = self.resolved(pool, regime, index, variant)?;
                    let each = cell.scenario.workload.size().requests;
                    statics = statics.max(static_plans(&cell.scenario).len());
                    if tuned && index == self.written() && asked.reference.is_none() {
                        let runs = cell.scenario.arms.len() * seeds(raw.tuning);
                        tuning += runs;
                        requests += runs as u64 * each;
                    }
                    if wanted(regime, index) {
                        let signals = raw.policies.iter().map(|p| p.signals.len()).sum::<usize>();
                        let signals = if index == self.written() { signals } else { 0 };
                        let runs = (raw.policies.len() + signals + 2) * seeds(raw.report);
                        cells += 1;
                        measuring += runs;
                        requests += runs as u64 * each;
                    }
                }
            }
        }
        let names = |all: Vec<&str>| all.join(", ");
        let facts: Vec<(&str, String)> = vec![
            ("cells", cells.to_string()),
            ("regimes", names(raw.regimes.iter().map(|regime| regime.name.as_str()).collect())),
            ("pools", names(raw.pools.iter().map(|pool| pool.name.as_str()).collect())),
            ("variants", names(raw.variants.iter().map(|variant| variant.name.as_str()).collect())),
            ("candidates", format!("{} of policies, {statics} static plans", self.written_arms())),
            ("tuning", format!("{tuning} runs, {} seeds from {}", seeds(raw.tuning), raw.tuning.first)),
            ("measuring", format!("{measuring} runs, {} seeds from {}", seeds(raw.report), raw.report.first)),
            ("requests", format!("{requests} in all runs")),
        ];
        Ok(Size {
            facts: facts.into_iter().map(|(what, value)| (what.to_owned(), value)).collect(),
            policies: raw.policies.iter().map(|entrant| entrant.name.clone()).collect(),
        })
    }

    /// A cell with its arrivals at the rate that the scenario holds, not yet at the regime's load.
    fn resolved(&self, pool: usize, regime: usize, index: usize, variant: &Variant) -> anyhow::Result<Cell> {
        let scenario = self.scenario(pool, regime, variant, None)?;
        Ok(Cell { pool, regime, variant: index, scenario })
    }
}
