//! What a comparison comes to, in a word and in a sentence.

use serde::Serialize;

use super::Comparison;
use super::power::{first_step, seeds_for};
use super::statistics::{Interval, LEVEL};
use crate::numbers::{change, number, thousands};

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A difference after correction, for the better.
    Better,
    /// A difference after correction, for the worse.
    Worse,
    /// The whole interval lies inside the margin.
    Equivalent,
    /// The same value in every seed.
    Equal,
    /// Neither a difference nor none.
    Unclear,
    /// One replication, or no spread: a difference that nothing can be said about.
    Single,
}

/// On which terms verdicts are given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Relative differences within this count as none.
    pub margin: f64,
    /// The relative difference that an unclear comparison is told the seeds for.
    pub detect: f64,
}

impl Default for Terms {
    fn default() -> Self {
        Self { margin: 0.03, detect: 0.02 }
    }
}

impl Outcome {
    /// Of a comparison whose p value is corrected.
    pub(super) fn of(c: &Comparison, margin: f64) -> Self {
        let Some(i) = c.interval else { return Self::Single };
        if point(i) {
            return if c.effect == 0.0 { Self::Equal } else { Self::Single };
        }
        match c.p_holm {
            _ if c.relative && i.low > -margin && i.high < margin => Self::Equivalent,
            Some(p) if p < LEVEL && (c.effect < 0.0) == c.metric.less_is_better() => Self::Better,
            Some(p) if p < LEVEL => Self::Worse,
            _ => Self::Unclear,
        }
    }
}

fn point(interval: Interval) -> bool {
    interval.low.total_cmp(&interval.high).is_eq()
}

/// A verdict without names, for a run's tables.
pub(super) fn told(c: &Comparison, margin: f64) -> String {
    let size = |x: f64| if c.relative { change(x) } else { format!("{x:+.3} {}", c.metric.unit()) };
    let Some(interval) = c.interval else {
        return format!("{}; one seed: no interval", size(c.effect));
    };
    let range =
        || format!("{} (95 % interval {} to {})", size(c.effect), size(interval.low), size(interval.high));
    let p = c.p_holm.map(|p| format!(", p {}", chance(p))).unwrap_or_default();
    match c.outcome {
        Outcome::Equal => "exactly equal in every seed".into(),
        Outcome::Single => format!("{} in every seed", size(c.effect)),
        Outcome::Equivalent => {
            format!("no difference larger than {} %: {}", number_of_percent(margin), range())
        }
        Outcome::Better => format!("better: {}{p}", range()),
        Outcome::Worse => format!("worse: {}{p}", range()),
        Outcome::Unclear if c.p_holm.is_some() => format!("no clear difference: {}{p}", range()),
        Outcome::Unclear => range(),
    }
}

