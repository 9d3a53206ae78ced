//! Three models, each the beginning of the next, that agree as often as a test wants.
//!
//! Independent random models almost never agree, so tests on them never see a draft kept twice in a row
//! (huggingface/transformers#27540). Here draft and middle model are the first one and three layers of a random
//! target of eight, sharing embedding, norm and head; what the later layers write to the residual stream is scaled
//! down, and by how much sets the agreement.

use specrouter_routing::profile::{ModelKind, ModelSpec, Precision};

use super::LoadError;
use super::dummy::{Dummy, is_write};
use crate::config::{Architecture, DecoderConfig, Rope, RopeScaling};
use crate::weights::{Values, WeightSource};

/// Layers of draft, middle model and target.
const LAYERS: [u32; 3] = [1, 3, 8];

/// Weights of one of three nested models.
#[derive(Clone, Debug)]
pub struct Nested {
    base: Dummy,
    /// Scale of the residual writes of each layer.
    scales: [f32; LAYERS[2] as usize],
}

/// Draft, middle model and target of `config`'s size, with 1, 3 and 8 layers whatever `config` says.
///
/// `eps_mid` scales the residual writes of the second and third layer, `eps_top` those of the others past the
/// first. The smaller they are, the more often the three agree: at 0 they are one function. `config` should have
/// an untied head: a tied one with a unit embedding repeats the last token.
///
/// On [`tiny_config`] (three seeds, 48 greedy texts of 64 tokens) draft and middle model name the target's token in
/// 0.55 and 0.65 of all places at (0.3, 0.2), in 0.30 and 0.43 at (0.6, 0.4), and in 0.73 and 0.81 at (0.2, 0.1).
///
/// The configurations are named `config`'s name with `-draft`, `-mid` and `-target`.
pub fn nested(config: &DecoderConfig, seed: u64, eps_mid: f32, eps_top: f32) -> [(DecoderConfig, Nested); 3] {
    let mut scales = [eps_top; LAYERS[2] as usize];
    scales[0] = 1.0;
    scales[1..LAYERS[1] as usize].fill(eps_mid);
    let source = Nested { base: Dummy::new(seed).gains(1.0, 2.5), scales };
    [("draft", LAYERS[0]), ("mid", LAYERS[1]), ("target", LAYERS[2])].map(|(role, layers)| {
        let name = format!("{}-{role}", config.spec.name);
        let spec = ModelSpec { name, layers, ..config.spec.clone() };
        (DecoderConfig { spec, ..config.clone() }, source.clone())
    })
}

/// A Llama of two megabytes at eight layers, f32: hidden 64, 4 heads of 16, 2 KV heads, vocabulary 256, context 512.
pub fn tiny_config() -> DecoderConfig {
    let spec = ModelSpec {
        name: "nested".to_owned(),
        source: "engine/src/load/nested.rs".to_owned(),
        kind: ModelKind::Model,
        family: "nested-256".to_owned(),
        layers: LAYERS[2],
        hidden: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        intermediate: 128,
        vocab: 256,
        tied_embeddings: false,
        context: 512,
        precision: Precision::F32,
        kv_bytes: 4,
    };
    DecoderConfig {
        spec,
        architecture: Architecture::Llama,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        norm_epsilon: 1e-5,
    }
}

impl WeightSource for Nested {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Values, LoadError> {
        let scale = match layer(name) {
            Some(layer) if is_write(name) => self.scales.get(layer).copied().unwrap_or(1.0),
            _ => 1.0,
        };
        self.base.scaled(name, shape, scale)
    }
}

/// The layer of a tensor such as `model.layers.3.mlp.down_proj.weight`.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
#[path = "nested_tests.rs"]
mod tests;
