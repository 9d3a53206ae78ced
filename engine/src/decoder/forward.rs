//! One packed pass through a [`Decoder`].

#![allow(unsafe_code, reason = "threads write disjoint places of one output")]

use specrouter_routing::ids::Slot;

use super::Decoder;
use crate::kernels::attention::{HeadShape, attend};
use crate::kernels::lanes::Line;
use crate::kernels::linear::linear;
use crate::kernels::matrix::Matrix;
use crate::kernels::pointwise::{rms_norm, rotate, silu_mul};
use crate::kernels::{Path, Shared, share};
use crate::level::{ForwardError, LevelModel, Packed, PackedRow};
use crate::storage::KvStore;

/// Multiply-adds of attention below which sharing them costs more than it saves.
const SHARED_FROM: usize = 1 << 17;

/// What a pass computes on its way; kept from pass to pass.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// `[T, H]`: the residual stream.
    x: Vec<f32>,
    /// `[T, H]`: its norm, and what is added to it.
    y: Vec<f32>,
    /// `[T, (heads + 2 kv_heads) D]`.
    qkv: Vec<f32>,
    /// `[T, heads D]`.
    attended: Vec<f32>,
    /// `[T, 2 I]`.
    gate_up: Vec<f32>,
    /// `[T, I]`.
    inner: Vec<f32>,
    /// Slot and position of each token.
    places: Vec<(Slot, u32)>,
    /// Attention scores, one list for each task.
    scores: Vec<Vec<f32>>,
}

/// A buffer of exactly `len` numbers; what was in it does not matter.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}

impl LevelModel for Decoder {
    fn name(&self) -> &str {
        &self.config.spec.name
    }

    fn vocabulary(&self) -> usize {
        self.embed.outputs()
    }

    fn forward(&mut self, packed: &Packed, logits: &mut Vec<f32>) -> Result<(), ForwardError> {
        self.check(packed)?;
        for row in &packed.rows {
            if self.kv.extend(row.slot, row.tokens).is_err() {
                return Err(ForwardError::KvFull {
                    model: self.name().to_owned(),
                    pages: self.kv.most_pages(),
                    page: crate::kernels::attention::PAGE as u32,
                });
            }
        }
        let mut buffers = std::mem::take(&mut self.buffers);
        buffers.places.clear();
        for row in &packed.rows {
            buffers.places.extend((row.context..row.context + row.tokens).map(|at| (row.slot, at)));
        }
        let reach = buffers.places.iter().map(|&(_, at)| at as usize + 1).max().unwrap_or(0);
        self.angles.reach(reach);
        let hidden = self.config.spec.hidden as usize;
        let x = sized(&mut buffers.x, packed.tokens.len() * hidden);
        for (x, &token) in x.chunks_exact_mut(hidden).zip(&packed.tokens) {
            self.embed.row(token as usize, x);
        }
        for index in 0..self.layers.len() {
            self.layer(index, &packed.rows, &mut buffers);
        }
        self.logits(packed, &mut buffers, logits);
        self.buffers = buffers;
        self.finite(packed, logits)
    }

    fn truncate(&mut self, slot: Slot, len: u32) {
        self.kv.truncate(slot, len);
    }

    fn cached(&self, slot: Slot) -> u32 {
        self.kv.len(slot)
    }
}

impl Decoder {
    fn check(&self, packed: &Packed) -> Result<(), ForwardError> {
        let wrong = |what, expected: u64, got: u64| {
            Err(ForwardError::Rows { model: self.name().to_owned(), what, expected, got })
        };
        let sum: u64 = packed.rows.iter().map(|row| u64::from(row.tokens)).sum();
        if sum != packed.tokens.len() as u64 {
            return wrong("tokens of all rows", packed.tokens.len() as u64, sum);
        }
        for row in &packed.rows {
            let cached = self.kv.len(row.slot);
            if cached != row.context {
                return wrong("context of a row", u64::from(cached), u64::from(row.context));
            }
        }
        if let Some(&last) = packed.want.last()
            && last as usize >= packed.tokens.len()
        {
            return wrong("last token with logits, at most", packed.tokens.len() as u64 - 1, u64::from(last));
        }
        let vocabulary = self.embed.outputs() as u32;
        match packed.tokens.iter().find(|&&token| token >= vocabulary) {
            Some(&token) => Err(ForwardError::Token { model: self.name().to_owned(), vocabulary, token }),
            None => Ok(()),
        }
    }

    fn layer(&mut self, index: usize, rows: &[PackedRow], buffers: &mut Buffers) {
        let (layer, heads, path) = (&self.layers[index], self.heads, self.path);
        let epsilon = self.config.norm_epsilon as f32;
        let tokens = buffers.places.len();
        let Buffers { x, y, qkv, attended, gate_up, inner, places, scores } = buffers;

        let y = sized(y, x.len());
        rms_norm(path, x, &layer.norm, epsilon, y);
        let qkv = sized(qkv, tokens * layer.qkv.outputs());
        linear(path, &layer.qkv, layer.qkv_bias.as_deref(), y, qkv, tokens);
        let (queries, keys) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        let mut scratch = [0f32; 1024];
        for (qkv, &(slot, position)) in qkv.chunks_exact_mut(queries + 2 * keys).zip(places.iter()) {
            let (q, kv) = qkv.split_at_mut(queries);
            let (k, v) = kv.split_at_mut(keys);
            if let Some((q_norm, k_norm)) = &layer.head_norms {
                for (heads, norm) in [(&mut *q, q_norm), (&mut *k, k_norm)] {
                    for head in heads.chunks_exact_mut(norm.len()) {
                        let copy = &mut scratch[..norm.len()]; // Heads have at most 1,024 features.
                        copy.copy_from_slice(head);
                        rms_norm(path, copy, norm, epsilon, head);
                    }
                }
            }
            let (cos, sin) = self.angles.at(position as usize);
            rotate(q, cos, sin);
            rotate(k, cos, sin);
            self.kv.write(slot, index, position, k, v);
        }
        let attended = sized(attended, tokens * queries);
        attention(path, heads, &self.kv, index, rows, qkv, attended, scores);
        product(path, &layer.out, attended, y, x, tokens);

        rms_norm(path, x, &layer.mlp_norm, epsilon, y);
        let gate_up = sized(gate_up, tokens * layer.gate_up.outputs());
        linear(path, &layer.gate_up, None, y, gate_up, tokens);
        let inner = sized(inner, gate_up.len() / 2);
        silu_mul(path, gate_up, layer.down.inputs(), inner);
        product(path, &layer.down, inner, y, x, tokens);
    }

