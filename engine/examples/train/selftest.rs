//! Checks of the trainer itself: the fused parts against plain candle and finite differences, a tiny
//! overfit, and that a resumed run goes on bit for bit.

use candle_core::{Device, Tensor};
use specrouter_engine::kernels::tiles;
use specrouter_routing::luck::{Luck, Stream};

use crate::adam::Adam;
use crate::blocks::{bf16_product, rounded_product, with};
use crate::checkpoint;
use crate::error::{Result, TrainError};
use crate::math;
use crate::model::{Lesson, MicroBatch, Model};
use crate::plain;
use crate::recipe::{ModelRecipe, Products};
use crate::shape::Shape;
use crate::training::Session;

const VOCABULARY: usize = 53;
const SEQUENCES: usize = 3;
const POSITIONS: usize = 19;
/// Share of the teacher in the checks that have one.
const SHARE: f32 = 0.7;

/// Odd sizes, so that every loop has a tail, and grouped heads.
const SHAPE: Shape = Shape {
    hidden: 37,
    layers: 2,
    heads: 6,
    kv_heads: 2,
    head_dim: 10,
    intermediate: 45,
    context: 32,
    rope_theta: 10_000.0,
    rms_norm_eps: 1e-5,
};

/// Gradients of every parameter.
type Gradients = Vec<Vec<f32>>;

fn want(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(TrainError::Check(what())) }
}

fn recipe() -> ModelRecipe {
    let name = "selftest".to_owned();
    let (tokens, peak_rate, final_share, warm_up_steps, teacher_share) = (1, 0.01, 1.0, 1, 0.0);
    ModelRecipe { name, shape: SHAPE, tokens, peak_rate, final_share, warm_up_steps, teacher_share }
}

/// Weights large enough that attention is sharp and gates are bent.
fn model(seed: u64) -> Result<Model> {
    let draws = Luck::new(seed).stream(Stream::Test);
    let value = |parameter: usize, place: usize| {
        let normal = draws.normal(parameter as u64, place as u64) as f32;
        if parameter > 0 && place < SHAPE.hidden { 1.0 + 0.2 * normal } else { 0.3 * normal }
    };
    let lengths = Model::lengths(&SHAPE, VOCABULARY);
    let values =
        lengths.iter().enumerate().map(|(p, (_, n))| (0..*n).map(|i| value(p, i)).collect()).collect();
    Ok(Model::from_values(SHAPE, VOCABULARY, values, &Device::Cpu)?)
}

fn text() -> Vec<Vec<u32>> {
    let draws = Luck::new(11).stream(Stream::Test);
    let token = |s: usize, p: usize| (draws.uniform(s as u64, p as u64) * VOCABULARY as f64) as u32;
    (0..SEQUENCES).map(|s| (0..=POSITIONS).map(|p| token(s, p)).collect()).collect()
}

/// Runs every check; one line for each.
///
/// # Errors
/// [`TrainError::Check`] with the first that fails, and its numbers.
pub fn run(session: &Session) -> Result<String> {
    let mut page = exponential()? + &tiles()?;
    let (text, model, teacher) = (text(), model(1)?, model(2)?);
    let batch = MicroBatch(&text);
    page += &logits(&model, &batch)?;
    let lesson = teacher.lesson(&batch)?;
    for (what, lesson) in [("text", None), ("text and teacher", Some(&lesson))] {
        let fused = fused(&model, &batch, lesson)?;
        page += &against_autograd(what, &model, &batch, lesson, &fused)?;
        page += &against_differences(what, &model, &batch, lesson, &fused)?;
    }
    page += &rounded_gradients(&model, &batch)?;
    page += &a_teacher_is_its_own_best_student(&teacher, &batch, &lesson)?;
    page += &overfit(session, &batch)?;
    page += &resume(session, &batch)?;
    Ok(page)
}

