//! A policy of your own, in a small world of your own: copy this file and change it.
//!
//! ```text
//!   requests ──> Simulator ──> Replica ── ask ──> LastRound (yours)      the plan of every sequence
//!                                 │  ▲              │                    that starts a round
//!                           a pass│  │outcome       └── plan: small ──drafts──> large (target)
//!                                 ▼  │
//!                              SimBackend <── acceptance: who keeps whose token
//!                                         <── costs: what a pass takes
//! ```
//!
//! `cargo run --release -p specrouter-sim --example own_policy` prints a table. `docs/write-a-policy.md`
//! goes through it, line by line, and says how a policy gets into scenarios, the league and replays.
#![allow(clippy::print_stdout, reason = "an example says what came of it")]

use std::error::Error;
use std::sync::Arc;

use serde_json::{from_value, json};
use specrouter_routing::chain::ChainPlan;
use specrouter_routing::dispatch::DispatcherConfig;
use specrouter_routing::ids::{ClassId, ModelId, ReplicaId, RequestId};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policies::{Books, StaticChain};
use specrouter_routing::policy::{Ask, Needs, PassReport, Plan, Policy};
use specrouter_routing::profile::{Corrected, Linear, LinearTerms};
use specrouter_routing::record::{RequestRecord, Sink};
use specrouter_routing::replica::{Limits, Replica};
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Time;
use specrouter_sim::acceptance::Source;
use specrouter_sim::backend::SimBackend;
use specrouter_sim::cost::CostModel;
use specrouter_sim::drive::{Bounds, closed_loop};
use specrouter_sim::simulator::Simulator;

/// Drafts longer for requests whose last round kept every drafted token, shorter for others, and not at
/// all while more than `crowd` sequences decode.
struct LastRound {
    long: ChainPlan,
    short: ChainPlan,
    plain: ChainPlan,
    crowd: u32,
    /// Of each running request: did its last draft stay whole?
    whole: Books<bool>,
}

impl LastRound {
    fn new(
        draft: ModelId,
        target: ModelId,
        [short, long]: [u32; 2],
        crowd: u32,
    ) -> Result<Self, Box<dyn Error>> {
        let chain = |window| ChainPlan::new(&[draft, target], &[window]);
        let plain = ChainPlan::target_only(target);
        Ok(Self { long: chain(long)?, short: chain(short)?, plain, crowd, whole: Books::new(false) })
    }
}

impl Policy for LastRound {
    fn name(&self) -> &str {
        "last_round"
    }

    fn needs(&self) -> Needs {
        Needs { rows: true, ..Needs::default() } // Verdicts sequence by sequence.
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        if ask.decoding > self.crowd {
            return plan.set_all(self.plain);
        }
        for &slot in ask.starting {
            let whole = self.whole.get(slot, ask.request(slot).id());
            plan.push(if whole { self.long } else { self.short });
        }
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        for row in report.rows.iter().filter(|row| row.drafted > 0) {
            *self.whole.get_mut(row.slot, row.request) = row.accepted == row.drafted;
        }
    }
}

/// What came of a run.
#[derive(Default)]
struct Outcome {
    tokens: u64,
    rounds: u64,
    seconds: f64,
}

impl Sink for Outcome {
    fn request(&mut self, record: &RequestRecord) {
        self.tokens += u64::from(record.output_tokens);
        self.rounds += u64::from(record.rounds);
    }
}

