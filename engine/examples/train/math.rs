//! The small kernels around the matrix products, each over plain slices on one thread.
//!
//! Workers run beside each other on whole sequences, so no kernel has threads of its own. Sums keep
//! sixteen partial sums, so that the compiler may use vector registers; their order is fixed.

const LANES: usize = 16;

/// `Σ a[i] b[i]`.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (a, b) in a.zip(b) {
        for ((lane, x), y) in lanes.iter_mut().zip(a).zip(b) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// The largest of `row`; negative infinity for an empty one.
pub fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().fold(tail, |m, &x| if x > m { x } else { m })
}

/// `e^x` to two units in the last place, written so that loops over it become vector code.
///
/// The exponent is rounded by adding 1.5 * 2^23, whose low bits then hold it; the rest is a
/// polynomial of degree 6 (Taylor, on |r| <= ln 2 / 2). Clamped to [-87, 88].
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let whole = shifted - SHIFT;
    let r = (x - whole * HIGH) - whole * LOW;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// Replaces each `x` by `e^(x - shift)`; their sum.
pub fn exp_and_sum(row: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp(*x - shift);
            *lane += *x;
        }
    }
    let mut tail = 0.0;
    for x in chunks.into_remainder() {
        *x = exp(*x - shift);
        tail += *x;
    }
    lanes.iter().sum::<f32>() + tail
}

/// RMS norm of rows of `weight.len()` numbers.
///
/// Returns the normed rows and, per row, one over its root mean square.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let width = weight.len();
    let mut out = Vec::with_capacity(x.len());
    let mut inverses = Vec::with_capacity(x.len() / width);
    for row in x.chunks_exact(width) {
        let inverse = 1.0 / (dot(row, row) / width as f32 + eps).sqrt();
        out.extend(row.iter().zip(weight).map(|(x, w)| w * (x * inverse)));
        inverses.push(inverse);
    }
    (out, inverses)
}

/// Gradient of [`rms_norm`].
///
/// - `grad`: gradient of the normed rows.
/// - `residual`: gradient that reaches `x` around the norm; added to the result. May be empty.
///
/// Returns the gradient of `x`; adds that of the weight to `weight_grad`.
pub fn rms_norm_grad(
    x: &[f32],
    weight: &[f32],
    inverses: &[f32],
    grad: &[f32],
    residual: &[f32],
    weight_grad: &mut [f32],
) -> Vec<f32> {
    let width = weight.len();
    let mut out = if residual.is_empty() { vec![0.0; x.len()] } else { residual.to_vec() };
    let mut weighted = vec![0f32; width];
    let rows = x.chunks_exact(width).zip(grad.chunks_exact(width)).zip(out.chunks_exact_mut(width));
    for (((x, grad), out), &inverse) in rows.zip(inverses) {
        for ((slot, w), g) in weighted.iter_mut().zip(weight).zip(grad) {
            *slot = w * g;
        }
        let pull = dot(&weighted, x) / width as f32 * inverse * inverse * inverse;
        for ((out, x), weighted) in out.iter_mut().zip(x).zip(&weighted) {
            *out += weighted * inverse - x * pull;
        }
        for ((slot, g), x) in weight_grad.iter_mut().zip(grad).zip(x) {
            *slot += g * (x * inverse);
        }
    }
    out
}

/// `silu(gate) * up` of rows `[gate | up]`, each half `width` wide.
pub fn silu_mul(rows: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0f32; rows.len() / 2];
    for (row, out) in rows.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = row.split_at(width);
        for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    }
    out
}

