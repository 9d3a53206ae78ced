//! `manifest.json`: what a trace is of, and which of its files are whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use specrouter_routing::chain::MAX_MODELS;
use specrouter_routing::profile::ModelSpec;
use specrouter_routing::record::Decoding;

use crate::error::TraceError;
use crate::schema::{SCHEMA_VERSION, Table};

/// The manifest's file name.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Most bytes of a manifest that a reader takes.
const MOST_BYTES: u64 = 64 << 20;

/// A model of the pool that ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its sizes: enough to price its passes on any hardware.
    pub spec: ModelSpec,
    /// FNV-1a, 64 bits, of its weights' files, in hexadecimal; null where nothing real ran.
    pub weights_fnv1a: Option<String>,
}

/// Whether outputs are the target's own, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Row-invariant kernels: they are.
    Exact,
    /// Other kernels: equal in distribution.
    Fast,
    /// Nothing real ran.
    Simulated,
}

/// What was run: the header of a trace, known before its first row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Version of the tool that wrote it.
    pub tool_version: String,
    /// The resolved scenario, as text.
    pub scenario: String,
    /// The run's seed.
    pub seed: u64,
    /// Name of the policy.
    pub policy: String,
    /// The pool's models, cheapest first; model indexes point here.
    pub models: Vec<Member>,
    /// Names of the request classes; class indexes point here.
    pub classes: Vec<String>,
    /// What it ran on, or what was simulated.
    pub device: String,
    /// How tokens were chosen and verified.
    pub decoding: Decoding,
    /// Whether outputs are the target's own.
    pub mode: Mode,
    /// Tokens of KV cache that each model had, on each replica.
    pub kv_tokens: u64,
    /// Users of a closed loop; null where requests came at their own times.
    pub users: Option<u32>,
}

impl Run {
    /// Names of the pool's models, cheapest first.
    pub fn pool(&self) -> Vec<String> {
        self.models.iter().map(|member| member.spec.name.clone()).collect()
    }
}

/// One file of a table, whole and under its final name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name in the trace's folder.
    pub file: String,
    /// Its rows.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// FNV-1a, 64 bits, of its bytes, in hexadecimal: says that a file is the one written, no more.
    pub fnv1a: String,
}

/// What a trace is of, and which of its files are whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The run ended and every table is here. False while recording, and after in a trace whose
    /// recording was killed: then `tables` lists what had been finished.
    pub complete: bool,
    /// The run ended. Scoring comes after it and may be done later.
    pub ended: bool,
    /// What was run.
    pub run: Run,
    /// Parts of every table present, by the table's name, in row order.
    pub tables: BTreeMap<String, Vec<Part>>,
}

impl Manifest {
    /// The manifest of a trace without tables yet.
    pub(crate) fn new(run: Run) -> Self {
        Self { schema_version: SCHEMA_VERSION, complete: false, ended: false, run, tables: BTreeMap::new() }
    }

    /// Rows of a table over its parts; `None` when the trace has no such table.
    pub fn rows(&self, table: Table) -> Option<u64> {
        Some(self.tables.get(table.name())?.iter().map(|part| part.rows).fold(0, u64::saturating_add))
    }

    /// Writes it into `folder`: beside, then renamed.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), TraceError> {
        let path = folder.join(MANIFEST_FILE);
        let beside = folder.join(format!("{MANIFEST_FILE}.part"));
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|source| TraceError::Manifest { path: path.clone(), source })?;
        text.push('\n');
        fs::write(&beside, text).map_err(TraceError::disk("write", &beside))?;
        fs::rename(&beside, &path).map_err(TraceError::disk("rename to", &path))
    }

    /// Reads and checks the manifest of `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self, TraceError> {
        let path = folder.join(MANIFEST_FILE);
        let file = fs::File::open(&path).map_err(TraceError::disk("open", &path))?;
        let mut text = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut text).map_err(TraceError::disk("read", &path))?;
        let field = |field: &str, expected: &str, got: String| TraceError::Field {
            path: path.clone(),
            field: field.to_owned(),
            expected: expected.to_owned(),
            got,
        };
        if text.len() as u64 > MOST_BYTES {
            return Err(field("the file", "at most 64 MiB", "more".to_owned()));
        }
        // The version comes first: the fields of another version are not ours to complain about.
        let json = |source| TraceError::Manifest { path: path.clone(), source };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(json)?;
        match value.get("schema_version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(SCHEMA_VERSION) => {}
            Some(got) => return Err(TraceError::Version { path, got }),
            None => return Err(field("schema_version", "a whole number", "none".to_owned())),
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(json)?;
        if !(1..=MAX_MODELS).contains(&manifest.run.models.len()) {
            let got = manifest.run.models.len().to_string();
            return Err(field("run.models", &format!("1 to {MAX_MODELS} models"), got));
        }
        for (name, parts) in &manifest.tables {
            let Some(table) = Table::ALL.into_iter().find(|t| t.name() == name) else {
                let names = Table::ALL.map(Table::name).join(", ");
                return Err(field("a name in tables", &format!("one of {names}"), name.clone()));
            };
            for (index, part) in parts.iter().enumerate() {
                // Names are exact, so a manifest cannot point out of its folder.
                let expected = table.file_name(index);
                if part.file != expected {
                    return Err(field(&format!("tables.{name}[{index}].file"), &expected, part.file.clone()));
                }
            }
        }
        Ok(manifest)
    }
}
