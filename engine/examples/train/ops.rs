//! The fused parts as operations that candle's autograd goes back through.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor};

use crate::blocks::{AttentionKept, FeedForwardKept, InPlace, Setup, with};
use crate::math::{Goal, cross_entropy, rms_norm_grad};
use crate::meter::Work;

/// Rows of logits at a time: few enough to stay in the cache, many enough for the product.
const HEAD_ROWS: usize = 512;

/// `x + attention(norm(x))` as one operation on `(x, flat weights)`.
///
/// It holds its arguments itself, because candle hands an operation storages going forward and
/// products need tensors; what the gradient needs waits in `kept`.
struct Attention {
    setup: Arc<Setup>,
    x: Tensor,
    flat: Tensor,
    kept: Mutex<Option<AttentionKept>>,
}

/// `x + feed_forward(norm(x))` as one operation on `(x, flat weights)`.
struct FeedForward {
    setup: Arc<Setup>,
    x: Tensor,
    flat: Tensor,
    kept: Mutex<Option<FeedForwardKept>>,
}

/// What a micro-batch is compared with.
pub struct Goals {
    /// The token after each position, `[rows]`.
    pub next: Vec<u32>,
    /// The teacher's distributions, `[rows, vocabulary]`, and their share in the loss.
    pub teacher: Option<(Tensor, f32)>,
    /// Weight of one row in the loss: one over the tokens of the step.
    pub weight: f32,
}

/// Final norm, tied head and loss as one operation on `(x, norm weight, embedding)`.
///
/// The gradients are made going forward, while the logits are in the cache, and wait in `grads`.
struct Head {
    setup: Arc<Setup>,
    x: Tensor,
    weight: Tensor,
    embedding: Tensor,
    goals: Goals,
    grads: Mutex<Option<[Tensor; 3]>>,
}

/// Applies the attention part; `x`: `[sequences, positions, hidden]`.
///
/// # Errors
/// When a shape disagrees.
pub fn attention(setup: &Arc<Setup>, x: &Tensor, flat: &Tensor) -> Result<Tensor> {
    let op = Attention { setup: setup.clone(), x: x.detach(), flat: flat.detach(), kept: Mutex::new(None) };
    x.apply_op2(flat, op)
}

/// Applies the feed-forward part; `x`: `[sequences, positions, hidden]`.
///
/// # Errors
/// When a shape disagrees.
pub fn feed_forward(setup: &Arc<Setup>, x: &Tensor, flat: &Tensor) -> Result<Tensor> {
    let op = FeedForward { setup: setup.clone(), x: x.detach(), flat: flat.detach(), kept: Mutex::new(None) };
    x.apply_op2(flat, op)
}

/// The weighted loss of a micro-batch, a scalar.
///
/// # Errors
/// When a shape disagrees.
pub fn loss(
    setup: &Arc<Setup>,
    x: &Tensor,
    weight: &Tensor,
    embedding: &Tensor,
    goals: Goals,
) -> Result<Tensor> {
    let op = Head {
        setup: setup.clone(),
        x: x.detach(),
        weight: weight.detach(),
        embedding: embedding.detach(),
        goals,
        grads: Mutex::new(None),
    };
    x.apply_op3(weight, embedding, op)
}

fn take<T>(kept: &Mutex<Option<T>>, name: &str) -> Result<T> {
    let taken = kept.lock().map_or(None, |mut kept| kept.take());
    taken.ok_or_else(|| candle_core::Error::Msg(format!("{name}: gone back through twice, or never forward")))
}

fn keep<T>(place: &Mutex<Option<T>>, value: T) {
    if let Ok(mut place) = place.lock() {
        *place = Some(value);
    }
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, kept) = self.setup.attention(&self.x, &self.flat)?;
        keep(&self.kept, kept);
        Ok((CpuStorage::F32(y), self.x.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let kept = take(&self.kept, self.name())?;
        let (x, flat) = self.setup.attention_grad(&self.x, &self.flat, &kept, &grad.contiguous()?)?;
        gradients(x, &self.x, flat, &self.flat)
    }
}