/// Serves 200 requests of 300 tokens from `users` users who wait for their answers.
fn run(policy: Box<dyn Policy>, users: u32) -> Result<Outcome, Box<dyn Error>> {
    let model = |name: &str| {
        json!({"name": name, "source": "here", "family": "toy", "layers": 1, "hidden": 1, "heads": 1, "kv_heads": 1,
            "head_dim": 1, "intermediate": 1, "vocab": 1, "tied_embeddings": false, "context": 65536})
    };
    let pool = [from_value(model("small"))?, from_value(model("large"))?];
    // Text comes in stretches that are easy or hard to draft, and requests differ.
    let acceptance = json!({"heterogeneous": {"matrix": {"all": {"small": {"large": 0.7}}}, "request_spread": 0.1,
        "regime": {"stay_tokens": 40, "spread": 0.2}}});
    let source = Arc::new(Source::resolve(&from_value(acceptance)?, &pool, &["all".to_owned()])?);
    // Seconds of a pass, and of each of its tokens.
    let terms = |pass, token| LinearTerms::new(pass, 0.0, token, 0.0, 0.0);
    let times = Linear::new(vec![terms(0.001, 1e-6)?, terms(0.010, 1e-4)?]);

    let luck = Luck::new(7); // The same for every policy: they meet the same text and the same coins.
    let limits = Limits {
        max_running: 128,
        token_budget: 2048,
        max_block: 32,
        hold_passes: None,
        context: 65536,
        by_priority: false,
    };
    let belief = Corrected::new(Arc::new(times.clone())); // Policies know the times, and could learn them.
    let replica = Replica::new(ReplicaId(0), limits, &[1 << 20; 2], 16, policy, belief)?;
    let backend = SimBackend::new(source, Arc::new(CostModel::linear(times)), luck, ReplicaId(0));
    let dispatcher = DispatcherConfig::RoundRobin.build(luck.stream(Stream::Dispatch));
    let mut simulator = Simulator::new(vec![(replica, backend)], dispatcher);
    let request = |id, arrival: Time| Request {
        id,
        class: ClassId(0),
        arrival,
        prompt_tokens: 20,
        limit: 300,
        priority: 0,
        slo: Slo::default(),
        truth: Truth::new(300),
    };
    let next = |id: RequestId, now| (id.0 < 200).then(|| request(id, now));
    let (mut outcome, mut watch) = (Outcome::default(), |_| true);
    let mut bounds = Bounds { horizon: None, watch: &mut watch };
    closed_loop(&mut simulator, users, next, &mut bounds, &mut outcome)?;
    outcome.seconds = simulator.now().seconds();
    Ok(outcome)
}

/// A policy and what the table calls it.
type Named = (&'static str, Box<dyn Policy>);

/// The policies that are compared: plain decoding, the two windows fixed, and ours.
fn policies() -> Result<[Named; 4], Box<dyn Error>> {
    let (small, large) = (ModelId(0), ModelId(1));
    let fixed =
        |window| ChainPlan::new(&[small, large], &[window]).map(|plan| Box::new(StaticChain::new(plan)));
    Ok([
        ("plain decoding", Box::new(StaticChain::new(ChainPlan::target_only(large)))),
        ("static 2", fixed(2)?),
        ("static 8", fixed(8)?),
        ("last_round 2, 8", Box::new(LastRound::new(small, large, [2, 8], 32)?)),
    ])
}

fn main() -> Result<(), Box<dyn Error>> {
    for users in [1, 16, 100] {
        println!("{users} users            tokens/s   tokens a round");
        for (name, policy) in policies()? {
            let outcome = run(policy, users)?;
            let (rate, tokens) =
                (outcome.tokens as f64 / outcome.seconds, outcome.tokens as f64 / outcome.rounds as f64);
            println!("  {name:<16} {rate:>8.0} {tokens:>16.2}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_round_beats_both_of_its_windows_and_leaves_crowds_alone() {
        let rate = |outcome: Outcome| outcome.tokens as f64 / outcome.seconds;
        let rates = |users| policies().unwrap().map(|(_, policy)| rate(run(policy, users).unwrap()));
        let [plain, short, long, ours] = rates(1);
        assert!(ours > short.max(long) && short.min(long) > plain, "{ours} of {short}, {long} and {plain}");
        let [plain, .., ours] = rates(100);
        assert!(ours > 0.95 * plain, "in a crowd it decodes plainly: {ours} of {plain}");
    }
}
