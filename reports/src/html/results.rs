//! The tables that answer the question: means, changes against the baseline, loads.

use super::{escape, rows, section};
use crate::compare::{Across, Comparison, Metric};
use crate::numbers::number;
use crate::plot::View;
use crate::summary::Saturation;
use crate::{ArmResult, Report, table};

fn with_unit(name: &str, unit: &str) -> String {
    format!("{}<span class=\"unit\">{}</span>", escape(name), escape(unit))
}

/// A policy with its colour and what must be said beside its name.
fn policy(view: &View<'_>, arm: &ArmResult) -> String {
    let look = view.everywhere.iter().find(|s| s.arm.policy == arm.policy);
    let color = look.map_or_else(|| "var(--muted)".into(), |s| s.paint.variable());
    let label =
        if arm.label.is_empty() { String::new() } else { format!("<small>{}</small>", escape(&arm.label)) };
    let other = if arm.other_output { "<span class=\"tag\">other output</span>" } else { "" };
    let (name, state) = (escape(&arm.policy), state(arm));
    format!(
        "<i class=\"swatch\" style=\"background:{color}\"></i><b class=\"name\">{name}</b>{other}{state}{label}"
    )
}

/// A tag for an arm that did not keep up.
fn state(arm: &ArmResult) -> String {
    table::saturation(arm).map_or_else(String::new, |label| {
        let class = match label {
            Saturation::Stable => return String::new(),
            Saturation::Backlogged => "backlogged",
            Saturation::Overloaded => "overloaded",
        };
        format!("<span class=\"tag {class}\">{label}</span>")
    })
}

/// The best mean among the arms that may be ranked, if there are several. The accepted length is a
/// cause, and more of it is not better by itself.
fn best(metric: Metric, arms: &[&ArmResult]) -> Option<f64> {
    if metric == Metric::AcceptedLength {
        return None;
    }
    let ranked: Vec<f64> = arms
        .iter()
        .filter(|a| !a.other_output)
        .filter_map(|a| Across::of(metric, a))
        .map(|a| a.mean)
        .collect();
    let sign = if metric.less_is_better() { 1.0 } else { -1.0 };
    ranked.iter().copied().filter(|_| ranked.len() > 1).min_by(|a, b| (a * sign).total_cmp(&(b * sign)))
}

fn cell(metric: Metric, arm: &ArmResult, best: Option<f64>) -> String {
    let Some(across) = Across::of(metric, arm) else { return "\u{2013}".into() };
    let shown = escape(&number(across.mean));
    let is_best = !arm.other_output && best.is_some_and(|b| b.total_cmp(&across.mean).is_eq());
    let value = if is_best { format!("<strong>{shown}</strong>") } else { shown };
    let error = across.interval.map(|i| format!("<small>\u{b1} {}</small>", number((i.high - i.low) / 2.0)));
    value + &error.unwrap_or_default()
}

