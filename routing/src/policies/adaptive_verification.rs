//! Adaptive verification (DSpark, arXiv 2607.05147, and vLLM) in a form that is lossless: the batch
//! verifies the tokens most likely to survive, as many as bring the most tokens per second.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arms::with_draft;
use super::histories::{Histories, seven_tenths, sixty_four, thirty_two};
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::chain::MAX_BLOCK;
use crate::ids::ModelId;
use crate::policy::maths::expected_tokens;
use crate::policy::{Ask, Needs, PassReport, Plan, Planned, Policy};
use crate::profile::{PassCosts, PassShape};
use crate::record::Prediction;
use crate::units::{Positive, Probability};

/// Parameters of `adaptive_verification`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveVerificationConfig {
    /// The draft model.
    pub draft: String,
    /// Longest draft of a sequence, in tokens.
    #[serde(default = "eight")]
    pub max_window: u32,
    /// Rounds of the batch for which a budget stands.
    #[serde(default = "four")]
    pub refresh_rounds: u32,
    /// Acceptance believed before the first verification.
    #[serde(default = "seven_tenths")]
    pub initial_acceptance: Probability,
    /// Positions' worth of trust in a request's class against what the request itself has shown.
    #[serde(default = "thirty_two")]
    pub prior: Positive,
    /// Rounds after which a verdict counts half.
    #[serde(default = "sixty_four")]
    pub half_life: Positive,
}

const fn eight() -> u32 {
    8
}

const fn four() -> u32 {
    4
}

impl Recipe for AdaptiveVerificationConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "adaptive_verification",
        summary: "each sequence its own draft length: over the batch, the tokens most likely to survive, as many as bring the most tokens per second",
        source: "DSpark, arXiv 2607.05147, and vLLM adaptive verification, from histories instead of confidences",
        parameters: &[
            ("draft", "required", "the draft model"),
            ("max_window", "8", "longest draft of a sequence in tokens"),
            ("refresh_rounds", "4", "rounds of the batch for which a budget stands"),
            ("initial_acceptance", "0.7", "acceptance believed before the first verification"),
            ("prior", "32", "positions' worth of trust in the class against the request"),
            ("half_life", "64", "rounds after which a verdict counts half"),
        ],
        example: r#"{"adaptive_verification": {"draft": "small"}}"#,
    };

    fn label(&self) -> String {
        self.draft.clone()
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let (draft, target) = (pool.draft("draft", &self.draft)?, pool.target());
        let most = pool.window("max_window", self.max_window)?;
        Ok(Box::new(AdaptiveVerification {
            draft,
            target,
            refresh: u64::from(pool.at_least_one("refresh_rounds", self.refresh_rounds)?),
            histories: Histories::new(draft, target, self.initial_acceptance, self.prior, self.half_life),
            ranking: Ranking::new(most),
            rounds: 0,
            standing: None,
            counts: [0; BINS],
        }))
    }
}

/// Acceptances are told apart in steps of 1/128, far finer than a request's history tells.
const BINS: usize = 128;

/// The tokens that sequences could draft, most likely to survive first: token j of a sequence whose
/// acceptance lies in a bin of centre c survives with chance `c^j`. The order does not depend on how
/// many sequences a bin holds, so it is made once; a sequence's tokens stand in it in their order.
struct Ranking {
    /// `(survival, bin, j)`.
    tokens: Vec<(f64, u8, u8)>,
}

/// How deep each bin drafts, and what that is expected to bring.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Budget {
    windows: [u8; BINS],
    seconds: f64,
    /// Tokens per second of the whole batch.
    rate: f64,
}

impl Ranking {
    fn new(most: u32) -> Self {
        let survival = |bin: usize, j: u8| (0..j).fold(1.0, |a, _| a * (bin as f64 + 0.5) / BINS as f64);
        let depths = 1..=most.min(MAX_BLOCK) as u8;
        let mut tokens: Vec<(f64, u8, u8)> =
            (0..BINS).flat_map(|bin| depths.clone().map(move |j| (survival(bin, j), bin as u8, j))).collect();
        tokens.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.cmp(&b.2)));
        Self { tokens }
    }

    /// `argmax_B (N + Σ_{top B} a) / (Σ_j draft(rows_j) + verify(N + B))` over `counts` sequences per
    /// bin, each standing for `weight`; row j of the sum is the draft's j-th pass, which the
    /// sequences run that draft j tokens or more. Sequences of a bin go together.
    ///
    /// Both costs are made monotone on the way: a pass of more is never taken to be cheaper.
    fn best(
        &self,
        counts: &[u32; BINS],
        weight: f64,
        draft: impl Fn(f64) -> f64,
        verify: impl Fn(f64) -> f64,
    ) -> Budget {
        let rows = weight * f64::from(counts.iter().sum::<u32>());
        let (mut tokens, mut drafted) = (rows, 0.0);
        // Rows of the draft's passes, and seconds of each.
        let mut passes = [(0.0f64, 0.0f64); MAX_BLOCK as usize + 1];
        let (mut drafting, mut verifying) = (0.0, believed(verify(rows)));
        let (mut seconds, mut rate, mut taken) = (verifying, tokens / verifying, 0);
        for (rank, &(survival, bin, j)) in self.tokens.iter().enumerate() {
            let count = counts[usize::from(bin)];
            if count == 0 {
                continue;
            }
            let more = weight * f64::from(count);
            let pass = &mut passes[usize::from(j)];
            pass.0 += more;
            let dearer = believed(draft(pass.0)).max(pass.1);
            drafting += dearer - pass.1;
            pass.1 = dearer;
            drafted += more;
            tokens += survival * more;
            verifying = believed(verify(rows + drafted)).max(verifying);
            if tokens / (drafting + verifying) > rate {
                (seconds, rate, taken) = (drafting + verifying, tokens / (drafting + verifying), rank + 1);
            }
        }
        let mut windows = [0; BINS];
        self.tokens[..taken].iter().for_each(|&(_, bin, j)| windows[usize::from(bin)] = j);
        Budget { windows, seconds, rate }
    }
}

