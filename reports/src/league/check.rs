//! The one comparison that the league is read for: is a policy near the best everywhere?

use statrs::distribution::ContinuousCDF;

use super::{CellReport, LeagueReport, Role};
use crate::compare::{CONFIDENCE, Difference, Interval, holm, mean, student, t_interval};

/// A policy within this share of the best counts as near it.
pub const MARGIN: f64 = 0.02;

/// What the seeds say about [`MARGIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Near the best, after Holm's correction over regimes.
    Near,
    /// The mean is within the margin; the seeds do not exclude that it is not.
    NotShown,
    /// The mean is beyond the margin.
    Beyond,
}

/// A policy against the best of a regime.
#[derive(Clone, Debug, PartialEq)]
pub struct Against {
    /// Index of the regime.
    pub regime: usize,
    /// Who had the least latency per token there, among ranked policies; it may be the policy itself.
    pub best: String,
    /// Latency per token relative to that one: 0.01 is 1 % more.
    pub more: f64,
    /// Upper limit of what it takes more than the truly best, simultaneous over regimes at 95 %; `None` below two seeds.
    pub limit: Option<f64>,
    /// The policy that the limit is taken to: the one that may be furthest ahead.
    pub rival: String,
    /// p of "it takes [`MARGIN`] or more beyond the best", one-sided, after Holm's correction over regimes.
    pub p_holm: Option<f64>,
    /// The answer.
    pub verdict: Verdict,
}

/// A policy in a cell, against the reference and against the best there.
#[derive(Clone, Debug, PartialEq)]
pub struct CellAgainst {
    /// Index of the cell.
    pub cell: usize,
    /// Its regret, as a relative change.
    pub regret: f64,
    /// Who had the least latency per token there, among ranked policies.
    pub best: String,
    /// Latency per token relative to that one.
    pub more: f64,
    /// 95 % t interval of that, of this cell alone; `None` below two seeds.
    pub interval: Option<Interval>,
}

/// A regime before its p is corrected.
struct One {
    best: String,
    more: f64,
    limit: Option<f64>,
    rival: String,
    p: Option<f64>,
}

impl LeagueReport {
    /// `name` against the best ranked policy of each regime.
    ///
    /// The unit is the seed: a seed's mean of ln(latency per token) over the regime's pools and variants, which share its
    /// luck, minus the other policy's. What is inferred is about other seeds of these very cells, not about other pools.
    ///
    /// Who is best is found on the seeds on which it is then compared. That makes [`Against::more`] too large, never too
    /// small, in the mean: the least of several means lies below the mean of any one of them, so a policy looks further
    /// from the best than it is. For the limit it would not be enough to lean on that: a policy that came first by luck
    /// would be compared with itself. So the limit is the largest of the upper limits against **every** other policy, each
    /// at 1 − 5 % / regimes (Bonferroni over regimes; none is needed over policies, for the truly best one is among them,
    /// whoever it is, and its limit alone covers with that confidence). p is likewise the largest over policies of the
    /// one-sided t tests at the margin; then Holm over regimes. A policy that leads the table was itself found on these
    /// seeds: that favours its mean regret by something small beside the differences here, and its limits not at all.
    pub fn against_best(&self, name: &str) -> Vec<Against> {
        let regimes: Vec<usize> =
            (0..self.regimes.len()).filter(|&regime| self.by_seed(regime, name).is_some()).collect();
        let share = (1.0 - CONFIDENCE) / regimes.len().max(1) as f64;
        let ones: Vec<One> = regimes.iter().filter_map(|&r| self.one(r, name, share)).collect();
        let corrected = ones.iter().map(|one| one.p).collect::<Option<Vec<f64>>>().map(|p| holm(&p));
        let against = |(index, one): (usize, One)| {
            let p_holm = corrected.as_ref().map(|p| p[index]);
            let verdict = match p_holm {
                Some(p) if p < 1.0 - CONFIDENCE => Verdict::Near,
                _ if one.more > MARGIN => Verdict::Beyond,
                _ => Verdict::NotShown,
            };
            let One { best, more, limit, rival, .. } = one;
            Against { regime: regimes[index], best, more, limit, rival, p_holm, verdict }
        };
        ones.into_iter().enumerate().map(against).collect()
    }