pub(super) fn headline(
    report: &Report,
    view: &View<'_>,
    arms: &[&ArmResult],
    comparisons: &[Comparison],
) -> String {
    let metrics = table::metrics(arms);
    let mut head = vec!["policy".to_owned()];
    head.extend(metrics.iter().map(|m| with_unit(m.name(), m.unit())));
    let line = |arm: &&ArmResult| {
        let cells = metrics.iter().map(|m| cell(*m, arm, best(*m, arms)));
        [policy(view, arm)].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let seeds = arms.iter().map(|a| a.seeds.len()).max().unwrap_or(0);
    let spread = if seeds > 1 {
        format!("Means over {seeds} seeds, \u{b1} half of the 95 % interval.")
    } else {
        "One seed: no intervals.".into()
    };
    let mut out = format!(
        "<p>{spread} <strong>Bold</strong>: best mean among policies with the same output.{}</p>\n",
        escape(&view.at_load())
    );
    out += &rows(&head, &arms.iter().map(line).collect::<Vec<_>>());
    let own: Vec<&Comparison> = comparisons.iter().filter(|c| c.load == view.load).collect();
    section("Results", &out) + &verdicts(report, view, arms, &own)
}

fn verdicts(report: &Report, view: &View<'_>, arms: &[&ArmResult], own: &[&Comparison]) -> String {
    let Some(first) = own.first() else { return String::new() };
    let metrics: Vec<Metric> =
        Metric::ALL.into_iter().filter(|m| own.iter().any(|c| c.metric == *m)).collect();
    let mut head = vec!["policy".to_owned()];
    head.extend(metrics.iter().map(|m| escape(m.name())));
    let line = |arm: &&&ArmResult| {
        let mut row = vec![policy(view, arm)];
        for metric in &metrics {
            let found = own.iter().find(|c| c.metric == *metric && c.policy == arm.policy);
            row.push(found.map_or_else(|| "\u{2013}".into(), |c| effect(c)));
        }
        row
    };
    let compared: Vec<&&ArmResult> =
        arms.iter().filter(|a| own.iter().any(|c| c.policy == a.policy)).collect();
    let body: Vec<Vec<String>> = compared.iter().map(line).collect();
    let spoken = |c: &&&Comparison| {
        format!(
            "<li><b>{}</b>, {}: {}.</li>\n",
            escape(&c.policy),
            c.metric.name(),
            escape(&signs(&c.verdict))
        )
    };
    let list: String = own.iter().map(|c| spoken(&c)).collect();
    let how = if first.seeds > 1 {
        "Green and red: a difference after Holm's correction over all comparisons of this report. Paired by seed: each seed gives \
         both policies the same arrivals, lengths and luck."
    } else {
        "One seed: no interval and no verdict; ask for more with <code>--seeds</code>."
    };
    let loads = if report.loads.is_some() { escape(&view.at_load()) } else { String::new() };
    let body = format!(
        "<p>Change with its 95 % interval. {how}{loads}</p>\n{}<details><summary>In words</summary>\n<ul>\n{list}</ul>\n</details>\n",
        rows(&head, &body)
    );
    section(&format!("Against {}", first.baseline), &body)
}

/// Minus signs as people print them.
pub(crate) fn signs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        let is_sign = c == '-' && !before.is_alphanumeric() && chars.peek().is_some_and(char::is_ascii_digit);
        out.push(if is_sign { '\u{2212}' } else { c });
        before = c;
    }
    out
}

fn effect(c: &Comparison) -> String {
    let text = table::effect(c);
    let (value, interval) = text.split_once(" (").unwrap_or((&text, ""));
    let better = (c.effect < 0.0) == c.metric.less_is_better();
    let class = match c.p_holm {
        Some(p) if p < 1.0 - crate::compare::CONFIDENCE => {
            if better {
                "better"
            } else {
                "worse"
            }
        }
        _ => "unclear",
    };
    let interval = interval.trim_end_matches(')').replace(", ", " to ");
    let interval =
        if interval.is_empty() { String::new() } else { format!("<small>{}</small>", signs(&interval)) };
    format!("<span class=\"{class}\">{}</span>{interval}", signs(value))
}

pub(super) fn by_load(report: &Report) -> String {
    let mut out = String::new();
    let loads = report.loads.as_deref().unwrap_or_default();
    let policies = report.policies();
    for metric in [Metric::TpotMean, Metric::OutputTokens] {
        let mut head = vec!["policy".to_owned()];
        head.extend(loads.iter().map(f64::to_string));
        let at = |load: f64| -> Vec<&ArmResult> {
            let same = |l: f64| l.total_cmp(&load).is_eq();
            report.arms.iter().filter(|a| a.load.is_some_and(same)).collect()
        };
        let body: Vec<Vec<String>> = policies
            .iter()
            .map(|policy| {
                let mut row = vec![format!("<b class=\"name\">{}</b>", escape(policy))];
                for &load in loads {
                    let arms = at(load);
                    let own = arms.iter().find(|a| a.policy == *policy);
                    let over =
                        own.and_then(|a| table::saturation(a)).filter(|s| *s == Saturation::Overloaded);
                    let mark = if over.is_some() {
                        "<span class=\"over\" title=\"overloaded\">\u{25b2}</span>"
                    } else {
                        ""
                    };
                    row.push(own.map_or_else(
                        || "\u{2013}".into(),
                        |a| mark.to_owned() + &cell(metric, a, best(metric, &arms)),
                    ));
                }
                row
            })
            .collect();
        let unit = format!("{}, {}", metric.name(), metric.unit());
        out += &format!("<h3>{}</h3>\n{}", escape(&unit), rows(&head, &body));
    }
    let intro = format!(
        "<p>Columns: load, {}. <strong>Bold</strong>: best of the column. \u{25b2}: overloaded.</p>\n",
        escape(&report.load_unit)
    );
    section("By load", &(intro + &out))
}
