//! AdaServe (arXiv 2501.12162) with chains for its trees: drafts go first to the requests that need
//! tokens to keep their own TPOT, what is left of the budget to the tokens most likely to survive.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arms::with_draft;
use super::histories::{Histories, seven_tenths, sixty_four, thirty_two};
use super::recipe::{Builder, PolicyEntry, PolicyError, Recipe};
use crate::ids::ModelId;
use crate::policy::maths::expected_tokens;
use crate::policy::{Ask, Needs, PassReport, Plan, Planned, Policy, RequestView};
use crate::profile::{PassCosts, PassShape};
use crate::record::Prediction;
use crate::units::{Positive, Probability};

/// Parameters of `slo_aware`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SloAwareConfig {
    /// The draft model.
    pub draft: String,
    /// Longest draft of a sequence, in tokens.
    #[serde(default = "eight")]
    pub max_window: u32,
    /// Tokens of a verification by the whole batch, one for each sequence included. Left out: as
    /// many as make the target's pass a tenth dearer than plain decoding does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u32>,
    /// Share of its TPOT that a request keeps in hand: it is served as if its target were so much
    /// tighter.
    #[serde(default = "five_percent")]
    pub headroom: Probability,
    /// No token less likely to survive than this is drafted.
    #[serde(default = "ten_percent")]
    pub least_survival: Probability,
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

const fn five_percent() -> Probability {
    Probability::constant(0.05)
}

const fn ten_percent() -> Probability {
    Probability::constant(0.1)
}

impl Recipe for SloAwareConfig {
    const ENTRY: PolicyEntry = PolicyEntry {
        name: "slo_aware",
        summary: "each sequence its own draft length: first what a request needs to keep its TPOT, the rest of a budget to the tokens most likely to survive",
        source: "AdaServe, arXiv 2501.12162, with chains for trees",
        parameters: &[
            ("draft", "required", "the draft model"),
            ("max_window", "8", "longest draft of a sequence in tokens"),
            (
                "budget",
                "what makes the target's pass 10 % dearer",
                "tokens of a verification by the whole batch, one for each sequence included",
            ),
            ("headroom", "0.05", "share of its TPOT that a request keeps in hand"),
            ("least_survival", "0.1", "no token less likely to survive is drafted"),
            ("initial_acceptance", "0.7", "acceptance believed before the first verification"),
            ("prior", "32", "positions' worth of trust in the class against the request"),
            ("half_life", "64", "rounds after which a verdict counts half"),
        ],
        example: r#"{"slo_aware": {"draft": "small"}}"#,
    };

    fn label(&self) -> String {
        match self.budget {
            None => self.draft.clone(),
            Some(budget) => format!("{} budget {budget}", self.draft),
        }
    }

    fn build(&self, pool: &Builder<'_>) -> Result<Box<dyn Policy>, PolicyError> {
        let (draft, target) = (pool.draft("draft", &self.draft)?, pool.target());
        let max_window = pool.window("max_window", self.max_window)?;
        let budget = self.budget.map(|budget| pool.at_least_one("budget", budget)).transpose()?;
        Ok(Box::new(SloAware {
            draft,
            target,
            max_window,
            budget,
            tighter: 1.0 - self.headroom.get(),
            histories: Histories::new(draft, target, self.initial_acceptance, self.prior, self.half_life),
            shares: Shares { least: self.least_survival.get(), ..Shares::default() },
            priced: None,
            longest: max_window,
        }))
    }
}

/// A pass may get this much dearer by what is drafted, where the scenario gives no budget.
const DEARER: f64 = 1.1;

/// One sequence on its way to a window.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// Its acceptance.
    alpha: f64,
    /// Tokens that it needs of this round to be on time when the round ends.
    need: f64,
    /// Tokens drafted so far, and the chance that the next would survive too.
    window: u32,
    next: f64,
}

