//! The fused parts of a Llama on the processor: forward, and the gradient by hand.
//!
//! candle's own operations are single-threaded, allocate their results and, going back, add every
//! gradient to fresh zeros; on a model of some millions of parameters that takes longer than the
//! matrix products. So each half of a block is one operation for candle's autograd
//! ([`crate::ops`]), and what stands here is its inside. `selftest` holds it to plain candle.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, Tensor};
use specrouter_engine::kernels::tiles;

use crate::amx;
use crate::math::{causal_softmax, causal_softmax_grad, rms_norm, rms_norm_grad, silu_mul, silu_mul_grad};
use crate::meter::{Meter, Work};
use crate::plain::rotations;
use crate::recipe::Products;
use crate::shape::Shape;

/// What the parts of one model share.
#[derive(Debug)]
pub struct Setup {
    /// Sizes.
    pub shape: Shape,
    /// Where the time goes.
    pub meter: Meter,
    /// How products are made.
    pub products: Products,
    /// `[context, head_dim / 2]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Runs `job` on the numbers of a contiguous f32 tensor on the processor.
///
/// # Errors
/// When the tensor is none.
pub fn with<T>(tensor: &Tensor, job: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(all)), Some((start, end))) => Ok(job(&all[start..end])),
        _ => candle_core::bail!("expected a contiguous f32 tensor on the processor, got {tensor:?}"),
    }
}

/// Changes the numbers of a tensor where they stand.
pub struct InPlace<F>(pub F);

impl<F: Fn(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "in place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(all), Some((start, end))) => {
                (self.0)(&mut all[start..end]);
                Ok(())
            }
            _ => candle_core::bail!("in place: expected contiguous f32, got {layout:?}"),
        }
    }
}

/// Kept of the attention part for its gradient.
pub struct AttentionKept {
    normed: Tensor,
    inverses: Vec<f32>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    probabilities: Tensor,
    mixed: Tensor,
}

/// Kept of the feed-forward part for its gradient.
pub struct FeedForwardKept {
    normed: Tensor,
    inverses: Vec<f32>,
    gate_up: Tensor,
    product: Tensor,
}

impl Setup {
    /// Tables for this shape.
    pub fn new(shape: Shape) -> Self {
        let (cos, sin) = rotations(&shape, shape.context);
        Self { shape, meter: Meter::default(), products: Products::F32, cos, sin }
    }

    /// A product, timed; of numbers rounded to bfloat16 where the recipe says so.
    ///
    /// # Errors
    /// When the shapes disagree.
    pub fn product(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.meter.time(Work::Gemm, || match self.products {
            Products::F32 => a.matmul(b),
            Products::Bf16 => bf16_product(a, b),
        })
    }

    /// RMS norm of `x` (`[.., hidden]`): `[rows, hidden]` and one over the root of each row.
    ///
    /// # Errors
    /// When `x` is not contiguous.
    pub fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<(Tensor, Vec<f32>)> {
        let eps = self.shape.rms_norm_eps as f32;
        let (normed, inverses) =
            self.meter.time(Work::Norm, || with(x, |x| with(weight, |w| rms_norm(x, w, eps))))??;
        let rows = inverses.len();
        Ok((Tensor::from_vec(normed, (rows, self.shape.hidden), &Device::Cpu)?, inverses))
    }

    /// `x + attention(norm(x))`.
    ///
    /// - `x`: `[sequences, positions, hidden]`.
    /// - `flat`: `[attention_len]`: norm, queries, keys, values, output.
    ///
    /// # Errors
    /// When a shape disagrees.
    pub fn attention(&self, x: &Tensor, flat: &Tensor) -> Result<(Vec<f32>, AttentionKept)> {
        let (sequences, positions, hidden) = x.dims3()?;
        let shape = &self.shape;
        let (weight, qkv, out) = self.attention_weights(flat)?;
        let (normed, inverses) = self.norm(x, &weight)?;
        let rows = self.product(&normed, &qkv.t()?)?;
        let (q, k, v) =
            self.meter.time(Work::Heads, || with(&rows, |rows| self.split(rows, sequences, positions)))?;
        drop(rows);
        let (blocks, group) = (sequences * shape.kv_heads, shape.heads / shape.kv_heads);
        let tensor = |data, rows| Tensor::from_vec(data, (blocks, rows, shape.head_dim), &Device::Cpu);
        let (q, k, v) = (tensor(q, group * positions)?, tensor(k, positions)?, tensor(v, positions)?);
        let probabilities = self.product(&q, &k.transpose(1, 2)?)?;
        let scale = self.scale();
        self.meter.time(Work::Softmax, || {
            probabilities.inplace_op1(&InPlace(|s: &mut [f32]| causal_softmax(s, positions, scale)))
        })?;
        let mixed = self.product(&probabilities, &v)?;
        let joined =
            self.meter.time(Work::Heads, || with(&mixed, |mixed| self.join(mixed, sequences, positions)))?;
        let mixed = Tensor::from_vec(joined, (sequences * positions, shape.query_width()), &Device::Cpu)?;
        let update = self.product(&mixed, &out.t()?)?;
        let y = self.meter.time(Work::Norm, || with(x, |x| with(&update, |u| sum(x, u))))??;
        debug_assert_eq!(y.len(), sequences * positions * hidden);
        Ok((y, AttentionKept { normed, inverses, q, k, v, probabilities, mixed }))
    }

