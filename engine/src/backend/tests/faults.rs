//! What goes wrong is an error that names it, and nothing panics.

use super::policies::Always;
use super::*;
use crate::sampling::{Distribution, Warper};

fn world() -> World {
    World::new(vec![Table::constant(&[0.5, 0.5]), Table::constant(&[0.7, 0.3])])
}

fn machine(world: &World) -> Machine<Keyed> {
    let policy = Box::new(Always(plan(&[0, 1], &[2])));
    Machine::new(world, policy, Keyed::new(Luck::new(1)))
}

fn prompt(tokens: &[u32]) -> Prompt {
    Prompt { tokens: tokens.to_vec(), sampling: plain(), seed: 0, stop: vec![] }
}

#[test]
fn prompts_that_cannot_be_run_are_refused() {
    let mut machine = machine(&world());
    let mut submit =
        |tokens: &[u32]| machine.backend.submit(RequestId(4), prompt(tokens)).map_err(|e| e.to_string());
    insta::assert_snapshot!(submit(&[]).unwrap_err(), @"request 4: a prompt has at least one token, got none");
    insta::assert_snapshot!(submit(&[0, 2]).unwrap_err(), @"request 4: prompt token 1 must be below the vocabulary's 2, got 2");
    assert_eq!(submit(&[0, 1]), Ok(()));
    insta::assert_snapshot!(submit(&[0]).unwrap_err(), @"request 4 was submitted before");
    assert_eq!(machine.backend.withdraw(RequestId(4)).unwrap().tokens, [0, 1]);
    assert_eq!(machine.backend.withdraw(RequestId(4)), None);
}

#[test]
fn pools_that_do_not_fit_together_are_refused() {
    let pool = |tables: &[&Arc<Table>]| {
        let models = tables.iter().enumerate().map(|(i, t)| Toy::new(i, t)).collect();
        EngineBackend::<Toy, Counting>::new(models, Verify::Speculative, Luck::new(1), Counting::default())
            .err()
            .unwrap()
            .to_string()
    };
    let (two, three) = (Table::constant(&[0.5, 0.5]), Table::constant(&[0.2, 0.3, 0.5]));
    insta::assert_snapshot!(pool(&[]), @"a pool has 1 to 8 models, got 0");
    insta::assert_snapshot!(pool(&[&two, &three]), @"the models of a pool share one vocabulary: toy-1 has 3 tokens, toy-0 has 2");
}

fn fails(mut machine: Machine<Keyed>) -> String {
    for _ in 0..50 {
        assert!(machine.begin());
        let pass = machine.replica.pass();
        if let Err(error) = machine.backend.run(&pass, &mut machine.outcome) {
            return error.to_string();
        }
        machine.now += machine.outcome.duration;
        machine
            .replica
            .finish(machine.now, &machine.outcome, &mut machine.backend, &mut machine.sink)
            .unwrap();
    }
    unreachable!("it fails")
}

#[test]
fn a_request_without_its_prompt_is_named() {
    let job = Job { prompt: vec![0, 1], limit: 5, sampling: plain(), seed: 0, stop: vec![] };
    let mut without = machine(&world());
    without.submit(0, &job);
    without.backend.withdraw(RequestId(0));
    insta::assert_snapshot!(fails(without), @"request 0: admitted with a prompt of 2 tokens, but 0 were submitted");
    let mut other = machine(&world());
    other.submit(0, &job);
    other.backend.withdraw(RequestId(0));
    other.backend.submit(RequestId(0), prompt(&[1])).unwrap();
    insta::assert_snapshot!(fails(other), @"request 0: admitted with a prompt of 2 tokens, but 1 were submitted");
}

#[test]
fn logits_without_a_maximum_are_named() {
    let mut world = world();
    world.tables[0] = Table::new(2, |_, _| vec![0.0, 0.0]);
    let mut machine = machine(&world);
    let job = Job { prompt: vec![0, 1], limit: 5, sampling: plain(), seed: 0, stop: vec![] };
    machine.submit(0, &job);
    insta::assert_snapshot!(fails(machine), @"toy-0, request 0: logits must have a finite maximum, row 0 of the pass has none");
}

