//! What the family is worth: held-out loss, agreement and similarity of pairs, and samples, as Markdown.

use std::collections::BTreeMap;

use candle_core::Device;
use rayon::prelude::*;
use specrouter_routing::luck::{Luck, Stream};
use tokenizers::Tokenizer;

use crate::blocks::with;
use crate::checkpoint;
use crate::corpus::{self, Data};
use crate::error::{Result, read};
use crate::math::{largest, softmax};
use crate::model::{MicroBatch, Model};
use crate::training::Session;

/// Tokens of held-out text before a sample, and tokens of a sample.
const PROMPT: usize = 40;
const SAMPLE: usize = 48;
/// Rows of the table of losses on the way.
const CURVE: usize = 12;
/// Temperature of the drawn samples.
const TEMPERATURE: f32 = 0.8;

/// Sums over the tokens of one domain.
#[derive(Clone)]
struct Tally {
    rows: usize,
    /// `-ln p[next]` of every model.
    surprise: Vec<f64>,
    /// Rows on which a pair's most probable tokens are the same; pairs in the order of [`pairs`].
    agreed: Vec<usize>,
    /// Sum of `1 - TV` of every pair.
    shared: Vec<f64>,
}

fn pairs(models: usize) -> Vec<(usize, usize)> {
    (0..models).flat_map(|a| (a + 1..models).map(move |b| (a, b))).collect()
}

impl Session {
    /// Tables of every trained model, with its weights rounded as they ship.
    ///
    /// # Errors
    /// Those of the files and of the device.
    pub fn evaluate(&self) -> Result<String> {
        let data = Data::read(&self.recipe, &self.work)?;
        let tokenizer = corpus::tokenizer(&self.work)?;
        let (vocabulary, adam) = (self.recipe.vocabulary, self.recipe.adam);
        let (mut names, mut models) = (Vec::new(), Vec::new());
        for recipe in &self.recipe.models {
            if checkpoint::path(&self.work, &recipe.name).exists() {
                let found = checkpoint::trained(&self.work, recipe, vocabulary, adam, &self.device)?;
                names.push(recipe.name.clone());
                models.push(found.model.rounded()?);
            }
        }
        let tallies: Vec<Tally> = (0..data.domains.len())
            .map(|domain| self.tally(&data, domain, &models))
            .collect::<Result<_>>()?;
        let rows: usize = tallies.iter().map(|t| t.rows).sum();
        let head = |first: &str| {
            let line = data.domains.iter().map(|d| format!(" {d} |")).collect::<String>();
            let rule = data.domains.iter().map(|_| " --: |").collect::<String>();
            format!("| {first} |{line}\n| --- |{rule}\n")
        };
        let row = |name: String, cell: &dyn Fn(&Tally) -> String| {
            let cells: String = tallies.iter().map(|t| format!(" {} |", cell(t))).collect();
            format!("| {name} |{cells}\n")
        };
        let mut page = format!(
            "Held-out text, teacher-forced, {rows} tokens in windows of {}, weights rounded to bfloat16.\n\n\
             Loss in nats a token:\n\n{}",
            self.recipe.sequence,
            head("model")
        );
        for (index, (name, model)) in names.iter().zip(&models).enumerate() {
            let size = model.setup.shape.parameters(vocabulary) as f64 / 1e6;
            let name = format!("{name} ({size:.2} M)");
            page += &row(name, &|t| format!("{:.3}", t.surprise[index] / t.rows as f64));
        }
        page += &format!("\nGreedy agreement, share of tokens:\n\n{}", head("pair"));
        let named = |(a, b): (usize, usize)| format!("{}, {}", names[a], names[b]);
        for (index, pair) in pairs(models.len()).into_iter().enumerate() {
            page += &row(named(pair), &|t| format!("{:.3}", t.agreed[index] as f64 / t.rows as f64));
        }
        page += &format!("\nSimilarity, mean of 1 - TV at temperature 1:\n\n{}", head("pair"));
        for (index, pair) in pairs(models.len()).into_iter().enumerate() {
            page += &row(named(pair), &|t| format!("{:.3}", t.shared[index] / t.rows as f64));
        }
        page += &self.curve(&data.domains, &names)?;
        page += "\nSamples\n";
        for (domain, name) in data.domains.iter().enumerate() {
            page += &self.samples(&tokenizer, &data, domain, name, &names, &models)?;
        }
        Ok(page)
    }

    /// Held-out losses on the way, from `losses.csv`: the mean over domains, at a dozen counts of tokens.
    fn curve(&self, domains: &[String], names: &[String]) -> Result<String> {
        let text = String::from_utf8_lossy(&read(&self.work.join("losses.csv"))?).into_owned();
        // By tokens, then by model: sum over domains.
        let mut sums: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for row in text.lines().skip(1) {
            let cells: Vec<&str> = row.split(',').collect();
            let [name, _, tokens, domain, loss] = cells[..] else { continue };
            let place = names.iter().position(|n| n == name);
            let (Some(place), true) = (place, domains.iter().any(|d| d == domain)) else { continue };
            if let (Ok(tokens), Ok(loss)) = (tokens.parse(), loss.parse::<f64>()) {
                sums.entry(tokens).or_insert_with(|| vec![0.0; names.len()])[place] += loss;
            }
        }
        let columns: String = names.iter().map(|name| format!(" {name} |")).collect();
        let rule = " --: |".repeat(names.len());
        let mut page = format!(
            "\nHeld-out loss while training, mean over domains:\n\n| tokens |{columns}\n| --: |{rule}\n"
        );
        let every = sums.len().div_ceil(CURVE).max(1);
        for (index, (tokens, sums)) in sums.iter().rev().enumerate().collect::<Vec<_>>().into_iter().rev() {
            if index.is_multiple_of(every) {
                let cell = |sum: &f64| {
                    let mean = sum / domains.len() as f64;
                    if mean > 0.0 { format!(" {mean:.3} |") } else { " |".to_owned() }
                };
                let cells: String = sums.iter().map(cell).collect();
                page += &format!("| {:.2} M |{cells}\n", *tokens as f64 / 1e6);
            }
        }
        Ok(page)
    }