    fn one(&self, regime: usize, name: &str, share: f64) -> Option<One> {
        let own = self.by_seed(regime, name)?;
        let others: Vec<(&str, Vec<f64>)> = self
            .ranked()
            .into_iter()
            .filter(|other| *other != name)
            .filter_map(|other| Some((other, minus(&own, &self.by_seed(regime, other)?))))
            .collect();
        let (mut best, mut more) = (name, 0.0);
        let (mut rival, mut limit, mut p) = (name, Some(0.0), Some(0.0f64));
        for (other, differences) in &others {
            let ahead = mean(differences).unwrap_or(0.0);
            if ahead > more {
                (best, more) = (other, ahead);
            }
            let upper = upper_limit(differences, share);
            if upper.is_none_or(|upper| limit.is_some_and(|limit| upper > limit)) {
                (rival, limit) = (other, upper);
            }
            let tested = beyond(differences, MARGIN.ln_1p());
            p = p.zip(tested).map(|(a, b)| a.max(b));
        }
        let best = best.to_owned();
        // A limit of 0 to itself: all others trail by more than chance.
        let limit = limit.map(f64::exp_m1).filter(|_| own.len() > 1);
        Some(One {
            best,
            more: more.exp_m1(),
            limit,
            rival: rival.to_owned(),
            p: p.filter(|_| own.len() > 1),
        })
    }

    /// By seed: mean ln latency per token over the regime's cells; `None` when the row is not in all of them.
    pub(super) fn by_seed(&self, regime: usize, name: &str) -> Option<Vec<f64>> {
        let cells: Vec<&CellReport> = self.cells.iter().filter(|c| c.regime == regime).collect();
        let rows: Vec<Vec<f64>> =
            cells.iter().map(|cell| Some(cell.row(name)?.logs())).collect::<Option<_>>()?;
        let seeds = rows.iter().map(Vec::len).min()?;
        let mean = |seed: usize| rows.iter().map(|row| row[seed]).sum::<f64>() / rows.len() as f64;
        Some((0..seeds).map(mean).collect())
    }

    /// `name` in every cell, the largest regret first.
    pub fn by_cell(&self, name: &str) -> Vec<CellAgainst> {
        let one = |(index, cell): (usize, &CellReport)| {
            let own = cell.row(name)?;
            let others = cell.rows.iter().filter(|row| row.role == Role::Policy);
            let best =
                others.min_by(|a, b| a.logs().iter().sum::<f64>().total_cmp(&b.logs().iter().sum()))?;
            let differences = minus(&own.logs(), &best.logs());
            let back = |i: Interval| Interval { low: i.low.exp_m1(), high: i.high.exp_m1() };
            Some(CellAgainst {
                cell: index,
                regret: cell.regret(own).exp_m1(),
                best: best.name.clone(),
                more: mean(&differences).map_or(f64::NAN, f64::exp_m1),
                interval: t_interval(&differences).map(back),
            })
        };
        let mut all: Vec<CellAgainst> = self.cells.iter().enumerate().filter_map(one).collect();
        all.sort_by(|a, b| b.regret.total_cmp(&a.regret));
        all
    }
}

fn minus(own: &[f64], other: &[f64]) -> Vec<f64> {
    own.iter().zip(other).map(|(a, b)| a - b).collect()
}

/// Upper t limit of the mean that is exceeded with chance `share`; `None` below two values. Equal values give their mean.
fn upper_limit(values: &[f64], share: f64) -> Option<f64> {
    let Difference { mean, error: se, freedom } = Difference::of(values)?;
    Some(if se > 0.0 { mean + student(freedom).inverse_cdf(1.0 - share) * se } else { mean })
}

/// One-sided p of "the mean is `margin` or more"; `None` below two values.
fn beyond(values: &[f64], margin: f64) -> Option<f64> {
    let Difference { mean, error: se, freedom } = Difference::of(values)?;
    Some(match se > 0.0 {
        true => student(freedom).cdf((mean - margin) / se),
        false if mean < margin => 0.0,
        false => 1.0,
    })
}
