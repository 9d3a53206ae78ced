//! A model in training: flat parameters, forward, loss and gradients of a micro-batch.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use specrouter_routing::luck::{Luck, Stream};

use crate::blocks::{InPlace, Setup, with};
use crate::math;
use crate::meter::Work;
use crate::ops::{self, Goals};
use crate::plain::{self, Matrices};
use crate::recipe::{ModelRecipe, Products};
use crate::shape::Shape;

/// A model's parameters and tables.
pub struct Model {
    /// Tables and meter.
    pub setup: Arc<Setup>,
    /// Tokens.
    pub vocabulary: usize,
    /// `embedding`, then attention and feed-forward per block, then `norm`; see [`Model::lengths`].
    pub parameters: Vec<Var>,
    /// Where they are.
    pub device: Device,
}

/// A few sequences of equal length, `positions + 1` tokens each.
pub struct MicroBatch<'a>(pub &'a [Vec<u32>]);

impl MicroBatch<'_> {
    fn positions(&self) -> usize {
        self.0.first().map_or(0, |row| row.len() - 1)
    }

    /// Tokens that are predicted.
    pub fn rows(&self) -> usize {
        self.0.len() * self.positions()
    }

    fn inputs(&self, device: &Device) -> Result<Tensor> {
        let flat: Vec<u32> = self.0.iter().flat_map(|row| &row[..row.len() - 1]).copied().collect();
        Tensor::from_vec(flat, (self.0.len(), self.positions()), device)
    }

    /// The token after each position, sequence by sequence.
    pub fn next(&self) -> Vec<u32> {
        self.0.iter().flat_map(|row| &row[1..]).copied().collect()
    }
}

/// A teacher's word on a micro-batch.
#[derive(Clone)]
pub struct Lesson {
    /// Distributions, `[rows, vocabulary]`.
    pub distributions: Tensor,
    /// Sum over rows of their entropies, in nats.
    pub entropy: f64,
}

impl Model {
    /// Length and name of every parameter.
    pub fn lengths(shape: &Shape, vocabulary: usize) -> Vec<(String, usize)> {
        let mut lengths = vec![("embedding".to_owned(), vocabulary * shape.hidden)];
        for layer in 0..shape.layers {
            lengths.push((format!("attention.{layer}"), shape.attention_len()));
            lengths.push((format!("feed_forward.{layer}"), shape.feed_forward_len()));
        }
        lengths.push(("norm".to_owned(), shape.hidden));
        lengths
    }

    /// Numbers at the head of a parameter that are norm weights, which no decay pulls to zero.
    pub fn norm_len(name: &str, shape: &Shape) -> usize {
        if name == "embedding" { 0 } else { shape.hidden }
    }

    /// Fresh weights: norms 1, matrices normal with deviation 0.02, those that write to the residual
    /// stream divided by the root of twice the number of blocks (as GPT-2).
    ///
    /// # Errors
    /// When the device refuses.
    pub fn fresh(recipe: &ModelRecipe, vocabulary: usize, seed: u64, device: &Device) -> Result<Self> {
        let shape = recipe.shape;
        let draws = Luck::new(seed).stream(Stream::Signal);
        let written = 0.02 / ((2 * shape.layers) as f64).sqrt();
        let mut values = Vec::new();
        for (index, (name, length)) in Self::lengths(&shape, vocabulary).into_iter().enumerate() {
            // The matrix that writes to the residual stream is the last one of each part.
            let last = match name.split('.').next() {
                Some("attention") => shape.hidden * shape.query_width(),
                Some("feed_forward") => shape.hidden * shape.intermediate,
                _ => 0,
            };
            let norm = if name == "norm" { length } else { Self::norm_len(&name, &shape) };
            let draw = |place: usize| {
                let deviation = if place + last >= length { written } else { 0.02 };
                let normal = draws.normal(index as u64, place as u64);
                if place < norm { 1.0 } else { (deviation * normal) as f32 }
            };
            values.push((0..length).map(draw).collect());
        }
        Self::from_values(shape, vocabulary, values, device)
    }

