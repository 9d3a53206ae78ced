//! `chain_router`: what it knows that others do not.

use super::*;

fn router() -> PolicyConfig {
    policy(r#"{"chain_router": {}}"#)
}

/// Text of two kinds at a batch where verification is dear, prompts coming all the time, and a middle model that is
/// nearly as dear as the target.
fn crowd() -> World {
    World {
        times_ms: [(0.5, 0.002), (8.0, 0.04), (10.0, 0.06)],
        alphas: vec![[0.8, 0.75, 0.85], [0.4, 0.2, 0.7]],
        users: Some(48),
        requests: 400,
        ..World::default()
    }
}

fn mean_window(outcome: &Outcome, class: u16) -> f64 {
    let own: Vec<f64> = outcome
        .decisions
        .iter()
        .filter(|(_, request, _)| request.0 % 2 == u64::from(class))
        .map(|(_, _, plan)| f64::from(plan.block()))
        .collect();
    own.iter().sum::<f64>() / own.len() as f64
}

#[test]
fn chain_router_drafts_further_for_text_that_is_kept_and_beats_specrouter_and_every_window() {
    let world = crowd();
    let ours = world.run(&router());
    let (easy, hard) = (mean_window(&ours, 0), mean_window(&ours, 1));
    assert!(easy > 1.5 * hard, "{easy} drafted for the easy class, {hard} for the hard one");
    let paper = world.run(&policy(r#"{"specrouter": {}}"#));
    let fixed =
        (1..6).map(|w| world.run(&fixed(&["small", "large"], &[w])).tokens_per_s()).fold(0.0, f64::max);
    let (ours, paper) = (ours.tokens_per_s(), paper.tokens_per_s());
    assert!(ours > paper && ours > fixed, "{ours} against {paper} and {fixed} tokens/s");
}

#[test]
fn chain_router_lets_one_draft_ride_along_with_a_prompt() {
    // Prompts of four chunks, a gap long enough for most to run beside sequences that decode.
    let world =
        World { users: None, gap_ms: 700.0, prompt: 8000, requests: 40, output: 200, ..World::default() };
    let ours = world.run(&router());
    let (mut riding, mut free) = (Vec::new(), Vec::new());
    for (time, request, plan) in &ours.decisions {
        // A request's prompt runs for some 4 x 130 ms from its arrival, if it is not the one that decides.
        let since = time.seconds() * 1e3 % 700.0;
        let other = request.0 < (time.seconds() * 1e3 / 700.0) as u64;
        match (other, since < 300.0) {
            _ if time.seconds() > 27.0 => {}
            (true, true) => riding.push(plan.block()),
            _ if since > 600.0 => free.push(plan.block()),
            _ => {}
        }
    }
    let mean = |blocks: &[u32]| blocks.iter().sum::<u32>() as f64 / blocks.len() as f64;
    assert!(riding.len() > 20 && free.len() > 20, "{} and {}", riding.len(), free.len());
    assert!(riding.iter().all(|&block| block <= 1), "{riding:?}");
    assert!(mean(&free) > 2.5, "{} tokens a round where nothing rides", mean(&free));
}

#[test]
fn chain_router_brings_no_model_up_to_date_for_an_output_too_short_to_pay_for_it() {
    // The middle model is worth its drafts, but not a prompt of 6,000 tokens for an answer of ten.
    let with_middle = |output: u32| {
        let world = World {
            times_ms: [(0.5, 0.002), (2.0, 0.03), (10.0, 0.06)],
            alphas: vec![[0.4, 0.3, 0.9]],
            prompt: 6000,
            output,
            requests: 4000 / u64::from(output),
            ..World::default()
        };
        world.run(&router()).share(0.5, |plan| plan.uses(specrouter_routing::ids::ModelId(1)))
    };
    let (short, long) = (with_middle(10), with_middle(800));
    assert!(
        long > 0.8 && short < 0.2,
        "the middle model drafts in {short} of short and {long} of long answers"
    );
}

/// A chain of three is best, but who never tries the pair below the target cannot know.
fn deep(seed: u64) -> World {
    World {
        times_ms: [(1.0, 0.002), (2.5, 0.01), (25.0, 0.06)],
        alphas: vec![[0.75, 0.62, 0.85]],
        spread: 0.1,
        requests: 60,
        output: 150,
        seed,
        ..World::default()
    }
}

#[test]
fn chain_router_finds_the_deep_chain_whatever_text_comes_first() {
    for seed in 0..12 {
        let deep = deep(seed).run(&router()).share(0.5, |plan| plan.depth() == 3);
        assert!(deep > 0.8, "seed {seed}: the chain of three in {deep} of the last decisions");
    }
}

#[test]
fn chain_router_finds_the_deep_chain_in_a_batch() {
    for seed in 0..4 {
        let world = World {
            times_ms: [(0.2, 0.001), (2.0, 0.01), (25.0, 0.02)],
            alphas: vec![[0.85, 0.62, 0.75]],
            users: Some(4),
            requests: 200,
            ..deep(seed)
        };
        let deep = world.run(&router()).share(0.5, |plan| plan.depth() == 3);
        assert!(deep > 0.8, "seed {seed}: the chain of three in {deep} of the last decisions");
    }
}

#[test]
fn chain_router_lets_one_sequence_try_a_chain_for_four_rounds_and_rarely() {
    // A middle model that might be of use, and is not.
    let world = World {
        times_ms: [(0.5, 0.002), (6.0, 0.01), (10.0, 0.06)],
        alphas: vec![[0.5, 0.5, 0.9]],
        users: Some(4),
        requests: 200,
        ..World::default()
    };
    let ours = world.run(&router());
    let deep = |plan: &ChainPlan| plan.depth() == 3;
    let mut trials: BTreeMap<RequestId, usize> = BTreeMap::new();
    for (_, request, plan) in &ours.decisions {
        *trials.entry(*request).or_default() += usize::from(deep(plan));
    }
    trials.retain(|_, rounds| *rounds > 0);
    let share = ours.share(1.0, deep);
    // More than one: probes of the middle model under the target do not put off the pair below it for ever.
    assert!(trials.len() > 1 && trials.values().all(|&rounds| rounds <= 4), "{trials:?}");
    assert!(share < 0.01, "trials are {share} of all rounds: {trials:?}");
}

#[test]
fn chain_router_tells_classes_apart_that_run_alone_in_turn() {
    let world = World { alphas: vec![[0.85, 0.85, 0.9], [0.1, 0.05, 0.1]], ..World::default() };
    let ours = world.run(&router());
    let (easy, hard) = (mean_window(&ours, 0), mean_window(&ours, 1));
    assert!(easy > 4.0 && hard < 1.0, "{easy} drafted for the easy class, {hard} for the hopeless one");
}