fn chance(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

/// 0.03 as `3`, 0.005 as `0.5`.
fn number_of_percent(share: f64) -> String {
    let text = format!("{:.1}", share * 100.0);
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// The least margin, in tenths of a percent, that the interval supports.
fn supported(interval: Interval, margin: f64) -> f64 {
    let size = interval.low.abs().max(interval.high.abs());
    ((size * 1000.0).floor() / 1000.0 + 0.001).min(margin)
}

/// One pair of arms, at one load and of one class, in a sentence: what is better, worse, equal, unclear.
///
/// `own` are its comparisons, all of one pair; `tests` is the size of the family they stand in.
pub(crate) fn sentence(own: &[&Comparison], tests: usize, terms: &Terms) -> String {
    let Some(first) = own.first() else { return String::new() };
    let mut parts: Vec<String> = Vec::new();
    let of = |outcome: Outcome| own.iter().filter(move |c| c.outcome == outcome);
    let list = |outcome: Outcome, word: &dyn Fn(&Comparison) -> String| {
        of(outcome).map(|c| word(c)).collect::<Vec<_>>().join(", ")
    };
    let (policy, baseline) = (&first.policy, &first.baseline);
    let better = list(Outcome::Better, &|c| distance(c, true));
    let worse = list(Outcome::Worse, &|c| distance(c, false));
    match (better.is_empty(), worse.is_empty()) {
        (false, true) => parts.push(format!("beats {baseline} by {better}")),
        (true, false) => parts.push(format!("loses to {baseline} by {worse}")),
        (false, false) => parts.push(format!("beats {baseline} by {better} and loses by {worse}")),
        (true, true) => {}
    }
    let none = |c: &Comparison| {
        let interval = c.interval.unwrap_or(Interval { low: 0.0, high: 0.0 });
        let bound = number_of_percent(supported(interval, terms.margin));
        // Small, and there all the same.
        let real = c.p_holm.is_some_and(|p| p < LEVEL);
        let small = if real { format!(" (yet one of {})", change(c.effect)) } else { String::new() };
        format!("{bound} % in {}{small}", c.metric.name())
    };
    let equal = list(Outcome::Equivalent, &none);
    if !equal.is_empty() {
        parts.push(format!("no difference larger than {equal}"));
    }
    let exact = list(Outcome::Equal, &|c| c.metric.name().to_owned());
    if !exact.is_empty() {
        parts.push(format!("exactly equal in every seed: {exact}"));
    }
    let unclear = list(Outcome::Unclear, &|c| open(c, tests, terms));
    if !unclear.is_empty() {
        parts.push(format!("unclear: {unclear}"));
    }
    let single = list(Outcome::Single, &|c| format!("{} {}", c.metric.name(), size(c, c.effect)));
    if !single.is_empty() {
        let why = match own.iter().any(|c| c.outcome == Outcome::Single && c.interval.is_some()) {
            true => "the same in every seed",
            false => "one replication, so no interval",
        };
        parts.push(format!("{why}: {single}"));
    }
    let opens = matches!(parts.first(), Some(part) if part.starts_with("beats") || part.starts_with("loses"));
    let subject = if opens { policy.clone() } else { format!("{policy} against {baseline}:") };
    format!("{subject} {}", parts.join("; "))
}

fn size(c: &Comparison, x: f64) -> String {
    if c.relative { change(x) } else { format!("{} {}", signed(x), c.metric.unit()) }
}

fn signed(x: f64) -> String {
    if x > 0.0 { format!("+{}", number(x)) } else { number(x) }
}

/// `6.1 % [5.2, 7.0] in TPOT mean`: how far it is better, or worse.
fn distance(c: &Comparison, better: bool) -> String {
    let sign = if c.metric.less_is_better() == better { -1.0 } else { 1.0 };
    let shown = |x: f64| {
        if c.relative { format!("{:.1}", sign * x * 100.0) } else { number(sign * x) }
    };
    let unit = if c.relative { "%" } else { c.metric.unit() };
    let range = c.interval.map_or_else(String::new, |i| {
        let (near, far) = if sign < 0.0 { (i.high, i.low) } else { (i.low, i.high) };
        format!(" [{}, {}]", shown(near), shown(far))
    });
    format!("{} {unit}{range} in {}", shown(c.effect), c.metric.name())
}

/// `TTFT p99 between -1.2 % and +4.0 %; about 34 seeds would tell 2 %`
fn open(c: &Comparison, tests: usize, terms: &Terms) -> String {
    let name = c.metric.name();
    let Some(i) = c.interval else { return name.to_owned() };
    let range = format!("{name} between {} and {}", size(c, i.low), size(c, i.high));
    let Some(spread) = c.spread.filter(|_| c.relative && c.pairing != super::Pairing::Blocks) else {
        return range;
    };
    let told = number_of_percent(terms.detect);
    match seeds_for(terms.detect.ln_1p(), spread, first_step(tests)) {
        Some(seeds) => {
            let seeds = thousands(&seeds.to_string());
            format!("{range} (about {seeds} seeds would tell {told} %)")
        }
        None => format!("{range} (no number of seeds would tell {told} %)"),
    }
}