    fn tally(&self, data: &Data, domain: usize, models: &[Model]) -> Result<Tally> {
        let windows = data.held_out(domain, self.recipe.held_out_windows);
        let pairs = pairs(models.len());
        let judge = |sequences: &[Vec<u32>]| -> candle_core::Result<Tally> {
            let batch = MicroBatch(sequences);
            let next = batch.next();
            let mut distributions = Vec::new();
            for model in models {
                let lesson = model.lesson(&batch)?.distributions.to_device(&Device::Cpu)?;
                distributions.push(with(&lesson, <[f32]>::to_vec)?);
            }
            let vocabulary = self.recipe.vocabulary;
            let row = |model: usize, row: usize| &distributions[model][row * vocabulary..][..vocabulary];
            let mut tally = Tally::empty(models.len(), pairs.len());
            tally.rows = next.len();
            for (index, &next) in next.iter().enumerate() {
                for (model, surprise) in tally.surprise.iter_mut().enumerate() {
                    *surprise -= f64::from(row(model, index)[next as usize]).max(f64::MIN_POSITIVE).ln();
                }
                for (pair, &(a, b)) in pairs.iter().enumerate() {
                    let (a, b) = (row(a, index), row(b, index));
                    tally.agreed[pair] += usize::from(first_largest(a) == first_largest(b));
                    tally.shared[pair] += f64::from(a.iter().zip(b).map(|(&a, &b)| a.min(b)).sum::<f32>());
                }
            }
            Ok(tally)
        };
        let micro: Vec<&[Vec<u32>]> = windows.chunks(self.recipe.micro_batch).collect();
        let parts: Vec<candle_core::Result<Tally>> = if self.workers > 1 {
            micro.par_iter().with_max_len(1).map(|m| judge(m)).collect()
        } else {
            micro.iter().map(|m| judge(m)).collect()
        };
        let mut whole = Tally::empty(models.len(), pairs.len());
        for part in parts {
            whole.add(&part?);
        }
        Ok(whole)
    }

    fn samples(
        &self,
        tokenizer: &Tokenizer,
        data: &Data,
        domain: usize,
        name: &str,
        names: &[String],
        models: &[Model],
    ) -> Result<String> {
        // From the middle of the held-out text, so that no title page is continued.
        let prompt = data.held_out(domain, 2).swap_remove(1);
        let prompt = &prompt[..PROMPT.min(prompt.len())];
        let mut page =
            format!("\n**{name}**, after\n\n```text\n{}\n```\n\n", tokenizer.decode(prompt, false)?);
        for (index, (name, model)) in names.iter().zip(models).enumerate() {
            let mut show = |how: &str, drawn: bool| -> Result<()> {
                let tokens = self.sample(model, prompt, drawn)?;
                page += &format!("{name}, {how}:\n\n```text\n{}\n```\n\n", tokenizer.decode(&tokens, false)?);
                Ok(())
            };
            show("greedy", false)?;
            if index + 1 == names.len() {
                show(&format!("drawn at temperature {TEMPERATURE}"), true)?;
            }
        }
        Ok(page)
    }

    fn sample(&self, model: &Model, prompt: &[u32], drawn: bool) -> Result<Vec<u32>> {
        let draws = Luck::new(self.recipe.seed).stream(Stream::Test);
        let mut text = prompt.to_vec();
        for place in 0..SAMPLE {
            // A micro-batch predicts one token less than it has; the last one here stands for that.
            let batch = [text.iter().copied().chain([0]).collect()];
            let logits = model.logits(&MicroBatch(&batch))?;
            let last = logits.narrow(0, text.len() - 1, 1)?.flatten_all()?.to_vec1::<f32>()?;
            let token = if drawn {
                let mut row: Vec<f32> = last.iter().map(|l| l / TEMPERATURE).collect();
                softmax(&mut row);
                let mut left = draws.uniform(place as u64, 0) as f32;
                let chosen = row.iter().position(|p| {
                    left -= p;
                    left < 0.0
                });
                chosen.unwrap_or_else(|| first_largest(&row))
            } else {
                first_largest(&last)
            };
            if token == 0 {
                break;
            }
            text.push(token as u32);
        }
        Ok(text.split_off(prompt.len()))
    }
}

impl Tally {
    fn empty(models: usize, pairs: usize) -> Self {
        Self { rows: 0, surprise: vec![0.0; models], agreed: vec![0; pairs], shared: vec![0.0; pairs] }
    }

    fn add(&mut self, part: &Self) {
        self.rows += part.rows;
        self.surprise.iter_mut().zip(&part.surprise).for_each(|(s, p)| *s += p);
        self.agreed.iter_mut().zip(&part.agreed).for_each(|(s, p)| *s += p);
        self.shared.iter_mut().zip(&part.shared).for_each(|(s, p)| *s += p);
    }
}

/// The lowest index among the largest numbers.
#[allow(clippy::float_cmp, reason = "the largest is one of the row's own numbers")]
fn first_largest(row: &[f32]) -> usize {
    let top = largest(row);
    row.iter().position(|&x| x == top).unwrap_or(0)
}
