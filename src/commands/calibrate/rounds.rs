//! Accepted lengths from other engines: a row a round.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use specrouter_traces::calibrate::evidence::Block;

use super::gather::Gathered;

/// Most bytes of a file of rounds.
const MOST_BYTES: u64 = 256 << 20;
const COLUMNS: [&str; 6] = ["drafter", "verifier", "drafted", "accepted", "class", "request"];

/// A row, models by name.
struct Round {
    line: usize,
    pair: [String; 2],
    drafted: u32,
    accepted: u32,
    class: String,
    request: Option<u64>,
}

impl Gathered {
    /// Adds the rounds of a file with the columns drafter, verifier, drafted, accepted and, where known, class
    /// and request. Where nothing has said so yet, the models' order is the one in which drafters stand before
    /// their verifiers.
    ///
    /// # Errors
    /// A file without these columns, a row that is no round, models that have no order; with its line.
    pub fn add_rounds(&mut self, path: &Path) -> anyhow::Result<()> {
        let rounds = read(path)?;
        if self.sources.is_empty() {
            self.order(&rounds).with_context(|| path.display().to_string())?;
        }
        for round in &rounds {
            let place = |name: &String| {
                self.pool.iter().position(|known| known == name).with_context(|| {
                    let known = self.pool.join(", ");
                    format!("{}: line {}: `{name}` is no model of {known}", path.display(), round.line)
                })
            };
            let (drafter, verifier) = (place(&round.pair[0])?, place(&round.pair[1])?);
            ensure!(
                drafter < verifier,
                "{}: line {}: {} cannot draft for {}: the pool is {}",
                path.display(),
                round.line,
                round.pair[0],
                round.pair[1],
                self.pool.join(", ")
            );
            let classes = &mut self.evidence.classes;
            let class = classes.iter().position(|known| *known == round.class).unwrap_or_else(|| {
                classes.push(round.class.clone());
                classes.len() - 1
            });
            if round.drafted > 0 {
                self.evidence.blocks.push(Block {
                    // No trace has this number.
                    cluster: round.request.map(|request| (usize::MAX, request)),
                    class,
                    drafter,
                    verifier,
                    drafted: round.drafted,
                    accepted: round.accepted,
                    rejected: round.accepted < round.drafted,
                });
            }
        }
        if rounds.iter().any(|round| round.request.is_none()) {
            self.notes.push(format!("{}: no column `request`, so no intervals", path.display()));
        }
        self.notes.push(format!(
            "{}: acceptance is of judged rounds, which is low where it varies",
            path.display()
        ));
        Ok(())
    }

    /// Puts the models in an order in which drafters come before their verifiers, as near as can be to that
    /// in which they were met.
    fn order(&mut self, rounds: &[Round]) -> anyhow::Result<()> {
        let mut waiting = self.pool.clone();
        for name in rounds.iter().flat_map(|round| &round.pair) {
            if !waiting.contains(name) {
                waiting.push(name.clone());
            }
        }
        let mut pool: Vec<String> = Vec::new();
        while !waiting.is_empty() {
            let free = |name: &String| {
                rounds.iter().all(|round| round.pair[1] != *name || !waiting.contains(&round.pair[0]))
            };
            let Some(next) = waiting.iter().position(free) else {
                bail!("the models {} draft for each other in a circle", waiting.join(", "));
            };
            pool.push(waiting.remove(next));
        }
        let mut samples = vec![Vec::new(); pool.len()];
        for (name, own) in self.pool.iter().zip(&mut self.samples) {
            if let Some(place) = pool.iter().position(|known| known == name) {
                samples[place] = std::mem::take(own);
            }
        }
        (self.samples, self.pool) = (samples, pool);
        self.evidence.pool.clone_from(&self.pool);
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<Round>> {
    let failed = || format!("cannot read {}", path.display());
    let size = std::fs::metadata(path).with_context(failed)?.len();
    ensure!(size <= MOST_BYTES, "{}: expected at most {MOST_BYTES} bytes, got {size}", path.display());
    let text = std::fs::read_to_string(path).with_context(failed)?;
    let mut lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines().enumerate();
    let heading: Vec<&str> =
        lines.next().map(|(_, line)| line.split(',').map(str::trim).collect()).unwrap_or_default();
    if let Some(odd) = heading.iter().find(|name| !COLUMNS.contains(name)) {
        let hint = crate::nearest::hint(odd, COLUMNS);
        bail!("{}: line 1: unknown column `{odd}`{hint}", path.display());
    }
    let column = |name: &str| heading.iter().position(|known| *known == name);
    let needed =
        |name: &str| column(name).with_context(|| format!("{}: line 1: no column `{name}`", path.display()));
    let pair = [needed("drafter")?, needed("verifier")?];
    let (drafted, accepted) = (needed("drafted")?, needed("accepted")?);
    let (class, request) = (column("class"), column("request"));
    let mut requests: BTreeMap<String, u64> = BTreeMap::new();
    let mut rounds = Vec::new();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{}: line {}", path.display(), index + 1);
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        ensure!(
            cells.len() == heading.len(),
            "{place}: expected {} cells, got {}",
            heading.len(),
            cells.len()
        );
        let number = |column: usize| -> anyhow::Result<u32> {
            let (name, cell) = (heading[column], cells[column]);
            cell.parse()
                .ok()
                .with_context(|| format!("{place}: {name}: expected a whole number, got `{cell}`"))
        };
        let (drafted, accepted) = (number(drafted)?, number(accepted)?);
        ensure!(accepted <= drafted, "{place}: accepted: expected at most {drafted}, got {accepted}");
        let next = requests.len() as u64;
        rounds.push(Round {
            line: index + 1,
            pair: pair.map(|column| cells[column].to_owned()),
            drafted,
            accepted,
            class: class.map_or("all", |column| cells[column]).to_owned(),
            request: request.map(|column| *requests.entry(cells[column].to_owned()).or_insert(next)),
        });
    }
    ensure!(!rounds.is_empty(), "{}: expected rounds, got none", path.display());
    Ok(rounds)
}
