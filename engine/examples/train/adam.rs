//! AdamW with clipping and a cosine schedule.
//!
//! Our own rather than `candle_nn`'s: that one keeps its moments to itself, so a run could not be
//! resumed from a checkpoint, and it walks over each parameter seven times on one thread. The
//! moments here are plain vectors, and a step reads and writes every number once.

use std::sync::Mutex;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::blocks::InPlace;
use crate::model::Model;
use crate::recipe::{AdamRecipe, ModelRecipe};

/// Numbers that one job updates; sums over jobs are taken in their order.
const JOB: usize = 1 << 16;

/// Moments of every parameter of a model.
pub struct Adam {
    recipe: AdamRecipe,
    /// Running means of the gradients.
    pub means: Vec<Vec<f32>>,
    /// Running means of their squares.
    pub squares: Vec<Vec<f32>>,
}

/// The learning rate of step `step` (from 0) of `steps`: linear warm-up, then half a cosine.
pub fn rate(recipe: &ModelRecipe, step: usize, steps: usize) -> f64 {
    let (peak, warm_up) = (recipe.peak_rate, recipe.warm_up_steps.min(steps));
    if step < warm_up {
        return peak * (step + 1) as f64 / warm_up as f64;
    }
    let share = (step - warm_up) as f64 / (steps - warm_up).max(1) as f64;
    let last = peak * recipe.final_share;
    last + (peak - last) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
}

impl Adam {
    /// Moments of zero.
    pub fn fresh(recipe: AdamRecipe, model: &Model) -> Self {
        let zeros = || model.parameters.iter().map(|p| vec![0f32; p.elem_count()]).collect::<Vec<_>>();
        Self { recipe, means: zeros(), squares: zeros() }
    }

    /// One update of `model`; the norm of the gradient before clipping.
    ///
    /// - `step`: updates before this one.
    /// - `grads`: per worker, per parameter; their sum is the gradient. A worker without work has empty
    ///   vectors.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self, model: &Model, step: usize, rate: f64, grads: &[&[Vec<f32>]]) -> Result<f64> {
        let parts = |parameter: usize| -> Vec<&[f32]> {
            grads.iter().map(|g| g[parameter].as_slice()).filter(|g| !g.is_empty()).collect()
        };
        let mut total = 0f64;
        for parameter in 0..self.means.len() {
            let parts = parts(parameter);
            let jobs = self.means[parameter].len().div_ceil(JOB);
            let squares: Vec<f64> = (0..jobs).into_par_iter().map(|job| square_of_sum(&parts, job)).collect();
            total += squares.iter().sum::<f64>();
        }
        let norm = total.sqrt();
        let AdamRecipe { beta1, beta2, epsilon, weight_decay, clip } = self.recipe;
        let scale = if norm > f64::from(clip) { (f64::from(clip) / norm) as f32 } else { 1.0 };
        let count = step as i32 + 1;
        let first = (1.0 / (1.0 - f64::from(beta1).powi(count))) as f32;
        let second = (1.0 / (1.0 - f64::from(beta2).powi(count))) as f32;
        let rate = rate as f32;
        let names = Model::lengths(&model.setup.shape, model.vocabulary);
        for (parameter, (name, _)) in names.iter().enumerate() {
            let parts = parts(parameter);
            let norms = Model::norm_len(name, &model.setup.shape);
            let moments = Mutex::new((&mut self.means[parameter], &mut self.squares[parameter]));
            let update = |weights: &mut [f32]| {
                let Ok(mut moments) = moments.lock() else { return };
                let (means, squares) = &mut *moments;
                let jobs = weights
                    .par_chunks_mut(JOB)
                    .zip(means.par_chunks_mut(JOB))
                    .zip(squares.par_chunks_mut(JOB));
                jobs.enumerate().for_each(|(job, ((weights, means), squares))| {
                    let mut sum = vec![0f32; weights.len()];
                    add_up(&parts, job, &mut sum);
                    // Norms come first in a parameter; a job past them decays all it has.
                    let kept = norms.saturating_sub(job * JOB).min(weights.len());
                    let decay = rate * weight_decay;
                    weights[kept..].iter_mut().for_each(|w| *w -= decay * *w);
                    let moments = means.iter_mut().zip(squares);
                    for ((w, (m, v)), g) in weights.iter_mut().zip(moments).zip(&sum) {
                        let g = g * scale;
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        *w -= rate * (*m * first) / ((*v * second).sqrt() + epsilon);
                    }
                });
            };
            let var = &model.parameters[parameter];
            if model.device.is_cpu() {
                var.inplace_op1(&InPlace(update))?;
            } else {
                // Moments live on the host; a model of some megabytes crosses the bus in milliseconds.
                let mut weights = var.flatten_all()?.to_vec1()?;
                update(&mut weights);
                var.set(&Tensor::from_vec(weights, var.shape(), &model.device)?)?;
            }
        }
        Ok(norm)
    }
}

fn add_up(parts: &[&[f32]], job: usize, sum: &mut [f32]) {
    for part in parts {
        let part = &part[job * JOB..][..sum.len()];
        sum.iter_mut().zip(part).for_each(|(s, g)| *s += g);
    }
}

fn square_of_sum(parts: &[&[f32]], job: usize) -> f64 {
    let Some(first) = parts.first() else { return 0.0 };
    let mut sum = vec![0f32; JOB.min(first.len() - job * JOB)];
    add_up(parts, job, &mut sum);
    f64::from(crate::math::dot(&sum, &sum))
}
