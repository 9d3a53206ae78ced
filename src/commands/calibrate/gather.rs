//! Reads what calibration fits: traces, or files of measurements made elsewhere.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use specrouter_routing::backend::After;
use specrouter_routing::ids::ModelId;
use specrouter_routing::profile::PassShape;
use specrouter_routing::record::Decoding;
use specrouter_traces::calibrate::cost::{Sample, samples};
use specrouter_traces::calibrate::evidence::{Evidence, Observed};
use specrouter_traces::{Run, Table, Trace};

use crate::scenario::profile::Source;
use crate::scenario::read_table;
use crate::trace;

/// Everything there is to fit.
#[derive(Default)]
pub struct Gathered {
    /// Models by name, cheapest first.
    pub pool: Vec<String>,
    /// What ran them.
    pub device: Option<String>,
    /// How tokens were chosen and verified.
    pub decoding: Option<Decoding>,
    /// Tokens of KV cache that each model had, where all traces agree.
    pub kv_tokens: Option<u64>,
    /// Passes by model.
    pub samples: Vec<Vec<Sample>>,
    /// The passes are rows of a measured table.
    pub measured_table: bool,
    /// What is known of acceptance.
    pub evidence: Evidence,
    /// The traces.
    pub sources: Vec<Source>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// Reads every trace at or below `paths`.
///
/// # Errors
/// What is no trace; traces of several devices, ways of decoding, or pools that are no part of one.
pub fn traces(paths: &[PathBuf]) -> anyhow::Result<Gathered> {
    let mut all: Vec<(PathBuf, Trace)> = Vec::new();
    for path in paths {
        for folder in trace::find(path)? {
            if all.iter().all(|(known, _)| *known != folder) {
                let opened = Trace::open(&folder)?;
                all.push((folder, opened));
            }
        }
    }
    let Some((first_folder, first)) = all.first() else { return Ok(Gathered::default()) };
    for (folder, trace) in &all {
        same("device", (first_folder, &first.run().device), (folder, &trace.run().device))?;
        let word = |trace: &Trace| trace.run().decoding.as_str().to_owned();
        same("decoding", (first_folder, &word(first)), (folder, &word(trace)))?;
    }
    let pool = all.iter().map(|(_, trace)| trace.run().pool()).max_by_key(Vec::len).unwrap_or_default();
    let mut classes: Vec<String> = Vec::new();
    for class in all.iter().flat_map(|(_, trace)| &trace.run().classes) {
        if !classes.contains(class) {
            classes.push(class.clone());
        }
    }
    let kv = first.run().kv_tokens;
    let mut gathered = Gathered {
        device: Some(first.run().device.clone()),
        decoding: Some(first.run().decoding),
        kv_tokens: all.iter().all(|(_, trace)| trace.run().kv_tokens == kv).then_some(kv),
        samples: vec![Vec::new(); pool.len()],
        evidence: Evidence::new(pool.clone(), classes),
        pool,
        ..Gathered::default()
    };
    let mut runs: Vec<(String, u64)> = Vec::new();
    for (folder, trace) in &all {
        // Arms of one scenario and seed meet the same requests.
        let key = (trace.run().scenario.clone(), trace.run().seed);
        let run = runs.iter().position(|known| *known == key).unwrap_or_else(|| {
            runs.push(key);
            runs.len() - 1
        });
        gathered.add(folder, trace, run)?;
    }
    Ok(gathered)
}

/// Refuses two traces that differ in what must be one.
fn same(what: &str, first: (&PathBuf, &String), other: (&PathBuf, &String)) -> anyhow::Result<()> {
    ensure!(
        first.1 == other.1,
        "a profile is of one {what}: {} has `{}`, {} has `{}`",
        first.0.display(),
        first.1,
        other.0.display(),
        other.1
    );
    Ok(())
}

impl Gathered {
    fn add(&mut self, folder: &Path, trace: &Trace, run: usize) -> anyhow::Result<()> {
        let Run { policy, seed, classes, .. } = trace.run();
        let has = |table: Table| trace.manifest().tables.contains_key(table.name());
        let models = trace
            .run()
            .pool()
            .iter()
            .map(|name| self.pool.iter().position(|known| known == name))
            .collect::<Option<Vec<usize>>>()
            .filter(|models| models.is_sorted());
        let Some(models) = models else {
            bail!(
                "{}: its pool {} is no part of {}: calibrate them apart",
                folder.display(),
                trace.run().pool().join(", "),
                self.pool.join(", ")
            );
        };
        if !trace.manifest().complete {
            self.notes.push(format!("{}: not complete; fitted is what had been written", folder.display()));
        }
        if !has(Table::Passes) {
            self.notes.push(format!(
                "{}: no table of passes, verifications and rounds; run with output.tables=full",
                folder.display()
            ));
        } else if !has(Table::Tokens) && models.len() > 1 {
            self.notes.push(format!(
                "{}: no scored tokens, so acceptance is of judged blocks, which is low where it varies",
                folder.display()
            ));
        }
        if has(Table::Passes) {
            for sample in samples(&trace.passes()?) {
                if let Some(&model) = models.get(sample.model.index()) {
                    self.samples[model].push(sample);
                }
            }
        }
        let requests = if has(Table::Requests) { trace.requests()? } else { Vec::new() };
        let verifications = if has(Table::Verifications) { trace.verifications()? } else { Vec::new() };
        let rounds = if has(Table::Rounds) { trace.rounds()? } else { Vec::new() };
        let tokens = if has(Table::Tokens) { trace.tokens()? } else { Vec::new() };
        let place = |class: &String| self.evidence.classes.iter().position(|known| known == class);
        let classes: Vec<usize> = classes.iter().filter_map(place).collect();
        self.evidence.add(&Observed {
            run,
            models: &models,
            classes: &classes,
            requests: &requests,
            verifications: &verifications,
            rounds: &rounds,
            tokens: &tokens,
        });
        self.sources.push(Source {
            trace: folder.display().to_string(),
            policy: policy.clone(),
            seed: *seed,
        });
        Ok(())
    }

