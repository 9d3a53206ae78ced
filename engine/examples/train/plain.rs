//! The model in candle's own differentiable operations, for any device.
//!
//! It is what a CUDA device trains with, and what `selftest` holds the fused parts to. Numerics are
//! those of transformers' Llama in f32. This file needs `shape.rs` and candle only, so that a test of
//! the engine can take both in and hold its own forward to the trainer's.

use candle_core::{D, Device, Result, Tensor};

use super::shape::Shape;

/// The weights of a model as matrices; views of its flat parameters.
pub struct Matrices {
    /// `[vocabulary, hidden]`; also the head.
    pub embedding: Tensor,
    /// One for each block.
    pub layers: Vec<Layer>,
    /// `[hidden]`.
    pub norm: Tensor,
}

/// The weights of one block, each `[out, in]` or `[hidden]`.
pub struct Layer {
    /// Norm before attention.
    pub attention_norm: Tensor,
    /// Queries.
    pub q: Tensor,
    /// Keys.
    pub k: Tensor,
    /// Values.
    pub v: Tensor,
    /// Output of attention.
    pub o: Tensor,
    /// Norm before the feed-forward part.
    pub feed_forward_norm: Tensor,
    /// Gate.
    pub gate: Tensor,
    /// Up.
    pub up: Tensor,
    /// Down.
    pub down: Tensor,
}

impl Matrices {
    /// Cuts flat parameters into views: `embedding`, then attention and feed-forward per block, then `norm`.
    ///
    /// # Errors
    /// When a length disagrees with the shape.
    pub fn views(shape: &Shape, parameters: &[&Tensor]) -> Result<Self> {
        let (hidden, q, kv, width) =
            (shape.hidden, shape.query_width(), shape.kv_width(), shape.intermediate);
        let [embedding, halves @ .., norm] = parameters else {
            candle_core::bail!("expected at least 2 parameters, got {}", parameters.len())
        };
        let mut layers = Vec::with_capacity(shape.layers);
        for pair in halves.chunks_exact(2) {
            let mut cut = Cut { flat: pair[0], at: 0 };
            let attention_norm = cut.next(hidden)?;
            let (q, k, v) = (cut.matrix(q, hidden)?, cut.matrix(kv, hidden)?, cut.matrix(kv, hidden)?);
            let o = cut.matrix(hidden, shape.query_width())?;
            let mut cut = Cut { flat: pair[1], at: 0 };
            let feed_forward_norm = cut.next(hidden)?;
            let (gate, up) = (cut.matrix(width, hidden)?, cut.matrix(width, hidden)?);
            let down = cut.matrix(hidden, width)?;
            layers.push(Layer { attention_norm, q, k, v, o, feed_forward_norm, gate, up, down });
        }
        Ok(Self { embedding: (*embedding).clone(), layers, norm: (*norm).clone() })
    }

    /// Finds every matrix under its Hugging Face name.
    ///
    /// # Errors
    /// Those of `find`.
    pub fn find(shape: &Shape, find: impl Fn(&str) -> Result<Tensor>) -> Result<Self> {
        let layer = |index: usize| -> Result<Layer> {
            let find = |part: usize| find(&layer_name(index, PARTS[part]));
            Ok(Layer {
                attention_norm: find(0)?,
                q: find(1)?,
                k: find(2)?,
                v: find(3)?,
                o: find(4)?,
                feed_forward_norm: find(5)?,
                gate: find(6)?,
                up: find(7)?,
                down: find(8)?,
            })
        };
        let layers = (0..shape.layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { embedding: find(EMBEDDING)?, layers, norm: find(NORM)? })
    }

    /// Every matrix under its Hugging Face name.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        let mut named = vec![(EMBEDDING.to_owned(), self.embedding.clone())];
        for (index, layer) in self.layers.iter().enumerate() {
            let Layer { attention_norm, q, k, v, o, feed_forward_norm, gate, up, down } = layer;
            let tensors = [attention_norm, q, k, v, o, feed_forward_norm, gate, up, down];
            for (part, tensor) in PARTS.iter().zip(tensors) {
                named.push((layer_name(index, part), tensor.clone()));
            }
        }
        named.push((NORM.to_owned(), self.norm.clone()));
        named
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";

/// Names of a block's matrices, in the order of [`Layer`].
const PARTS: [&str; 9] = [
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

fn layer_name(index: usize, part: &str) -> String {
    format!("model.layers.{index}.{part}.weight")
}

/// Cosines and sines of the rotary angles, each `[positions, head_dim / 2]`, in the arithmetic of
/// transformers: inverse frequencies and angles in f32.
pub fn rotations(shape: &Shape, positions: usize) -> (Vec<f32>, Vec<f32>) {
    let half = shape.head_dim / 2;
    let inverse = |i: usize| {
        let share = (2 * i) as f32 / shape.head_dim as f32;
        1.0 / (shape.rope_theta as f32).powf(share)
    };
    let frequencies: Vec<f32> = (0..half).map(inverse).collect();
    let angles: Vec<f32> =
        (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f)).collect();
    (angles.iter().map(|a| a.cos()).collect(), angles.iter().map(|a| a.sin()).collect())
}

struct Cut<'a> {
    flat: &'a Tensor,
    at: usize,
}

