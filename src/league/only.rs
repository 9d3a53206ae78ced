//! Which cells of a league are run: all, or those that were asked for.

use super::League;
use crate::nearest::hint;

/// The cells that were asked for, by name: a regime, and a pool and a variant where they were said.
#[derive(Debug, Default)]
pub struct Only(Vec<[Option<usize>; 3]>);

impl Only {
    /// Reads `REGIME`, `REGIME/POOL` and `REGIME/POOL/VARIANT`; of none come all cells.
    ///
    /// # Errors
    /// A name that the league does not have, and more than three of them.
    pub fn read(league: &League, asked: &[String]) -> anyhow::Result<Self> {
        let raw = &league.raw;
        let known: [(&str, Vec<&str>); 3] = [
            ("regime", raw.regimes.iter().map(|regime| regime.name.as_str()).collect()),
            ("pool", raw.pools.iter().map(|pool| pool.name.as_str()).collect()),
            ("variant", raw.variants.iter().map(|variant| variant.name.as_str()).collect()),
        ];
        let one = |asked: &String| {
            let parts: Vec<&str> = asked.split('/').map(str::trim).collect();
            if parts.len() > known.len() {
                anyhow::bail!(
                    "--only {asked}: expected REGIME/POOL/VARIANT at most, got {} parts",
                    parts.len()
                );
            }
            let mut place = [None; 3];
            for ((part, (kind, names)), found) in parts.iter().zip(&known).zip(&mut place) {
                *found = names.iter().position(|name| name == part);
                if found.is_none() {
                    anyhow::bail!(
                        "--only {asked}: unknown {kind} `{part}`{}",
                        hint(part, names.iter().copied())
                    );
                }
            }
            Ok(place)
        };
        asked.iter().map(one).collect::<anyhow::Result<_>>().map(Self)
    }

    /// Is the cell run?
    pub fn has(&self, pool: usize, regime: usize, variant: usize) -> bool {
        let cell = [regime, pool, variant];
        let fits = |asked: &[Option<usize>; 3]| asked.iter().zip(cell).all(|(a, c)| a.is_none_or(|a| a == c));
        self.0.is_empty() || self.0.iter().any(fits)
    }
}
