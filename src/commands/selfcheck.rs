//! `specrouter selfcheck`: speculation changes no output of real models.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use specrouter_engine::decoder::Decoder;
use specrouter_engine::level::LevelModel;
use specrouter_engine::pool;
use specrouter_engine::sampling::Sampling;
use specrouter_engine::selfcheck::cells::{Cell, FACTORS, Factors, NAMES};
use specrouter_engine::selfcheck::distribution::{
    Counted, Draw, GTest, Law, TOKENS, count, count_trees, g_test, law,
};
use specrouter_engine::selfcheck::exact::{Counts, Difference, Subject, alone, most_kv_tokens};
use specrouter_engine::selfcheck::flips::{Flips, flips};
use specrouter_engine::selfcheck::tree::Tree;
use specrouter_engine::selfcheck::{
    CheckError, Task, cells, folder_pool, nested_pool, random_tasks, text_tasks,
};
use specrouter_engine::settings::{Device, Dtype, EngineConfig, Mode};
use specrouter_engine::tokenizer::Tokenizer;
use specrouter_routing::chain::ChainPlan;
use specrouter_routing::ids::ModelId;
use specrouter_routing::luck::Luck;

use crate::args::{Format, SelfcheckArgs};
use crate::commands::{print, print_json};
use crate::failure::Failure;
use crate::table::Table;

/// What is continued: a line is a prompt.
const PROMPTS: &str = include_str!("selfcheck_prompts.txt");

/// The prompt whose continuations are counted; few tokens are likely after it.
const COUNTED: &str = "def add(a, b):";

/// Residual scales and weights of the nested pools: draft and middle model agree with the target in 0.55 and 0.65,
/// and (in f32) in 0.30 and 0.43 of all places.
const NESTED: [((f32, f32), Dtype); 2] = [((0.3, 0.2), Dtype::F32), ((0.6, 0.4), Dtype::Bf16)];

/// Distributions are refuted below it.
const LEAST_P: f64 = 1e-3;

/// KV memory of the counted runs: 64 sequences of the counted prompt.
const KV_TOKENS: u64 = 8192;

/// Tokens a pass in which flips are looked for: plain decoding, and verification.
const WIDTHS: [usize; 3] = [1, 4, 8];

/// What was found.
#[derive(Default, Serialize)]
struct Found {
    cells: Vec<CellRow>,
    distributions: Vec<Counting>,
    flips: Vec<Flipping>,
    /// What should have happened in the cells and never did.
    missing: Vec<&'static str>,
}

/// One cell, by the names of its values.
#[derive(Serialize)]
struct CellRow {
    cell: String,
    counts: Counts,
    first: Option<Difference>,
    #[serde(skip)]
    values: Vec<String>,
}

/// One distribution.
#[derive(Serialize)]
struct Counting {
    name: String,
    test: GTest,
    accepted: u64,
    rejected: u64,
}

/// Greedy choices off the processor.
#[derive(Serialize)]
struct Flipping {
    model: String,
    width: usize,
    flips: Flips,
}