    /// Gradients of [`Setup::attention`]: of `x`, as numbers, and of `flat`.
    ///
    /// # Errors
    /// When a shape disagrees.
    pub fn attention_grad(
        &self,
        x: &Tensor,
        flat: &Tensor,
        kept: &AttentionKept,
        grad: &Tensor,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let (sequences, positions, hidden) = x.dims3()?;
        let shape = &self.shape;
        let tokens = sequences * positions;
        let (weight, qkv, out) = self.attention_weights(flat)?;
        let grad = grad.reshape((tokens, hidden))?;
        let out_grad = self.product(&grad.t()?, &kept.mixed)?;
        let mixed_grad = self.product(&grad, &out)?;
        let split = self
            .meter
            .time(Work::Heads, || with(&mixed_grad, |g| self.split_queries(g, sequences, positions)))?;
        let mixed_grad = Tensor::from_vec(split, kept.q.shape(), &Device::Cpu)?;
        let v_grad = self.product(&kept.probabilities.transpose(1, 2)?, &mixed_grad)?;
        let scores_grad = self.product(&mixed_grad, &kept.v.transpose(1, 2)?)?;
        let scale = self.scale();
        self.meter.time(Work::Softmax, || {
            with(&kept.probabilities, |p| {
                let change = InPlace(|g: &mut [f32]| causal_softmax_grad(p, g, positions, scale));
                scores_grad.inplace_op1(&change)
            })?
        })?;
        let q_grad = self.product(&scores_grad, &kept.k)?;
        let k_grad = self.product(&scores_grad.transpose(1, 2)?, &kept.q)?;
        let rows = self.meter.time(Work::Heads, || {
            with(&q_grad, |q| {
                with(&k_grad, |k| with(&v_grad, |v| self.unsplit(q, k, v, sequences, positions)))
            })
        })???;
        let width = shape.query_width() + 2 * shape.kv_width();
        let rows = Tensor::from_vec(rows, (tokens, width), &Device::Cpu)?;
        let qkv_grad = self.product(&rows.t()?, &kept.normed)?;
        let normed_grad = self.product(&rows, &qkv)?;
        self.through_norm(x, &weight, &kept.inverses, &normed_grad, &grad, &[&qkv_grad, &out_grad])
    }

    /// `x + down(silu(gate(norm(x))) * up(norm(x)))`.
    ///
    /// - `x`: `[sequences, positions, hidden]`.
    /// - `flat`: `[feed_forward_len]`: norm, gate, up, down.
    ///
    /// # Errors
    /// When a shape disagrees.
    pub fn feed_forward(&self, x: &Tensor, flat: &Tensor) -> Result<(Vec<f32>, FeedForwardKept)> {
        let (weight, gate_up, down) = self.feed_forward_weights(flat)?;
        let (normed, inverses) = self.norm(x, &weight)?;
        let gate_up = self.product(&normed, &gate_up.t()?)?;
        let width = self.shape.intermediate;
        let product = self.meter.time(Work::Silu, || with(&gate_up, |rows| silu_mul(rows, width)))?;
        let product = Tensor::from_vec(product, (inverses.len(), width), &Device::Cpu)?;
        let update = self.product(&product, &down.t()?)?;
        let y = self.meter.time(Work::Norm, || with(x, |x| with(&update, |u| sum(x, u))))??;
        Ok((y, FeedForwardKept { normed, inverses, gate_up, product }))
    }

    /// Gradients of [`Setup::feed_forward`]: of `x`, as numbers, and of `flat`.
    ///
    /// # Errors
    /// When a shape disagrees.
    pub fn feed_forward_grad(
        &self,
        x: &Tensor,
        flat: &Tensor,
        kept: &FeedForwardKept,
        grad: &Tensor,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let (weight, gate_up, down) = self.feed_forward_weights(flat)?;
        let width = self.shape.intermediate;
        let grad = grad.reshape((kept.inverses.len(), self.shape.hidden))?;
        let down_grad = self.product(&grad.t()?, &kept.product)?;
        let product_grad = self.product(&grad, &down)?;
        let rows = self.meter.time(Work::Silu, || {
            with(&kept.gate_up, |rows| with(&product_grad, |g| silu_mul_grad(rows, g, width)))
        })??;
        drop(product_grad);
        let rows = Tensor::from_vec(rows, kept.gate_up.shape(), &Device::Cpu)?;
        let gate_up_grad = self.product(&rows.t()?, &kept.normed)?;
        let normed_grad = self.product(&rows, &gate_up)?;
        self.through_norm(x, &weight, &kept.inverses, &normed_grad, &grad, &[&gate_up_grad, &down_grad])
    }