    /// The norm and the head, over the tokens that want logits.
    fn logits(&self, packed: &Packed, buffers: &mut Buffers, logits: &mut Vec<f32>) {
        let hidden = self.config.spec.hidden as usize;
        let head = self.head.as_ref().unwrap_or(&self.embed);
        let wanted = packed.want.len();
        let picked = sized(&mut buffers.y, wanted * hidden);
        for (to, &token) in picked.chunks_exact_mut(hidden).zip(&packed.want) {
            to.copy_from_slice(&buffers.x[token as usize * hidden..][..hidden]);
        }
        let normed = sized(&mut buffers.x, wanted * hidden);
        rms_norm(self.path, picked, &self.norm, self.config.norm_epsilon as f32, normed);
        logits.resize(wanted * head.outputs(), 0.0);
        linear(self.path, head, None, normed, logits, wanted);
    }

    /// Refuses NaN and +∞; −∞ is a token that is never drawn.
    fn finite(&self, packed: &Packed, logits: &[f32]) -> Result<(), ForwardError> {
        // Sums are NaN or +∞ when a number is; a sum that overflows is looked at again.
        let row_ok = |row: &[f32]| {
            let sum = row.chunks(16).fold([0f32; 16], |mut sum, chunk| {
                sum.iter_mut().zip(chunk).for_each(|(s, v)| *s += v.abs());
                sum
            });
            sum.iter().sum::<f32>().is_finite() || row.iter().all(|v| *v < f32::INFINITY)
        };
        match logits.chunks_exact(self.embed.outputs()).position(|row| !row_ok(row)) {
            None => Ok(()),
            Some(index) => {
                let token = packed.want[index];
                let mut first = 0;
                let holds = |row: &PackedRow| {
                    first += row.tokens;
                    token < first
                };
                let row = packed.rows.iter().position(holds).unwrap_or(0);
                Err(ForwardError::NotFinite { model: self.name().to_owned(), row })
            }
        }
    }
}

/// `x += input · weightsᵀ`; `y` takes the product.
fn product(path: Path, weights: &Matrix, input: &[f32], y: &mut [f32], x: &mut [f32], rows: usize) {
    linear(path, weights, None, input, y, rows);
    for (x, y) in x.iter_mut().zip(y.iter()) {
        *x += y;
    }
}

/// Every token attends to its own prefix. `qkv` is `[T, queries, keys, values]`, `out` `[T, heads D]`.
#[allow(clippy::too_many_arguments, reason = "a layer's attention, spelled out")]
fn attention(
    path: Path,
    heads: HeadShape,
    kv: &KvStore,
    layer: usize,
    rows: &[PackedRow],
    qkv: &[f32],
    out: &mut [f32],
    scores: &mut Vec<Vec<f32>>,
) {
    let width = heads.heads * heads.head_dim;
    let stride = width + 2 * heads.kv_heads * heads.head_dim;
    let group = width / heads.kv_heads;
    let mut pages: Vec<&[Line]> = Vec::new();
    let mut spans = Vec::with_capacity(rows.len());
    for row in rows {
        let first = pages.len();
        kv.pages(row.slot, layer, &mut pages);
        spans.push((first, pages.len()));
    }
    let work: usize =
        rows.iter().map(|row| row.tokens as usize * (row.context + row.tokens) as usize * width).sum();
    let tasks = if work < SHARED_FROM { 1 } else { rayon::current_num_threads() };
    scores.resize_with(tasks.max(scores.len()), Vec::new);
    let (shared, lists) = (Shared(out.as_mut_ptr()), Shared(scores.as_mut_ptr()));
    share(tasks, |task| {
        // SAFETY: each task has a list of its own.
        let scores = unsafe { &mut *lists.pointer().add(task) };
        let mut token = 0;
        for (row, &(first, last)) in rows.iter().zip(&spans) {
            for own in 0..row.tokens as usize {
                for kv_head in 0..heads.kv_heads {
                    // Later tokens have more keys: dealt out in turn, the tasks are alike.
                    if (token * heads.kv_heads + kv_head) % tasks != task {
                        continue;
                    }
                    let q = &qkv[token * stride + kv_head * group..][..group];
                    let at = token * width + kv_head * group;
                    // SAFETY: each (token, head) is one task's, and lies in `out`.
                    let out = unsafe { std::slice::from_raw_parts_mut(shared.pointer().add(at), group) };
                    let keys = row.context as usize + own + 1;
                    attend(path, heads, kv_head, q, &pages[first..last], keys, scores, out);
                }
                token += 1;
            }
        }
    });
}
