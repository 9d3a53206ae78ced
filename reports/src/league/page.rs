//! The league as one self-contained page.

use super::measures::{BASE, MEASURES, Measure, Together, together};
use super::text::{plural, span, word};
use super::{CellReport, LeagueReport, MARGIN, Role, Standing, Verdict};
use crate::ReportError;
use crate::html::{columns, escape, list, section, shell_with, signs};
use crate::numbers::{change, number};

const STYLE: &str = include_str!("league.css");
/// Cells of the leader that are listed.
const CELLS: usize = 12;

impl LeagueReport {
    /// One page.
    ///
    /// # Errors
    /// [`ReportError::Empty`] without cells.
    pub fn html(&self) -> Result<String, ReportError> {
        if self.cells.is_empty() {
            return Err(ReportError::Empty(0));
        }
        let standings = self.standings();
        let leader = standings.first().filter(|s| s.role == Role::Policy);
        let mut body = self.opening();
        body += &section("Rank", &self.rank(&standings));
        if let Some(leader) = leader {
            body += &section("Near the best everywhere?", &self.check(leader));
        }
        body += &section("Regret, %", &(self.heat_words() + &self.heat(&standings)));
        if let Some(leader) = leader {
            body += &section(&format!("Worst cells of {}", leader.name), &self.worst(leader));
        }
        body += &section("TTFT, TPOT, goodput, throughput and price", &self.measured_values(&standings));
        body += &section("By quality of confidence signals", &self.signal_rows());
        body += &section("What policies were tuned to", &self.tuning());
        body += &section("Definitions", &definitions());
        body += &self.closing();
        Ok(shell_with(&self.title, STYLE, &body))
    }

    fn opening(&self) -> String {
        let mut out = format!("<header>\n<h1>{}</h1>\n", escape(&self.title));
        out += &format!(
            "<p>Every policy decodes the same traffic in {} {} ({} by {} and {}), under {}. What is measured is latency \
             per token: the time from arrival to last token of all requests over all their output tokens, queue and \
             prompt included. Regret is how much more of it a policy takes than the reference of the cell, the better of \
             <code>clairvoyant</code>, which knows each request\u{2019}s future, and <code>hindsight</code>, the static \
             plan that was best for this pool and regime.</p>\n",
            self.cells.len(),
            plural(self.cells.len(), "cell", "cells"),
            count(self.regimes.len(), "regime", "regimes"),
            count(self.pools.len(), "pool", "pools"),
            count(self.variants.len(), "variant", "variants"),
            span(&self.report_seeds),
        );
        if !self.description.trim().is_empty() {
            out += &format!("<pre class=\"description\">{}</pre>\n", escape(self.description.trim()));
        }
        out += &list(&self.facts);
        let notes: String = self.notes.iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
        if !notes.is_empty() {
            out += &format!("<ul>\n{notes}</ul>\n");
        }
        out + "</header>\n"
    }

    fn rank(&self, standings: &[Standing]) -> String {
        let head = ["policy", "rank", "regret", "mean rank", "worst", "worst cell"].map(str::to_owned);
        let shown = standings.iter().filter(|s| !matches!(s.role, Role::Signals { .. }));
        let row = |(index, s): (usize, &Standing)| {
            let ranked = s.role == Role::Policy;
            vec![
                policy(s, ranked),
                if ranked { (index + 1).to_string() } else { "\u{2013}".into() },
                percent(s.mean),
                s.mean_rank.map_or_else(|| "\u{2013}".into(), |rank| format!("{rank:.1}")),
                percent(s.worst),
                escape(&self.cell_name(s.worst_cell)),
            ]
        };
        let rows: Vec<Vec<String>> = shown.enumerate().map(row).collect();
        let words = "<p>By mean regret over all cells. <strong>Mean rank</strong>: the mean over cells of a policy\u{2019}s place \
             among the ranked. <strong>Worst</strong>: its largest regret of any cell. References are not ranked; below 0 \
             is better than the reference.</p>\n";
        words.to_owned() + &place(&columns(&head, &rows, 1))
    }

