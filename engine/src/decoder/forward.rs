//! One packed pass through a [`Decoder`].

#![allow(unsafe_code, reason = "threads write disjoint places of one output")]

use specrouter_routing::ids::Slot;

use super::Decoder;
use crate::checks::{check_finite, check_packed};
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
    /// Where each token stands.
    places: Vec<Place>,
    /// Attention scores, one list for each task.
    scores: Vec<Vec<f32>>,
}

/// Where a token stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Index of its row in the pass.
    row: usize,
    slot: Slot,
    position: u32,
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
        check_packed(self.name(), self.vocabulary(), packed, |slot| self.kv.len(slot))?;
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
        for (index, row) in packed.rows.iter().enumerate() {
            let positions = row.context..row.context + row.tokens;
            buffers.places.extend(positions.map(|position| Place { row: index, slot: row.slot, position }));
        }
        let reach = buffers.places.iter().map(|place| place.position as usize + 1).max().unwrap_or(0);
        self.angles.reach(reach);
        let hidden = self.config.spec.hidden as usize;
        let x = sized(&mut buffers.x, packed.tokens.len() * hidden);
        for (x, &token) in x.chunks_exact_mut(hidden).zip(&packed.tokens) {
            self.embed.row(token as usize, x);
        }
        let last = self.layers.len() - 1;
        for index in 0..last {
            self.layer(index, &packed.rows, None, &mut buffers);
        }
        // Behind the last layer's keys and values, only tokens that want logits matter.
        self.layer(last, &packed.rows, Some(&packed.want), &mut buffers);
        self.logits(packed.want.len(), &mut buffers, logits);
        self.buffers = buffers;
        check_finite(self.name(), self.vocabulary(), packed, logits)
    }

    fn truncate(&mut self, slot: Slot, len: u32) {
        self.kv.truncate(slot, len);
    }

    fn cached(&self, slot: Slot) -> u32 {
        self.kv.len(slot)
    }
}

impl Decoder {
    /// One layer over all tokens; behind its keys and values over those in `keep` alone, in order.
    fn layer(&mut self, index: usize, rows: &[PackedRow], keep: Option<&[u32]>, buffers: &mut Buffers) {
        let (layer, heads, path) = (&self.layers[index], self.heads, self.path);
        let epsilon = self.config.norm_epsilon as f32;
        let mut tokens = buffers.places.len();
        let Buffers { x, y, qkv, attended, gate_up, inner, places, scores } = buffers;

        let y = sized(y, x.len());
        rms_norm(path, x, &layer.norm, epsilon, y);
        let qkv = sized(qkv, tokens * layer.qkv.outputs());
        linear(path, &layer.qkv, layer.qkv_bias.as_deref(), y, qkv, tokens);
        let (queries, keys) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        let mut scratch = [0f32; 1024];
        let width = queries + 2 * keys;
        for (qkv, &Place { slot, position, .. }) in qkv.chunks_exact_mut(width).zip(places.iter()) {
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
        if let Some(keep) = keep {
            tokens = keep.len();
            let hidden = layer.norm.len();
            for (to, &from) in keep.iter().enumerate() {
                let from = from as usize; // Ascending: nothing is overwritten before it is moved.
                x.copy_within(from * hidden..(from + 1) * hidden, to * hidden);
                qkv.copy_within(from * width..(from + 1) * width, to * width);
                places[to] = places[from];
            }
            x.truncate(tokens * hidden);
            places.truncate(tokens);
        }
        let attended = sized(attended, tokens * queries);
        attention(path, heads, &self.kv, index, rows, places, qkv, attended, scores);
        let y = &mut y[..x.len()];
        product(path, &layer.out, attended, y, x, tokens);

        rms_norm(path, x, &layer.mlp_norm, epsilon, y);
        let gate_up = sized(gate_up, tokens * layer.gate_up.outputs());
        linear(path, &layer.gate_up, None, y, gate_up, tokens);
        let inner = sized(inner, gate_up.len() / 2);
        silu_mul(path, gate_up, layer.down.inputs(), inner);
        product(path, &layer.down, inner, y, x, tokens);
    }

    /// The norm and the head, over the tokens that want logits: all that are left.
    fn logits(&self, wanted: usize, buffers: &mut Buffers, logits: &mut Vec<f32>) {
        let head = self.head.as_ref().unwrap_or(&self.embed);
        let normed = sized(&mut buffers.y, buffers.x.len());
        rms_norm(self.path, &buffers.x, &self.norm, self.config.norm_epsilon as f32, normed);
        logits.resize(wanted * head.outputs(), 0.0);
        linear(self.path, head, None, normed, logits, wanted);
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
    places: &[Place],
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
    let work = places.iter().map(|place| place.position as usize + 1).sum::<usize>() * width;
    let tasks = if work < SHARED_FROM { 1 } else { rayon::current_num_threads() };
    scores.resize_with(tasks.max(scores.len()), Vec::new);
    let (shared, lists) = (Shared(out.as_mut_ptr()), Shared(scores.as_mut_ptr()));
    share(tasks, |task| {
        // SAFETY: each task has a list of its own.
        let scores = unsafe { &mut *lists.pointer().add(task) };
        // Later tokens have more keys: dealt out in turn, the tasks are alike.
        for index in (task..places.len() * heads.kv_heads).step_by(tasks) {
            let (token, kv_head) = (index / heads.kv_heads, index % heads.kv_heads);
            let (first, last) = spans[places[token].row];
            let q = &qkv[token * stride + kv_head * group..][..group];
            let at = token * width + kv_head * group;
            // SAFETY: each (token, head) is one task's, and lies in `out`.
            let out = unsafe { std::slice::from_raw_parts_mut(shared.pointer().add(at), group) };
            let keys = places[token].position as usize + 1;
            attend(path, heads, kv_head, q, &pages[first..last], keys, scores, out);
        }
    });
}