impl Share {
    fn new(alpha: f64, need: f64) -> Self {
        Self { alpha, need, window: 0, next: alpha }
    }

    fn draft(&mut self) {
        self.window += 1;
        self.next *= self.alpha;
    }
}

/// The next token of a sequence, by the chance that it survives; of equals, the older sequence's.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Next {
    survival: f64,
    index: u32,
}

impl Eq for Next {}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> Ordering {
        self.survival.total_cmp(&other.survival).then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How a budget of drafted tokens is shared; keeps its buffers.
#[derive(Default)]
struct Shares {
    /// No token less likely to survive is drafted.
    least: f64,
    all: Vec<Share>,
    order: Vec<u32>,
    heap: BinaryHeap<Next>,
}

impl Shares {
    /// Gives every sequence of `all` its window, at most `longest`.
    ///
    /// First, most urgent first: tokens until `1 + Σ_j α^j`, what the round is expected to bring,
    /// reaches min(need, longest + 1). Then, over all sequences, the token most likely to survive.
    fn share(&mut self, mut budget: u64, longest: u32) {
        let all = &mut self.all;
        self.order.clear();
        self.order.extend(0..all.len() as u32);
        self.order
            .sort_unstable_by(|&a, &b| all[b as usize].need.total_cmp(&all[a as usize].need).then(a.cmp(&b)));
        for &index in &self.order {
            let share = &mut all[index as usize];
            let needed = share.need.min(f64::from(longest) + 1.0);
            let mut expected = 1.0;
            while expected < needed && share.window < longest && share.next >= self.least && budget > 0 {
                expected += share.next;
                share.draft();
                budget -= 1;
            }
            if budget == 0 || share.need <= 1.0 {
                break; // The others need less still.
            }
        }
        self.heap.clear();
        let more =
            all.iter().zip(0..).filter(|(share, _)| share.window < longest && share.next >= self.least);
        self.heap.extend(more.map(|(share, index)| Next { survival: share.next, index }));
        while budget > 0
            && let Some(next) = self.heap.pop()
        {
            let share = &mut all[next.index as usize];
            share.draft();
            budget -= 1;
            if share.window < longest && share.next >= self.least {
                self.heap.push(Next { survival: share.next, ..next });
            }
        }
    }
}

/// Tokens needed of a round that ends `round` seconds from now by a request whose first token came
/// `since` seconds ago and has had `after` tokens since: `A = (l + t_spec) / TPOT − o`.
fn needed(since: f64, round: f64, tpot: f64, after: f64) -> f64 {
    let need = (since + round) / tpot - after;
    if need.is_nan() { 0.0 } else { need }
}

/// Shares a budget of verified tokens by need, then by survival.
///
/// Left open by the paper, decided here: survivals are powers of an acceptance from each request's
/// history, never confidences of the draft that is planned (rule R3). A chain's tokens are drafted one
/// after another, a pass each, so hopeless ones are left out even where they are needed: without that
/// a request behind by more than `1 / (1 − α)` tokens would draft the longest chain for nothing. The round that is planned is
/// taken to last as long as a full budget after as many draft passes as the longest draft of the
/// last plan. Sequences in mid-round have had their part of the budget: those that start get theirs
/// in proportion to their number. A request without a TPOT needs nothing and gets what is left.
struct SloAware {
    draft: ModelId,
    target: ModelId,
    max_window: u32,
    budget: Option<u32>,
    /// A TPOT is kept as if it were this share of itself.
    tighter: f64,
    histories: Histories,
    shares: Shares,
    priced: Option<Round>,
    /// The longest draft of the last plan.
    longest: u32,
}

/// Prices of a round of the batch, and what they rest on.
#[derive(Clone, Copy)]
struct Round {
    rows: u32,
    context: u64,
    costs: u64,
    /// Tokens the batch may draft in a round.
    drafted: u32,
    draft_seconds: f64,
    verify_seconds: f64,
}

impl SloAware {
    /// Prices of this batch; those known stand until the batch, its context or the beliefs move.
    fn priced(&mut self, ask: &Ask<'_>, rows: u32) -> Round {
        let context = ask.context_tokens / u64::from(ask.running.max(1));
        let costs = ask.costs.version();
        if let Some(known) = self.priced
            && known.rows == rows
            && known.costs == costs
            && context.abs_diff(known.context) * 16 <= known.context
        {
            return known;
        }
        let most = rows.saturating_mul(self.max_window);
        let verify = |drafted| ask.costs.seconds(self.target, &verification(rows, drafted, context));
        let drafted = match self.budget {
            Some(budget) => budget.saturating_sub(rows).min(most),
            None => knee(most, DEARER, verify),
        };
        let draft_seconds = ask.costs.seconds(self.draft, &PassShape::uniform(rows, 1, context));
        let round = Round { rows, context, costs, drafted, draft_seconds, verify_seconds: verify(drafted) };
        self.priced = Some(round);
        round
    }