impl CustomOp2 for FeedForward {
    fn name(&self) -> &'static str {
        "feed-forward"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, kept) = self.setup.feed_forward(&self.x, &self.flat)?;
        keep(&self.kept, kept);
        Ok((CpuStorage::F32(y), self.x.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let kept = take(&self.kept, self.name())?;
        let (x, flat) = self.setup.feed_forward_grad(&self.x, &self.flat, &kept, &grad.contiguous()?)?;
        gradients(x, &self.x, flat, &self.flat)
    }
}

fn gradients(
    x_grad: Vec<f32>,
    x: &Tensor,
    flat_grad: Vec<f32>,
    flat: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let x_grad = Tensor::from_vec(x_grad, x.shape(), &Device::Cpu)?;
    Ok((Some(x_grad), Some(Tensor::from_vec(flat_grad, flat.shape(), &Device::Cpu)?)))
}

impl CustomOp3 for Head {
    fn name(&self) -> &'static str {
        "head and loss"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (setup, goals) = (&self.setup, &self.goals);
        let (normed, inverses) = setup.norm(&self.x, &self.weight)?;
        let (rows, vocabulary) = (inverses.len(), self.embedding.dim(0)?);
        let mut normed_grad = Vec::with_capacity(rows * setup.shape.hidden);
        let mut embedding_grad: Option<Vec<f32>> = None;
        let mut total = 0f64;
        for start in (0..rows).step_by(HEAD_ROWS) {
            let count = HEAD_ROWS.min(rows - start);
            let part = normed.narrow(0, start, count)?;
            let logits = setup.product(&part, &self.embedding.t()?)?;
            let part_loss = Mutex::new(0f64);
            let judge = |logits: &mut [f32], teacher: Option<(&[f32], f32)>| {
                let mut sum = 0f64;
                for (index, row) in logits.chunks_exact_mut(vocabulary).enumerate() {
                    let teacher =
                        teacher.map(|(t, share)| (&t[(start + index) * vocabulary..][..vocabulary], share));
                    let goal = Goal { next: goals.next[start + index], teacher };
                    sum += f64::from(cross_entropy(row, goal, goals.weight));
                }
                keep_sum(&part_loss, sum);
            };
            setup.meter.time(Work::Loss, || match &goals.teacher {
                None => logits.inplace_op1(&InPlace(|l: &mut [f32]| judge(l, None))),
                Some((teacher, share)) => with(teacher, |t| {
                    logits.inplace_op1(&InPlace(|l: &mut [f32]| judge(l, Some((t, *share)))))
                })?,
            })?;
            total += part_loss.lock().map_or(f64::NAN, |sum| *sum);
            let back = setup.product(&logits, &self.embedding)?;
            with(&back, |back| normed_grad.extend_from_slice(back))?;
            let part_grad = setup.product(&logits.t()?, &part)?;
            setup.meter.time(Work::Gather, || {
                with(&part_grad, |part| match &mut embedding_grad {
                    None => embedding_grad = Some(part.to_vec()),
                    Some(all) => all.iter_mut().zip(part).for_each(|(a, p)| *a += p),
                })
            })?;
        }
        let mut weight_grad = vec![0f32; setup.shape.hidden];
        let x_grad = setup.meter.time(Work::Norm, || {
            with(&self.x, |x| {
                with(&self.weight, |w| rms_norm_grad(x, w, &inverses, &normed_grad, &[], &mut weight_grad))
            })
        })??;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), &Device::Cpu);
        let embedding_grad = embedding_grad.unwrap_or_default();
        let grads = [
            tensor(x_grad, &self.x)?,
            tensor(weight_grad, &self.weight)?,
            tensor(embedding_grad, &self.embedding)?,
        ];
        keep(&self.grads, grads);
        Ok((CpuStorage::F32(vec![(total * f64::from(goals.weight)) as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let scale = f64::from(grad.to_scalar::<f32>()?);
        let [x, weight, embedding] = take(&self.grads, self.name())?;
        // The loss is nearly always what is gone back from, and its own gradient is 1.
        #[allow(clippy::float_cmp, reason = "exactly 1 needs no product")]
        let scaled = |t: Tensor| if scale == 1.0 { Ok(t) } else { t * scale };
        Ok((Some(scaled(x)?), Some(scaled(weight)?), Some(scaled(embedding)?)))
    }
}

fn keep_sum(place: &Mutex<f64>, sum: f64) {
    if let Ok(mut place) = place.lock() {
        *place = sum;
    }
}
