//! What an acceptance process looks like from outside: the statistics that are published of measured
//! traces, and the parameters that give them.

use specrouter_routing::chain::MAX_MODELS;
use specrouter_routing::ids::{ClassId, ModelId, RequestId};
use specrouter_routing::luck::Luck;
use specrouter_routing::units::{Positive, Probability};

use super::config::{AcceptanceError, RegimeConfig};
use super::heterogeneous::{Heterogeneous, Settings};
use super::law::{Coins, Law, Sequence, Walk};
use super::{Source, signals, with_law};

/// Tokens per round at one draft length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokensPerRound {
    /// Draft length k.
    pub drafted: u32,
    /// Accepted + 1, on average.
    pub measured: f64,
    /// (1 − α̂^(k+1)) / (1 − α̂), with the pooled α̂ at this k: what independent coins would give.
    pub independent: f64,
}

/// Statistics of a two-level process. Every estimate is over full rounds: no output ends early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// α̂ at k = 5: Σ accepted / (Σ accepted + rounds that ended in a rejection).
    pub pooled: f64,
    /// At k = 3 and k = 8.
    pub tokens: [TokensPerRound; 2],
    /// Standard deviation across requests of the request's own α̂ at k = 5, its sampling included.
    pub request_spread: f64,
    /// Correlation of a round's accepted length with that of the request's next round, at k = 5, over
    /// all such pairs of all requests.
    pub lag_1: f64,
}

/// Rounds and their verdicts.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    rounds: f64,
    accepted: f64,
    rejected: f64,
}

impl Count {
    fn add(&mut self, drafted: u32, accepted: u32) {
        self.rounds += 1.0;
        self.accepted += f64::from(accepted);
        self.rejected += f64::from(u8::from(accepted < drafted));
    }

    fn rate(&self) -> f64 {
        self.accepted / (self.accepted + self.rejected).max(1.0)
    }
}

/// Draws `requests` outputs of `output_tokens` tokens of one class, drafted by `drafter` directly
/// below `target`, once for each draft length.
pub fn measure(
    source: &Source,
    class: ClassId,
    (drafter, target): (ModelId, ModelId),
    luck: Luck,
    (requests, output_tokens): (u64, u32),
) -> Statistics {
    with_law!(source, law => of_law(law, class, (drafter, target), luck, (requests, output_tokens)))
}

fn of_law<L: Law>(
    law: &L,
    class: ClassId,
    (drafter, target): (ModelId, ModelId),
    luck: Luck,
    (requests, output_tokens): (u64, u32),
) -> Statistics {
    let coins = Coins::new(luck);
    let walk_all = |drafted: u32, see: &mut dyn FnMut(u64, u32)| {
        for request in 0..requests {
            let mut sequence = Sequence {
                request: RequestId(request),
                class: class.0,
                output: u32::MAX,
                ..Sequence::default()
            };
            law.admit(&coins, &mut sequence);
            let mut committed = 1; // The prefill's pass emits the first.
            while committed < output_tokens {
                law.settle(&coins, &mut sequence, committed);
                let accepted = law.prefix(Walk::new(&coins, &sequence), committed, drafted, drafter, target);
                see(request, accepted);
                committed += accepted + 1;
            }
        }
    };
    let tokens = [3, 8].map(|drafted| {
        let mut count = Count::default();
        walk_all(drafted, &mut |_, accepted| count.add(drafted, accepted));
        let rate = count.rate();
        let independent = (0..=drafted as i32).map(|power| libm::pow(rate, f64::from(power))).sum();
        TokensPerRound { drafted, measured: 1.0 + count.accepted / count.rounds.max(1.0), independent }
    });

    const DRAFTED: u32 = 5;
    let mut all = Count::default();
    let mut each = vec![Count::default(); requests as usize];
    let (mut now, mut next) = (Vec::new(), Vec::new());
    let mut before: Option<(u64, u32)> = None;
    walk_all(DRAFTED, &mut |request, accepted| {
        all.add(DRAFTED, accepted);
        each[request as usize].add(DRAFTED, accepted);
        if let Some((_, earlier)) = before.filter(|&(whose, _)| whose == request) {
            now.push(f64::from(earlier));
            next.push(f64::from(accepted));
        }
        before = Some((request, accepted));
    });
    let rates: Vec<f64> = each.iter().map(Count::rate).collect();
    let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    let squares: f64 = rates.iter().map(|rate| (rate - mean) * (rate - mean)).sum();
    Statistics {
        pooled: all.rate(),
        tokens,
        request_spread: libm::sqrt(squares / rates.len().saturating_sub(1).max(1) as f64),
        lag_1: signals::correlation(&now, &next),
    }
}

/// Statistics to be met.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// [`Statistics::pooled`].
    pub pooled: f64,
    /// [`Statistics::request_spread`].
    pub request_spread: f64,
    /// [`Statistics::lag_1`].
    pub lag_1: f64,
}

/// Parameters of the heterogeneous source for one pair, and what they give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fitted {
    /// The pair's α: the mean over committed positions, above the pooled α̂.
    pub acceptance: f64,
    /// `request_spread` of the scenario: of the request's own mean, without regimes and sampling.
    pub request_spread: f64,
    /// `regime` of the scenario.
    pub regime: RegimeConfig,
    /// What came of them.
    pub statistics: Statistics,
}

