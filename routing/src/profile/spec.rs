//! What is written about a model and a device: the numbers behind every price.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{NonNegative, Positive};

/// Storage format of weights, which also decides the FLOP rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight.
    #[default]
    Bf16,
    /// 1 byte a weight.
    Fp8,
}

impl Precision {
    /// Bytes of one weight.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Fp8 => 1,
        }
    }
}

/// What a pool member is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// A transformer of its own.
    #[default]
    Model,
    /// A draft head (EAGLE, MTP) that reads the hidden states of the model it belongs to, so it
    /// can only stand directly below it.
    Head {
        /// Catalog name of its target.
        of: String,
    },
    /// Looks the next tokens up in the text so far: no weights, no KV cache, no model time.
    Ngram,
}

/// A decoder as its Hugging Face `config.json` describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The name scenarios use.
    pub name: String,
    /// Where the numbers are from.
    pub source: String,
    /// What it is.
    #[serde(default)]
    pub kind: ModelKind,
    /// Vocabulary it shares with its pool: models of different families cannot verify each other.
    pub family: String,
    /// `num_hidden_layers`.
    #[serde(default)]
    pub layers: u32,
    /// `hidden_size`.
    #[serde(default)]
    pub hidden: u32,
    /// `num_attention_heads`.
    #[serde(default)]
    pub heads: u32,
    /// `num_key_value_heads`.
    #[serde(default)]
    pub kv_heads: u32,
    /// `head_dim`.
    #[serde(default)]
    pub head_dim: u32,
    /// `intermediate_size`.
    #[serde(default)]
    pub intermediate: u32,
    /// `vocab_size`.
    #[serde(default)]
    pub vocab: u32,
    /// `tie_word_embeddings`.
    #[serde(default)]
    pub tied_embeddings: bool,
    /// `max_position_embeddings`: most tokens of prompt and output.
    pub context: u32,
    /// Format of the weights.
    #[serde(default)]
    pub precision: Precision,
    /// Bytes of one KV element.
    #[serde(default = "two")]
    pub kv_bytes: u32,
}

const fn two() -> u32 {
    2
}

/// Why a model's description is none. The catalog's author is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A dimension of 0, or one past its cap.
    #[error("model {model}: {field} must be between 1 and {most}, got {value}")]
    Dimension {
        /// The model's name.
        model: String,
        /// The field.
        field: &'static str,
        /// Its cap.
        most: u32,
        /// What came.
        value: u32,
    },
    /// Query heads are not a multiple of KV heads.
    #[error("model {model}: heads must be a multiple of kv_heads, got {heads} and {kv_heads}")]
    Heads {
        /// The model's name.
        model: String,
        /// Query heads.
        heads: u32,
        /// KV heads.
        kv_heads: u32,
    },
}

impl ModelSpec {
    /// Checks dimensions and their products, so nothing below can overflow.
    ///
    /// # Errors
    /// [`SpecError`], naming the field.
    pub fn check(&self) -> Result<(), SpecError> {
        let field = |field, value: u32, most| {
            if (1..=most).contains(&value) {
                Ok(())
            } else {
                Err(SpecError::Dimension { model: self.name.clone(), field, most, value })
            }
        };
        field("context", self.context, 1 << 24)?;
        if self.kind == ModelKind::Ngram {
            return Ok(());
        }
        field("layers", self.layers, 256)?;
        field("hidden", self.hidden, 65_536)?;
        field("heads", self.heads, 1_024)?;
        field("kv_heads", self.kv_heads, 1_024)?;
        field("head_dim", self.head_dim, 1_024)?;
        field("intermediate", self.intermediate, 1 << 20)?;
        field("vocab", self.vocab, 2_000_000)?;
        field("kv_bytes", self.kv_bytes, 4)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(SpecError::Heads {
                model: self.name.clone(),
                heads: self.heads,
                kv_heads: self.kv_heads,
            });
        }
        Ok(())
    }

    /// Weights of one layer: q, k, v, o and the gated MLP.
    pub fn layer_weights(&self) -> u64 {
        let (h, q, kv) = (
            u64::from(self.hidden),
            u64::from(self.heads * self.head_dim),
            u64::from(self.kv_heads * self.head_dim),
        );
        h * (q + 2 * kv) + q * h + 3 * h * u64::from(self.intermediate)
    }

    /// Weights read by a pass besides the layers: the output head. (The embedding is a look-up.)
    pub fn head_weights(&self) -> u64 {
        u64::from(self.hidden) * u64::from(self.vocab)
    }

    /// All weights that are resident in memory, in bytes. A head shares its target's embedding
    /// and output head.
    pub fn resident_bytes(&self) -> u64 {
        let tables = match self.kind {
            ModelKind::Ngram => return 0,
            ModelKind::Head { .. } => 0,
            ModelKind::Model if self.tied_embeddings => self.head_weights(),
            ModelKind::Model => 2 * self.head_weights(),
        };
        (u64::from(self.layers) * self.layer_weights() + tables) * u64::from(self.precision.bytes())
    }

    /// KV-cache bytes of one token over all layers.
    pub fn kv_bytes_per_token(&self) -> u64 {
        match self.kind {
            ModelKind::Ngram => 0,
            _ => {
                2 * u64::from(self.layers)
                    * u64::from(self.kv_heads * self.head_dim)
                    * u64::from(self.kv_bytes)
            }
        }
    }
}

/// What a device's data sheet says: what a deployer knows before measuring anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceSheet {
    /// Memory in GB (10⁹ bytes).
    pub memory_gb: Positive,
    /// Memory bandwidth in TB/s.
    pub bandwidth_tb_s: Positive,
    /// Dense bf16 rate in TFLOP/s.
    pub bf16_tflops: Positive,
    /// Dense fp8 rate in TFLOP/s; absent where the device has none (bf16 rate is used).
    #[serde(default)]
    pub fp8_tflops: Option<Positive>,
    /// Link between devices of one replica, GB/s each way.
    pub link_gb_s: Positive,
    /// Board power in watts.
    pub watts: NonNegative,
    /// Price of one device, US dollars an hour.
    pub dollars_per_hour: NonNegative,
}

impl DeviceSheet {
    /// FLOP/s at a weight format.
    pub fn flops(&self, precision: Precision) -> f64 {
        let bf16 = self.bf16_tflops.get() * 1e12;
        match precision {
            Precision::F32 => bf16 / 2.0,
            Precision::Bf16 => bf16,
            Precision::Fp8 => self.fp8_tflops.map_or(bf16, |t| t.get() * 1e12),
        }
    }
}