fn exponential() -> Result<String> {
    let worst = (-8_700..=8_800).map(|i| i as f32 / 100.0).map(|x| {
        let exact = f64::from(x).exp();
        (f64::from(math::exp(x)) - exact).abs() / exact
    });
    let worst = worst.fold(0.0, f64::max);
    want(worst < 3e-7, || format!("exp: relative error {worst:.2e}"))?;
    Ok(format!("exp: relative error at most {worst:.1e}\n"))
}

/// Products on tiles against those of numbers rounded beforehand, transposed and not, with edges.
fn tiles() -> Result<String> {
    let draws = Luck::new(8).stream(Stream::Test);
    let fresh = |seed: usize, rows: usize, columns: usize, turned: bool| -> candle_core::Result<Tensor> {
        let numbers = (0..rows * columns).map(|i| draws.normal(seed as u64, i as u64) as f32).collect();
        if turned {
            Tensor::from_vec::<_, f32>(numbers, (columns, rows), &Device::Cpu)?.t()
        } else {
            Tensor::from_vec(numbers, (rows, columns), &Device::Cpu)
        }
    };
    let mut worst = 0f32;
    for (m, k, n) in [(1, 1, 1), (33, 65, 31), (64, 96, 128), (17, 200, 75)] {
        for turned in 0..4 {
            let (a, b) = (fresh(1, m, k, turned & 1 > 0)?, fresh(2, k, n, turned & 2 > 0)?);
            let difference = (bf16_product(&a, &b)? - rounded_product(&a, &b)?)?.abs()?;
            let difference = difference.max_all()?.to_scalar::<f32>()?;
            want(difference < 1e-4, || format!("{m} x {k} x {n}, turned {turned}: off by {difference:.2e}"))?;
            worst = worst.max(difference);
        }
    }
    // Attention's products: blocks of matrices, one of them turned, from the middle of a tensor.
    let blocks = |seed: usize| fresh(seed, 6 * 40, 24, false)?.reshape((6, 40, 24))?.narrow(0, 1, 4);
    for (a, b) in [(blocks(3)?, blocks(4)?.transpose(1, 2)?), (blocks(5)?.transpose(1, 2)?, blocks(6)?)] {
        let difference = (bf16_product(&a, &b)? - rounded_product(&a, &b)?)?.abs()?;
        let difference = difference.max_all()?.to_scalar::<f32>()?;
        want(difference < 1e-4, || format!("{:?} x {:?}: off by {difference:.2e}", a.shape(), b.shape()))?;
        worst = worst.max(difference);
    }
    let how = if tiles::available() { "on tiles" } else { "without tiles, which this processor lacks" };
    Ok(format!("products {how}: off by at most {worst:.1e}\n"))
}

fn plain_logits(model: &Model, batch: &MicroBatch<'_>) -> Result<Tensor> {
    let inputs: Vec<u32> = batch.0.iter().flat_map(|row| &row[..POSITIONS]).copied().collect();
    let inputs = Tensor::from_vec(inputs, (SEQUENCES, POSITIONS), &Device::Cpu)?;
    Ok(plain::logits(&SHAPE, &model.matrices()?, &inputs)?.flatten_to(1)?)
}

fn logits(model: &Model, batch: &MicroBatch<'_>) -> Result<String> {
    let difference = (model.logits(batch)? - plain_logits(model, batch)?)?.abs()?;
    // Every one is asked, so that a NaN fails.
    let close = with(&difference, |all| all.iter().all(|&d| d < 1e-4))?;
    let difference = difference.max_all()?.to_scalar::<f32>()?;
    want(close, || format!("logits: fused and plain differ by {difference:.2e}"))?;
    Ok(format!("logits: fused and plain differ by at most {difference:.1e}\n"))
}

