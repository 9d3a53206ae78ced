//! A decoder over candle's tensors: the models of [`decoder`](crate::decoder) on devices other than the processor.
//!
//! The same packed, ragged passes, weights and caches. Its sums are the device's libraries' and depend on the shapes
//! of a pass: a token's logits are the processor's to rounding, not to the bit, and nothing here is row-invariant.
//!
//! A pass sends its indices once; a layer is some twenty launches whatever the number of rows, and six more for
//! each further rectangle of attention (rows of like size share one). Keys and values are gathered into the
//! rectangles in every layer, which costs three times the memory traffic of a kernel that would read them in place.

mod device;
mod pages;
mod pass;
mod plan;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Tensor};
use half::bf16;

use crate::config::{Architecture, DecoderConfig};
use crate::decoder::rope::Angles;
use crate::kernels::attention::PAGE;
use crate::load::LoadError;
use crate::settings::Dtype;
use crate::weights::{Values, WeightSource};
use pages::Pages;
use plan::{Heads, MOST_NUMBERS, Tuning};

pub use device::{DeviceError, open_device};

/// How a [`TensorDecoder`] keeps its caches and its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorOptions {
    /// Tokens of KV memory; rounded up to whole pages of [`PAGE`] tokens. All of it is taken at once, in the
    /// weights' format: 2 · layers · KV heads · head size numbers a token.
    pub kv_tokens: u64,
    /// Format of weights, activations and caches; `Auto` is that of the embedding as stored.
    pub dtype: Dtype,
    /// Overwrites cache places with NaN before their first use and once they are forgotten. For tests.
    pub poison: bool,
}

impl TensorOptions {
    /// Weights as they are stored, no poison.
    pub fn new(kv_tokens: u64) -> Self {
        Self { kv_tokens, dtype: Dtype::Auto, poison: false }
    }
}

/// A decoder that could not be brought onto its device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// A tensor that is missing or of another shape.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// More numbers in one tensor than the device's kernels can count.
    #[error("{model}: {what} on a device must be at most {most}, got {got}")]
    TooLarge {
        /// The model.
        model: String,
        /// What is counted.
        what: &'static str,
        /// What can be.
        most: u64,
        /// What was asked for.
        got: u64,
    },
    /// The device refused; most often its memory is full.
    #[error("{model}: {source}")]
    Device {
        /// The model.
        model: String,
        /// Why.
        source: candle_core::Error,
    },
}

/// A decoder with its caches on a device.
pub struct TensorDecoder {
    config: DecoderConfig,
    device: Device,
    dtype: DType,
    heads: Heads,
    embed: Tensor,
    head: Option<Tensor>,
    norm: Tensor,
    layers: Vec<Layer>,
    turns: Turns,
    constants: Constants,
    pages: Pages,
    poison: bool,
    /// Places to poison before the next pass.
    forgotten: Vec<usize>,
    tuning: Tuning,
}

/// Weights of one layer, matrices `[outputs, inputs]`, and its cache.
struct Layer {
    norm: Tensor,
    qkv: Tensor,
    qkv_bias: Option<Tensor>,
    /// Norms of each query and each key head: Qwen3.
    head_norms: Option<(Tensor, Tensor)>,
    out: Tensor,
    mlp_norm: Tensor,
    gate_up: Tensor,
    down: Tensor,
    /// `[places, 2 · KV heads · D]`: keys, then values.
    cache: Tensor,
}

/// Tensors that every pass needs.
struct Constants {
    /// `[1, query heads, 1]`: 0, 1, …
    query_heads: Tensor,
    /// `[2, 1, KV heads, 1]`: which of a place's heads.
    cached_heads: Tensor,
    /// Scalars of the weights' format.
    zero: Tensor,
    never: Tensor,
}

/// Rotary angles on the device, made as far as positions have gone.
///
/// Row 0 turns nothing, so that a token's queries, keys and values are turned in one launch where they stand. Rows
/// 2p + 1 and 2p + 2 turn keys and queries of position p; the latter hold attention's 1 / √D as well.
struct Turns {
    angles: Angles,
    scale: f32,
    positions: usize,
    /// `[rows, D / 2]` each.
    cos: Tensor,
    sin: Tensor,
}

impl Turns {
    fn new(angles: Angles, heads: Heads, dtype: DType, device: &Device) -> candle_core::Result<Self> {
        let none = Tensor::zeros((1, heads.dim / 2), dtype, device)?;
        let scale = 1.0 / (heads.dim as f32).sqrt();
        let mut turns = Self { angles, scale, positions: 0, cos: none.clone(), sin: none };
        turns.reach(256)?;
        Ok(turns)
    }

