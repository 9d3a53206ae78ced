//! Random worlds, walked to their end with every cache compared after every pass.

use proptest::prelude::*;

use super::policies::Switching;
use super::*;

#[derive(Debug)]
struct Shape {
    pool: usize,
    apart: f64,
    coupled: bool,
    kv: u64,
    jobs: Vec<(u32, u32)>,
    batch: u32,
    budget: u32,
    hold: Option<u32>,
    seed: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let jobs = prop::collection::vec((1u32..40, 1u32..40), 1..10);
    (
        (1usize..5, 0.0..2.0f64, any::<bool>()),
        (90u64..400, jobs, 1u32..9),
        (40u32..120, prop::option::of(1u32..20), any::<u64>()),
    )
        .prop_map(|((pool, apart, coupled), (kv, jobs, batch), (budget, hold, seed))| Shape {
            pool,
            apart,
            coupled,
            kv,
            jobs,
            batch,
            budget,
            hold,
            seed,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn invariant_6_caches_are_prefixes_of_the_known_text_whatever_is_rolled_back(shape in shapes()) {
        let tables = (0..shape.pool).map(|m| Table::random(7, shape.seed, m as u64, shape.apart)).collect();
        let mut world = World::new(tables);
        world.verify = if shape.coupled { Verify::Coupled } else { Verify::Speculative };
        world.kv = (0..shape.pool).map(|m| shape.kv - 20 * (m as u64 % 2)).collect();
        world.limits.max_running = shape.batch;
        world.limits.token_budget = shape.budget;
        world.limits.hold_passes = shape.hold;
        world.seed = shape.seed;
        let jobs: Vec<Job> = shape.jobs.iter().enumerate().map(|(i, &(prompt, limit))| Job {
            prompt: (0..prompt).map(|t| (t * 5 + i as u32) % 7).collect(),
            limit,
            sampling: if i % 3 == 2 { Sampling::greedy() } else { Sampling::new(1.1, Some(6), None).unwrap() },
            seed: i as u64,
            stop: if i % 2 == 0 { vec![6] } else { vec![] },
        }).collect();
        let ran = run(&world, Switching::boxed(shape.seed, shape.pool), &jobs);
        for (job, text) in jobs.iter().zip(ran.finished.values()) {
            let output = text.output();
            prop_assert!(!output.is_empty() && output.len() <= job.limit as usize);
            let stop = output.iter().position(|t| job.stop.contains(t));
            prop_assert_eq!(stop.map(|at| at + 1 == output.len()), text.stopped.then_some(true));
            prop_assert_eq!(&text.text[..job.prompt.len()], &job.prompt[..]);
        }
    }
}

/// The worlds above really meet what they are meant to meet.
#[test]
fn the_walk_reaches_preemption_probes_and_catch_up() {
    let (mut preempted, mut probes, mut catch_ups, mut rejected) = (0, 0, 0, 0);
    for seed in 0..20 {
        let mut world = World::new((0..4).map(|m| Table::random(7, seed, m, 0.7)).collect());
        world.kv = vec![130; 4];
        world.limits.token_budget = 40;
        world.seed = seed;
        let job = |i: u32| Job {
            prompt: (0..5 + 7 * i % 30).map(|t| t % 7).collect(),
            limit: 30,
            sampling: plain(),
            seed: u64::from(i),
            stop: vec![],
        };
        let jobs: Vec<Job> = (0..10).map(job).collect();
        let ran = run(&world, Switching::boxed(seed, 4), &jobs);
        preempted += ran.preemptions;
        probes += ran.probes;
        catch_ups += ran.catch_ups;
        rejected += ran.rows.verifications.iter().filter(|v| v.accepted < v.drafted).count();
    }
    assert!(preempted > 20 && probes > 20 && catch_ups > 100 && rejected > 100);
}
