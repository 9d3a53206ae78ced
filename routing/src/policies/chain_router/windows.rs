//! How far each sequence drafts: windows by marginal gain under one shared budget.
//!
//! Rows of a batch share their passes: the j-th draft pass runs if any row wants it, one more verified token costs its
//! share of the target's pass, and a row's j-th token is committed with chance α^j. Where the budget ends, every row's
//! last token is worth the same: so windows are known by one number, the survival θ below which a token is not drafted,
//! and by how deep anybody drafts. Both are searched, each priced exactly, for the most tokens per second. Survivals
//! come from the past alone, so no window depends on what is drafted in it (rule R3).

/// Longest window.
pub(super) const MOST: usize = 16;
/// Survivals at which a budget may end: from all but certain to all but hopeless.
const STEPS: usize = 24;
const STEP: f64 = 0.86;

/// What passes cost, in seconds.
pub(super) struct Passes<'a> {
    /// Of the drafter, by rows.
    pub draft: &'a mut dyn FnMut(u32) -> f64,
    /// Of the target, by tokens verified, one of each row included.
    pub verify: &'a mut dyn FnMut(u32) -> f64,
}

/// The acceptance of each row that starts; `None` for one that must not draft.
pub(super) type Rows = Vec<Option<f64>>;

/// What an allotment may do.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Rows of the batch that each row stands for.
    pub weight: f64,
    /// Draft passes up to this depth run anyway: only what a row adds to them is its price.
    pub sure: u8,
    /// Longest window.
    pub longest: u8,
    /// The tokens that a second is worth, where it is not to be found: windows then bring the most tokens less what
    /// their seconds are worth, and without it the most tokens per second.
    pub rate: Option<f64>,
}

/// Windows, and what a round of them takes and brings the whole batch.
pub(super) struct Allotment {
    /// One for each row.
    pub windows: Vec<u8>,
    pub seconds: f64,
    pub tokens: f64,
    /// Rows that may draft, by falling acceptance: those that draft to a depth are the first of them.
    order: Vec<(u32, f64)>,
    /// By depth: Σ α^depth of the first rows in order.
    sums: Vec<f64>,
    /// By step and depth: the acceptance whose survival there is θ.
    least: Vec<[f64; MOST]>,
}

impl Default for Allotment {
    fn default() -> Self {
        let least = |step: usize| {
            std::array::from_fn(|depth| libm::pow(STEP, (step + 1) as f64 / (depth + 1) as f64))
        };
        Self {
            windows: Vec::new(),
            seconds: 0.0,
            tokens: 0.0,
            order: Vec::new(),
            sums: Vec::new(),
            least: (0..STEPS).map(least).collect(),
        }
    }
}

impl Allotment {
    /// Allots windows to `rows`.
    pub fn fill(&mut self, rows: &Rows, terms: Terms, passes: &mut Passes<'_>) {
        let Terms { weight, sure, longest, rate } = terms;
        let longest = usize::from(longest).min(MOST);
        self.sort(rows, longest);
        let all = rows.len() as f64 * weight;
        let alone = (passes.verify)(whole(all));
        let row = ((passes.draft)(whole(all)) - (passes.draft)(1)).max(0.0) / (all - 1.0).max(1.0);
        let worth = |seconds: f64, tokens: f64| match rate {
            Some(rate) => tokens - rate * seconds,
            None => tokens / seconds,
        };
        (self.seconds, self.tokens) = (alone, all);
        let (mut best, mut chosen) = (worth(alone, all), None);
        for step in 0..STEPS {
            let (mut drafting, mut charged, mut drafted, mut tokens) = (0.0, 0.0, 0.0, all);
            for depth in 1..=longest {
                let n = self.count(step, depth);
                if n == 0 {
                    break;
                }
                let here = weight * n as f64;
                let pass = (passes.draft)(whole(here));
                drafting += pass;
                charged += if depth <= usize::from(sure) { row * here } else { pass };
                drafted += here;
                tokens += weight * self.sums[(depth - 1) * self.order.len() + n - 1];
                let verify = (passes.verify)(whole(all + drafted));
                let value = worth(charged + verify, tokens);
                if value > best {
                    (best, chosen) = (value, Some((step, depth)));
                    (self.seconds, self.tokens) = (drafting + verify, tokens);
                }
            }
        }
        self.windows.clear();
        self.windows.resize(rows.len(), 0);
        if let Some((step, deepest)) = chosen {
            for depth in 1..=deepest {
                for &(row, _) in &self.order[..self.count(step, depth)] {
                    self.windows[row as usize] = depth as u8;
                }
            }
        }
    }

    /// Rows whose token at `depth` (from 1) survives with the chance of `step` or more.
    fn count(&self, step: usize, depth: usize) -> usize {
        let least = self.least[step][depth - 1];
        self.order.partition_point(|&(_, alpha)| alpha >= least)
    }