    fn needed(&self, view: RequestView<'_>, ask: &Ask<'_>, round: f64) -> f64 {
        let Some(tpot) = view.slo().tpot else { return f64::NEG_INFINITY };
        let since = view.first_token().and_then(|first| ask.now.since(first)).unwrap_or_default().seconds();
        let after = f64::from(view.emitted().saturating_sub(1));
        needed(since, round, tpot.seconds() * self.tighter, after)
    }
}

/// Verification by `rows` sequences of `drafted` tokens between them.
fn verification(rows: u32, drafted: u32, context: u64) -> PassShape {
    let new = rows.saturating_add(drafted);
    let width = f64::from(new) / f64::from(rows.max(1));
    PassShape {
        rows,
        new_tokens: new,
        catch_up_tokens: 0,
        context_tokens: u64::from(rows).saturating_mul(context),
        attention_pairs: (f64::from(new) * (context as f64 + (width + 1.0) / 2.0) + 0.5) as u64,
        logit_rows: new,
    }
}

/// The most drafted tokens, up to `most`, whose verification takes at most `dearer` times as long as
/// plain decoding; found by halving, so where times are no staircase but fall again, one such number.
fn knee(most: u32, dearer: f64, seconds: impl Fn(u32) -> f64) -> u32 {
    let bound = seconds(0) * dearer;
    let (mut fits, mut over) = (0, most.saturating_add(1));
    while over - fits > 1 {
        let middle = fits + (over - fits) / 2;
        if seconds(middle) <= bound { fits = middle } else { over = middle }
    }
    fits
}

impl Policy for SloAware {
    fn name(&self) -> &str {
        SloAwareConfig::ENTRY.name
    }

    fn needs(&self) -> Needs {
        Needs { rows: true, costs: true }
    }

    fn plan(&mut self, ask: &Ask<'_>, plan: &mut Plan) {
        let starting = ask.starting.len() as u32;
        let rows = ask.decoding.max(starting).max(1);
        let round = self.priced(ask, rows);
        let seconds = f64::from(self.longest) * round.draft_seconds + round.verify_seconds;
        let longest = self.max_window.min(ask.limits.max_block);
        let mut all = std::mem::take(&mut self.shares.all);
        all.clear();
        all.extend(ask.starting.iter().map(|&slot| {
            let view = ask.request(slot);
            let alpha = self.histories.acceptance(slot, view.id(), view.class());
            Share::new(alpha, self.needed(view, ask, seconds))
        }));
        self.shares.all = all;
        let part = (u64::from(round.drafted) * u64::from(starting)).div_ceil(u64::from(rows));
        self.shares.share(part, longest);
        self.longest = 0;
        for share in &self.shares.all {
            self.longest = self.longest.max(share.window);
            let chain = with_draft(self.draft, self.target, share.window);
            let tokens = expected_tokens(share.alpha, share.window);
            let predicted =
                Prediction { round_seconds: seconds as f32, tokens: tokens as f32, propensity: 1.0 };
            plan.push(Planned { chain, predicted: Some(predicted) });
        }
    }