/// Runs it.
///
/// # Errors
/// [`Failure::BadInput`] for folders or a device that cannot be used, [`Failure::Failed`] when something differs.
pub fn run(args: &SelfcheckArgs) -> Result<(), Failure> {
    let folders = folders(&args.models)?;
    pool::share_work(None);
    let luck = Luck::new(1);
    let tokenizer = Tokenizer::open(folders[0].1, &folders[0].0).map_err(Failure::input)?;
    let lines: Vec<&str> = PROMPTS.lines().collect();
    let tasks = text_tasks(&tokenizer, &lines).map_err(Failure::input)?;
    let mut found = Found::default();
    let exact = args.device == Device::Cpu;
    if exact {
        let names = NESTED.map(|((mid, top), dtype)| format!("nested {mid}/{top} {dtype:?}"));
        let nested = Factors::new(names.to_vec(), 3, (0.15, 3.5));
        let random = random_tasks(256, 60, 1);
        let kv = most_kv_tokens(&random, &nested);
        let mut subjects = Vec::new();
        for (eps, dtype) in NESTED {
            let models = nested_pool(11, eps, dtype, kv).map_err(failed)?;
            subjects.push(Subject::new(models, random.clone(), luck));
        }
        grid(args, &nested, &mut subjects, &mut found)?;
        let name = folders.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(">");
        let factors = Factors::new(vec![name], folders.len() as u8, (0.3, 2.5));
        let models = folder_pool(&folders, most_kv_tokens(&tasks, &factors)).map_err(Failure::input)?;
        grid(args, &factors, &mut [Subject::new(models, tasks.clone(), luck)], &mut found)?;
        let mut total = Counts::default();
        found.cells.iter().for_each(|row| total += row.counts);
        found.missing = total.missing();
    }
    let sampling = Sampling::new(0.8, None, Some(0.9)).map_err(Failure::input)?;
    let prompt = tokenizer.encode_user(COUNTED).map_err(Failure::input)?;
    counted(
        args,
        &folders,
        &Draw { prompt, sampling, limit: 4, plan: plan(folders.len()), luck },
        &mut found,
    )?;
    if !exact {
        flipped(args, &folders, &tasks, luck, &mut found)?;
    }
    show(args, &found)?;
    verdict(&found)
}

/// Names and paths of the folders.
fn folders(paths: &[PathBuf]) -> Result<Vec<(String, &Path)>, Failure> {
    let named =
        |path: &'_ PathBuf| path.file_name().map_or("model".to_owned(), |n| n.to_string_lossy().into_owned());
    if let Some(missing) = paths.iter().find(|path| !path.is_dir()) {
        let missing = missing.display();
        return Err(Failure::BadInput(anyhow!(
            "{missing}: expected a model's folder, got none; run in the folder that holds models/, or name folders with --models"
        )));
    }
    Ok(paths.iter().map(|path| (named(path), path.as_path())).collect())
}

fn failed(error: impl Into<anyhow::Error>) -> Failure {
    Failure::Failed(error.into())
}

/// Cheapest, second largest and target, or what there is.
fn three(models: usize) -> Vec<usize> {
    match models {
        0..=3 => (0..models).collect(),
        _ => vec![0, models - 2, models - 1],
    }
}

/// A chain of all of [`three`].
fn plan(models: usize) -> ChainPlan {
    let chosen: Vec<ModelId> = (0..three(models).len() as u8).map(ModelId).collect();
    let windows = vec![2; chosen.len().saturating_sub(1)];
    ChainPlan::new(&chosen, &windows).unwrap_or(ChainPlan::target_only(ModelId(0)))
}

/// Every cell of a grid, or every pair.
fn grid(
    args: &SelfcheckArgs,
    factors: &Factors,
    subjects: &mut [Subject<Decoder>],
    found: &mut Found,
) -> Result<(), Failure> {
    let cells: Vec<Cell> = if args.quick { factors.pairwise() } else { factors.all() };
    let bar = bar(cells.len(), args.quiet);
    bar.set_message(factors.pools.join(", "));
    let mut next = 0;
    for cell in &cells {
        let subject = &mut subjects[cell.0[0]];
        // A batch is filled, and a place in it used again.
        let (share, all) = (factors.batch(cell) as usize + 1, subject.tasks().len());
        let share: Vec<usize> = (next..next + share.min(all)).map(|task| task % all).collect();
        next += share.len();
        let report = subject.check(factors, cell, &share).map_err(failed)?;
        let values = (0..FACTORS).map(|factor| factors.value(factor, cell.0[factor])).collect();
        let (counts, first) = (report.counts, report.first);
        found.cells.push(CellRow { cell: factors.describe(cell), counts, first, values });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

fn bar(steps: usize, quiet: bool) -> ProgressBar {
    let hidden = quiet || !std::io::stderr().is_terminal();
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(8) };
    let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} cells  {msg}  ETA {eta}");
    bar.with_style(style.expect("the template is valid"))
}

