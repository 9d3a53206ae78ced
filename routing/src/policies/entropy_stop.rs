//! Drafting until the draft model's distribution is too flat: AdaEDL and SVIP.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::chain::{ChainPlan, StopRule};
use crate::ids::ModelId;
use crate::policy::{Ask, PairReport, PassReport, Plan, Policy};
use crate::units::{NonNegative, Positive, Probability};

/// Parameters of `entropy_stop`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntropyStopConfig {
    /// The draft model.
    pub draft: String,
    /// Whose rule.
    #[serde(default)]
    pub rule: EntropyRule,
    /// Longest draft, in tokens; the scenario's `max_block` where that is less.
    #[serde(default = "sixteen")]
    pub max_window: u32,
    /// AdaEDL: γ, by which entropy in nats is scaled before its root is taken.
    #[serde(default = "half_factor")]
    pub gamma: Positive,
    /// AdaEDL: λ at the beginning, the bound on acceptance below which drafting stops.
    #[serde(default = "half")]
    pub lambda: Probability,
    /// AdaEDL: the share of drafted tokens to be kept.
    #[serde(default = "nine_tenths")]
    pub target: Probability,
    /// AdaEDL: ε, how far λ' stands from λ.
    #[serde(default = "hundredth")]
    pub epsilon: Probability,
    /// AdaEDL: β₁, what the average of the share keeps of itself from pass to pass.
    #[serde(default = "half")]
    pub beta_share: Probability,
    /// AdaEDL: β₂, what λ keeps of itself from pass to pass; the rest is λ'.
    #[serde(default = "nine_tenths")]
    pub beta_lambda: Probability,
    /// SVIP: h, the root of entropy in nats above which drafting stops. Its code has √(0.15·H) > 0.3.
    #[serde(default = "of_svip")]
    pub threshold: NonNegative,
}

/// A rule on the entropy H of a draft distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntropyRule {
    /// Stop where 1 − √(γ·H) < λ; λ moves towards a target share of drafted tokens kept.
    #[default]
    Adaedl,
    /// Stop where √H > h.
    Svip,
}

const fn sixteen() -> u32 {
    16
}

const fn half_factor() -> Positive {
    Positive::constant(0.5)
}

const fn half() -> Probability {
    Probability::constant(0.5)
}

const fn nine_tenths() -> Probability {
    Probability::constant(0.9)
}

const fn hundredth() -> Probability {
    Probability::constant(0.01)
}

const fn of_svip() -> NonNegative {
    NonNegative::constant(0.775)
}

impl Recipe for EntropyStopConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "entropy_stop",
        summary: "drafts until the draft distribution is flat; AdaEDL's bound moves to keep a share of drafts",
        source: "AdaEDL, arXiv 2410.18351; SVIP, arXiv 2411.18462",
        parameters: &[
            ("draft", "required", "the draft model"),
            ("rule", "adaedl", "adaedl: 1 - sqrt(gamma H) < lambda; svip: sqrt(H) > threshold"),
            ("max_window", "16", "longest draft in tokens; max_block where that is less"),
            ("gamma", "0.5", "adaedl: scale of the entropy, in nats"),
            ("lambda", "0.5", "adaedl: the bound at the beginning"),
            ("target", "0.9", "adaedl: share of drafted tokens to be kept"),
            ("epsilon", "0.01", "adaedl: how far the bound is pulled by a pass"),
            ("beta_share", "0.5", "adaedl: what the average share keeps of itself"),
            ("beta_lambda", "0.9", "adaedl: what the bound keeps of itself"),
            ("threshold", "0.775", "svip: root of the entropy above which drafting stops"),
        ],
        example: r#"{"entropy_stop": {"draft": "small", "rule": "adaedl"}}"#,
    };

    fn label(&self) -> String {
        match self.rule {
            EntropyRule::Adaedl => format!("{} adaedl {}", self.draft, self.target.get()),
            EntropyRule::Svip => format!("{} svip {}", self.draft, self.threshold.get()),
        }
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let draft = pool.draft("draft", &self.draft)?;
        let longest = pool.at_least_one("max_window", self.max_window)?.min(pool.pool.max_block);
        let names = [self.draft.clone(), pool.pool.names[pool.target().index()].clone()];
        let chain = pool.chain("draft", &names, "max_window", &[longest])?;
        let bound = (self.rule == EntropyRule::Adaedl).then(|| Bound::new(self));
        let plan = chain.stopping(bound.map_or_else(|| svip(self.threshold), |bound| bound.stop()));
        Ok(Box::new(EntropyStop { draft, target: pool.target(), plan, bound }))
    }
}

/// One chain with an entropy rule, the same for the whole batch.
///
/// The rule is applied in the form that plans have: the token whose distribution was flat is kept, the next
/// is not drawn. SVIP's code does so too; AdaEDL looks before it draws, which is one token less.
struct EntropyStop {
    draft: ModelId,
    target: ModelId,
    plan: ChainPlan,
    /// AdaEDL's; SVIP's threshold stands still.
    bound: Option<Bound>,
}

