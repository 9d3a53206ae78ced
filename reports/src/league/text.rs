//! The league for a terminal of 100 columns.

use super::measures::{BASE, together};
use super::{LeagueReport, MARGIN, Role, Standing, Verdict};
use crate::numbers::change;
use crate::table::aligned;

/// The width that tables and sentences keep to.
const COLUMNS: usize = 100;

impl LeagueReport {
    /// Tables for a terminal: rank, regret by regime, the leader against the best of each, other signals.
    pub fn text(&self) -> String {
        let standings = self.standings();
        let shown: Vec<&Standing> =
            standings.iter().filter(|s| !matches!(s.role, Role::Signals { .. })).collect();
        let mut text = format!("{}: {}\n\n", self.title, self.measured());
        text += &self.rank_text(&shown);
        text += "\nregret by regime, %\n";
        text += &self.regime_text(&shown);
        if let Some(leader) = shown.first().filter(|s| s.role == Role::Policy) {
            text += &self.check_text(leader);
        }
        text += &self.measures_text(&shown);
        text += &self.signals_text();
        for note in &self.notes {
            text += &format!("\n{}\n", wrapped(&format!("note: {note}")));
        }
        text
    }

    /// What the numbers are of, in a line.
    pub(super) fn measured(&self) -> String {
        let (cells, seeds) = (self.cells.len(), &self.report_seeds);
        format!(
            "latency per token beyond the reference, {cells} {}, {}",
            plural(cells, "cell", "cells"),
            span(seeds)
        )
    }

    fn rank_text(&self, shown: &[&Standing]) -> String {
        let mut rows =
            vec![["rank", "policy", "regret", "mean rank", "worst", "where"].map(str::to_owned).to_vec()];
        for (index, s) in shown.iter().enumerate() {
            let ranked = s.role == Role::Policy;
            rows.push(vec![
                if ranked { (index + 1).to_string() } else { String::new() },
                s.name.clone(),
                change(s.mean),
                s.mean_rank.map_or_else(String::new, |rank| format!("{rank:.1}")),
                change(s.worst),
                self.cell_name(s.worst_cell),
            ]);
        }
        aligned(&rows, &[1, 5])
    }

    fn regime_text(&self, shown: &[&Standing]) -> String {
        let mut rows = headed(self.regimes.iter().map(|(name, _)| name.as_str()));
        for s in shown {
            rows.push(std::iter::once(s.name.clone()).chain(s.regimes.iter().map(|&r| bare(r))).collect());
        }
        aligned(&rows, &[0])
    }

    fn measures_text(&self, shown: &[&Standing]) -> String {
        if shown.iter().all(|s| s.name != BASE) {
            return String::new();
        }
        let mut rows = headed(together().map(|measure| measure.name));
        for s in shown {
            rows.push(std::iter::once(s.name.clone()).chain(self.columns(&s.name, |_| true)).collect());
        }
        format!(
            "\nall cells, change to {BASE} in %; goodput: % of requests within their SLO\n{}",
            aligned(&rows, &[0])
        )
    }

    fn check_text(&self, leader: &Standing) -> String {
        let all = self.against_best(&leader.name);
        let mut rows =
            vec![["regime", "best policy", "more", "limit", "to", "within"].map(str::to_owned).to_vec()];
        for against in &all {
            rows.push(vec![
                self.regimes[against.regime].0.clone(),
                against.best.clone(),
                change(against.more),
                against.limit.map_or_else(|| "-".into(), change),
                against.limit.map_or_else(String::new, |_| against.rival.clone()),
                word(against.verdict).to_owned(),
            ]);
        }
        format!(
            "\n{} against the best of each regime; upper limits hold together at 95 %\n{}{}\n",
            leader.name,
            aligned(&rows, &[0, 1, 4, 5]),
            wrapped(&self.answer(&leader.name))
        )
    }

    /// The answer to "is it within [`MARGIN`] of the best policy of every regime", as a sentence.
    pub(super) fn answer(&self, name: &str) -> String {
        let all = self.against_best(name);
        let of = |verdict: Verdict| -> Vec<&str> {
            let own = all.iter().filter(|a| a.verdict == verdict);
            own.map(|a| self.regimes[a.regime].0.as_str()).collect()
        };
        let margin = format!("{:.0} %", 100.0 * MARGIN);
        let (beyond, open) = (of(Verdict::Beyond), of(Verdict::NotShown));
        if self.report_seeds.len() < 2 {
            return format!("Within {margin} of the best in every regime? One seed cannot tell: no limits.");
        }
        if beyond.is_empty() && open.is_empty() {
            return format!(
                "Within {margin} of the best in every regime? Yes, in all {}: {name} is (95 %, Holm).",
                all.len()
            );
        }
        let mut parts = Vec::new();
        if !beyond.is_empty() {
            parts.push(format!("beyond it in {}", beyond.join(", ")));
        }
        if !open.is_empty() {
            parts.push(format!("not shown in {}", open.join(", ")));
        }
        let answer = if beyond.is_empty() { "Not shown" } else { "No" };
        let near = all.len() - beyond.len() - open.len();
        format!(
            "Within {margin} of the best in every regime? {answer}: {name} is in {near} of {}; {} (95 %, Holm).",
            all.len(),
            parts.join("; ")
        )
    }

    fn signals_text(&self) -> String {
        let all = self.under_signals();
        if all.is_empty() {
            return String::new();
        }
        let mut rows = vec![["policy", "signals", "regret", "worst"].map(str::to_owned).to_vec()];
        for one in &all {
            rows.push(vec![
                one.of.to_owned(),
                one.correlation.to_string(),
                change(one.regret),
                change(one.worst),
            ]);
        }
        format!(
            "\nregimes as written, by rank correlation of the confidence signals\n{}",
            aligned(&rows, &[0])
        )
    }
}

/// Headings over two lines, the first column's `policy`; one line where no name has a gap.
fn headed<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Vec<String>> {
    let (upper, lower): (Vec<String>, Vec<String>) = names.map(two_lines).unzip();
    let line = |first: &str, rest: Vec<String>| std::iter::once(first.to_owned()).chain(rest).collect();
    let mut rows: Vec<Vec<String>> = vec![line("", upper), line("policy", lower)];
    if rows[0].iter().all(String::is_empty) {
        rows.remove(0);
    }
    rows
}

/// Without its unit: `+1.2`.
pub(super) fn bare(relative: f64) -> String {
    let text = if relative.is_finite() { change(relative) } else { "-".into() };
    text.trim_end_matches(" %").to_owned()
}

/// Over lines of at most [`COLUMNS`], broken between words.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(line) if last == 0 || last + 1 + word.chars().count() <= COLUMNS => {
                line.push_str(if last == 0 { "" } else { " " });
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

pub(super) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Near => "yes",
        Verdict::NotShown => "not shown",
        Verdict::Beyond => "no",
    }
}

pub(super) fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

/// `seeds 101 to 120`.
pub(super) fn span(seeds: &[u64]) -> String {
    match seeds {
        [] => "no seeds".into(),
        [one] => format!("seed {one}"),
        [first, .., last] => format!("seeds {first} to {last}"),
    }
}

/// `long context` over two lines; what has no gap stands below.
fn two_lines(name: &str) -> (String, String) {
    let gap = name.match_indices(' ').min_by_key(|(at, _)| at.abs_diff(name.len() / 2));
    gap.map_or_else(
        || (String::new(), name.to_owned()),
        |(at, _)| (name[..at].to_owned(), name[at + 1..].to_owned()),
    )
}