/// Models that run where the arguments say: with poison on the processor.
fn opened(
    args: &SelfcheckArgs,
    folders: &[(String, &Path)],
    device: Device,
) -> Result<Vec<Box<dyn LevelModel>>, Failure> {
    let settings = EngineConfig { device, mode: Mode::Fast, dtype: args.dtype, ..EngineConfig::default() };
    let open = |(name, folder): &(String, &Path)| pool::open(folder, name, &settings, KV_TOKENS);
    folders.iter().map(open).collect::<Result<_, _>>().map_err(Failure::input)
}

/// Counts outputs: over logits computed once, on the processor; and end to end.
fn counted(
    args: &SelfcheckArgs,
    folders: &[(String, &Path)],
    draw: &Draw,
    found: &mut Found,
) -> Result<(), Failure> {
    let folders: Vec<(String, &Path)> =
        three(folders.len()).into_iter().map(|m| folders[m].clone()).collect();
    let name = folders.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(">");
    let draws = if args.quick { (100_000, 2_000) } else { (1_000_000, 20_000) };
    let trees: Vec<Tree<Decoder>> = folder_pool(&folders, KV_TOKENS)
        .map_err(Failure::input)?
        .into_iter()
        .map(|model| Tree::new(model, &draw.prompt, TOKENS - 1))
        .collect();
    let own = |draws| match trees.last() {
        Some(target) => law(target, &draw.sampling, draws).map_err(failed),
        None => Ok(Law::default()),
    };
    let mut add = |name: String, counted: &Counted, law: &Law| {
        let test = g_test(&counted.outcomes, law);
        found.distributions.push(Counting {
            name,
            test,
            accepted: counted.accepted,
            rejected: counted.rejected,
        });
    };
    if args.device == Device::Cpu {
        let all = count_trees(&trees, draw, draws.0).map_err(failed)?;
        add(format!("{name}, logits computed once"), &all, &own(draws.0)?);
    }
    let counted = if args.device == Device::Cpu {
        let models = folder_pool(&folders, KV_TOKENS).map_err(Failure::input)?;
        count(models, draw, 0..draws.1).map(|(counted, _)| counted)
    } else {
        // Against the processor's law: what is off in the last bits is far below what so many draws show.
        count(opened(args, &folders, args.device)?, draw, 0..draws.1).map(|(counted, _)| counted)
    };
    let counted = counted.map_err(failed)?;
    add(format!("{name}, end to end on {}", args.device), &counted, &own(draws.1)?);
    Ok(())
}

/// Greedy choices of each model there and here, over the texts that the exact target makes of the prompts.
fn flipped(
    args: &SelfcheckArgs,
    folders: &[(String, &Path)],
    tasks: &[Task],
    luck: Luck,
    found: &mut Found,
) -> Result<(), Failure> {
    let mut exact = folder_pool(folders, KV_TOKENS).map_err(Failure::input)?;
    let mut texts = Vec::new();
    if let Some(target) = exact.last_mut() {
        for task in tasks {
            let task = Task { limit: 64, ..task.clone() };
            let output: Result<Vec<u32>, CheckError> = alone(target, &task, cells::Decoding::Greedy, luck);
            texts.push([task.tokens, output.map_err(failed)?].concat());
        }
    }
    let mut others = opened(args, folders, args.device)?;
    for ((exact, other), (model, _)) in exact.iter_mut().zip(&mut others).zip(folders) {
        for width in WIDTHS {
            let flips = flips(exact, other, &texts, width).map_err(failed)?;
            found.flips.push(Flipping { model: model.clone(), width, flips });
        }
    }
    Ok(())
}