    fn sort(&mut self, rows: &Rows, longest: usize) {
        self.order.clear();
        self.order.extend(rows.iter().enumerate().filter_map(|(row, alpha)| Some((row as u32, (*alpha)?))));
        self.order.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let count = self.order.len();
        self.sums.clear();
        self.sums.resize(count * longest, 0.0);
        let mut total = [0.0; MOST];
        for (index, &(_, alpha)) in self.order.iter().enumerate() {
            let mut power = 1.0;
            for (depth, total) in total.iter_mut().enumerate().take(longest) {
                power *= alpha;
                *total += power;
                self.sums[depth * count + index] = *total;
            }
        }
    }
}

fn whole(rows: f64) -> u32 {
    (rows + 0.5).max(1.0) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::maths::expected_tokens;

    /// Pass times: a floor and a price for each row or token past a knee.
    #[derive(Clone, Copy, Debug)]
    struct Times {
        draft: (f64, f64),
        verify: (f64, f64, f64),
    }

    impl Times {
        fn draft(&self, rows: u32) -> f64 {
            self.draft.0 + self.draft.1 * f64::from(rows)
        }
        fn verify(&self, tokens: u32) -> f64 {
            let (floor, knee, each) = self.verify;
            floor + each * (f64::from(tokens) - knee).max(0.0)
        }
    }

    fn allot(alphas: &[f64], longest: u8, times: Times) -> Allotment {
        let rows: Rows = alphas.iter().map(|&alpha| Some(alpha)).collect();
        let (mut draft, mut verify) = (|n| times.draft(n), |n| times.verify(n));
        let mut passes = Passes { draft: &mut draft, verify: &mut verify };
        let mut out = Allotment::default();
        out.fill(&rows, Terms { weight: 1.0, sure: 0, longest, rate: None }, &mut passes);
        out
    }

    /// Tokens per second of given windows.
    fn earns(alphas: &[f64], windows: &[u8], times: Times) -> f64 {
        let deepest = windows.iter().copied().max().unwrap_or(0);
        let drafts: f64 =
            (1..=deepest).map(|d| times.draft(windows.iter().filter(|&&w| w >= d).count() as u32)).sum();
        let tokens: u32 = windows.iter().map(|&w| u32::from(w) + 1).sum();
        let brought: f64 = alphas.iter().zip(windows).map(|(&a, &w)| expected_tokens(a, u32::from(w))).sum();
        brought / (drafts + times.verify(tokens))
    }

    /// The best windows by trying all.
    fn brute(alphas: &[f64], longest: u8, times: Times) -> f64 {
        let choices = usize::from(longest) + 1;
        (0..choices.pow(alphas.len() as u32))
            .map(|index| {
                let windows: Vec<u8> =
                    (0..alphas.len()).map(|r| (index / choices.pow(r as u32) % choices) as u8).collect();
                earns(alphas, &windows, times)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn the_window_of_one_sequence_is_the_textbook_one() {
        use crate::policy::maths::best_window;
        for (alpha, cost) in [(0.5, 0.05), (0.7, 0.1), (0.8, 0.1), (0.9, 0.2), (0.6, 0.02), (0.2, 0.3)] {
            let times = Times { draft: (cost, 0.0), verify: (1.0, 1e9, 0.0) };
            let want = best_window(alpha, cost, 16);
            let got = allot(&[alpha], 16, times);
            let rate = |w: u32| expected_tokens(alpha, w) / (1.0 + f64::from(w) * cost);
            assert!(
                rate(u32::from(got.windows[0])) >= rate(want) * (1.0 - 1e-9),
                "{alpha} {cost}: {:?}",
                got.windows
            );
        }
    }

    proptest! {
        /// Near the best windows there are, on small batches by trying all.
        #[test]
        fn windows_earn_what_the_best_would(
            alphas in prop::collection::vec(0.05..0.95f64, 1..6), draft in 0.01..0.3f64, row in 0.0..0.01f64,
            knee in 1.0..12.0f64, each in 0.0..0.15f64,
        ) {
            let times = Times { draft: (draft, row), verify: (1.0, knee, each) };
            let got = allot(&alphas, 4, times);
            let best = brute(&alphas, 4, times);
            let earned = earns(&alphas, &got.windows, times);
            prop_assert!((got.tokens / got.seconds - earned).abs() < 1e-9 * earned, "it knows what it earns");
            prop_assert!(earned >= 0.95 * best, "{earned} of {best}: {:?}", got.windows);
        }

        /// Higher acceptance never gets the shorter window.
        #[test]
        fn who_is_kept_more_drafts_no_less(
            alphas in prop::collection::vec(0.05..0.95f64, 2..20), draft in 0.01..0.3f64, each in 0.0..0.1f64,
        ) {
            let got = allot(&alphas, 8, Times { draft: (draft, 0.001), verify: (1.0, 4.0, each) });
            for (a, x) in alphas.iter().zip(&got.windows) {
                for (b, y) in alphas.iter().zip(&got.windows) {
                    prop_assert!(a <= b || x >= y, "{a} {x} {b} {y}");
                }
            }
        }
    }
}