    /// The place of a model that a cost table names; a new one stands last, and nothing is known of its acceptance.
    fn model(&mut self, name: &str) -> usize {
        let place = self.pool.iter().position(|known| known == name);
        place.unwrap_or_else(|| {
            self.pool.push(name.to_owned());
            self.samples.push(Vec::new());
            self.evidence.pool.push(name.to_owned());
            self.pool.len() - 1
        })
    }

    /// Adds the passes of a cost table.
    ///
    /// # Errors
    /// A file that is no cost table, with its line.
    pub fn add_table(&mut self, path: &Path) -> anyhow::Result<()> {
        // Medians are not passes: one of them would weigh as one of thousands.
        ensure!(
            self.samples.iter().all(Vec::is_empty),
            "{}: the traces have pass times of their own: calibrate the table apart",
            path.display()
        );
        self.measured_table = true;
        let rows = read_table(&path.to_path_buf())?;
        ensure!(!rows.is_empty(), "{}: expected rows of measured passes, got none", path.display());
        for row in rows {
            let wrong = row.rows == 0 || row.new_tokens < row.rows || row.context_tokens < 0.0;
            ensure!(
                !wrong && row.seconds > 0.0 && row.seconds.is_finite() && row.context_tokens.is_finite(),
                "{}: expected rows of at least one token each, a context of 0 or more and seconds above 0, got {row:?}",
                path.display()
            );
            let model = self.model(&row.model);
            let rows = f64::from(row.rows);
            let new = f64::from(row.new_tokens) / rows;
            let shape = PassShape {
                rows: row.rows,
                new_tokens: row.new_tokens,
                context_tokens: (row.context_tokens * rows).round() as u64,
                attention_pairs: (rows * new * (row.context_tokens + (new + 1.0) / 2.0)).round() as u64,
                ..PassShape::default()
            };
            self.samples[model].push(Sample {
                model: ModelId(0),
                after: After::Same,
                shape,
                seconds: row.seconds,
            });
        }
        Ok(())
    }
}