    fn check(&self, leader: &Standing) -> String {
        let all = self.against_best(&leader.name);
        let beyond = all.iter().any(|a| a.verdict == Verdict::Beyond);
        let near = !all.is_empty() && all.iter().all(|a| a.verdict == Verdict::Near);
        let class = if beyond {
            " no"
        } else if near {
            " yes"
        } else {
            ""
        };
        let mut out = format!("<p class=\"answer{class}\">{}</p>\n", escape(&self.answer(&leader.name)));
        let head = ["regime", "best policy there", "more than it", "at most", "than", "p (Holm)"];
        let mut head: Vec<String> = head.map(str::to_owned).to_vec();
        head.push(format!("within {:.0} %", 100.0 * MARGIN));
        let row = |a: &super::Against| {
            let class = match a.verdict {
                Verdict::Near => "better",
                Verdict::NotShown => "unclear",
                Verdict::Beyond => "worse",
            };
            let itself = a.best == leader.name;
            vec![
                escape(&self.regimes[a.regime].0),
                escape(&a.best),
                if itself { "itself".into() } else { percent(a.more) },
                a.limit.map_or_else(|| "\u{2013}".into(), percent),
                if a.limit.is_none() || a.rival == leader.name {
                    "\u{2013}".into()
                } else {
                    escape(&a.rival)
                },
                a.p_holm.map_or_else(|| "\u{2013}".into(), p_value),
                format!("<span class=\"{class}\">{}</span>", word(a.verdict)),
            ]
        };
        out += &columns(&head, &all.iter().map(row).collect::<Vec<_>>(), 2);
        out + "<p>The unit is a seed: its mean over the regime\u{2019}s pools and variants. <strong>At most</strong>: upper limits \
               that hold together over regimes at 95 %, each the largest against any other policy, so that finding the best \
               on these very seeds flatters nobody. <strong>p</strong>: of \u{201c}it takes 2 % more than the best, or yet \
               more\u{201d}, with Holm\u{2019}s correction over regimes.</p>\n"
    }

    fn heat_words(&self) -> String {
        "<p>Mean regret in percent over the cells of each column; rows as ranked, references last.</p>\n"
            .into()
    }

    fn worst(&self, leader: &Standing) -> String {
        let all = self.by_cell(&leader.name);
        let near = all.iter().filter(|cell| cell.more <= MARGIN).count();
        let head = ["cell", "regret", "best policy there", "more than it", "best static plan in hindsight"];
        let row = |one: &super::CellAgainst| {
            let interval = one.interval.map_or_else(String::new, |i| {
                format!("<small>{} to {}</small>", percent(i.low), percent(i.high))
            });
            vec![
                escape(&self.cell_name(one.cell)),
                percent(one.regret),
                escape(&one.best),
                if one.best == leader.name {
                    "itself".into()
                } else {
                    format!("{}{interval}", percent(one.more))
                },
                escape(&self.cells[one.cell].hindsight),
            ]
        };
        let rows: Vec<Vec<String>> = all.iter().take(CELLS).map(row).collect();
        format!(
            "<p>{} is within {:.0} % of the best policy in {near} of {} single cells. Intervals are 95 %, of each cell \
             alone.</p>\n{}",
            escape(&leader.name),
            100.0 * MARGIN,
            all.len(),
            place(&columns(&head.map(str::to_owned), &rows, 1))
        )
    }