    /// Goes back through the norm that opens a part, and lays the part's weight gradients side by side.
    fn through_norm(
        &self,
        x: &Tensor,
        weight: &Tensor,
        inverses: &[f32],
        normed_grad: &Tensor,
        residual: &Tensor,
        matrices: &[&Tensor],
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let length = self.shape.hidden + matrices.iter().map(|m| m.elem_count()).sum::<usize>();
        let mut flat = Vec::with_capacity(length);
        flat.resize(self.shape.hidden, 0f32);
        let x_grad = self.meter.time(Work::Norm, || -> Result<Vec<f32>> {
            with(x, |x| {
                with(weight, |w| {
                    with(normed_grad, |g| with(residual, |r| rms_norm_grad(x, w, inverses, g, r, &mut flat)))
                })
            })???
        })?;
        self.meter.time(Work::Gather, || {
            matrices.iter().try_for_each(|m| with(m, |m| flat.extend_from_slice(m)))
        })?;
        Ok((x_grad, flat))
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// Views: norm `[hidden]`, queries keys values `[widths, hidden]`, output `[hidden, query width]`.
    fn attention_weights(&self, flat: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let (hidden, q) = (self.shape.hidden, self.shape.query_width());
        let rows = q + 2 * self.shape.kv_width();
        let qkv = flat.narrow(0, hidden, rows * hidden)?.reshape((rows, hidden))?;
        let out = flat.narrow(0, hidden * (1 + rows), hidden * q)?.reshape((hidden, q))?;
        Ok((flat.narrow(0, 0, hidden)?, qkv, out))
    }

    /// Views: norm `[hidden]`, gate and up `[2 intermediate, hidden]`, down `[hidden, intermediate]`.
    fn feed_forward_weights(&self, flat: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let (hidden, width) = (self.shape.hidden, self.shape.intermediate);
        let gate_up = flat.narrow(0, hidden, 2 * width * hidden)?.reshape((2 * width, hidden))?;
        let down = flat.narrow(0, hidden * (1 + 2 * width), hidden * width)?.reshape((hidden, width))?;
        Ok((flat.narrow(0, 0, hidden)?, gate_up, down))
    }

    /// Rows `[tokens, q | k | v]` into turned queries and keys and values, by sequence and key head:
    /// `[sequences * kv_heads, group * positions, head_dim]`, and twice `[.., positions, head_dim]`.
    fn split(&self, rows: &[f32], sequences: usize, positions: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let shape = &self.shape;
        let (size, kv) = (shape.head_dim, shape.kv_width());
        let tokens = sequences * positions;
        let mut q = vec![0f32; tokens * shape.query_width()];
        let (mut k, mut v) = (vec![0f32; tokens * kv], vec![0f32; tokens * kv]);
        for (token, row) in rows.chunks_exact(shape.query_width() + 2 * kv).enumerate() {
            let (sequence, position) = (token / positions, token % positions);
            let (queries, rest) = row.split_at(shape.query_width());
            let (keys, values) = rest.split_at(kv);
            for (head, from) in queries.chunks_exact(size).enumerate() {
                let to = (sequence * shape.heads + head) * positions + position;
                self.turn(from, &mut q[to * size..][..size], position, 1.0);
            }
            for (head, (key, value)) in keys.chunks_exact(size).zip(values.chunks_exact(size)).enumerate() {
                let to = ((sequence * shape.kv_heads + head) * positions + position) * size;
                self.turn(key, &mut k[to..][..size], position, 1.0);
                v[to..][..size].copy_from_slice(value);
            }
        }
        (q, k, v)
    }

    /// The inverse of [`Setup::split`] for gradients: turns the other way.
    fn unsplit(&self, q: &[f32], k: &[f32], v: &[f32], sequences: usize, positions: usize) -> Vec<f32> {
        let shape = &self.shape;
        let (size, kv) = (shape.head_dim, shape.kv_width());
        let width = shape.query_width() + 2 * kv;
        let mut rows = vec![0f32; sequences * positions * width];
        for (token, row) in rows.chunks_exact_mut(width).enumerate() {
            let (sequence, position) = (token / positions, token % positions);
            let (queries, rest) = row.split_at_mut(shape.query_width());
            let (keys, values) = rest.split_at_mut(kv);
            for (head, to) in queries.chunks_exact_mut(size).enumerate() {
                let from = (sequence * shape.heads + head) * positions + position;
                self.turn(&q[from * size..][..size], to, position, -1.0);
            }
            for (head, (key, value)) in
                keys.chunks_exact_mut(size).zip(values.chunks_exact_mut(size)).enumerate()
            {
                let from = ((sequence * shape.kv_heads + head) * positions + position) * size;
                self.turn(&k[from..][..size], key, position, -1.0);
                value.copy_from_slice(&v[from..][..size]);
            }
        }
        rows
    }

    /// `[blocks, group * positions, head_dim]` into rows `[tokens, query width]`.
    fn join(&self, mixed: &[f32], sequences: usize, positions: usize) -> Vec<f32> {
        let (size, width) = (self.shape.head_dim, self.shape.query_width());
        let mut rows = vec![0f32; sequences * positions * width];
        for (token, row) in rows.chunks_exact_mut(width).enumerate() {
            for (head, to) in row.chunks_exact_mut(size).enumerate() {
                let from = ((token / positions) * self.shape.heads + head) * positions + token % positions;
                to.copy_from_slice(&mixed[from * size..][..size]);
            }
        }
        rows
    }

    /// The inverse of [`Setup::join`].
    fn split_queries(&self, rows: &[f32], sequences: usize, positions: usize) -> Vec<f32> {
        let (size, width) = (self.shape.head_dim, self.shape.query_width());
        let mut out = vec![0f32; sequences * positions * width];
        for (token, row) in rows.chunks_exact(width).enumerate() {
            for (head, from) in row.chunks_exact(size).enumerate() {
                let to = ((token / positions) * self.shape.heads + head) * positions + token % positions;
                out[to * size..][..size].copy_from_slice(from);
            }
        }
        out
    }

    /// Turns one head by the angles of `position`, halves as pairs as in transformers; `sign` -1 turns back.
    fn turn(&self, from: &[f32], to: &mut [f32], position: usize, sign: f32) {
        let half = from.len() / 2;
        let (cos, sin) = (&self.cos[position * half..][..half], &self.sin[position * half..][..half]);
        let ((a, b), (to_a, to_b)) = (from.split_at(half), to.split_at_mut(half));
        let inputs = a.iter().zip(b).zip(cos.iter().zip(sin));
        for (((a, b), (c, s)), (to_a, to_b)) in inputs.zip(to_a.iter_mut().zip(to_b)) {
            let s = sign * s;
            *to_a = a * c - b * s;
            *to_b = b * c + a * s;
        }
    }
}

/// `a · b` of numbers rounded to bfloat16, sums in f32.
///
/// # Errors
/// When the shapes disagree.
pub fn rounded_product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let rounded = |t: &Tensor| t.to_dtype(DType::BF16)?.to_dtype(DType::F32);
    rounded(a)?.matmul(&rounded(b)?)
}