/// AdaEDL's λ, after its algorithm 1.
///
/// The paper serves one text; a batch's drafts are one round here, their tokens taken together, and one λ
/// serves all requests, since it is a property of the two models.
#[derive(Clone, Copy, Debug)]
struct Bound {
    gamma: f64,
    lambda: f64,
    /// Moving average of kept over drafted tokens; begins at its target, which pulls nowhere.
    share: f64,
    target: f64,
    epsilon: f64,
    beta_share: f64,
    beta_lambda: f64,
}

impl Bound {
    fn new(config: &EntropyStopConfig) -> Self {
        Self {
            gamma: config.gamma.get(),
            lambda: config.lambda.get(),
            share: config.target.get(),
            target: config.target.get(),
            epsilon: config.epsilon.get(),
            beta_share: config.beta_share.get(),
            beta_lambda: config.beta_lambda.get(),
        }
    }

    /// 1 − √(γ·H) < λ, solved for H.
    fn stop(&self) -> StopRule {
        let root = 1.0 - self.lambda;
        StopRule::EntropyAbove((root * root / self.gamma) as f32)
    }

    /// A pass judged `drafted` tokens, at least one, and kept `accepted`. `most` is what it would have judged
    /// had every window been full.
    fn learn(&mut self, drafted: u64, accepted: u64, most: u64) {
        self.share = mix(self.beta_share, self.share, accepted as f64 / drafted as f64);
        let pulled = if self.share < self.target {
            self.lambda + self.epsilon
        } else if accepted < most {
            self.lambda - self.epsilon
        } else {
            self.lambda // All was drafted and all was kept: a lower bound could bring no more.
        };
        self.lambda = mix(self.beta_lambda, self.lambda, pulled).clamp(0.0, 1.0);
    }
}

/// √H > h, solved for H.
fn svip(threshold: NonNegative) -> StopRule {
    StopRule::EntropyAbove((threshold.get() * threshold.get()) as f32)
}

fn mix(keep: f64, old: f64, new: f64) -> f64 {
    keep * old + (1.0 - keep) * new
}

impl Policy for EntropyStop {
    fn name(&self) -> &str {
        "entropy_stop"
    }

    fn plan(&mut self, _: &Ask<'_>, plan: &mut Plan) {
        plan.set_all(self.plan);
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        let Some(bound) = &mut self.bound else { return };
        let judged = |pair: &&PairReport| {
            pair.drafter == self.draft && pair.verifier == self.target && pair.seen.drafted > 0
        };
        if let Some(pair) = report.pairs.iter().find(judged) {
            let most = pair.seen.verifications * u64::from(self.plan.block());
            bound.learn(pair.seen.drafted, pair.seen.accepted, most);
            self.plan = self.plan.stopping(bound.stop());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bound(more: &str) -> Bound {
        Bound::new(&serde_json::from_str(&format!(r#"{{"draft": "a"{more}}}"#)).unwrap())
    }

    fn entropy(stop: StopRule) -> f32 {
        let StopRule::EntropyAbove(entropy) = stop else { panic!("an entropy rule") };
        entropy
    }

    #[test]
    fn the_bound_is_solved_for_entropy() {
        // (1 − λ)² / γ.
        assert!((entropy(bound("").stop()) - 0.5).abs() < 1e-6);
        assert!((entropy(bound(r#", "lambda": 0.0, "gamma": 0.2"#).stop()) - 5.0).abs() < 1e-6);
        assert!(entropy(bound(r#", "lambda": 1.0"#).stop()).abs() < 1e-6);
        // The default is SVIP's own, √(0.15·H) > 0.3, to a thousandth.
        assert!((entropy(svip(of_svip())) - 0.3 * 0.3 / 0.15).abs() < 1e-3);
    }

    #[test]
    fn lambda_moves_a_thousandth_a_pass_against_the_share() {
        let mut bound = bound("");
        bound.learn(10, 4, 32); // Share ½·.9 + ½·.4 = .65, below .9.
        assert!((bound.share - 0.65).abs() < 1e-12 && (bound.lambda - 0.501).abs() < 1e-12);
        (0..4).for_each(|_| bound.learn(10, 10, 32)); // .825, .9125, ...
        assert!((bound.share - 0.978_125).abs() < 1e-12, "{}", bound.share);
        assert!((bound.lambda - 0.499).abs() < 1e-12, "once more up, three times down: {}", bound.lambda);
        bound.learn(32, 32, 32);
        assert!((bound.lambda - 0.499).abs() < 1e-12, "nothing was stopped");
    }

    proptest! { // The rule and its bound agree, for any entropy.
        #[test]
        fn stopping_is_being_below_the_bound(h in 0.0f64..4.0, lambda in 0.0f64..1.0, gamma in 0.05f64..2.0) {
            let bound = Bound { lambda, gamma, ..bound("") };
            let below = 1.0 - libm::sqrt(gamma * h) - lambda;
            prop_assume!(below.abs() > 1e-4);
            prop_assert_eq!(h as f32 > entropy(bound.stop()), below < 0.0);
        }

        #[test]
        fn lambda_stays_a_probability(passes in prop::collection::vec((1u64..100, 0u64..100), 0..300)) {
            let mut bound = bound(r#", "epsilon": 0.5, "beta_lambda": 0.1"#);
            for (drafted, accepted) in passes {
                bound.learn(drafted, accepted.min(drafted), 100);
                prop_assert!((0.0..=1.0).contains(&bound.lambda) && (0.0..=1.0).contains(&bound.share));
            }
        }
    }
}