    /// Parameters from numbers, in the order of [`Model::lengths`].
    ///
    /// # Errors
    /// When the device refuses.
    pub fn from_values(
        shape: Shape,
        vocabulary: usize,
        values: Vec<Vec<f32>>,
        device: &Device,
    ) -> Result<Self> {
        let mut parameters = Vec::with_capacity(values.len());
        for (index, flat) in values.into_iter().enumerate() {
            let rows = flat.len() / shape.hidden;
            let tensor = if index == 0 {
                Tensor::from_vec(flat, (rows, shape.hidden), device)?
            } else {
                let length = flat.len();
                Tensor::from_vec(flat, length, device)?
            };
            parameters.push(Var::from_tensor(&tensor)?);
        }
        Ok(Self { setup: Arc::new(Setup::new(shape)), vocabulary, parameters, device: device.clone() })
    }

    /// The same model with its products made in this way.
    pub fn with_products(mut self, products: Products) -> Self {
        let mut setup = Setup::new(self.setup.shape);
        setup.products = products;
        self.setup = Arc::new(setup);
        self
    }

    /// The same model with its weights rounded to bfloat16, as they ship.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn rounded(&self) -> Result<Self> {
        let mut values = Vec::new();
        for parameter in &self.parameters {
            let rounded = parameter.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
            values.push(rounded.flatten_all()?.to_vec1()?);
        }
        Self::from_values(self.setup.shape, self.vocabulary, values, &self.device)
    }

    /// The weights as matrices.
    ///
    /// # Errors
    /// Never, unless the parameters are not this shape's.
    pub fn matrices(&self) -> Result<Matrices> {
        let parameters: Vec<&Tensor> = self.parameters.iter().map(Var::as_tensor).collect();
        Matrices::views(&self.setup.shape, &parameters)
    }

    /// The numbers of every parameter.
    ///
    /// # Errors
    /// When the device fails.
    pub fn values(&self) -> Result<Vec<Vec<f32>>> {
        self.parameters.iter().map(|p| p.flatten_all()?.to_vec1()).collect()
    }

    /// The loss of a micro-batch, ready to go back from: `weight` times the sum over its tokens.
    ///
    /// # Errors
    /// When a shape disagrees or the device fails.
    pub fn loss(
        &self,
        batch: &MicroBatch<'_>,
        lesson: Option<(&Lesson, f32)>,
        weight: f32,
    ) -> Result<Tensor> {
        let teacher = lesson.map(|(lesson, share)| (lesson.distributions.clone(), share));
        if self.device.is_cpu() {
            let [embedding, halves @ .., norm] = self.parameters.as_slice() else {
                candle_core::bail!("a model has at least 2 parameters")
            };
            let tokens = batch.inputs(&self.device)?;
            let mut x = embedding.index_select(&tokens.flatten_all()?, 0)?;
            x = x.reshape((tokens.dim(0)?, tokens.dim(1)?, ()))?;
            for pair in halves.chunks_exact(2) {
                x = ops::attention(&self.setup, &x, &pair[0])?;
                x = ops::feed_forward(&self.setup, &x, &pair[1])?;
            }
            ops::loss(&self.setup, &x, norm, embedding, Goals { next: batch.next(), teacher, weight })
        } else {
            let logits = plain::logits(&self.setup.shape, &self.matrices()?, &batch.inputs(&self.device)?)?;
            let next = Tensor::new(batch.next(), &self.device)?;
            let teacher = teacher.as_ref().map(|(t, share)| (t, f64::from(*share)));
            plain::loss(&logits.flatten_to(1)?, &next, teacher)? * f64::from(weight)
        }
    }

    /// Gradients of a micro-batch, added to `sums` (one vector per parameter); the loss.
    ///
    /// With a lesson the loss is reported less its share of the teacher's entropy, so that a
    /// student that equals its teacher stands at 0 there.
    ///
    /// # Errors
    /// When a shape disagrees or the device fails.
    pub fn add_gradients(
        &self,
        batch: &MicroBatch<'_>,
        lesson: Option<(&Lesson, f32)>,
        weight: f32,
        sums: &mut [Vec<f32>],
    ) -> Result<f64> {
        let loss = self.loss(batch, lesson, weight)?;
        let grads = loss.backward()?;
        self.setup.meter.time(Work::Gather, || -> Result<()> {
            for (parameter, sum) in self.parameters.iter().zip(sums) {
                let Some(grad) = grads.get(parameter) else {
                    candle_core::bail!("a parameter has no gradient")
                };
                let grad = grad.flatten_all()?.to_device(&Device::Cpu)?;
                with(&grad, |grad| {
                    if sum.is_empty() {
                        sum.extend_from_slice(grad);
                    } else {
                        sum.iter_mut().zip(grad).for_each(|(s, g)| *s += g);
                    }
                })?;
            }
            Ok(())
        })?;
        let known =
            lesson.map_or(0.0, |(lesson, share)| f64::from(share) * lesson.entropy * f64::from(weight));
        Ok(f64::from(loss.to_scalar::<f32>()?) - known)
    }

    /// Logits `[rows, vocabulary]` of a micro-batch, without gradients.
    ///
    /// # Errors
    /// When a shape disagrees or the device fails.
    pub fn logits(&self, batch: &MicroBatch<'_>) -> Result<Tensor> {
        let tokens = batch.inputs(&self.device)?;
        if !self.device.is_cpu() {
            let parameters: Vec<Tensor> = self.parameters.iter().map(|p| p.as_tensor().detach()).collect();
            let parameters: Vec<&Tensor> = parameters.iter().collect();
            let weights = Matrices::views(&self.setup.shape, &parameters)?;
            return plain::logits(&self.setup.shape, &weights, &tokens)?.flatten_to(1);
        }
        let [embedding, halves @ .., norm] = self.parameters.as_slice() else {
            candle_core::bail!("a model has at least 2 parameters")
        };
        let shape = (tokens.dim(0)?, tokens.dim(1)?, self.setup.shape.hidden);
        let mut x = embedding.as_tensor().detach().index_select(&tokens.flatten_all()?, 0)?.reshape(shape)?;
        for pair in halves.chunks_exact(2) {
            let (y, _) = self.setup.attention(&x, &pair[0].as_tensor().detach())?;
            let y = Tensor::from_vec(y, shape, &Device::Cpu)?;
            let (y, _) = self.setup.feed_forward(&y, &pair[1].as_tensor().detach())?;
            x = Tensor::from_vec(y, shape, &Device::Cpu)?;
        }
        let (normed, _) = self.setup.norm(&x, &norm.as_tensor().detach())?;
        self.setup.product(&normed, &embedding.as_tensor().detach().t()?)
    }

    /// The model's distributions on a micro-batch.
    ///
    /// # Errors
    /// When a shape disagrees or the device fails.
    pub fn lesson(&self, batch: &MicroBatch<'_>) -> Result<Lesson> {
        let logits = self.logits(batch)?;
        if !self.device.is_cpu() {
            let log_p = candle_nn::ops::log_softmax(&logits, 1)?;
            let distributions = log_p.exp()?;
            let entropy = (&distributions * log_p)?.sum_all()?.neg()?.to_scalar::<f32>()?;
            return Ok(Lesson { distributions, entropy: f64::from(entropy) });
        }
        let entropy = std::sync::Mutex::new(0f64);
        let vocabulary = self.vocabulary;
        self.setup.meter.time(Work::Loss, || {
            logits.inplace_op1(&InPlace(|l: &mut [f32]| {
                let sum = l.chunks_exact_mut(vocabulary).map(|row| f64::from(math::softmax(row))).sum();
                if let Ok(mut place) = entropy.lock() {
                    *place = sum;
                }
            }))
        })?;
        let entropy = entropy.into_inner().unwrap_or(f64::NAN);
        Ok(Lesson { distributions: logits, entropy })
    }

    /// Sum over a micro-batch of `-ln p[next]`, in nats.
    ///
    /// # Errors
    /// When a shape disagrees or the device fails.
    pub fn surprise(&self, batch: &MicroBatch<'_>) -> Result<f64> {
        let logits = self.logits(batch)?.to_device(&Device::Cpu)?;
        let next = batch.next();
        with(&logits, |all| {
            let rows = all.chunks_exact(self.vocabulary).zip(&next);
            rows.map(|(row, &next)| f64::from(math::surprise(&mut row.to_vec(), next))).sum()
        })
    }
}