#[test]
fn contents_that_disagree_with_counts_are_named() {
    let mut machine = machine(&world());
    let job = Job { prompt: vec![0, 1], limit: 5, sampling: plain(), seed: 0, stop: vec![] };
    machine.submit(0, &job);
    assert!(machine.begin());
    machine.finish();
    machine.backend.contents[0].as_mut().unwrap().text.push(1);
    insta::assert_snapshot!(fails(machine), @"slot 0: known tokens: expected 3, got 4");
}

#[test]
fn a_text_that_has_not_ended_can_be_read() {
    let mut machine = machine(&world());
    let job = Job { prompt: vec![0, 1], limit: 5, sampling: plain(), seed: 0, stop: vec![] };
    machine.submit(0, &job);
    assert!(machine.begin());
    machine.finish();
    let texts: Vec<_> = machine.backend.unfinished().collect();
    assert_eq!((texts[0].0, texts[0].1.len()), (RequestId(0), 3));
}

/// The similarity that a probe reports is that of the two models at the last committed positions.
#[test]
fn a_probe_compares_with_the_target_at_the_last_committed_positions() {
    for (verify, sampling) in [
        (Verify::Speculative, plain()),
        (Verify::Speculative, Sampling::new(0.8, Some(3), None).unwrap()),
        (Verify::Speculative, Sampling::greedy()),
        (Verify::Coupled, plain()),
    ] {
        let tables: Vec<_> = (0..2).map(|m| Table::random(6, 90, m, 0.6)).collect();
        let world = World { verify, ..World::new(tables.clone()) };
        let policy = Box::new(Always(plan(&[1], &[])));
        let mut machine = Machine::new(&world, policy, Keyed::new(Luck::new(3)));
        machine.submit(0, &Job { prompt: vec![0, 1, 2], limit: 60, sampling, seed: 5, stop: vec![] });
        for _ in 0..40 {
            assert!(machine.begin());
            machine.finish();
        }
        let contents = machine.backend.contents[0].as_mut().unwrap();
        let (text, output) = (contents.text.clone(), contents.output());
        for window in [1usize, 7, 32] {
            let end = text.len();
            let views = (end - window..end).map(|at| tables[0].logits(&text[..at]));
            let values: Vec<f32> = views.flatten().copied().collect();
            let logits = Logits { values: &values, vocabulary: 6 };
            let got = machine.backend.hand.probe(contents, window, logits).unwrap();
            assert!(output > 32 && usize::from(got.examined) == window);
            let noise = crate::coins::Noise::new(Luck::new(world.seed));
            let want: f64 = (end - window..end)
                .map(|at| {
                    let [p, q] = [1, 0].map(|m| tables[m].next(&text[..at], &sampling));
                    match verify {
                        Verify::Speculative => p.overlap(&q),
                        Verify::Coupled => f64::from(noise.choose(5, (at - 3) as u32, &q) == text[at]),
                    }
                })
                .sum();
            assert!((f64::from(got.similarity) - want).abs() < 1e-5, "{got:?} {want}");
        }
    }
}

/// Of a large vocabulary the likeliest tokens are kept and the rest as one: the overlap is never
/// understated, and overstated by less than the tail.
#[test]
fn a_probe_of_a_large_vocabulary_is_within_its_tail() {
    let logits = |seed| {
        let draws = Luck::new(seed).stream(specrouter_routing::luck::Stream::Test);
        (0..5000).map(|token| 2.0 * draws.normal(0, token) as f32).collect::<Vec<f32>>()
    };
    let warped = |seed| {
        let mut p = Distribution::default();
        Warper::default().warp(&logits(seed), &plain(), &mut p).unwrap();
        p
    };
    let mut hand = Hand::new(Verify::Speculative, Luck::new(1), Keyed::new(Luck::new(1)));
    for seed in 0..4 {
        let (p, q, mut part) = (warped(seed), warped(seed + 9), contents::Part::default());
        hand.remember(&mut part, p.clone(), 5000);
        assert!(part.distribution.len() == 256 && part.tail > 0.01);
        let (exact, kept) = (p.overlap(&q), part.overlap(&q));
        assert!(kept >= exact - 1e-12 && kept <= exact + part.tail, "{kept} {exact}");
        assert!((part.overlap(&p) - 1.0).abs() < 1e-9, "a model is like itself");
        hand.remember(&mut part, Distribution::point(3), 5000);
        assert!(part.tail <= 0.0 && part.distribution == Distribution::point(3));
    }
}