    fn learn(&mut self, report: &PassReport<'_>) {
        self.histories.learn(report);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(sequences: &[(f64, f64)], budget: u64, longest: u32) -> Vec<u32> {
        let mut shares = Shares { least: 0.1, ..Shares::default() };
        shares.all.extend(sequences.iter().map(|&(alpha, need)| Share::new(alpha, need)));
        shares.share(budget, longest);
        shares.all.iter().map(|share| share.window).collect()
    }

    #[test]
    fn what_is_needed_is_what_puts_a_request_on_time_at_the_end_of_the_round() {
        // 1 s and 40 tokens since the first, a round of 50 ms, 25 ms a token: 42 are due.
        assert!((needed(1.0, 0.05, 0.025, 40.0) - 2.0).abs() < 1e-9);
        assert!(needed(1.0, 0.05, 0.1, 40.0) < 0.0, "far ahead");
        assert_eq!(needed(0.0, 0.0, 0.0, 0.0), 0.0);
        assert_eq!(needed(1.0, 0.0, 0.0, 0.0), f64::INFINITY);
    }

    #[test]
    fn the_urgent_are_served_first_and_the_rest_goes_to_the_likely() {
        let none = f64::NEG_INFINITY;
        // 1 + .5 + .25 + .125 >= 1.8 > 1 + .5 + .25.
        assert_eq!(windows(&[(0.9, none), (0.5, 1.8)], 3, 8), [0, 3]);
        // Of 6, three are left for the other: .9, .81, .729 before .0625.
        assert_eq!(windows(&[(0.9, none), (0.5, 1.8)], 6, 8), [3, 3]);
        // Two in need of the same budget: the one that is later goes first.
        assert_eq!(windows(&[(0.5, 2.5), (0.5, 5.0)], 3, 4), [0, 3]);
        assert_eq!(windows(&[(0.5, none), (0.5, none)], 1, 4), [1, 0], "of equals the older");
        // Nothing less likely than a tenth is drafted, whatever the need: .5^3 = .125, .5^4 = .0625.
        assert_eq!(windows(&[(0.5, none)], 100, 8), [3]);
        assert_eq!(windows(&[(0.5, 100.0)], 100, 8), [3]);
    }

    #[test]
    fn the_automatic_budget_ends_where_the_pass_gets_a_tenth_dearer() {
        // 10 ms and 0.06 ms a token: a tenth of plain decoding's 10.06 buys 16 tokens, of a batch of
        // 64's 13.84 it buys 23.
        let of = |rows: u32| knee(rows * 8, DEARER, |drafted| 10.0 + 0.06 * f64::from(rows + drafted));
        assert_eq!((of(1), of(4), of(64)), (8, 17, 23));
        assert_eq!(knee(5, DEARER, |_| 1.0), 5);
        assert_eq!(knee(0, DEARER, |_| 1.0), 0);
        assert_eq!(knee(5, DEARER, |_| f64::NAN), 0);
    }

    proptest! {
        #[test]
        fn a_budget_is_never_overdrawn_nor_left_while_a_likely_token_waits(
            sequences in prop::collection::vec((0.0..=1.0f64, -3.0..12.0f64), 0..20), budget in 0u64..60, longest in 1u32..9,
        ) {
            let windows = windows(&sequences, budget, longest);
            let spent: u64 = windows.iter().map(|&window| u64::from(window)).sum();
            prop_assert!(spent <= budget && windows.iter().all(|&window| window <= longest));
            let waits = sequences.iter().zip(&windows).any(|((alpha, _), &window)| {
                window < longest && alpha.powi(window as i32 + 1) >= 0.1 + 1e-9
            });
            prop_assert!(spent == budget || !waits);
        }
    }
}
