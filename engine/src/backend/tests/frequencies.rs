//! Production coins, counted: a G-test of the first tokens of many outputs against the target.

use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::enumerate::target_law;
use super::policies::{Always, Switching};
use super::*;

/// p-value of the one-sample G-test; cells are merged until 5 are expected in each.
fn g_test(counts: &BTreeMap<Vec<u32>, u64>, law: &BTreeMap<Vec<u32>, f64>) -> f64 {
    let n: u64 = counts.values().sum();
    assert!(counts.keys().all(|outcome| law.contains_key(outcome)), "nothing impossible happened");
    let mut cells: Vec<(f64, f64)> = law
        .iter()
        .map(|(outcome, p)| (p * n as f64, counts.get(outcome).copied().unwrap_or(0) as f64))
        .collect();
    cells.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut merged = vec![(0.0, 0.0)];
    for (expected, seen) in cells.into_iter().rev() {
        let last = merged.last_mut().unwrap();
        *last = (last.0 + expected, last.1 + seen);
        if last.0 >= 5.0 {
            merged.push((0.0, 0.0));
        }
    }
    let open = merged.pop().unwrap();
    let last = merged.last_mut().unwrap();
    *last = (last.0 + open.0, last.1 + open.1);
    let g: f64 = merged.iter().filter(|c| c.1 > 0.0).map(|&(e, o)| 2.0 * o * (o / e).ln()).sum();
    ChiSquared::new(merged.len() as f64 - 1.0).unwrap().sf(g)
}

/// The p-value of the first three tokens of `draws` outputs.
fn p_value(world: &World, policy: Box<dyn Policy>, draws: u64, sampling: Sampling) -> f64 {
    let job = |seed| Job { prompt: vec![1, 0], limit: 6, sampling, seed, stop: vec![] };
    let jobs: Vec<Job> = (0..draws).map(job).collect();
    let mut machine = Machine::new(world, policy, Keyed::new(Luck::new(world.seed)));
    for (id, job) in jobs.iter().enumerate() {
        machine.submit(id as u64, job);
    }
    while machine.begin() {
        machine.finish();
    }
    let mut counts = BTreeMap::new();
    for text in machine.backend.take_finished() {
        *counts.entry(text.output()[..3].to_vec()).or_default() += 1;
    }
    assert_eq!(counts.values().sum::<u64>(), draws);
    g_test(&counts, &target_law(world, &jobs[0], 3))
}

const DRAWS: u64 = 100_000;

fn world(broken: Option<Broken>) -> World {
    let tables = (0..3).map(|m| Table::random(5, 80, m, 0.8)).collect();
    World { broken, ..World::new(tables) }
}

#[test]
fn a_hundred_thousand_outputs_are_distributed_as_the_target_and_broken_rules_show() {
    let cut = Sampling::new(0.8, None, Some(0.9)).unwrap();
    let deep = || -> Box<dyn Policy> { Box::new(Always(plan(&[0, 1, 2], &[2, 2]))) };
    let lossless = p_value(&world(None), deep(), DRAWS, plain());
    assert!(lossless > 1e-3, "static: p = {lossless:e}");
    let switching = p_value(&world(None), Switching::boxed(5, 3), DRAWS, cut);
    assert!(switching > 1e-3, "switching, warped: p = {switching:e}");
    for broken in [Broken::FromP(ModelId(1)), Broken::AcceptedOnly] {
        let p = p_value(&world(Some(broken)), deep(), DRAWS, plain());
        assert!(p < 1e-6, "{broken:?} must show: p = {p:e}");
    }
}

#[test]
fn preemption_and_coupled_noise_leave_the_law_as_it_is() {
    let mut tight = world(None);
    tight.kv = vec![40, 36, 32];
    let p = p_value(&tight, Switching::boxed(6, 3), 30_000, plain());
    assert!(p > 1e-3, "tight memory: p = {p:e}");
    let coupled = World { verify: Verify::Coupled, ..world(None) };
    let p = p_value(&coupled, Switching::boxed(7, 3), 30_000, plain());
    assert!(p > 1e-3, "coupled: p = {p:e}");
}