/// A pass whose price is no number of 0 or more is as dear as any.
fn believed(seconds: f64) -> f64 {
    if (0.0..1e9).contains(&seconds) { seconds } else { 1e9 }
}

/// `rows` sequences with `tokens` new tokens between them.
fn shape(rows: f64, tokens: f64, context: u64) -> PassShape {
    let (whole, new) = ((rows + 0.5) as u32, (tokens + 0.5) as u32);
    let width = f64::from(new) / f64::from(whole.max(1));
    PassShape {
        rows: whole.max(1),
        new_tokens: new.max(1),
        catch_up_tokens: 0,
        context_tokens: u64::from(whole) * context,
        attention_pairs: (f64::from(new) * (context as f64 + (width + 1.0) / 2.0) + 0.5) as u64,
        logit_rows: new.max(1),
    }
}

fn bin(alpha: f64) -> usize {
    ((alpha * BINS as f64) as usize).min(BINS - 1)
}

/// A budget decided from earlier rounds, against which every sequence is planned as it starts.
///
/// The published rule ranks the tokens of one step of the whole batch by confidences that a head of
/// the draft gives. Here survivals come from each request's history, so no token has a say in
/// whether it is verified, and an argmax over all budgets is lossless (rule R3). An ask has only the
/// sequences that start; others are in mid-round. So the sequences that start stand for all that
/// decode when the budget is decided, and the least survival in it stands for some rounds as the
/// bar that each sequence's tokens must clear.
struct AdaptiveVerification {
    draft: ModelId,
    target: ModelId,
    refresh: u64,
    histories: Histories,
    ranking: Ranking,
    /// Passes of the target that ended a round.
    rounds: u64,
    standing: Option<Standing>,
    counts: [u32; BINS],
}

/// A budget, and the batch and time it was decided for.
struct Standing {
    budget: Budget,
    rows: u32,
    round: u64,
}

impl AdaptiveVerification {
    /// Is it time for another budget? When some rounds have passed, or the batch has grown or shrunk
    /// by an eighth; but not from the few that start between others, unless none but few ever do.
    fn stale(&self, rows: u32, starting: u32) -> bool {
        let Some(standing) = &self.standing else { return true };
        let age = self.rounds - standing.round;
        let moved = rows.abs_diff(standing.rows) * 8 > standing.rows;
        (age >= self.refresh || moved) && (2 * starting >= rows || age >= 4 * self.refresh)
    }

    fn decide(&mut self, ask: &Ask<'_>, rows: u32) {
        self.counts = [0; BINS];
        for &slot in ask.starting {
            let view = ask.request(slot);
            self.counts[bin(self.histories.acceptance(slot, view.id(), view.class()))] += 1;
        }
        let weight = f64::from(rows) / ask.starting.len().max(1) as f64;
        let context = ask.context_tokens / u64::from(ask.running.max(1));
        let budget = self.ranking.best(
            &self.counts,
            weight,
            |drafting| ask.costs.seconds(self.draft, &shape(drafting, drafting, context)),
            |tokens| ask.costs.seconds(self.target, &shape(f64::from(rows), tokens, context)),
        );
        self.standing = Some(Standing { budget, rows, round: self.rounds });
    }
}

impl Policy for AdaptiveVerification {
    fn name(&self) -> &str {
        AdaptiveVerificationConfig::ENTRY.name
    }