fn fused(model: &Model, batch: &MicroBatch<'_>, lesson: Option<&Lesson>) -> Result<Gradients> {
    let mut sums = vec![Vec::new(); model.parameters.len()];
    let weight = 1.0 / batch.rows() as f32;
    model.add_gradients(batch, lesson.map(|l| (l, SHARE)), weight, &mut sums)?;
    Ok(sums)
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

fn against_autograd(
    what: &str,
    model: &Model,
    batch: &MicroBatch<'_>,
    lesson: Option<&Lesson>,
    fused: &Gradients,
) -> Result<String> {
    let next = Tensor::new(batch.next(), &Device::Cpu)?;
    let teacher = lesson.map(|l| (&l.distributions, f64::from(SHARE)));
    let loss = plain::loss(&plain_logits(model, batch)?, &next, teacher)?;
    let grads = (loss / batch.rows() as f64)?.backward()?;
    let mut worst = 0f64;
    for (((name, _), parameter), fused) in
        Model::lengths(&SHAPE, VOCABULARY).iter().zip(&model.parameters).zip(fused)
    {
        let grad = grads.get(parameter).ok_or_else(|| TrainError::Check(format!("{name}: no gradient")))?;
        let grad = grad.flatten_all()?.to_vec1::<f32>()?;
        let error = norm(grad.iter().zip(fused).map(|(a, b)| a - b)) / norm(grad.iter().copied());
        want(error < 1e-4, || {
            format!("{what}: {name}: fused gradient differs from autograd's by {error:.2e}")
        })?;
        worst = worst.max(error);
    }
    Ok(format!("{what}: gradients equal plain autograd's to {worst:.1e} of their norm\n"))
}

/// Gradients by products of rounded numbers, as they are trained by, point where those in f32 do.
fn rounded_gradients(model: &Model, batch: &MicroBatch<'_>) -> Result<String> {
    let exact = fused(model, batch, None)?;
    let values = model.values()?;
    let rounded = Model::from_values(SHAPE, VOCABULARY, values, &Device::Cpu)?.with_products(Products::Bf16);
    let rounded = fused(&rounded, batch, None)?;
    let mut worst = 0f64;
    for ((name, _), (exact, rounded)) in
        Model::lengths(&SHAPE, VOCABULARY).iter().zip(exact.iter().zip(&rounded))
    {
        let error = norm(exact.iter().zip(rounded).map(|(a, b)| a - b)) / norm(exact.iter().copied());
        want(error < 0.05, || format!("{name}: the gradient of rounded products is {error:.3} off"))?;
        worst = worst.max(error);
    }
    Ok(format!("gradients by bfloat16 products: within {worst:.3} of those in f32\n"))
}

/// Moves each parameter along its gradient and along random directions, and compares slopes.
fn against_differences(
    what: &str,
    model: &Model,
    batch: &MicroBatch<'_>,
    lesson: Option<&Lesson>,
    fused: &Gradients,
) -> Result<String> {
    let values = model.values()?;
    let draws = Luck::new(5).stream(Stream::Test);
    let weight = 1.0 / batch.rows() as f32;
    let loss = |parameter: usize, direction: &[f32], far: f32| -> Result<f64> {
        let mut moved = values.clone();
        moved[parameter].iter_mut().zip(direction).for_each(|(w, d)| *w += far * d);
        let moved = Model::from_values(SHAPE, VOCABULARY, moved, &Device::Cpu)?;
        Ok(f64::from(moved.loss(batch, lesson.map(|l| (l, SHARE)), weight)?.to_scalar::<f32>()?))
    };
    let mut worst = 0f64;
    for (parameter, (name, length)) in Model::lengths(&SHAPE, VOCABULARY).into_iter().enumerate() {
        let grad = &fused[parameter];
        let size = norm(grad.iter().copied());
        for trial in 0..4u64 {
            // Half the gradient, half noise of the same length: a slope well above rounding.
            let noise: Vec<f32> =
                (0..length).map(|i| draws.normal(trial * 100 + parameter as u64, i as u64) as f32).collect();
            let noise_size = norm(noise.iter().copied());
            let along = |(g, n): (&f32, &f32)| (f64::from(*g) / size + f64::from(*n) / noise_size) as f32;
            let direction: Vec<f32> = grad.iter().zip(&noise).map(along).collect();
            let slope: f64 = grad.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            // Richardson: the error of the third derivative falls out.
            let at = |far: f32| -> Result<f64> {
                Ok((loss(parameter, &direction, far)? - loss(parameter, &direction, -far)?)
                    / (2.0 * f64::from(far)))
            };
            let measured = (4.0 * at(0.01)? - at(0.02)?) / 3.0;
            let error = (measured - slope).abs() / slope.abs();
            want(error < 3e-3, || {
                format!("{what}: {name}: slope {slope:.6}, finite difference {measured:.6}")
            })?;
            worst = worst.max(error);
        }
    }
    Ok(format!("{what}: slopes equal finite differences to {worst:.1e}\n"))
}

/// With the whole loss from the teacher, a student with the teacher's weights has no gradient and loss 0.
fn a_teacher_is_its_own_best_student(
    teacher: &Model,
    batch: &MicroBatch<'_>,
    lesson: &Lesson,
) -> Result<String> {
    let mut sums = vec![Vec::new(); teacher.parameters.len()];
    let loss = teacher.add_gradients(batch, Some((lesson, 1.0)), 1.0 / batch.rows() as f32, &mut sums)?;
    let size = norm(sums.iter().flatten().copied());
    want(loss.abs() < 1e-5 && size < 1e-4, || {
        format!("a copy of the teacher: loss {loss:.2e}, gradient {size:.2e}")
    })?;
    Ok(format!("a copy of the teacher: loss {loss:.1e}, gradient {size:.1e}\n"))
}

fn advance(
    model: &Model,
    adam: &mut Adam,
    batch: &MicroBatch<'_>,
    steps: std::ops::Range<usize>,
) -> Result<f64> {
    let mut last = f64::NAN;
    for step in steps {
        let mut sums = vec![Vec::new(); model.parameters.len()];
        last = model.add_gradients(batch, None, 1.0 / batch.rows() as f32, &mut sums)?;
        adam.step(model, step, 0.01, &[&sums])?;
    }
    Ok(last)
}

fn overfit(session: &Session, batch: &MicroBatch<'_>) -> Result<String> {
    let model = Model::fresh(&recipe(), VOCABULARY, 3, &Device::Cpu)?;
    let mut adam = Adam::fresh(session.recipe.adam, &model);
    let first = advance(&model, &mut adam, batch, 0..1)?;
    let last = advance(&model, &mut adam, batch, 1..200)?;
    let holds = (first - (VOCABULARY as f64).ln()).abs() < 0.1 && last < 0.05;
    want(holds, || format!("overfit: loss from {first:.3} to {last:.3} in 200 steps"))?;
    Ok(format!("overfit: loss from {first:.3} to {last:.4} in 200 steps\n"))
}

fn resume(session: &Session, batch: &MicroBatch<'_>) -> Result<String> {
    let (recipe, settings) = (recipe(), session.recipe.adam);
    let model = Model::fresh(&recipe, VOCABULARY, 3, &Device::Cpu)?;
    let mut adam = Adam::fresh(settings, &model);
    advance(&model, &mut adam, batch, 0..3)?;
    checkpoint::save(&session.work, &recipe, &model, &adam, 3)?;
    advance(&model, &mut adam, batch, 3..6)?;
    let loaded = checkpoint::trained(&session.work, &recipe, VOCABULARY, settings, &Device::Cpu)?;
    let (again, mut moments) = (loaded.model, loaded.adam);
    advance(&again, &mut moments, batch, loaded.step..6)?;
    let path = checkpoint::path(&session.work, &recipe.name);
    std::fs::remove_file(&path).map_err(|source| TrainError::File { path, source })?;
    let bits = |model: &Model| -> Result<Vec<u32>> {
        Ok(model.values()?.iter().flatten().map(|v| v.to_bits()).collect())
    };
    let same = bits(&model)? == bits(&again)? && adam.squares == moments.squares;
    want(same, || "resume: weights differ from an unbroken run's".into())?;
    Ok("resume: three steps, a checkpoint and three more equal six, bit for bit\n".into())
}
