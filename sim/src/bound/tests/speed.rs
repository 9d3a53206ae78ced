//! How long a bound takes, and how far real policies stay from it. By hand:
//! `cargo test --release -p specrouter-sim -- --ignored --nocapture speed`.

use std::sync::Arc;
use std::time::Instant;

use specrouter_routing::chain::ChainPlan;
use specrouter_routing::ids::{ClassId, ModelId, RequestId};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policy::{Policy, StaticChain};
use specrouter_routing::profile::ModelSpec;
use specrouter_routing::replica::Limits;
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Time;

use super::toys::{NAMES, Toy};
use crate::acceptance::tests::{classes, heterogeneous, pairs, pool, regime};
use crate::acceptance::{AcceptanceConfig, Source};
use crate::clairvoyant::tests::of as clairvoyant;
use crate::cost::tests::{cost, llama_8b, llama_70b};

/// Llamas of 68M, 1B, 8B and 70B on four H100.
fn llamas() -> Vec<ModelSpec> {
    let b8 = llama_8b();
    let m68 = ModelSpec {
        name: "68m".into(),
        layers: 2,
        hidden: 768,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        intermediate: 3072,
        ..b8.clone()
    };
    let b1 = ModelSpec {
        name: "1b".into(),
        layers: 16,
        hidden: 2048,
        heads: 32,
        head_dim: 64,
        intermediate: 8192,
        tied_embeddings: true,
        ..b8.clone()
    };
    vec![m68, b1, b8, llama_70b()]
}

fn service(requests: u64, per_second: f64, max_running: u32) -> Toy {
    let luck = Luck::new(11);
    let draws = luck.stream(Stream::Test);
    let rates = pairs(&[
        ("a", "b", 0.7),
        ("a", "c", 0.62),
        ("a", "d", 0.55),
        ("b", "c", 0.78),
        ("b", "d", 0.7),
        ("c", "d", 0.85),
    ]);
    let mut config = heterogeneous(&[("all", rates)]);
    config.regime = regime(20.0, 0.15);
    let config = AcceptanceConfig::Heterogeneous(config);
    let source = Source::resolve(&config, &pool(&NAMES), &classes(&["x"])).unwrap();
    let lognormal = |id: u64, what: u64, median: f64, sigma: f64| {
        (median * (sigma * draws.normal(id, what)).exp()).clamp(1.0, 4000.0) as u32
    };
    let mut at = 0.0;
    let requests = (0..requests).map(|id| {
        at -= (1.0 - draws.uniform(id, 9)).ln() / per_second;
        let output = lognormal(id, 2, 110.0, 0.8);
        Request {
            id: RequestId(id),
            class: ClassId(0),
            arrival: Time::from_seconds(at).unwrap(),
            prompt_tokens: lognormal(id, 1, 400.0, 0.9),
            limit: output,
            priority: 0,
            slo: Slo::default(),
            truth: Truth::new(output),
        }
    });
    Toy {
        models: 4,
        source: Arc::new(source),
        luck,
        costs: Arc::new(cost(&llamas(), 4)),
        falling: false,
        limits: Limits {
            max_running,
            token_budget: 8192,
            max_block: 32,
            hold_passes: None,
            context: 1 << 14,
            by_priority: false,
        },
        replicas: 1,
        kv: vec![1 << 20; 4],
        block_size: 16,
        requests: requests.collect(),
    }
}

#[test]
#[ignore = "takes seconds and reads a clock"]
fn speed_of_five_thousand_requests() {
    let toy = service(5_000, 10.0, 128);
    let start = Instant::now();
    let bound = toy.bound();
    let tokens = bound.tokens();
    println!("{tokens} tokens of 5000 requests: {:.2} s", start.elapsed().as_secs_f64());
}

#[test]
#[ignore = "takes a minute and reads a clock"]
fn speed_and_distance_of_policies() {
    for (name, toy) in [
        ("alone", service(40, 0.02, 128)),
        ("busy", service(800, 8.0, 128)),
        ("full", service(1500, 1e3, 128)),
    ] {
        let bound = toy.bound();
        let plan = |models: &[u8], windows: &[u32]| {
            let models: Vec<ModelId> = models.iter().map(|&m| ModelId(m)).collect();
            ChainPlan::new(&models, windows).unwrap()
        };
        let alone: f64 = bound.requests.iter().map(|r| r.e2e().seconds()).sum();
        println!("{name}: at most {:.0} tokens/s", bound.tokens_per_second());
        for chain in [
            Some(plan(&[3], &[])),
            Some(plan(&[1, 3], &[3])),
            Some(plan(&[2, 3], &[4])),
            Some(plan(&[1, 2, 3], &[3, 6])),
            Some(plan(&[0, 2, 3], &[3, 6])),
            None,
        ] {
            let start = Instant::now();
            let seen = toy.run(|| -> Box<dyn Policy> {
                match chain {
                    Some(plan) => Box::new(StaticChain::new(plan)),
                    None => clairvoyant(&toy),
                }
            });
            println!(
                "  {:22} e2e {:6.2} of the solo bound, device time {:5.2} of its bound, simulated in {:.2} s",
                chain.map_or("clairvoyant".into(), |plan| plan.to_string()),
                seen.total() as f64 * 1e-9 / alone,
                seen.busy.seconds() / bound.device_seconds(),
                start.elapsed().as_secs_f64()
            );
        }
    }
}
