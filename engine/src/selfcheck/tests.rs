//! The checks find what is there to be found.

use specrouter_routing::ids::Slot;
use specrouter_routing::luck::Luck;

use super::cells::{Cell, Factors};
use super::exact::{Counts, Subject, alone};
use super::*;
use crate::level::{LevelModel, Packed, PackedRow};

fn factors() -> Factors {
    Factors::new(vec!["nested".to_owned()], 3, (0.15, 3.5))
}

/// A decoder that, where a pass has many rows, is off by a little: what other engines' kernels do.
struct Sloppy(Decoder);

impl LevelModel for Sloppy {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn vocabulary(&self) -> usize {
        self.0.vocabulary()
    }
    fn forward(&mut self, packed: &Packed, logits: &mut Vec<f32>) -> Result<(), ForwardError> {
        self.0.forward(packed, logits)?;
        if packed.tokens.len() > 1 {
            for (index, logit) in logits.iter_mut().enumerate() {
                *logit += 0.02 * (index as f32).sin();
            }
        }
        Ok(())
    }
    fn truncate(&mut self, slot: Slot, len: u32) {
        self.0.truncate(slot, len);
    }
    fn cached(&self, slot: Slot) -> u32 {
        self.0.cached(slot)
    }
}

#[test]
fn kernels_that_depend_on_the_number_of_rows_are_found_out() {
    let tasks = random_tasks(256, 40, 3);
    let models = nested_pool(3, (0.3, 0.2), Dtype::F32, 4096).unwrap().into_iter().map(Sloppy).collect();
    let mut subject = Subject::new(models, tasks, Luck::new(1));
    let cell = Cell([0, 3, 1, 2, 0, 0, 0, 0]);
    let report = subject.check(&factors(), &cell, &(0..40).collect::<Vec<_>>()).unwrap();
    let first = report.first.expect("the sloppy pool was to differ");
    assert!(report.counts.differing > 0 && first.expected != first.got, "{first}");
}

#[test]
fn a_check_in_which_nothing_happened_says_so() {
    let mut subject = Subject::new(
        nested_pool(3, (0.3, 0.2), Dtype::F32, 4096).unwrap(),
        random_tasks(256, 3, 3),
        Luck::new(1),
    );
    // The target alone, one at a time.
    let report = subject.check(&factors(), &Cell([0; 8]), &[0, 1, 2]).unwrap();
    assert_eq!(report.first, None);
    let missing = [
        "tokens kept",
        "tokens rejected",
        "tokens rejected below the target",
        "fills ended by a stop rule",
        "catch-ups",
        "preemptions",
    ];
    assert_eq!(report.counts.missing(), missing);
    assert_eq!(Counts::default().missing().len(), 7);
}

#[test]
fn flips_are_counted_with_their_margins() {
    let tasks = random_tasks(256, 12, 5);
    let [.., mut target] =
        <[Decoder; 3]>::try_from(nested_pool(5, (0.3, 0.2), Dtype::F32, 4096).unwrap()).unwrap();
    let texts: Vec<Vec<u32>> = tasks
        .iter()
        .map(|task| {
            let output = alone(&mut target, task, cells::Decoding::Greedy, Luck::new(1)).unwrap();
            [&task.tokens[..], &output].concat()
        })
        .collect();
    let same =
        flips::flips(&mut target, &mut nested_pool(5, (0.3, 0.2), Dtype::F32, 4096).unwrap()[2], &texts, 3)
            .unwrap();
    assert_eq!((same.flips, same.differing, same.texts), (0, 0, 12));
    assert!(same.most_apart.to_bits() == 0 && same.median_margin > 0.0 && same.margins.is_empty());
    let mut sloppy = Sloppy(nested_pool(5, (0.3, 0.2), Dtype::F32, 4096).unwrap().remove(2));
    let alone = flips::flips(&mut target, &mut sloppy, &texts, 1).unwrap();
    assert_eq!(alone.flips, 0, "it is exact one token at a time");
    let apart = flips::flips(&mut target, &mut sloppy, &texts, 4).unwrap();
    assert!(apart.flips > 0 && apart.rate() < 0.1 && apart.most_apart < 0.0201, "{apart:?}");
    assert_eq!(apart.margins.len() as u64, apart.differing);
    assert!(apart.margins.iter().all(|&margin| margin <= 0.0401), "only near ties flip: {apart:?}");
}

#[test]
fn a_tree_says_what_its_model_says() {
    let pool = || nested_pool(7, (0.3, 0.2), Dtype::F32, 4096).unwrap().remove(1);
    let (prompt, mut real) = ([5u32, 17, 200], pool());
    let mut tree = tree::Tree::new(pool(), &prompt, 2);
    let row = |slot, context, tokens: u32| PackedRow { slot: Slot(slot), context, tokens };
    let mut both = |tokens: &[u32], rows: &[PackedRow], want: &[u32]| {
        let packed = Packed { tokens: tokens.to_vec(), rows: rows.to_vec(), want: want.to_vec() };
        let (mut a, mut b) = (Vec::new(), Vec::new());
        real.forward(&packed, &mut a).unwrap();
        tree.forward(&packed, &mut b).unwrap();
        for &PackedRow { slot, context, tokens } in rows {
            assert_eq!(tree.cached(slot), context + tokens);
            for model in [&mut real as &mut dyn LevelModel, &mut tree] {
                model.truncate(slot, (context + tokens).saturating_sub(1));
            }
        }
        assert!(a == b, "behind {tokens:?}");
    };
    both(&[5, 17, 200, 5, 17], &[row(0, 0, 3), row(1, 0, 2)], &[2]);
    both(&[200, 9, 17, 200, 31], &[row(0, 2, 2), row(1, 1, 3)], &[0, 1, 3, 4]);
    both(&[9, 44], &[row(0, 3, 2)], &[0, 1]);
    both(&[60], &[row(0, 4, 1)], &[0]);
    assert_eq!(tree.computed(), 5, "each context once");
    // Past its depth it repeats what it said there.
    let deeper = Packed { tokens: vec![60, 3], rows: vec![row(0, 4, 2)], want: vec![0, 1] };
    let mut logits = Vec::new();
    tree.forward(&deeper, &mut logits).unwrap();
    assert!(logits[..256] == logits[256..] && tree.computed() == 5);
    let wrong = Packed { tokens: vec![6], rows: vec![row(2, 0, 1)], want: vec![] };
    insta::assert_snapshot!(tree.forward(&wrong, &mut Vec::new()).unwrap_err(), @"nested-mid: packed pass: token of the prompt: expected 5, got 6");
}