    fn measured_values(&self, standings: &[Standing]) -> String {
        let names: Vec<&Standing> =
            standings.iter().filter(|s| !matches!(s.role, Role::Signals { .. })).collect();
        let mut out = String::new();
        let has_base = names.iter().any(|s| s.name == BASE);
        if has_base {
            out += "<p>Where cells are put together: the change to <code>target_only</code> in the same cell, of means over \
                    seeds, in the geometric mean over cells. Goodput is then the share of requests within their SLO, in \
                    the mean over cells. More is better for goodput and throughput, less for the rest.</p>\n<h3>All cells</h3>\n";
            out += &self.relative_table(&names, |_| true);
        }
        for (index, (regime, about)) in self.regimes.iter().enumerate() {
            let mut inside = String::new();
            if has_base {
                inside += "<h3>All pools and variants</h3>\n";
                inside += &self.relative_table(&names, |cell| cell.regime == index);
            }
            for (pool, name) in self.pools.iter().enumerate() {
                let here = |cell: &&CellReport| (cell.regime, cell.pool) == (index, pool);
                let written = self.cells.iter().filter(here).find(|cell| self.as_written(cell));
                let Some(cell) = written.or_else(|| self.cells.iter().find(here)) else { continue };
                inside += &format!(
                    "<h3>{}, {}</h3>\n{}",
                    escape(name),
                    escape(&self.variants[cell.variant]),
                    absolute_table(&names, cell)
                );
            }
            out += &format!(
                "<details><summary><b>{}</b> <span>{}</span></summary>\n{inside}</details>\n",
                escape(regime),
                escape(about)
            );
        }
        out + "<p>Tables of single pools: means over seeds; <strong>best</strong> among the ranked policies.</p>\n"
    }

    fn relative_table(&self, names: &[&Standing], kept: impl Fn(&CellReport) -> bool + Copy) -> String {
        let row = |s: &&Standing| {
            let mut row = vec![policy(s, s.role == Role::Policy)];
            row.extend(self.columns(&s.name, kept).iter().map(|text| printed(text)));
            row
        };
        columns(&heads_together("policy"), &names.iter().map(row).collect::<Vec<_>>(), 1)
    }

    fn signal_rows(&self) -> String {
        let all = self.under_signals();
        if all.is_empty() {
            return String::new();
        }
        let mut head = vec!["policy".to_owned(), "signals".into(), "regret".into(), "worst".into()];
        head.extend(heads_together("").into_iter().skip(1));
        let row = |one: &super::signals::UnderSignals<'_>| {
            let mut row =
                vec![escape(one.of), one.correlation.to_string(), percent(one.regret), percent(one.worst)];
            let own = self.columns(one.row, |cell| self.as_written(cell));
            row.extend(own.iter().map(|text| printed(text)));
            row
        };
        format!(
            "<p>Signals: rank correlation of a policy\u{2019}s confidence signals with the acceptance behind them. Regimes as \
             written; measures relative to <code>target_only</code>. Policies were tuned under the signals of the league \
             itself{}.</p>\n{}",
            self.signals.map_or_else(String::new, |own| format!(", {own}")),
            columns(&head, &all.iter().map(row).collect::<Vec<_>>(), 1)
        )
    }

    fn tuning(&self) -> String {
        let head = ["policy", "pool", "tuned to", "candidates"].map(str::to_owned);
        let mut names: Vec<&str> = Vec::new();
        for chosen in &self.chosen {
            if !names.contains(&chosen.entrant.as_str()) {
                names.push(&chosen.entrant);
            }
        }
        let rows: Vec<Vec<String>> = names
            .iter()
            .flat_map(|name| self.chosen.iter().filter(|chosen| chosen.entrant == **name))
            .map(|c| vec![escape(&c.entrant), escape(&c.pool), escape(&c.policy), c.candidates.to_string()])
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        let seeds = match self.tuning_seeds.as_slice() {
            [] => "Taken from a league that was run before.".to_owned(),
            seeds => format!("On {}.", span(seeds)),
        };
        format!(
            "<details><summary>{}</summary>\n<p>{seeds} A policy is tuned to a pool by the mean over all regimes as written of ln \
             latency per token; the variants are never tuned on.</p>\n{}</details>\n",
            count(names.len(), "policy", "policies"),
            columns(&head, &rows, 3)
        )
    }

    fn closing(&self) -> String {
        let line = format!(
            "<p>Measured on {}{}. The same command gives the same numbers, whatever <code>--jobs</code> is.</p>\n",
            span(&self.report_seeds),
            if self.tuning_seeds.is_empty() {
                String::new()
            } else {
                format!(", tuned on {}", span(&self.tuning_seeds))
            }
        );
        section("Run it again", &format!("<pre class=\"command\">{}</pre>\n{line}", escape(&self.command)))
    }
}