/// Gradient of [`silu_mul`], in the layout of its rows.
pub fn silu_mul_grad(rows: &[f32], grad: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0f32; rows.len()];
    let pairs = rows.chunks_exact(2 * width).zip(grad.chunks_exact(width));
    for ((row, grad), out) in pairs.zip(out.chunks_exact_mut(2 * width)) {
        let (gate, up) = row.split_at(width);
        let (gate_grad, up_grad) = out.split_at_mut(width);
        let inputs = gate.iter().zip(up).zip(grad);
        for (((&g, &u), &d), (gate_grad, up_grad)) in inputs.zip(gate_grad.iter_mut().zip(up_grad)) {
            let sigmoid = 1.0 / (1.0 + exp(-g));
            *gate_grad = d * u * sigmoid * (1.0 + g * (1.0 - sigmoid));
            *up_grad = d * g * sigmoid;
        }
    }
    out
}

/// Causal softmax of `scale * scores`, in place.
///
/// `scores`: `[blocks * positions, positions]`; row `r` belongs to position `r % positions` and may
/// look at that position and those before it; the others get 0.
pub fn causal_softmax(scores: &mut [f32], positions: usize, scale: f32) {
    for block in scores.chunks_exact_mut(positions * positions) {
        for (position, row) in block.chunks_exact_mut(positions).enumerate() {
            let (seen, unseen) = row.split_at_mut(position + 1);
            for x in seen.iter_mut() {
                *x *= scale;
            }
            let inverse = 1.0 / exp_and_sum(seen, largest(seen));
            for x in seen {
                *x *= inverse;
            }
            unseen.fill(0.0);
        }
    }
}

/// Gradient of [`causal_softmax`]: replaces the gradient of the probabilities by that of the scores.
pub fn causal_softmax_grad(probabilities: &[f32], grad: &mut [f32], positions: usize, scale: f32) {
    let rows = probabilities.chunks_exact(positions).zip(grad.chunks_exact_mut(positions));
    for (row_index, (p, grad)) in rows.enumerate() {
        let (seen, unseen) = grad.split_at_mut(row_index % positions + 1);
        let mean = dot(&p[..seen.len()], seen);
        for (g, p) in seen.iter_mut().zip(p) {
            *g = p * (*g - mean) * scale;
        }
        unseen.fill(0.0);
    }
}

/// What the logits of a position are compared with.
#[derive(Clone, Copy)]
pub struct Goal<'a> {
    /// The token that follows in the text.
    pub next: u32,
    /// The teacher's distribution and the share it has in the loss.
    pub teacher: Option<(&'a [f32], f32)>,
}

/// Loss of one row of logits; replaces the row by `weight` times the loss's gradient.
///
/// The loss is `(1 - share) * -ln p[next] + share * -Σ t ln p`; the second part differs from the
/// divergence KL(t || p) by the teacher's entropy, which no student can change.
pub fn cross_entropy(row: &mut [f32], goal: Goal<'_>, weight: f32) -> f32 {
    let next = goal.next as usize;
    let shift = largest(row);
    let hard = row[next] - shift;
    let soft = goal.teacher.map_or(0.0, |(teacher, _)| dot(teacher, row) - shift);
    let sum = exp_and_sum(row, shift);
    let log_sum = sum.ln();
    let scale = weight / sum;
    match goal.teacher {
        None => {
            for p in row.iter_mut() {
                *p *= scale;
            }
            row[next] -= weight;
            log_sum - hard
        }
        Some((teacher, share)) => {
            let pull = weight * share;
            for (p, t) in row.iter_mut().zip(teacher) {
                *p = *p * scale - pull * t;
            }
            row[next] -= weight * (1.0 - share);
            log_sum - (1.0 - share) * hard - share * soft
        }
    }
}

/// Softmax of one row in place; its entropy in nats.
pub fn softmax(row: &mut [f32]) -> f32 {
    let shift = largest(row);
    let logits = row.to_vec();
    let sum = exp_and_sum(row, shift);
    let inverse = 1.0 / sum;
    for p in row.iter_mut() {
        *p *= inverse;
    }
    sum.ln() + shift - dot(row, &logits)
}

/// Loss in nats of one row of logits when `next` follows; the row is spent.
pub fn surprise(row: &mut [f32], next: u32) -> f32 {
    let shift = largest(row);
    let chosen = row[next as usize] - shift;
    exp_and_sum(row, shift).ln() - chosen
}
