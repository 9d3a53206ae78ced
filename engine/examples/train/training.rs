//! The loop: batches, workers, updates, checkpoints, held-out losses.

use std::path::PathBuf;

use candle_core::Device;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use crate::adam::{Adam, rate};
use crate::checkpoint;
use crate::corpus::Data;
use crate::error::{Result, TrainError, read, write};
use crate::meter::{Clock, PARTS, Work};
use crate::model::{MicroBatch, Model};
use crate::recipe::{ModelRecipe, Recipe};

/// What a run of the trainer works with.
pub struct Session {
    /// The recipe.
    pub recipe: Recipe,
    /// The work folder.
    pub work: PathBuf,
    /// Workers; 1 on a device.
    pub workers: usize,
    /// Where the models are.
    pub device: Device,
}

/// A model in training.
struct Learner<'a> {
    recipe: &'a ModelRecipe,
    model: Model,
    adam: Adam,
    step: usize,
    steps: usize,
    /// Sum of losses and their count since the last row of `losses.csv`.
    recent: (f64, usize),
}

/// Gradients of one worker: per learner, per parameter.
type Sums = Vec<Vec<Vec<f32>>>;

impl Session {
    fn learner<'a>(&self, recipe: &'a ModelRecipe, resume: bool) -> Result<Learner<'a>> {
        let Recipe { vocabulary, seed, adam, .. } = self.recipe;
        let steps = self.recipe.steps(recipe);
        let found =
            if resume { checkpoint::load(&self.work, recipe, vocabulary, adam, &self.device)? } else { None };
        if let Some(found) = found {
            let (adam, step) = (found.adam, found.step);
            let model = found.model.with_products(self.recipe.products);
            return Ok(Learner { recipe, model, adam, step, steps, recent: (0.0, 0) });
        }
        let model = Model::fresh(recipe, vocabulary, seed, &self.device)?.with_products(self.recipe.products);
        let adam = Adam::fresh(adam, &model);
        Ok(Learner { recipe, model, adam, step: 0, steps, recent: (0.0, 0) })
    }

    /// Trains one model on plain cross-entropy until its tokens are spent or `minutes` are over.
    ///
    /// # Errors
    /// Those of the files and of the device; [`TrainError::Check`] when the loss is no number.
    pub fn train(&self, name: &str, minutes: Option<f64>) -> Result<()> {
        let recipe = self.recipe.model(name)?;
        self.run(vec![self.learner(recipe, true)?], None, minutes)
    }

    /// Distils one student, or every one at once with `all`: one forward of the teacher per batch.
    ///
    /// # Errors
    /// As [`Session::train`]; [`TrainError::Work`] when the teacher has not been trained to its end.
    pub fn distill(&self, name: &str, minutes: Option<f64>) -> Result<()> {
        let Recipe { vocabulary, adam, .. } = self.recipe;
        let recipe = self.recipe.teacher();
        let students: Vec<&ModelRecipe> = match name {
            "all" => self.recipe.models.iter().filter(|m| m.name != recipe.name).collect(),
            _ => vec![self.recipe.model(name)?],
        };
        if students.iter().any(|s| s.name == recipe.name) {
            return Err(TrainError::Usage(format!("{name:?}: the largest model is the teacher")));
        }
        let teacher = checkpoint::trained(&self.work, recipe, vocabulary, adam, &self.device)?;
        let steps = self.recipe.steps(recipe);
        if teacher.step < steps {
            return Err(TrainError::Work {
                path: checkpoint::path(&self.work, &recipe.name),
                problem: format!("step {} of {steps}; finish `train {}` first", teacher.step, recipe.name),
            });
        }
        // Students learn from the weights that ship.
        let teacher = teacher.model.rounded()?.with_products(self.recipe.products);
        let learners = students.into_iter().map(|s| self.learner(s, true)).collect::<Result<_>>()?;
        self.run(learners, Some(&teacher), minutes)
    }

    fn run(
        &self,
        mut learners: Vec<Learner<'_>>,
        teacher: Option<&Model>,
        minutes: Option<f64>,
    ) -> Result<()> {
        let data = Data::read(&self.recipe, &self.work)?;
        let losses = Losses { path: self.work.join("losses.csv") };
        losses.forget(&learners)?;
        let steps = learners.iter().map(|l| l.steps).max().unwrap_or(0);
        // Students share batches and the teacher's word, so the one that lags sets the step; the
        // others wait until it has come as far.
        let open = learners.iter().filter(|l| l.step < l.steps);
        let mut step = open.map(|l| l.step).min().unwrap_or(steps);
        let bar = ProgressBar::new(steps as u64);
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} steps  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(learners.iter().map(|l| l.recipe.name.as_str()).collect::<Vec<_>>().join(" "));
        bar.set_position(step as u64);
        let mut sums: Vec<Sums> = self.no_sums(&learners);
        let (clock, first) = (Clock::start(), step);
        let mut saved = Clock::start();
        if step >= steps {
            eprintln!("already at step {step} of {steps}");
        }
        while step < steps {
            let (means, _) = self.step(&data, &mut learners, teacher, step, &mut sums)?;
            step += 1;
            let tokens = ((step - first) * self.recipe.batch * self.recipe.sequence) as f64;
            let pace = clock.seconds() / (step - first) as f64;
            let moved = learners.iter().zip(&means).filter(|(l, _)| l.step == step);
            let shown: Vec<String> = moved.map(|(l, loss)| format!("{} {loss:.3}", l.recipe.name)).collect();
            let left = (steps - step) as f64 * pace / 60.0;
            bar.set_position(step as u64);
            let pace_text = format!("{:.0} tokens/s  {left:.1} min left", tokens / clock.seconds());
            let message = format!("loss {}  {pace_text}", shown.join(" "));
            bar.set_message(message.clone());
            let over = minutes.is_some_and(|m| clock.seconds() + pace > m * 60.0);
            let done = step == steps || over;
            let ends = learners.iter().any(|l| l.steps == step);
            if step.is_multiple_of(self.recipe.held_out_every) || ends {
                self.held_out_rows(&data, &mut learners, step, &losses)?;
                if bar.is_hidden() {
                    // Nobody watches a bar; a log gets a line.
                    eprintln!("step {step} of {steps}  {message}");
                }
            }
            if done || saved.seconds() > self.recipe.checkpoint_minutes * 60.0 {
                for learner in &learners {
                    checkpoint::save(
                        &self.work,
                        learner.recipe,
                        &learner.model,
                        &learner.adam,
                        learner.step,
                    )?;
                }
                saved = Clock::start();
            }
            if over {
                break;
            }
        }
        bar.abandon();
        Ok(())
    }

    fn no_sums(&self, learners: &[Learner<'_>]) -> Vec<Sums> {
        let empty = || learners.iter().map(|l| vec![Vec::new(); l.model.parameters.len()]).collect();
        (0..self.workers).map(|_| empty()).collect()
    }

    /// One update of every learner that stands at `step`; their losses, and the norms of their gradients.
    fn step(
        &self,
        data: &Data,
        learners: &mut [Learner<'_>],
        teacher: Option<&Model>,
        step: usize,
        sums: &mut [Sums],
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let batch = data.batch(step, self.recipe.batch);
        let micro: Vec<&[Vec<u32>]> = batch.chunks(self.recipe.micro_batch).collect();
        let weight = 1.0 / (self.recipe.batch * self.recipe.sequence) as f32;
        let workers = self.workers;
        let asked: &[Learner<'_>] = learners;
        let work = |(worker, sums): (usize, &mut Sums)| -> Result<Vec<f64>> {
            sums.iter_mut().flatten().for_each(Vec::clear);
            let mut losses = vec![0f64; asked.len()];
            for sequences in micro.iter().skip(worker).step_by(workers) {
                let batch = MicroBatch(sequences);
                let lesson = teacher.map(|t| t.lesson(&batch)).transpose()?;
                for ((learner, sums), loss) in asked.iter().zip(sums.iter_mut()).zip(&mut losses) {
                    if learner.step == step && step < learner.steps {
                        let lesson = lesson.as_ref().map(|l| (l, learner.recipe.teacher_share as f32));
                        *loss += learner.model.add_gradients(&batch, lesson, weight, sums)?;
                    }
                }
            }
            Ok(losses)
        };
        let parts: Vec<Result<Vec<f64>>> =
            sums.par_iter_mut().enumerate().with_max_len(1).map(work).collect();
        let mut losses = vec![0f64; learners.len()];
        for part in parts {
            part?.iter().zip(&mut losses).for_each(|(part, sum)| *sum += part);
        }
        let mut norms = vec![0f64; learners.len()];
        for (index, learner) in learners.iter_mut().enumerate() {
            if learner.step != step || step >= learner.steps {
                continue;
            }
            if !losses[index].is_finite() {
                let problem =
                    format!("{}: the loss of step {step} is {}", learner.recipe.name, losses[index]);
                return Err(TrainError::Check(problem));
            }
            let grads: Vec<&[Vec<f32>]> = sums.iter().map(|s| s[index].as_slice()).collect();
            let rate = rate(learner.recipe, step, learner.steps);
            let (model, adam) = (&learner.model, &mut learner.adam);
            norms[index] = model.setup.meter.time(Work::Adam, || adam.step(model, step, rate, &grads))?;
            learner.step += 1;
            learner.recent = (learner.recent.0 + losses[index], learner.recent.1 + 1);
        }
        Ok((losses, norms))
    }

    fn held_out_rows(
        &self,
        data: &Data,
        learners: &mut [Learner<'_>],
        step: usize,
        losses: &Losses,
    ) -> Result<()> {
        let mut rows = String::new();
        for learner in learners.iter_mut().filter(|l| l.step == step) {
            let tokens = step * self.recipe.batch * self.recipe.sequence;
            let name = &learner.recipe.name;
            let (sum, count) = std::mem::take(&mut learner.recent);
            if count == 0 {
                continue; // It had come here before this run; its rows are there.
            }
            rows += &format!("{name},{step},{tokens},train,{:.5}\n", sum / count as f64);
            for (domain, loss) in data.domains.iter().zip(self.held_out(data, &learner.model)?) {
                rows += &format!("{name},{step},{tokens},{domain},{loss:.5}\n");
            }
        }
        losses.add(&rows)
    }

    /// Held-out loss of every domain, in nats a token.
    ///
    /// # Errors
    /// When the device fails.
    pub fn held_out(&self, data: &Data, model: &Model) -> Result<Vec<f64>> {
        let mut losses = Vec::new();
        for domain in 0..data.domains.len() {
            let windows = data.held_out(domain, self.recipe.held_out_windows);
            let micro: Vec<MicroBatch<'_>> =
                windows.chunks(self.recipe.micro_batch).map(MicroBatch).collect();
            let parts: Vec<candle_core::Result<f64>> = if self.workers > 1 {
                micro.par_iter().with_max_len(1).map(|m| model.surprise(m)).collect()
            } else {
                micro.iter().map(|m| model.surprise(m)).collect()
            };
            let rows: usize = micro.iter().map(MicroBatch::rows).sum();
            let mut sum = 0.0;
            for part in parts {
                sum += part?;
            }
            losses.push(sum / rows as f64);
        }
        Ok(losses)
    }

    /// Times `steps` steps of a fresh model after one that is not counted; a table.
    ///
    /// # Errors
    /// As [`Session::train`].
    pub fn bench(&self, name: &str, steps: usize) -> Result<String> {
        let data = Data::read(&self.recipe, &self.work)?;
        let mut learners = [self.learner(self.recipe.model(name)?, false)?];
        let mut sums = self.no_sums(&learners);
        self.step(&data, &mut learners, None, 0, &mut sums)?;
        learners[0].model.setup.meter.clear();
        let clock = Clock::start();
        let (mut loss, mut norm) = (0.0, 0.0);
        for step in 1..=steps {
            let (losses, norms) = self.step(&data, &mut learners, None, step, &mut sums)?;
            (loss, norm) = (losses[0], norms[0]);
        }
        let seconds = clock.seconds();
        let tokens = steps * self.recipe.batch * self.recipe.sequence;
        let parameters = learners[0].recipe.shape.parameters(self.recipe.vocabulary);
        let mut table = format!(
            "{name}: {parameters} parameters, {} workers, {:.3} s a step, {:.0} tokens/s, \
             loss {loss:.3}, gradient {norm:.3}\n",
            self.workers,
            seconds / steps as f64,
            tokens as f64 / seconds
        );
        let whole = seconds * self.workers as f64;
        let meter = &learners[0].model.setup.meter;
        let mut rest = whole;
        for (part, label) in PARTS {
            // The optimizer runs on every worker at once, under one clock.
            let share = meter.seconds(part) * if part == Work::Adam { self.workers as f64 } else { 1.0 };
            rest -= share;
            table += &format!(
                "  {label:<18} {:>5.1} %  {:>8.1} ms a step\n",
                100.0 * share / whole,
                1e3 * share / steps as f64
            );
        }
        table += &format!("  {:<18} {:>5.1} %\n", "rest, waiting", 100.0 * rest / whole);
        Ok(table)
    }
}

/// `losses.csv` of the work folder: model, step, tokens, domain (`train` for the batches), loss.
struct Losses {
    path: PathBuf,
}

const HEADER: &str = "model,step,tokens,domain,loss\n";

impl Losses {
    /// Drops rows of steps that a cut run had done after its last checkpoint; they come again.
    fn forget(&self, learners: &[Learner<'_>]) -> Result<()> {
        let old = if self.path.exists() { read(&self.path)? } else { Vec::new() };
        let old = String::from_utf8_lossy(&old);
        let stale = |row: &str| {
            let mut cells = row.split(',');
            let (name, step) = (cells.next(), cells.next().and_then(|s| s.parse::<usize>().ok()));
            learners.iter().any(|l| Some(l.recipe.name.as_str()) == name && step.is_none_or(|s| s > l.step))
        };
        let rows = old.lines().skip(1).filter(|row| !stale(row));
        let kept: String = rows.flat_map(|row| [row, "\n"]).collect();
        write(&self.path, format!("{HEADER}{kept}").as_bytes())
    }

    fn add(&self, rows: &str) -> Result<()> {
        use std::io::Write;
        let failed = |source| TrainError::File { path: self.path.clone(), source };
        let mut file = std::fs::OpenOptions::new().append(true).open(&self.path).map_err(failed)?;
        file.write_all(rows.as_bytes()).map_err(failed)
    }
}