/// Around a table whose last column holds words.
fn place(table: &str) -> String {
    format!("<div class=\"place\">\n{table}</div>\n")
}

fn absolute_table(names: &[&Standing], cell: &CellReport) -> String {
    let value = |s: &Standing, measure: &Measure| cell.row(&s.name).map(|row| row.mean(measure, usize::MAX));
    let best: Vec<Option<f64>> = MEASURES
        .iter()
        .map(|measure| {
            let sign = if measure.less_is_better { 1.0 } else { -1.0 };
            let own = names.iter().filter(|s| s.role == Role::Policy).filter_map(|s| value(s, measure));
            own.filter(|v| v.is_finite()).min_by(|a, b| (a * sign).total_cmp(&(b * sign)))
        })
        .collect();
    let row = |s: &&Standing| {
        let mut row = vec![policy(s, s.role == Role::Policy)];
        row.extend(MEASURES.iter().zip(&best).map(|(measure, best)| match value(s, measure) {
            Some(v) if v.is_finite() => {
                let first = s.role == Role::Policy && best.is_some_and(|best| best.total_cmp(&v).is_eq());
                if first { format!("<strong>{}</strong>", number(v)) } else { number(v) }
            }
            _ => "\u{2013}".into(),
        }));
        row
    };
    columns(&heads("policy"), &names.iter().map(row).collect::<Vec<_>>(), 1)
}

/// The first column, then a column for each measure of one cell.
fn heads(first: &str) -> Vec<String> {
    let measure = |m: &Measure| headed(m.name, m.unit);
    std::iter::once(first.to_owned()).chain(MEASURES.iter().map(measure)).collect()
}

/// The first column, then a column for each measure of several cells.
fn heads_together(first: &str) -> Vec<String> {
    let measure =
        |m: &Measure| headed(m.name, if m.together == Together::Mean { m.unit } else { "change, %" });
    std::iter::once(first.to_owned()).chain(together().map(measure)).collect()
}

fn headed(name: &str, unit: &str) -> String {
    format!("{}<span class=\"unit\">{}</span>", escape(name), escape(unit))
}

/// As people print it: a dash for nothing, signs as signs.
fn printed(text: &str) -> String {
    if text == "-" { "\u{2013}".into() } else { signs(text) }
}

fn policy(s: &Standing, ranked: bool) -> String {
    let tag = if ranked { "" } else { "<span class=\"tag\">reference</span>" };
    format!("<b class=\"name\">{}</b>{tag}", escape(&s.name))
}

fn percent(relative: f64) -> String {
    if relative.is_finite() { signs(&change(relative)) } else { "\u{2013}".into() }
}

fn p_value(p: f64) -> String {
    if p < 0.0001 { "&lt; 0.0001".into() } else { format!("{p:.4}") }
}

fn count(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", plural(count, one, many))
}

fn definitions() -> String {
    const WORDS: [(&str, &str); 6] = [
        (
            "TTFT, TPOT",
            "arrival to first token; (last \u{2212} first) / (n \u{2212} 1). p99: of the requests of one run, then the mean over runs.",
        ),
        ("goodput", "requests per second that finished and met both of their targets."),
        ("throughput", "output tokens per second of the run, its last requests included."),
        ("price", "all devices for the length of the run, per million output tokens."),
        (
            "clairvoyant",
            "knows how each request\u{2019}s drafts will fare and plans every round by that, one request at a time; a policy that minds the whole batch may beat it.",
        ),
        (
            "hindsight",
            "the static plan with the least latency per token on the tuning seeds of this pool and regime, as written.",
        ),
    ];
    let items: String = WORDS
        .iter()
        .map(|(word, meaning)| format!("<div><dt>{word}</dt><dd>{meaning}</dd></div>\n"))
        .collect();
    format!("<dl class=\"words\">\n{items}</dl>\n")
}