impl Cut<'_> {
    fn next(&mut self, length: usize) -> Result<Tensor> {
        let piece = self.flat.narrow(0, self.at, length)?;
        self.at += length;
        Ok(piece)
    }

    fn matrix(&mut self, rows: usize, columns: usize) -> Result<Tensor> {
        self.next(rows * columns)?.reshape((rows, columns))
    }
}

/// Logits `[sequences, positions, vocabulary]` of `tokens` (`[sequences, positions]`, u32).
///
/// # Errors
/// When a shape disagrees.
pub fn logits(shape: &Shape, weights: &Matrices, tokens: &Tensor) -> Result<Tensor> {
    let (sequences, positions) = tokens.dims2()?;
    let hidden = shape.hidden;
    let device = tokens.device();
    let (cos, sin) = rotations(shape, positions);
    let table = |data| Tensor::from_vec(data, (1, 1, positions, shape.head_dim / 2), device);
    let (cos, sin) = (table(cos)?, table(sin)?);
    let mask = causal_mask(positions, device)?;
    let eps = shape.rms_norm_eps;
    let group = shape.heads / shape.kv_heads;
    let mut x = weights.embedding.index_select(&tokens.flatten_all()?, 0)?;
    for layer in &weights.layers {
        let normed = rms_norm(&x, &layer.attention_norm, eps)?;
        let heads = |weight: &Tensor, heads: usize| -> Result<Tensor> {
            let rows = normed.matmul(&weight.t()?)?;
            rows.reshape((sequences, positions, heads, shape.head_dim))?.transpose(1, 2)?.contiguous()
        };
        let q = turn(&heads(&layer.q, shape.heads)?, &cos, &sin)?;
        let k = repeat(&turn(&heads(&layer.k, shape.kv_heads)?, &cos, &sin)?, group)?;
        let v = repeat(&heads(&layer.v, shape.kv_heads)?, group)?;
        let scores = (q.matmul(&k.t()?)? * (1.0 / (shape.head_dim as f64).sqrt()))?.broadcast_add(&mask)?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let probabilities = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        let mixed = probabilities.matmul(&v)?.transpose(1, 2)?;
        let mixed = mixed.reshape((sequences * positions, shape.query_width()))?;
        x = (x + mixed.matmul(&layer.o.t()?)?)?;
        let normed = rms_norm(&x, &layer.feed_forward_norm, eps)?;
        let gate = normed.matmul(&layer.gate.t()?)?.silu()?;
        let product = (gate * normed.matmul(&layer.up.t()?)?)?;
        x = (x + product.matmul(&layer.down.t()?)?)?;
    }
    let x = rms_norm(&x, &weights.norm, eps)?;
    debug_assert_eq!(x.dims(), [sequences * positions, hidden]);
    x.matmul(&weights.embedding.t()?)?.reshape((sequences, positions, ()))
}

/// Sum over rows of `(1 - share) * -ln p[next] + share * -Σ t ln p`, a scalar.
///
/// - `logits`: `[rows, vocabulary]`; `next`: `[rows]`, u32; `teacher`: `[rows, vocabulary]` and share.
///
/// # Errors
/// When a shape disagrees.
pub fn loss(logits: &Tensor, next: &Tensor, teacher: Option<(&Tensor, f64)>) -> Result<Tensor> {
    let log_p = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let hard = log_p.gather(&next.unsqueeze(1)?, 1)?.sum_all()?.neg()?;
    match teacher {
        None => Ok(hard),
        Some((teacher, share)) => {
            let soft = (log_p * teacher)?.sum_all()?.neg()?;
            (hard * (1.0 - share))? + (soft * share)?
        }
    }
}

fn causal_mask(positions: usize, device: &Device) -> Result<Tensor> {
    let place = |p: usize, q: usize| if q <= p { 0f32 } else { f32::NEG_INFINITY };
    let mask: Vec<f32> = (0..positions).flat_map(|p| (0..positions).map(move |q| place(p, q))).collect();
    Tensor::from_vec(mask, (1, 1, positions, positions), device)
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)
}

/// Turns `[sequences, heads, positions, head_dim]`, halves as pairs.
fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Tensor::cat(&[first, second], D::Minus1)
}

/// Gives every query head of a group its key or value head.
fn repeat(x: &Tensor, group: usize) -> Result<Tensor> {
    if group == 1 {
        return Ok(x.clone());
    }
    let (sequences, heads, positions, size) = x.dims4()?;
    let wide = x.unsqueeze(2)?.broadcast_as((sequences, heads, group, positions, size))?;
    wide.reshape((sequences, heads * group, positions, size))
}
