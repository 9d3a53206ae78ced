//! A decoder on the processor: Llama, Qwen2, Qwen3 and Mistral, one struct with options.
//!
//! Passes are packed and ragged: each row has its own slot, context and positions; logits come back
//! for the tokens that ask. Every kernel is row-invariant, so a token's logits depend on the tokens
//! before it alone: not on the batch, on chunking of prompts, or on the number of threads.

mod forward;
pub(crate) mod rope;
#[cfg(test)]
mod tests;

use half::bf16;

use crate::config::{Architecture, DecoderConfig};
use crate::kernels::Path;
use crate::kernels::attention::{HeadShape, PAGE};
use crate::kernels::matrix::Matrix;
use crate::load::LoadError;
use crate::settings::Dtype;
use crate::storage::KvStore;
use crate::weights::{Values, WeightSource};
use forward::Buffers;
use rope::Angles;

/// How a decoder keeps its caches and its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderOptions {
    /// Tokens of KV memory; rounded up to whole pages of [`PAGE`] tokens.
    pub kv_tokens: u64,
    /// Format of the weight matrices. Arithmetic is f32 whichever it is; the order of sums may differ.
    pub dtype: Dtype,
    /// Overwrites forgotten cache rows with NaN.
    pub poison: bool,
    /// The kernels' path.
    pub path: Path,
}

impl DecoderOptions {
    /// The quickest path of this machine, weights as they are stored, no poison.
    pub fn new(kv_tokens: u64) -> Self {
        Self { kv_tokens, dtype: Dtype::Auto, poison: false, path: Path::best() }
    }
}

/// A decoder with its caches.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    heads: HeadShape,
    path: Path,
    embed: Matrix,
    head: Option<Matrix>,
    norm: Vec<f32>,
    layers: Vec<Layer>,
    angles: Angles,
    kv: KvStore,
    buffers: Buffers,
}

/// Weights of one layer. `qkv` and `gate_up` are stacked, so that a pass reads each once.
#[derive(Debug)]
struct Layer {
    norm: Vec<f32>,
    qkv: Matrix,
    qkv_bias: Option<Vec<f32>>,
    /// Norms of each query and each key head: Qwen3.
    head_norms: Option<(Vec<f32>, Vec<f32>)>,
    out: Matrix,
    mlp_norm: Vec<f32>,
    gate_up: Matrix,
    down: Matrix,
}

impl Decoder {
    /// Takes the weights of `config`'s model from `source`.
    ///
    /// # Errors
    /// [`LoadError`] for a tensor that is missing or of another shape.
    pub fn load(
        config: DecoderConfig,
        source: &mut dyn WeightSource,
        options: DecoderOptions,
    ) -> Result<Self, LoadError> {
        let spec = &config.spec;
        let (hidden, inner, vocab) = (spec.hidden as usize, spec.intermediate as usize, spec.vocab as usize);
        let heads = HeadShape {
            heads: spec.heads as usize,
            kv_heads: spec.kv_heads as usize,
            head_dim: spec.head_dim as usize,
        };
        let (queries, keys) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        let mut reader = Reader { source, dtype: options.dtype };
        let embed = reader.matrix(&[("model.embed_tokens.weight", vocab)], hidden)?;
        let head = match spec.tied_embeddings {
            true => None,
            false => Some(reader.matrix(&[("lm_head.weight", vocab)], hidden)?),
        };
        let mut layers = Vec::with_capacity(spec.layers as usize);
        for layer in 0..spec.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let [q, k, v] = ["q", "k", "v"].map(|p| name(&format!("self_attn.{p}_proj.weight")));
            let qkv_bias = match config.architecture {
                Architecture::Qwen2 => {
                    let mut bias = Vec::with_capacity(queries + 2 * keys);
                    for (part, len) in [("q", queries), ("k", keys), ("v", keys)] {
                        bias.extend(reader.vector(&name(&format!("self_attn.{part}_proj.bias")), len)?);
                    }
                    Some(bias)
                }
                _ => None,
            };
            let head_norms = match config.architecture {
                Architecture::Qwen3 => Some((
                    reader.vector(&name("self_attn.q_norm.weight"), heads.head_dim)?,
                    reader.vector(&name("self_attn.k_norm.weight"), heads.head_dim)?,
                )),
                _ => None,
            };
            layers.push(Layer {
                norm: reader.vector(&name("input_layernorm.weight"), hidden)?,
                qkv: reader.matrix(&[(&q, queries), (&k, keys), (&v, keys)], hidden)?,
                qkv_bias,
                head_norms,
                out: reader.matrix(&[(&name("self_attn.o_proj.weight"), hidden)], queries)?,
                mlp_norm: reader.vector(&name("post_attention_layernorm.weight"), hidden)?,
                gate_up: reader.matrix(
                    &[(&name("mlp.gate_proj.weight"), inner), (&name("mlp.up_proj.weight"), inner)],
                    hidden,
                )?,
                down: reader.matrix(&[(&name("mlp.down_proj.weight"), hidden)], inner)?,
            });
        }
        let norm = reader.vector("model.norm.weight", hidden)?;
        let pages = u32::try_from(options.kv_tokens.div_ceil(PAGE as u64)).unwrap_or(u32::MAX);
        Ok(Self {
            heads,
            path: options.path,
            embed,
            head,
            norm,
            angles: Angles::new(&config.rope, heads.head_dim),
            kv: KvStore::new(heads, layers.len(), pages, options.poison),
            layers,
            buffers: Buffers::default(),
            config,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Bytes of weights that a pass over one token reads.
    pub fn weight_bytes(&self) -> usize {
        let layer = |l: &Layer| l.qkv.bytes() + l.out.bytes() + l.gate_up.bytes() + l.down.bytes();
        self.layers.iter().map(layer).sum::<usize>() + self.head.as_ref().unwrap_or(&self.embed).bytes()
    }

    /// Pages of KV memory in use.
    pub fn used_pages(&self) -> u32 {
        self.kv.used_pages()
    }
}

/// Reads weights into the kernels' layouts.
struct Reader<'a> {
    source: &'a mut dyn WeightSource,
    dtype: Dtype,
}

impl Reader<'_> {
    /// Parts `[N_i, inputs]`, stacked.
    fn matrix(&mut self, parts: &[(&str, usize)], inputs: usize) -> Result<Matrix, LoadError> {
        let mut values = Vec::with_capacity(parts.len());
        for &(name, outputs) in parts {
            values.push(match (self.source.tensor(name, &[outputs, inputs])?, self.dtype) {
                (values, Dtype::F32) => Values::F32(values.to_f32()),
                (Values::F32(wide), Dtype::Bf16) => {
                    Values::Bf16(wide.into_iter().map(bf16::from_f32).collect())
                }
                (values, _) => values,
            });
        }
        Ok(Matrix::stack(values, inputs))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        Ok(self.source.tensor(name, &[len])?.to_f32())
    }
}
