//! Where tokens must agree, the output is the target's own, token for token; and a sequence's output
//! does not depend on its neighbours.

use super::policies::{Always, Switching};
use super::*;

fn world(verify: Verify) -> World {
    let tables = (0..3).map(|m| Table::random(12, 70, m, 0.5)).collect();
    World { verify, ..World::new(tables) }
}

fn jobs(count: u64, sampling: Sampling) -> Vec<Job> {
    let prompt = |i: u64| (0..3 + 5 * i % 11).map(|t| ((7 * t + 3 * i) % 12) as u32).collect();
    let limit = |i: u64| 25 + (7 * i % 20) as u32;
    (0..count)
        .map(|i| Job { prompt: prompt(i), limit: limit(i), sampling, seed: 100 + i, stop: vec![11] })
        .collect()
}

fn outputs(ran: &Ran) -> Vec<&[u32]> {
    ran.finished.values().map(Finished::output).collect()
}

fn chains() -> Vec<ChainPlan> {
    let chains: [(&[u8], &[u32]); 6] = [
        (&[0, 1, 2], &[3, 4]),
        (&[0, 1, 2], &[1, 1]),
        (&[0, 2], &[5]),
        (&[1, 2], &[2]),
        (&[0, 1, 2], &[2, 7]),
        (&[2], &[]),
    ];
    let mut plans: Vec<_> = chains.iter().map(|(models, windows)| plan(models, windows)).collect();
    plans.push(plan(&[0, 1, 2], &[4, 3]).stopping(StopRule::TopProbabilityBelow(0.4)));
    plans.push(plan(&[0, 2], &[6]).stopping(StopRule::EntropyAbove(1.5)));
    plans
}

#[test]
fn greedy_and_coupled_outputs_are_the_targets_alone_under_every_chain_batch_and_pressure() {
    let cut = Sampling::new(0.9, Some(8), Some(0.95)).unwrap();
    let modes = [
        (Verify::Speculative, Sampling::greedy()),
        (Verify::Coupled, Sampling::greedy()),
        (Verify::Coupled, plain()),
        (Verify::Coupled, cut),
    ];
    let (mut accepted, mut rejected, mut middle, mut catch_ups, mut preempted, mut probes) =
        (0, 0, 0, 0, 0, 0);
    for (verify, sampling) in modes {
        let jobs = jobs(24, sampling);
        let alone = run(&world(verify), Box::new(Always(plan(&[2], &[]))), &jobs);
        for batch in [1, 3, 8] {
            for tight in [false, true] {
                let mut world = world(verify);
                world.limits.max_running = batch;
                if tight {
                    world.kv = vec![100, 88, 96];
                    world.limits.token_budget = 40;
                }
                let mut check = |policy: Box<dyn Policy>| {
                    let ran = run(&world, policy, &jobs);
                    assert_eq!(outputs(&ran), outputs(&alone), "{verify:?} {sampling:?} batch {batch}");
                    for seen in &ran.rows.verifications {
                        accepted += u64::from(seen.accepted);
                        rejected += u64::from(seen.accepted < seen.drafted);
                        middle += u64::from(seen.verifier.0 == 1 && seen.accepted < seen.drafted);
                    }
                    (catch_ups, probes) = (catch_ups + ran.catch_ups, probes + ran.probes);
                    preempted += ran.preemptions;
                };
                chains().into_iter().for_each(|plan| check(Box::new(Always(plan))));
                (0..3).for_each(|seed| check(Switching::boxed(seed, 3)));
            }
        }
    }
    let seen = [accepted, rejected, middle, catch_ups, u64::from(preempted), probes];
    assert!(seen.iter().all(|&n| n > 100), "what should have happened did: {seen:?}");
}

#[test]
fn a_greedy_output_is_the_argmax_of_the_target_at_every_position() {
    let (world, jobs) = (world(Verify::Speculative), jobs(6, Sampling::greedy()));
    let ran = run(&world, Box::new(Always(plan(&[0, 1, 2], &[3, 4]))), &jobs);
    for (job, finished) in jobs.iter().zip(ran.finished.values()) {
        for end in job.prompt.len()..finished.text.len() {
            let next = world.target().next(&finished.text[..end], &job.sampling);
            assert_eq!(next.id(0), finished.text[end]);
        }
        assert_eq!(finished.stopped, finished.output().last() == Some(&11));
        assert!(finished.stopped || finished.output().len() == job.limit as usize);
    }
}

#[test]
fn invariant_10_a_sampled_output_is_the_same_alone_and_among_neighbours() {
    let world = world(Verify::Speculative);
    let jobs = jobs(12, plain());
    for plan in chains() {
        let mut crowd = world.clone();
        crowd.limits.max_running = 8;
        let together = run(&crowd, Box::new(Always(plan)), &jobs);
        let mut alone = world.clone();
        alone.limits.max_running = 1;
        let apart = run(&alone, Box::new(Always(plan)), &jobs);
        assert_eq!(outputs(&together), outputs(&apart), "{plan}");
        assert!(together.rows.verifications.len() == apart.rows.verifications.len());
    }
}

/// Keep, then stop: an unsure draft is still submitted, and it is the fill's last.
#[test]
fn stop_rules_end_a_fill_after_the_token_that_they_fire_on() {
    let drafted = |stop, sampling| {
        let plan = plan(&[0, 1, 2], &[3, 1]).stopping(stop);
        let jobs: Vec<Job> = jobs(4, sampling).into_iter().map(|job| Job { stop: vec![], ..job }).collect();
        let ran = run(&world(Verify::Speculative), Box::new(Always(plan)), &jobs);
        let cycles = ran.rows.verifications.iter().filter(|v| v.verifier.0 == 1);
        cycles.map(|v| v.drafted).collect::<Vec<_>>()
    };
    for sampling in [Sampling::greedy(), plain()] {
        assert!(drafted(StopRule::TopProbabilityBelow(1.1), sampling).iter().all(|&d| d == 1));
        assert!(drafted(StopRule::EntropyAbove(-1.0), sampling).iter().all(|&d| d == 1));
        let whole = drafted(StopRule::EntropyAbove(9.0), sampling);
        assert_eq!(whole, drafted(StopRule::Never, sampling));
        // At the limit's end windows are clamped.
        assert!(whole.iter().filter(|&&d| d == 3).count() * 10 > whole.len() * 9);
        let some = drafted(StopRule::TopProbabilityBelow(0.4), sampling);
        assert!(some.contains(&1) && some.contains(&2) && some.contains(&3));
    }
}

#[test]
fn every_token_is_told_with_the_model_that_put_it_there() {
    let ran =
        run(&world(Verify::Speculative), Box::new(Always(plan(&[0, 1, 2], &[3, 4]))), &jobs(12, plain()));
    let by = |model| ran.heard.values().flatten().filter(|t| t.model == ModelId(model)).count();
    assert!((0..3).all(|model| by(model) > 10), "{:?}", [by(0), by(1), by(2)]);
    // The target's own tokens end rounds: corrections, bonuses, and the first.
    let rounds: usize = ran.rows.requests.iter().map(|r| r.rounds as usize).sum();
    assert!(by(2) <= rounds && by(2) + 12 >= rounds);
    assert!(ran.heard.values().all(|told| told[0].model == ModelId(2) && told[0].level == 0));
}