    /// Makes the angles of every position below `positions`, and some more.
    fn reach(&mut self, positions: usize) -> candle_core::Result<()> {
        if positions <= self.positions {
            return Ok(());
        }
        let positions = positions.next_power_of_two();
        self.angles.reach(positions);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..positions {
            let (own_cos, own_sin) = self.angles.at(position);
            if position == 0 {
                cos.extend(own_cos.iter().map(|_| 1.0));
                sin.extend(own_sin.iter().map(|_| 0.0));
            }
            for scale in [1.0, self.scale] {
                cos.extend(own_cos.iter().map(|cos| cos * scale));
                sin.extend(own_sin.iter().map(|sin| sin * scale));
            }
        }
        let upload = |values: Vec<f32>| {
            let shape = (2 * positions + 1, values.len() / (2 * positions + 1));
            Tensor::from_vec(values, shape, &Device::Cpu)?
                .to_dtype(self.cos.dtype())?
                .to_device(self.cos.device())
        };
        (self.cos, self.sin) = (upload(cos)?, upload(sin)?);
        self.positions = positions;
        Ok(())
    }
}

impl TensorDecoder {
    /// Takes the weights of `config`'s model from `source` and brings them onto `device`, one matrix at a time.
    ///
    /// # Errors
    /// [`TensorError`] for a tensor that is missing or of another shape, for more KV memory or a larger embedding
    /// than the device's kernels can index, and when the device's memory is too small.
    pub fn load(
        config: DecoderConfig,
        source: &mut dyn WeightSource,
        options: TensorOptions,
        device: &Device,
    ) -> Result<Self, TensorError> {
        let spec = &config.spec;
        let (hidden, inner, vocab) = (spec.hidden as usize, spec.intermediate as usize, spec.vocab as usize);
        let heads =
            Heads { queries: spec.heads as usize, keys: spec.kv_heads as usize, dim: spec.head_dim as usize };
        let (queries, keys) = (heads.queries * heads.dim, heads.keys * heads.dim);
        let pages = u32::try_from(options.kv_tokens.div_ceil(PAGE as u64)).unwrap_or(u32::MAX);
        let too_large = |what, most, got| TensorError::TooLarge { model: spec.name.clone(), what, most, got };
        let most = MOST_NUMBERS / (heads.cached() * PAGE) as u64;
        if u64::from(pages) > most {
            return Err(too_large("tokens of KV memory", most * PAGE as u64, options.kv_tokens));
        }
        let embedding = vocab as u64 * hidden as u64;
        if embedding > MOST_NUMBERS {
            return Err(too_large("numbers of the embedding", MOST_NUMBERS, embedding));
        }
        let dtype = match options.dtype {
            Dtype::Auto => None,
            Dtype::F32 => Some(DType::F32),
            Dtype::Bf16 => Some(DType::BF16),
        };
        let refused = |source| TensorError::Device { model: spec.name.clone(), source };
        let mut reader = Reader { model: &spec.name, source, dtype, device };
        let embed = reader.matrix(&[("model.embed_tokens.weight", vocab)], hidden)?;
        let dtype = embed.dtype();
        let head = match spec.tied_embeddings {
            true => None,
            false => Some(reader.matrix(&[("lm_head.weight", vocab)], hidden)?),
        };
        let cache = || {
            let shape = (pages.max(1) as usize * PAGE, heads.cached());
            match options.poison {
                true => Tensor::full(f32::NAN, shape, device)?.to_dtype(dtype),
                false => Tensor::zeros(shape, dtype, device),
            }
        };
        let mut layers = Vec::with_capacity(spec.layers as usize);
        for layer in 0..spec.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let [q, k, v] = ["q", "k", "v"].map(|p| name(&format!("self_attn.{p}_proj.weight")));
            let [q_bias, k_bias, v_bias] = ["q", "k", "v"].map(|p| name(&format!("self_attn.{p}_proj.bias")));
            layers.push(Layer {
                norm: reader.vector(&[(&name("input_layernorm.weight"), hidden)])?,
                qkv: reader.matrix(&[(&q, queries), (&k, keys), (&v, keys)], hidden)?,
                qkv_bias: match config.architecture {
                    Architecture::Qwen2 => {
                        Some(reader.vector(&[(&q_bias, queries), (&k_bias, keys), (&v_bias, keys)])?)
                    }
                    _ => None,
                },
                head_norms: match config.architecture {
                    Architecture::Qwen3 => Some((
                        reader.vector(&[(&name("self_attn.q_norm.weight"), heads.dim)])?,
                        reader.vector(&[(&name("self_attn.k_norm.weight"), heads.dim)])?,
                    )),
                    _ => None,
                },
                out: reader.matrix(&[(&name("self_attn.o_proj.weight"), hidden)], queries)?,
                mlp_norm: reader.vector(&[(&name("post_attention_layernorm.weight"), hidden)])?,
                gate_up: reader.matrix(
                    &[(&name("mlp.gate_proj.weight"), inner), (&name("mlp.up_proj.weight"), inner)],
                    hidden,
                )?,
                down: reader.matrix(&[(&name("mlp.down_proj.weight"), hidden)], inner)?,
                cache: cache().map_err(refused)?,
            });
        }
        let norm = reader.vector(&[("model.norm.weight", hidden)])?;
        let angles = Angles::new(&config.rope, heads.dim);
        Ok(Self {
            turns: Turns::new(angles, heads, dtype, device).map_err(refused)?,
            constants: Constants::new(heads, dtype, device).map_err(refused)?,
            device: device.clone(),
            dtype,
            heads,
            embed,
            head,
            norm,
            layers,
            pages: Pages::new(pages),
            poison: options.poison,
            forgotten: Vec::new(),
            tuning: Tuning::default(),
            config,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Format of weights, activations and caches.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of weights that a pass over one token reads.
    pub fn weight_bytes(&self) -> usize {
        let layer =
            |l: &Layer| [&l.qkv, &l.out, &l.gate_up, &l.down].map(Tensor::elem_count).iter().sum::<usize>();
        let numbers = self.layers.iter().map(layer).sum::<usize>();
        (numbers + self.head.as_ref().unwrap_or(&self.embed).elem_count()) * self.dtype.size_in_bytes()
    }

    /// Pages of KV memory in use.
    pub fn used_pages(&self) -> u32 {
        self.pages.used()
    }
}

impl Constants {
    fn new(heads: Heads, dtype: DType, device: &Device) -> candle_core::Result<Self> {
        Ok(Self {
            query_heads: Tensor::arange(0, heads.queries as u32, device)?.reshape((1, heads.queries, 1))?,
            cached_heads: Tensor::arange(0, 2 * heads.keys as u32, device)?.reshape((2, 1, heads.keys, 1))?,
            zero: Tensor::zeros((), dtype, device)?,
            never: Tensor::full(f32::NEG_INFINITY, (), device)?.to_dtype(dtype)?,
        })
    }
}

/// Brings weights onto the device.
struct Reader<'a> {
    model: &'a str,
    source: &'a mut dyn WeightSource,
    /// None until the first tensor has shown it.
    dtype: Option<DType>,
    device: &'a Device,
}

impl Reader<'_> {
    /// Parts `[N_i, inputs]`, stacked.
    fn matrix(&mut self, parts: &[(&str, usize)], inputs: usize) -> Result<Tensor, TensorError> {
        let outputs: usize = parts.iter().map(|(_, outputs)| outputs).sum();
        let values = parts.iter().map(|&(name, outputs)| self.source.tensor(name, &[outputs, inputs]));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        self.upload(values, &[outputs, inputs])
    }