    fn needs(&self) -> Needs {
        Needs { rows: true, costs: true }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        let starting = ask.starting.len() as u32;
        let rows = ask.decoding.max(starting);
        if self.stale(rows, starting) {
            self.decide(ask, rows);
        }
        for &slot in ask.starting {
            let view = ask.request(slot);
            let alpha = self.histories.acceptance(slot, view.id(), view.class());
            let window = self.standing.as_ref().map_or(0, |standing| standing.budget.windows[bin(alpha)]);
            let window = u32::from(window).min(ask.limits.max_block);
            let chain = with_draft(self.draft, self.target, window);
            let predicted = self.standing.as_ref().map(|standing| Prediction {
                round_seconds: standing.budget.seconds as f32,
                tokens: expected_tokens(alpha, window) as f32,
                propensity: 1.0,
            });
            plan.push(Planned { chain, predicted });
        }
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        self.rounds += u64::from(report.model == self.target && report.rounds > 0);
        self.histories.learn(report);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(of: &[(usize, u32)]) -> [u32; BINS] {
        let mut counts = [0; BINS];
        of.iter().for_each(|&(bin, count)| counts[bin] = count);
        counts
    }

    /// Tokens per second of windows by bin, as the definition says it.
    fn rate(
        counts: &[u32; BINS],
        windows: &[u8; BINS],
        draft: impl Fn(f64) -> f64,
        verify: impl Fn(f64) -> f64,
    ) -> f64 {
        let (mut tokens, mut verified, mut passes) = (0.0, 0.0, [0.0; 33]);
        for (bin, &count) in counts.iter().enumerate() {
            let (n, centre) = (f64::from(count), (bin as f64 + 0.5) / BINS as f64);
            tokens += n * expected_tokens(centre, u32::from(windows[bin]));
            verified += n * f64::from(1 + windows[bin]);
            (1..=usize::from(windows[bin])).for_each(|j| passes[j] += n);
        }
        let drafting: f64 = passes.iter().filter(|rows| **rows > 0.0).map(|rows| draft(*rows)).sum();
        tokens / (drafting + verify(verified))
    }

    /// Past 40 tokens each costs a hundredth of a pass.
    fn knee(tokens: f64) -> f64 {
        10.0 + 0.1 * (tokens - 40.0).max(0.0)
    }

    #[test]
    fn where_passes_are_flat_the_best_window_is_leviathans() {
        // α = 0.8 within half a bin: γ* = 8 at c = 0.05, 6 at 0.1, 4 at 0.2 (algorithms.md, 2.1: 8, 6, 3).
        let budget = |alpha: f64, cost: f64| {
            Ranking::new(12).best(&counts(&[(bin(alpha), 1)]), 1.0, |_| cost, |_| 1.0).windows[bin(alpha)]
        };
        for (alpha, cost) in [(0.8, 0.05), (0.8, 0.1), (0.6, 0.1), (0.5, 0.2), (0.2, 0.3)] {
            let centre = (bin(alpha) as f64 + 0.5) / BINS as f64;
            let best = crate::policy::maths::best_window(centre, cost, 12);
            assert_eq!(u32::from(budget(alpha, cost)), best, "alpha {alpha}, cost {cost}");
        }
    }

    #[test]
    fn past_the_knee_the_likely_tokens_go_first() {
        let batch = counts(&[(bin(0.9), 16), (bin(0.4), 16)]);
        let budget = Ranking::new(8).best(&batch, 1.0, |_| 0.1, knee);
        assert!(budget.windows[bin(0.9)] > budget.windows[bin(0.4)], "{:?}", budget.windows);
        // The same sequences, each standing for two: more load, shorter drafts.
        let crowd = Ranking::new(8).best(&batch, 4.0, |_| 0.1, knee);
        assert!(crowd.windows[bin(0.9)] < budget.windows[bin(0.9)]);
    }

    #[test]
    fn a_pass_of_more_is_never_taken_to_be_cheaper() {
        // A staircase that falls: without the running maximum the deeper budget would look free.
        let falling = |tokens: f64| if tokens < 3.0 { 10.0 } else { 1.0 };
        let budget = Ranking::new(4).best(&counts(&[(bin(0.5), 1)]), 1.0, |_| 8.0, falling);
        assert_eq!(budget.windows[bin(0.5)], 0);
        let nothing = Ranking::new(4).best(&counts(&[]), 1.0, |_| f64::NAN, |_| f64::NAN);
        assert!(nothing.windows.iter().all(|window| *window == 0));
    }

    #[test]
    fn acceptances_that_went_astray_have_a_bin() {
        assert_eq!([bin(f64::NAN), bin(-1.0), bin(0.0), bin(1.0), bin(7.0)], [0, 0, 0, BINS - 1, BINS - 1]);
    }

    proptest! {
        /// No bar is better, and the figure is the definition's.
        #[test]
        fn the_budget_is_the_best_of_all_bars(
            batch in prop::collection::vec((0..BINS, 1u32..6), 1..5), cost in 0.0..1.0f64, slope in 0.0..1.0f64, bar in 0.0..1.0f64,
        ) {
            let (draft, verify) = (|rows: f64| cost + 0.01 * rows, |tokens: f64| 10.0 + slope * (tokens - 12.0).max(0.0));
            let counts = counts(&batch);
            let budget = Ranking::new(5).best(&counts, 1.0, draft, verify);
            let got = rate(&counts, &budget.windows, draft, verify);
            prop_assert!((got - budget.rate).abs() < 1e-9 * got);
            let mut windows = [0u8; BINS];
            for (bin, window) in windows.iter_mut().enumerate() {
                let centre = (bin as f64 + 0.5) / BINS as f64;
                *window = (1..=5u8).take_while(|&j| centre.powi(i32::from(j)) >= bar).count() as u8;
            }
            prop_assert!(rate(&counts, &windows, draft, verify) <= got * (1.0 + 1e-12));
        }
    }
}
