//! Sizes of a model, and what follows from them.

use serde::{Deserialize, Serialize};

/// Sizes of a Llama.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Positions that the shipped configuration allows.
    pub context: usize,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
}

impl Shape {
    /// Width of all query heads.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads, and of all value heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers of one attention part: norm, queries, keys, values, output.
    pub fn attention_len(&self) -> usize {
        self.hidden * (1 + 2 * self.query_width() + 2 * self.kv_width())
    }

    /// Numbers of one feed-forward part: norm, gate, up, down.
    pub fn feed_forward_len(&self) -> usize {
        self.hidden * (1 + 3 * self.intermediate)
    }

    /// Numbers of the whole model with a tied head.
    pub fn parameters(&self, vocabulary: usize) -> usize {
        self.hidden * (vocabulary + 1) + self.layers * (self.attention_len() + self.feed_forward_len())
    }
}
