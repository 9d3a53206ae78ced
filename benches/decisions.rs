//! What policies cost to ask: `cargo bench --bench decisions` prints the table of `decisions.md`.
//!
//! Three models of an H100, acceptance that differs by request and stretch, a batch that stays full. A decision is one
//! call of `plan` for the sequences that start together; the share is all time in `plan` and `learn` over the time that
//! the passes take.
#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]
#![allow(clippy::print_stdout, reason = "the table is what the bench is for")]

mod setup;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use setup::{built, models, request, serve};
use specrouter_routing::policies::PolicyConfig;
use specrouter_routing::policy::{Ask, Needs, PassReport, Plan, Policy};
use specrouter_routing::units::Time;
use specrouter_sim::acceptance::Source;

const POLICIES: [&str; 4] = ["specrouter", "hedge", "thompson", "chain_router"];
const BATCHES: [u32; 4] = [1, 16, 64, 256];

/// What was measured of one run.
#[derive(Default)]
struct Spent {
    /// Decisions for at least half a batch.
    decisions: Vec<Duration>,
    asked: Duration,
    passes: f64,
}

/// A policy under a clock.
struct Timed {
    policy: Box<dyn Policy>,
    rows: u32,
    spent: Arc<Mutex<Spent>>,
}

impl Policy for Timed {
    fn name(&self) -> &str {
        self.policy.name()
    }

    /// All passes are counted, whatever the policy wants to know.
    fn needs(&self) -> Needs {
        Needs { costs: true, ..self.policy.needs() }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        let start = Instant::now();
        self.policy.plan(ask, plan);
        let took = start.elapsed();
        let mut spent = self.spent.lock().unwrap();
        spent.asked += took;
        if 2 * ask.starting.len() as u32 >= self.rows {
            spent.decisions.push(took);
        }
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        let start = Instant::now();
        self.policy.learn(report);
        let mut spent = self.spent.lock().unwrap();
        spent.asked += start.elapsed();
        spent.passes += report.duration.seconds();
    }
}

/// Acceptance that moves, so that decisions are made anew.
const ACCEPTANCE: &str = "
heterogeneous:
  matrix:
    all: {llama-68m: {llama-3.2-1b: 0.62, llama-3.1-8b: 0.6}, llama-3.2-1b: {llama-3.1-8b: 0.8}}
  request_spread: 0.1
  regime: {stay_tokens: 40, spread: 0.1}
";

fn main() {
    let yaml = serde_yaml::Deserializer::from_str(ACCEPTANCE);
    let config = serde_yaml::with::singleton_map_recursive::deserialize(yaml).unwrap();
    let source = Arc::new(Source::resolve(&config, &models(), &["all".into()]).unwrap());
    println!("policy                 batch  decisions  median us     p99 us  share of time");
    for name in POLICIES {
        for rows in BATCHES {
            let spent = Arc::new(Mutex::new(Spent::default()));
            let policy = || -> Box<dyn Policy> {
                let policy = built(&PolicyConfig::by_name(name).unwrap());
                Box::new(Timed { policy, rows, spent: Arc::clone(&spent) })
            };
            let requests =
                (0..u64::from(4 * rows)).map(|id| request(id, Time::ZERO, 100 + (37 * id % 300) as u32));
            serve(&source, &policy, (1, rows), requests);
            let mut spent = spent.lock().unwrap();
            spent.decisions.sort_unstable();
            let at = |share: f64| {
                let last = spent.decisions.len() - 1;
                spent.decisions[(last as f64 * share) as usize].as_secs_f64() * 1e6
            };
            println!(
                "{name:22} {rows:5} {:10} {:10.1} {:10.1} {:12.3} %",
                spent.decisions.len(),
                at(0.5),
                at(0.99),
                100.0 * spent.asked.as_secs_f64() / spent.passes,
            );
        }
    }
}