fn show(args: &SelfcheckArgs, found: &Found) -> Result<(), Failure> {
    if args.format == Format::Json {
        return print_json(found);
    }
    let mut text = String::new();
    if !found.cells.is_empty() {
        text += &by_value(&found.cells).text();
        text.push('\n');
    }
    let mut table =
        Table::new(&["distribution of tokens 1-3", "draws", "cells", "G", "p", "kept", "rejections"]);
    for Counting { name, test, accepted, rejected } in &found.distributions {
        let (p, draws, cells) = (format!("{:.3e}", test.p_value), test.draws, test.cells);
        let statistic = format!("{:.1}", test.statistic);
        let numbers =
            [draws.to_string(), cells.to_string(), statistic, p, accepted.to_string(), rejected.to_string()];
        table.row([name.clone()].into_iter().chain(numbers).collect());
    }
    text += &table.text();
    if !found.flips.is_empty() {
        let heading = [
            "model",
            "tokens a pass",
            "positions",
            "flips",
            "rate",
            "texts that differ",
            "margin at the first flip",
            "margin of all, median",
            "logits apart, most",
        ];
        let mut table = Table::new(&heading);
        for Flipping { model, width, flips } in &found.flips {
            let margin = flips.margins.get(flips.margins.len() / 2);
            table.row(vec![
                model.clone(),
                width.to_string(),
                flips.positions.to_string(),
                flips.flips.to_string(),
                format!("{:.2e}", flips.rate()),
                format!("{} of {}", flips.differing, flips.texts),
                margin.map_or("-".to_owned(), |margin| format!("{margin:.2e}")),
                format!("{:.2e}", flips.median_margin),
                format!("{:.2e}", flips.most_apart),
            ]);
        }
        text.push('\n');
        text += &table.text();
    }
    print(&text)
}

/// Counts for every value of every factor, over the cells that have it.
fn by_value(cells: &[CellRow]) -> Table {
    let mut table = Table::new(&[
        "",
        "value",
        "cells",
        "outputs",
        "tokens",
        "kept",
        "rejections",
        "in the middle",
        "stops",
        "catch-ups",
        "preempted",
        "differing",
    ]);
    let mut sums: Vec<Vec<(String, u64, Counts)>> = vec![Vec::new(); FACTORS];
    let mut all = (0, Counts::default());
    for cell in cells {
        for (of, value) in sums.iter_mut().zip(&cell.values) {
            let at = of.iter().position(|(other, ..)| other == value).unwrap_or_else(|| {
                of.push((value.clone(), 0, Counts::default()));
                of.len() - 1
            });
            of[at].1 += 1;
            of[at].2 += cell.counts;
        }
        all.0 += 1;
        all.1 += cell.counts;
    }
    let mut row = |name: &str, value: &str, cells: u64, c: &Counts| {
        let numbers = [
            cells,
            c.prompts,
            c.tokens,
            c.accepted,
            c.rejected,
            c.middle_rejected,
            c.stopped,
            c.catch_ups,
            c.preempted,
            c.differing,
        ];
        let numbers = numbers.iter().map(ToString::to_string);
        table.row([name.to_owned(), value.to_owned()].into_iter().chain(numbers).collect());
    };
    for (of, name) in sums.iter().zip(NAMES) {
        for (index, (value, cells, counts)) in of.iter().enumerate() {
            row(if index == 0 { name } else { "" }, value, *cells, counts);
        }
    }
    row("all", "", all.0, &all.1);
    table
}

/// The failure that the findings amount to, if they do.
fn verdict(found: &Found) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    let differing: u64 = found.cells.iter().map(|row| row.counts.differing).sum();
    if let Some(row) = found.cells.iter().find(|row| row.first.is_some())
        && let Some(first) = row.first
    {
        wrong.push(format!("{differing} outputs are not the target's; the first: {}: {first}", row.cell));
    }
    if !found.missing.is_empty() {
        wrong.push(format!("never happened, so it was not checked: {}", found.missing.join(", ")));
    }
    for Counting { name, test, .. } in found.distributions.iter().filter(|c| c.test.p_value < LEAST_P) {
        let impossible = test.impossible;
        wrong.push(format!(
            "{name}: p = {:.1e}, expected at least {LEAST_P:e}; {impossible} impossible outcomes",
            test.p_value
        ));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed(anyhow!(wrong.join("\n")))),
    }
}
