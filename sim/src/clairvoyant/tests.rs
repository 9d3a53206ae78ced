use specrouter_routing::chain::ChainPlan;
use specrouter_routing::ids::{ClassId, ModelId, RequestId};
use specrouter_routing::policies::StaticChain;
use specrouter_routing::profile::Linear;
use specrouter_routing::replica::Limits;
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Time;

use super::*;
use crate::acceptance::AcceptanceConfig;
use crate::acceptance::tests::{classes, heterogeneous, pairs, pool, regime};
use crate::bound::tests::toys::{NAMES, Toy};
use crate::cost::CostModel;

/// The policy for a toy's requests.
pub(crate) fn of(toy: &Toy) -> Box<dyn Policy> {
    let outputs: Vec<u32> = toy.requests.iter().map(|r| r.truth.output_tokens()).collect();
    let output_of = Box::new(move |id: RequestId| outputs[id.0 as usize]);
    Box::new(Clairvoyant::new(Arc::clone(&toy.source), toy.luck, toy.models, output_of))
}

/// Four requests of 200 tokens whose models agree in stretches and then do not.
fn stretches(batch: u32, seed: u64) -> Toy {
    let rates = pairs(&[("a", "b", 0.8), ("b", "c", 0.85), ("a", "c", 0.72)]);
    let mut config = heterogeneous(&[("all", rates)]);
    config.regime = regime(12.0, 0.25);
    let config = AcceptanceConfig::Heterogeneous(config);
    let source = Source::resolve(&config, &pool(&NAMES[..3]), &classes(&["x"])).unwrap();
    let request = |id| Request {
        id: RequestId(id),
        class: ClassId(0),
        arrival: Time::ZERO,
        prompt_tokens: 20,
        limit: 200,
        priority: 0,
        slo: Slo::default(),
        truth: Truth::new(200),
    };
    Toy {
        models: 3,
        source: Arc::new(source),
        luck: Luck::new(seed),
        costs: Arc::new(CostModel::linear(Linear::constant(&[0.02, 0.15, 1.0]).unwrap())),
        falling: false,
        limits: Limits {
            max_running: batch,
            token_budget: 512,
            max_block: 16,
            hold_passes: None,
            context: 1 << 12,
            by_priority: false,
        },
        replicas: 1,
        kv: vec![1 << 14; 3],
        block_size: 16,
        requests: (0..4).map(request).collect(),
    }
}

/// The static plan with the least total, by trying them.
fn best_static(toy: &Toy) -> (u64, ChainPlan) {
    let mut plans = vec![ChainPlan::target_only(ModelId(2))];
    for window in 1..=12 {
        for drafter in [0, 1] {
            plans.push(ChainPlan::new(&[ModelId(drafter), ModelId(2)], &[window]).unwrap());
        }
        for lower in 1..=6 {
            if window + lower <= 16 {
                plans.push(ChainPlan::new(&[0, 1, 2].map(ModelId), &[lower, window]).unwrap());
            }
        }
    }
    plans
        .into_iter()
        .map(|plan| (toy.run(|| Box::new(StaticChain::new(plan))).total(), plan))
        .min_by_key(|(total, _)| *total)
        .unwrap()
}

#[test]
fn it_beats_the_best_static_plan_where_the_future_matters() {
    for seed in 0..3 {
        let toy = stretches(1, seed);
        let (fixed, plan) = best_static(&toy);
        let known = toy.run(|| of(&toy)).total();
        assert!((known as f64) < 0.9 * fixed as f64, "seed {seed}: {known} against {fixed} of {plan}");
        let bound = toy.bound();
        // They wait for one another: the first service is in four times.
        let served = bound.requests.iter().zip([4, 3, 2, 1]);
        let least: u64 = served.map(|(r, waits)| waits * r.e2e().nanos()).sum();
        let over = known as f64 / least as f64;
        println!(
            "seed {seed}: {:.3} of the best static plan {plan}, {over:.3} of the bound",
            known as f64 / fixed as f64
        );
        assert!((1.0..1.1).contains(&over), "seed {seed}: {over}");
        // A bad policy does not.
        let bad = ChainPlan::new(&[0, 1, 2].map(ModelId), &[1, 15]).unwrap();
        assert!(toy.run(|| Box::new(StaticChain::new(bad))).total() > fixed);
    }
}

#[test]
fn it_holds_its_own_in_a_batch() {
    let toy = stretches(4, 5);
    let (fixed, plan) = best_static(&toy);
    let known = toy.run(|| of(&toy)).total();
    assert!(known < fixed, "{known} against {fixed} of {plan}");
}

/// Plays what will happen: the predicted tokens are those of the round, and at batch 1 so is its time.
#[test]
fn what_it_foresees_happens() {
    use specrouter_routing::record::{DecisionRecord, RequestRecord, RoundRecord, Sink, Wants};
    #[derive(Default)]
    struct Foreseen(Vec<(RequestId, f32)>, Vec<(RequestId, f32)>);
    impl Sink for Foreseen {
        fn wants(&self) -> Wants {
            Wants { rounds: true, decisions: true, ..Wants::default() }
        }
        fn request(&mut self, _: &RequestRecord) {}
        fn decision(&mut self, record: &DecisionRecord) {
            assert_eq!(record.planned, record.executed);
            self.0.push((record.request, record.predicted.unwrap().tokens));
        }
        fn round(&mut self, record: &RoundRecord) {
            if record.position > 0 {
                self.1.push((record.request, f32::from(record.emitted)));
            }
        }
    }
    let toy = stretches(1, 2);
    let mut sink = Foreseen::default();
    toy.run_into(|| of(&toy), &mut sink);
    assert!(sink.0.len() > 50);
    assert_eq!(sink.0, sink.1);
}
