//! A scenario as it is written. These paths are public: renaming one is a changelog line.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use specrouter_routing::dispatch::DispatcherConfig;
use specrouter_routing::policies::PolicyConfig;
use specrouter_routing::profile::LinearTerms;
use specrouter_routing::record::Decoding;
use specrouter_routing::units::{NonNegative, Positive, Probability};
use specrouter_routing::workload::{Arrivals, SloConfig, WorkloadConfig};
use specrouter_sim::acceptance::AcceptanceConfig;

/// A scenario: which models on which hardware decode which traffic, and which policies compete.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawScenario {
    /// What it shows; the file's opening comment when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The run's luck. The same seed gives the same bytes.
    #[serde(default)]
    pub seed: u64,
    /// The models of one replica, cheapest first, target last: catalog names, paths of model YAML files,
    /// or folders with a Hugging Face `config.json`.
    pub pool: Vec<String>,
    /// What passes cost: a catalog name, the path of a hardware YAML file, a measured table, or
    /// linear terms. What `run` simulates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<CostsRef>,
    /// How `record` runs the models for real.
    #[cfg(feature = "engine")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<specrouter_engine::settings::EngineConfig>,
    /// How `record` runs the models for real; this build cannot.
    #[cfg(not(feature = "engine"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<serde_json::Value>,
    /// What policies know of costs beforehand: the path of a profile YAML file, a table, or linear terms.
    /// A profile that `calibrate` wrote also stands for `hardware` and `acceptance` where they are absent.
    /// The default is the hardware's data sheet; for `record`, a short measurement.
    #[serde(default)]
    pub profile: Option<CostsRef>,
    /// Copies of the pool, each on devices of its own.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Devices of one replica.
    #[serde(default = "one")]
    pub tensor_parallel: u32,
    /// What a replica allows.
    #[serde(default)]
    pub limits: RawLimits,
    /// Which replica takes an arriving request.
    #[serde(default)]
    pub dispatcher: DispatcherConfig,
    /// The order in which waiting requests are admitted.
    #[serde(default)]
    pub admission: Admission,
    /// The requests.
    pub workload: WorkloadConfig,
    /// How often each model keeps what another proposed. What `run` simulates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<AcceptanceConfig>,
    /// How tokens are sampled. A simulation's acceptance already says what comes of it.
    #[serde(default)]
    pub sampling: Sampling,
    /// How drafts are verified. A simulation's acceptance already says what comes of it.
    #[serde(default)]
    pub verify: Verify,
    /// Targets of every request whose class states none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloConfig>,
    /// The arms: every policy meets the same requests and the same luck. The first is what the
    /// others are compared with.
    pub policies: Vec<PolicyConfig>,
    /// How many seeds, counted up from `seed`. One seed is one replication.
    #[serde(default = "ten")]
    pub seeds: u32,
    /// What is kept.
    #[serde(default)]
    pub output: Output,
    /// Runs everything once for each value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
}

const fn one() -> u32 {
    1
}

const fn ten() -> u32 {
    10 // Enough for an exact signed-rank test.
}

/// What a replica allows.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// Most sequences running at once.
    pub max_running: u32,
    /// Most tokens of one pass; longer prompts and catch-up run in chunks of it.
    pub token_budget: u32,
    /// Most tokens that the windows of a chain may add up to.
    pub max_block: u32,
    /// Passes that a row waits for smaller models before its own runs regardless; by default Σ windows
    /// and the depth of the longest running chain.
    pub hold_passes: Option<u32>,
    /// Tokens of one KV block; a power of two.
    pub block_size: u32,
    /// Share of device memory for weights and KV cache.
    pub memory_fraction: Probability,
    /// Tokens of KV cache for every model; by default what memory leaves after the weights.
    pub kv_tokens: Option<u64>,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            max_running: 128,
            token_budget: 8192,
            max_block: 32,
            hold_passes: None,
            block_size: 16,
            memory_fraction: Probability::new(0.9).expect("0.9 is a probability"),
            kv_tokens: None,
        }
    }
}

/// Where pass times come from.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum CostsRef {
    /// A catalog name, or the path of a YAML file.
    Named(String),
    /// A CSV file of measured passes: model, rows, new_tokens, context_tokens, seconds.
    Table {
        /// The file.
        table: String,
    },
    /// A device of the catalog behind another host.
    Device {
        /// The device's name.
        device: String,
        /// Host time of every pass, in microseconds; the device's own when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pass_us: Option<NonNegative>,
        /// Host time of every row of a pass, in microseconds; the device's own when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        row_us: Option<NonNegative>,
    },
    /// A sum of terms for each model of the pool.
    Linear {
        /// In the pool's order.
        linear: Vec<LinearTerms>,
    },
}

