//! What a pass takes: the simulator's own prices, which no policy may read.

mod noise;
mod roofline;

pub use roofline::{Achieved, AllReduce, Attention, Efficiency, WeightReads};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use specrouter_routing::backend::After;
use specrouter_routing::ids::ModelId;
use specrouter_routing::luck::Luck;
use specrouter_routing::profile::{DeviceSheet, Linear, ModelSpec, PassCosts, PassShape, SpecError, Table};
use specrouter_routing::units::{NonNegative, Probability, Span};

use noise::Noise;
use roofline::Coefficients;

/// A kind of device in the catalog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HardwareSpec {
    /// The name scenarios use.
    pub name: String,
    /// Where the numbers are from.
    pub source: String,
    /// What its maker promises; what policies know.
    pub sheet: DeviceSheet,
    /// What it keeps; what the simulator charges.
    pub achieved: Achieved,
}

/// Why a pool cannot be priced on a device. The scenario is at fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CostError {
    /// Heads cannot be cut evenly.
    #[error(
        "tensor_parallel must be at least 1 and divide the {heads} attention heads of model {model}, got {tensor_parallel}"
    )]
    TensorParallel {
        /// The model.
        model: String,
        /// Its query heads.
        heads: u32,
        /// What came.
        tensor_parallel: u32,
    },
    /// A model's dimensions are none.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Weights do not fit.
    #[error(
        "model {model} is too large for {hardware}: the weights of the pool need {needed_gb:.1} GB on each device at tensor_parallel {tensor_parallel}, there are {there_gb:.1} GB ({} of its memory); use more tensor_parallel, smaller models or larger devices",
        percent(*.fraction)
    )]
    TooLarge {
        /// The pool's largest model.
        model: String,
        /// The device.
        hardware: String,
        /// Devices of one replica.
        tensor_parallel: u32,
        /// Weights on each, GB.
        needed_gb: f64,
        /// Memory on each that may be used, GB.
        there_gb: f64,
        /// Its share of the memory.
        fraction: f64,
    },
    /// Nothing in the pool keeps a KV cache, so no number of tokens fills the memory.
    #[error("the pool needs a model with weights as its target, got only look-ups")]
    NoModel,
}

fn percent(fraction: f64) -> String {
    format!("{:.0} %", fraction * 100.0)
}

/// What one model's pass takes longer when its weights are not at hand: measured, and 0 where nobody measured it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interference {
    /// Seconds more after a pass of another model.
    #[serde(default = "none")]
    pub after_other_s: NonNegative,
    /// Seconds more after the device had nothing to do.
    #[serde(default = "none")]
    pub after_idle_s: NonNegative,
}

impl Default for Interference {
    fn default() -> Self {
        Self { after_other_s: none(), after_idle_s: none() }
    }
}

fn none() -> NonNegative {
    NonNegative::new(0.0).expect("0 is not negative")
}

/// Prices passes of a pool's models.
#[derive(Clone, Debug)]
pub struct CostModel {
    prices: Prices,
    /// By model; empty where there is none.
    interference: Vec<Interference>,
    noise: Option<Noise>,
}

/// One of three, known before the run: a match is cheaper than a call through a pointer.
#[derive(Clone, Debug)]
enum Prices {
    Roofline(Vec<Coefficients>),
    Table(Table),
    Linear(Linear),
}

impl CostModel {
    /// The achieved roofline of `models`, in pool order, each cut over `tensor_parallel` devices.
    /// `luck` draws the hardware's noise.
    ///
    /// # Errors
    /// [`CostError`] when a model's dimensions are none or its heads cannot be cut.
    pub fn roofline(
        models: &[ModelSpec],
        hardware: &HardwareSpec,
        tensor_parallel: u32,
        luck: Luck,
    ) -> Result<Self, CostError> {
        check(models, tensor_parallel)?;
        let of = |model| Coefficients::new(model, &hardware.sheet, &hardware.achieved, tensor_parallel);
        let noise = Noise::new(hardware.achieved.noise.get(), luck);
        let prices = Prices::Roofline(models.iter().map(of).collect());
        Ok(Self { prices, interference: Vec::new(), noise })
    }

    /// A measured table, without noise.
    pub const fn table(table: Table) -> Self {
        Self { prices: Prices::Table(table), interference: Vec::new(), noise: None }
    }

    /// Linear prices, without noise.
    pub const fn linear(linear: Linear) -> Self {
        Self { prices: Prices::Linear(linear), interference: Vec::new(), noise: None }
    }