    /// Parts `[N_i]`, one behind another.
    fn vector(&mut self, parts: &[(&str, usize)]) -> Result<Tensor, TensorError> {
        let len = parts.iter().map(|(_, len)| len).sum();
        let values = parts.iter().map(|&(name, len)| self.source.tensor(name, &[len]));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        self.upload(values, &[len])
    }

    fn upload(&mut self, parts: Vec<Values>, shape: &[usize]) -> Result<Tensor, TensorError> {
        let dtype = *self.dtype.get_or_insert(match parts.first() {
            Some(Values::Bf16(_)) => DType::BF16,
            _ => DType::F32,
        });
        let tensor = match dtype {
            DType::BF16 => {
                let narrow = |part| match part {
                    Values::Bf16(values) => values,
                    Values::F32(values) => values.into_iter().map(bf16::from_f32).collect(),
                };
                Tensor::from_vec(joined(parts.into_iter().map(narrow)), shape, self.device)
            }
            _ => Tensor::from_vec(joined(parts.into_iter().map(Values::to_f32)), shape, self.device),
        };
        tensor.map_err(|source| TensorError::Device { model: self.model.to_owned(), source })
    }
}

/// The parts in one list; the first is not copied.
fn joined<T>(mut parts: impl Iterator<Item = Vec<T>>) -> Vec<T> {
    let mut all = parts.next().unwrap_or_default();
    parts.for_each(|part| all.extend(part));
    all
}
