//! Exactness on real decoders: greedy and coupled outputs are the target's own, token for token, whatever
//! serves them; and `specrouter selfcheck`, which runs the long version.

use std::path::{Path, PathBuf};

use specrouter_engine::sampling::Sampling;
use specrouter_engine::selfcheck::cells::{Cell, FACTORS, Factors, NAMES};
use specrouter_engine::selfcheck::distribution::{Draw, TOKENS, count_trees, g_test, law};
use specrouter_engine::selfcheck::exact::{Counts, Subject, most_kv_tokens};
use specrouter_engine::selfcheck::tree::Tree;
use specrouter_engine::selfcheck::{Task, folder_pool, nested_pool, random_tasks, text_tasks};
use specrouter_engine::settings::Dtype;
use specrouter_engine::tokenizer::Tokenizer;
use specrouter_routing::chain::ChainPlan;
use specrouter_routing::ids::ModelId;
use specrouter_routing::luck::Luck;

use crate::program::Folder;

/// The shipped family, cheapest first.
const FAMILY: [&str; 4] = ["tiny", "small", "medium", "large"];

/// Agreement of draft and middle model with the target: 0.55 and 0.65, 0.30 and 0.43 (in f32). The second pool's
/// weights are bf16, which run on the tile unit where there is one.
const EPS: [((f32, f32), Dtype); 2] = [((0.3, 0.2), Dtype::F32), ((0.6, 0.4), Dtype::Bf16)];

const PROMPTS: &str = include_str!("../src/commands/selfcheck_prompts.txt");

#[track_caller]
fn every_pair_occurs(factors: &Factors, cells: &[Cell]) {
    let sizes = factors.sizes();
    for a in 0..FACTORS {
        for b in 0..a {
            for (i, j) in (0..sizes[a]).flat_map(|i| (0..sizes[b]).map(move |j| (i, j))) {
                let met = cells.iter().any(|cell| cell.0[a] == i && cell.0[b] == j);
                assert!(
                    met,
                    "{} {} with {} {}",
                    NAMES[a],
                    factors.value(a, i),
                    NAMES[b],
                    factors.value(b, j)
                );
            }
        }
    }
}

/// 200 prompts, each in one cell; every pair of values occurs, and so does all that may go wrong.
#[test]
fn outputs_of_nested_models_are_the_targets_alone_in_every_pair_of_settings() {
    let pools = EPS.map(|((mid, top), dtype)| format!("nested {mid}/{top} {dtype:?}"));
    let factors = Factors::new(pools.to_vec(), 3, (0.15, 3.5));
    let (cells, tasks) = (factors.pairwise(), random_tasks(256, 200, 1));
    every_pair_occurs(&factors, &cells);
    // A batch is filled, and a place in it used again.
    let mut shares: Vec<usize> = cells.iter().map(|cell| factors.batch(cell) as usize + 1).collect();
    let left = tasks.len().checked_sub(shares.iter().sum()).expect("200 prompts fill every batch");
    (0..left).for_each(|turn| shares[turn % cells.len()] += 1);
    assert_eq!(shares.iter().sum::<usize>(), 200, "each prompt in one cell");
    let kv = most_kv_tokens(&tasks, &factors);
    let subject =
        |(eps, dtype)| Subject::new(nested_pool(11, eps, dtype, kv).unwrap(), tasks.clone(), Luck::new(2));
    let mut subjects = EPS.map(subject);
    let (mut total, mut next) = (Counts::default(), 0);
    for (cell, share) in cells.iter().zip(shares) {
        let share: Vec<usize> = (next..next + share).collect();
        next += share.len();
        let report = subjects[cell.0[0]].check(&factors, cell, &share).unwrap();
        assert!(report.first.is_none(), "{}: {}", factors.describe(cell), report.first.unwrap());
        total += report.counts;
    }
    assert_eq!(total.prompts, 200);
    assert_eq!(total.missing(), <[&str; 0]>::default(), "{total:?}");
    assert!(total.accepted > 500 && total.rejected > 500 && total.middle_rejected > 200, "{total:?}");
    assert!(total.catch_ups > 200 && total.preempted > 20 && total.stopped > 50, "{total:?}");
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

fn family(names: &[&str], kv_tokens: u64) -> Vec<specrouter_engine::decoder::Decoder> {
    let folders: Vec<PathBuf> = names.iter().map(|name| models().join(name)).collect();
    let named: Vec<(String, &Path)> =
        names.iter().zip(&folders).map(|(name, folder)| ((*name).to_owned(), folder.as_path())).collect();
    folder_pool(&named, kv_tokens).unwrap()
}

fn prompts() -> Vec<Task> {
    let tokenizer = Tokenizer::open(&models().join(FAMILY[0]), FAMILY[0]).unwrap();
    text_tasks(&tokenizer, &PROMPTS.lines().collect::<Vec<_>>()).unwrap()
}

#[test]
fn outputs_of_the_shipped_family_are_the_targets_alone() {
    let (factors, tasks) = (Factors::new(vec!["family".to_owned()], 4, (0.3, 2.5)), prompts());
    assert_eq!(tasks.len(), 20);
    let cells = factors.pairwise();
    every_pair_occurs(&factors, &cells);
    let models = family(&FAMILY, most_kv_tokens(&tasks, &factors));
    let mut subject = Subject::new(models, tasks, Luck::new(3));
    let (mut total, mut next) = (Counts::default(), 0);
    for cell in &cells {
        let share = factors.batch(cell) as usize + 1;
        let share: Vec<usize> = (next..next + share).map(|task| task % 20).collect();
        next += share.len();
        let report = subject.check(&factors, cell, &share).unwrap();
        assert!(report.first.is_none(), "{}: {}", factors.describe(cell), report.first.unwrap());
        total += report.counts;
    }
    assert_eq!(total.missing(), <[&str; 0]>::default(), "{total:?}");
    assert!(total.accepted > 500 && total.rejected > 200 && total.middle_rejected > 50, "{total:?}");
}

/// Tiny, medium and large, behind a prompt that leaves few continuations likely: each context is run once.
#[test]
fn a_million_outputs_over_the_familys_logits_are_distributed_as_the_target() {
    const DRAWS: u64 = 1_000_000;
    let names = [FAMILY[0], FAMILY[2], FAMILY[3]];
    let sampling = Sampling::new(0.8, None, Some(0.9)).unwrap();
    let prompt = "def add(a, b):";
    let tokenizer = Tokenizer::open(&models().join(FAMILY[0]), FAMILY[0]).unwrap();
    let prompt = tokenizer.encode_user(prompt).unwrap();
    let trees: Vec<_> =
        family(&names, 8192).into_iter().map(|model| Tree::new(model, &prompt, TOKENS - 1)).collect();
    let plan = ChainPlan::new(&[ModelId(0), ModelId(1), ModelId(2)], &[2, 2]).unwrap();
    let draw = Draw { prompt, sampling, limit: 4, plan, luck: Luck::new(5) };
    let counted = count_trees(&trees, &draw, DRAWS).unwrap();
    let test = g_test(&counted.outcomes, &law(&trees[2], &sampling, DRAWS).unwrap());
    assert!(test.draws == DRAWS && test.cells > 50, "{test:?}");
    assert!(counted.accepted > DRAWS / 2 && counted.rejected > DRAWS / 10, "both happened");
    assert!(test.p_value > 1e-3, "{test:?}");
}

#[test]
fn a_folder_without_the_family_is_told_what_is_missing() {
    let output = Folder::new().run(&["selfcheck", "--quick"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("models/tiny") && error.contains("--models"), "{error}");
    assert!(output.stdout.is_empty());
}