    /// The same prices with log-normal noise of mean 1; `sigma` is the standard deviation of the
    /// factor's logarithm.
    #[must_use]
    pub fn with_noise(self, sigma: NonNegative, luck: Luck) -> Self {
        Self { noise: Noise::new(sigma.get(), luck), ..self }
    }

    /// The same prices with what models cost each other; empty for nothing.
    #[must_use]
    pub fn with_interference(self, interference: Vec<Interference>) -> Self {
        Self { interference, ..self }
    }

    /// What the pass takes, to the nanosecond. `noise_key` tells passes apart: the same key meets
    /// the same luck.
    #[inline]
    pub fn price(&self, model: ModelId, shape: &PassShape, after: After, noise_key: (u64, u64)) -> Span {
        let seconds = self.seconds(model, shape) + self.more(model, after);
        let seconds = match &self.noise {
            None => seconds,
            Some(noise) => seconds * noise.factor(noise_key),
        };
        // Prices are finite and positive, so the cast only rounds.
        Span::from_nanos((seconds * 1e9 + 0.5) as u64)
    }

    /// Seconds more than a pass takes after one of the same model.
    #[inline]
    fn more(&self, model: ModelId, after: After) -> f64 {
        match (after, self.interference.get(model.index())) {
            (After::Other, Some(interference)) => interference.after_other_s.get(),
            (After::Idle, Some(interference)) => interference.after_idle_s.get(),
            _ => 0.0,
        }
    }

    /// Seconds of the pass after one of the same model, without noise.
    #[inline]
    pub fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        match &self.prices {
            Prices::Roofline(models) => models[model.index()].seconds(shape),
            Prices::Table(table) => table.seconds(model, shape),
            Prices::Linear(linear) => linear.seconds(model, shape),
        }
    }

    /// How many prices so far lay outside what a table had measured; the run's log states it.
    pub fn extrapolations(&self) -> u64 {
        match &self.prices {
            Prices::Table(table) => table.extrapolations(),
            Prices::Roofline(_) | Prices::Linear(_) => 0,
        }
    }

    /// How many tokens of context a replica of `tensor_parallel` devices holds: the memory that
    /// weights leave, shared so that every model of the pool caches the same number of tokens.
    /// `memory_fraction` of each device may be used (0.9 in vLLM); the rest is for activations.
    ///
    /// # Errors
    /// [`CostError::TooLarge`] when the weights leave no room for a token.
    pub fn kv_tokens(
        models: &[ModelSpec],
        hardware: &HardwareSpec,
        tensor_parallel: u32,
        memory_fraction: Probability,
    ) -> Result<u64, CostError> {
        check(models, tensor_parallel)?;
        let cut = f64::from(tensor_parallel);
        let there = hardware.sheet.memory_gb.get() * 1e9 * memory_fraction.get();
        let needed: f64 = models.iter().map(|m| m.resident_bytes() as f64 / cut).sum();
        // KV heads that are fewer than the devices are copied, not cut.
        let token: f64 = models
            .iter()
            .map(|m| m.kv_bytes_per_token() as f64 / f64::from(tensor_parallel.min(m.kv_heads.max(1))))
            .sum();
        let largest = models
            .iter()
            .max_by_key(|m| m.resident_bytes())
            .filter(|_| token > 0.0)
            .ok_or(CostError::NoModel)?;
        let tokens = (there - needed) / token;
        if tokens < 1.0 {
            return Err(CostError::TooLarge {
                model: largest.name.clone(),
                hardware: hardware.name.clone(),
                tensor_parallel,
                needed_gb: needed / 1e9,
                there_gb: there / 1e9,
                fraction: memory_fraction.get(),
            });
        }
        Ok(tokens as u64)
    }
}

/// Prices without noise, for whoever bounds what a run may take.
impl PassCosts for CostModel {
    fn seconds(&self, model: ModelId, shape: &PassShape) -> f64 {
        CostModel::seconds(self, model, shape)
    }
}

/// Every model has meant dimensions and can be cut over `tensor_parallel` devices.
fn check(models: &[ModelSpec], tensor_parallel: u32) -> Result<(), CostError> {
    for model in models {
        model.check()?;
        let whole = tensor_parallel >= 1 && model.heads.is_multiple_of(tensor_parallel);
        if !whole {
            return Err(CostError::TensorParallel {
                model: model.name.clone(),
                heads: model.heads,
                tensor_parallel,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