/// [`rounded_product`], on tiles where the processor has them.
///
/// # Errors
/// When the shapes disagree.
pub fn bf16_product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !tiles::available() {
        return rounded_product(a, b);
    }
    let rank = a.rank();
    if rank != b.rank() || a.elem_count() == 0 || b.elem_count() == 0 {
        candle_core::bail!("product of {:?} and {:?}", a.shape(), b.shape());
    }
    let (blocks, m, k) = if rank == 2 { (1, a.dim(0)?, a.dim(1)?) } else { a.dims3()? };
    let (b_blocks, b_k, n) = if rank == 2 { (1, b.dim(0)?, b.dim(1)?) } else { b.dims3()? };
    if (blocks, k) != (b_blocks, b_k) {
        candle_core::bail!("product of {:?} and {:?}", a.shape(), b.shape());
    }
    let mut sums = Vec::with_capacity(blocks * m * n);
    {
        let ((a_storage, a_layout), (b_storage, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
        let (Storage::Cpu(CpuStorage::F32(a)), Storage::Cpu(CpuStorage::F32(b))) = (&*a_storage, &*b_storage)
        else {
            candle_core::bail!("product: expected f32 on the processor");
        };
        let matrix = |data, layout: &Layout, block: usize| {
            let stride = layout.stride();
            let from = layout.start_offset() + if rank == 2 { 0 } else { block * stride[0] };
            amx::Matrix { data: &(data as &[f32])[from..], strides: (stride[rank - 2], stride[rank - 1]) }
        };
        for block in 0..blocks {
            amx::product(matrix(a, a_layout, block), matrix(b, b_layout, block), (m, k, n), &mut sums);
        }
    }
    if rank == 2 {
        Tensor::from_vec(sums, (m, n), &Device::Cpu)
    } else {
        Tensor::from_vec(sums, (blocks, m, n), &Device::Cpu)
    }
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