impl Fitted {
    /// The largest error as a share of what is allowed: .03 in the pooled rate, .02 in the spread, .08
    /// in the lag-1 correlation.
    pub fn miss(&self, wanted: &Wanted) -> f64 {
        let errors = [
            (self.statistics.pooled - wanted.pooled) / 0.03,
            (self.statistics.request_spread - wanted.request_spread) / 0.02,
            (self.statistics.lag_1 - wanted.lag_1) / 0.08,
        ];
        errors.into_iter().fold(0.0, |worst, error| f64::max(worst, libm::fabs(error)))
    }
}

/// Searches the parameters of the heterogeneous source that give measured statistics, for outputs of
/// `output_tokens` tokens: for each of a few run lengths the three others are moved by what is missing.
/// Every trial meets the same luck. The best is returned, met or not; ask [`Fitted::miss`].
///
/// # Errors
/// [`AcceptanceError`] when not even independent coins can be set up.
pub fn fit(wanted: &Wanted, luck: Luck, size: (u64, u32)) -> Result<Fitted, AcceptanceError> {
    const RUNS: [f64; 6] = [10.0, 20.0, 40.0, 80.0, 160.0, 320.0];
    const TRIALS: u32 = 14;
    const GOOD: f64 = 0.3;
    let mut best = trial(wanted.pooled, 0.0, regime(RUNS[0], 0.0), luck, size)?;
    for stay in RUNS {
        let (mut rate, mut spread, mut swing) =
            (wanted.pooled, wanted.request_spread / 2.0, wanted.lag_1 / 2.0);
        for _ in 0..TRIALS {
            let fitted = match trial(rate, spread, regime(stay, swing), luck, size) {
                Ok(fitted) => fitted,
                Err(AcceptanceError::Spread { largest, .. }) => {
                    spread = 0.9 * largest;
                    continue;
                }
                Err(other) => return Err(other),
            };
            if fitted.miss(wanted) < best.miss(wanted) {
                best = fitted;
            }
            if best.miss(wanted) < GOOD {
                return Ok(best);
            }
            let found = fitted.statistics;
            rate = (rate + wanted.pooled - found.pooled).clamp(0.01, 0.99);
            spread = (spread + 0.8 * (wanted.request_spread - found.request_spread)).clamp(0.0, 0.5);
            swing = (swing + 0.6 * (wanted.lag_1 - found.lag_1)).clamp(0.0, 0.5);
        }
    }
    Ok(best)
}

fn regime(stay: f64, swing: f64) -> RegimeConfig {
    RegimeConfig {
        stay_tokens: Positive::new(stay).expect("run lengths are listed above 0"),
        spread: Probability::new(swing).expect("the swing is clamped to 0 to 0.5"),
    }
}

fn trial(
    rate: f64,
    spread: f64,
    regime: RegimeConfig,
    luck: Luck,
    size: (u64, u32),
) -> Result<Fitted, AcceptanceError> {
    let mut matrix = [[None; MAX_MODELS]; MAX_MODELS];
    matrix[0][1] = Some(rate);
    let law = Heterogeneous::new(Settings {
        names: &["draft", "target"],
        classes: &[("all".to_owned(), matrix)],
        drift: None,
        request_spread: spread,
        regime: Some(regime),
        depth: vec![Vec::new(); 2],
        signal_correlation: 0.0,
    })?;
    let statistics = of_law(&law, ClassId(0), (ModelId(0), ModelId(1)), luck, size);
    Ok(Fitted { acceptance: rate, request_spread: spread, regime, statistics })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of measured per-position traces of Llama-3.1-8B (SpecDecode-Bench): EAGLE-3 and n-gram
    /// drafts on gsm8k, cnn, sharegpt and instructcoder.
    const MEASURED: [(&str, f64, f64, f64); 8] = [
        ("EAGLE gsm8k", 0.653, 0.053, 0.08),
        ("EAGLE cnn", 0.641, 0.061, 0.14),
        ("EAGLE sharegpt", 0.626, 0.107, 0.27),
        ("EAGLE instructcoder", 0.658, 0.089, 0.39),
        ("n-gram gsm8k", 0.152, 0.064, 0.14),
        ("n-gram cnn", 0.283, 0.110, 0.30),
        ("n-gram sharegpt", 0.325, 0.177, 0.60),
        ("n-gram instructcoder", 0.623, 0.201, 0.74),
    ];

    #[test]
    fn the_measured_processes_have_parameters_that_give_them() {
        for (name, pooled, request_spread, lag_1) in MEASURED {
            let wanted = Wanted { pooled, request_spread, lag_1 };
            let fitted = fit(&wanted, Luck::new(1), (400, 400)).unwrap();
            // Judged on requests that the search has not seen.
            let fresh =
                trial(fitted.acceptance, fitted.request_spread, fitted.regime, Luck::new(2), (1500, 400))
                    .unwrap();
            assert!(fresh.miss(&wanted) <= 1.0, "{name}: wanted {wanted:?}, got {fresh:?}");
        }
    }

    #[test]
    fn independent_coins_have_no_spread_but_that_of_sampling_and_no_memory() {
        let flat = trial(0.6, 0.0, regime(10.0, 0.0), Luck::new(3), (500, 2000)).unwrap().statistics;
        assert!((flat.pooled - 0.6).abs() < 0.003, "{flat:?}");
        assert!(flat.lag_1.abs() < 0.02 && flat.request_spread < 0.016, "{flat:?}");
        for tokens in flat.tokens {
            assert!((tokens.measured / tokens.independent - 1.0).abs() < 0.01, "{flat:?}");
        }
    }
}