// By hand: an untagged enum forgets where a number inside it was written.
impl<'de> Deserialize<'de> for CostsRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Costs;

        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Kind {
            Table,
            Linear,
            Device,
            PassUs,
            RowUs,
        }

        impl<'de> Visitor<'de> for Costs {
            type Value = CostsRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a name, a path, {table: FILE}, {device: NAME, pass_us, row_us} or {linear: [...]}",
                )
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<CostsRef, E> {
                Ok(CostsRef::Named(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CostsRef, A::Error> {
                let (mut table, mut linear, mut device) = (None, None, None);
                let (mut pass_us, mut row_us) = (None, None);
                while let Some(kind) = map.next_key()? {
                    match kind {
                        Kind::Table => table = Some(map.next_value()?),
                        Kind::Linear => linear = Some(map.next_value()?),
                        Kind::Device => device = Some(map.next_value()?),
                        Kind::PassUs => pass_us = Some(map.next_value()?),
                        Kind::RowUs => row_us = Some(map.next_value()?),
                    }
                }
                match (table, linear, device, pass_us.is_some() || row_us.is_some()) {
                    (Some(table), None, None, false) => Ok(CostsRef::Table { table }),
                    (None, Some(linear), None, false) => Ok(CostsRef::Linear { linear }),
                    (None, None, Some(device), _) => Ok(CostsRef::Device { device, pass_us, row_us }),
                    (None, None, None, false) => Err(de::Error::invalid_type(de::Unexpected::Map, &self)),
                    (None, None, None, true) => Err(de::Error::missing_field("device")),
                    _ => Err(de::Error::custom("expected one of table, device and linear")),
                }
            }
        }

        deserializer.deserialize_any(Costs)
    }
}

/// The order in which waiting requests are admitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// First come, first served.
    #[default]
    Fcfs,
    /// By the priority of the request's class; first come, first served among equals.
    Priority,
}

/// How tokens are sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// 0 is greedy; 1 when absent, 0 under `verify: greedy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<NonNegative>,
    /// Keeps the likeliest tokens up to this mass; above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<Probability>,
    /// Keeps this many of the likeliest tokens; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
}

/// How drafts are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// min(1, p/q), with the residual at every level.
    #[default]
    Speculative,
    /// Drafter and verifier share their noise: the output is a function of target and seed.
    Coupled,
    /// The likeliest token, always.
    Greedy,
}

/// What a run keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    /// Which tables are written; by default `requests` for `run`, `full` for `record`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<Tables>,
    /// Whether `record` writes the generated texts; it does by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texts: Option<bool>,
    /// Whether `record` keeps the prompts in its trace, so that the requests can be run again; it does by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<bool>,
}

/// Which tables are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tables {
    /// None: metrics only.
    Summary,
    /// One row per request.
    #[default]
    Requests,
    /// Requests, passes, verifications, rounds, decisions, and what models say of each token; of a recording its texts too.
    Full,
}

/// Runs everything once for each value.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// For `run`: loads, ascending, as fractions of the request rate that the target alone can serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load: Vec<Positive>,
    /// For `validate`: arrivals that take the workload's place, one after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrivals: Vec<Arrivals>,
}

impl RawScenario {
    /// How tokens are chosen and verified.
    pub fn decoding(&self) -> Decoding {
        let cold = self.sampling.temperature.is_some_and(|t| t.get() <= 0.0);
        match self.verify {
            Verify::Greedy => Decoding::Greedy,
            _ if cold => Decoding::Greedy,
            Verify::Coupled => Decoding::Coupled,
            Verify::Speculative => Decoding::Speculative,
        }
    }

    /// The fields, other than the workload's, that hold a path and not a name, with their places.
    pub(super) fn path_texts(&mut self) -> Vec<(String, &mut String)> {
        let mut texts = Vec::new();
        for (place, costs) in [("hardware", &mut self.hardware), ("profile", &mut self.profile)] {
            match costs {
                Some(CostsRef::Named(name)) if crate::catalog::is_path(name) => {
                    texts.push((place.to_owned(), name));
                }
                Some(CostsRef::Table { table }) => texts.push((format!("{place}.table"), table)),
                _ => {}
            }
        }
        let models = self.pool.iter_mut().enumerate().filter(|(_, name)| crate::catalog::is_path(name));
        texts.extend(models.map(|(index, name)| (format!("pool[{index}]"), name)));
        texts
    }
}
