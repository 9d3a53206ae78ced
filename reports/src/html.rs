//! The self-contained `report.html`: styles and plots inline, nothing loaded, light and dark.

use crate::compare::{Across, Comparison, Metric};
use crate::numbers::{number, seconds, share, thousands};
use crate::plot::{self, Figure, View, name};
use crate::summary::{Counts, Saturation, Stats, Summary};
use crate::{ArmResult, Report, ReportError, table};

const STYLE: &str = include_str!("report.css");

/// The whole page.
pub(crate) fn page(report: &Report) -> Result<String, ReportError> {
    let (view, figures, comparisons) = (View::new(report), plot::all(report)?, report.comparisons());
    let arms: Vec<&ArmResult> = view.arms.iter().map(|s| s.arm).collect();
    let title = if report.title.is_empty() { &report.scenario_name } else { &report.title };
    let mut body = header(report, title);
    body += &headline(report, &view, &arms, &comparisons);
    if report.loads.is_some() {
        body += &by_load(report);
    }
    body += &section("Plots", &figures.iter().map(figure).collect::<String>());
    body += &classes(&arms);
    body += &models(&arms);
    body += &acceptance(&arms);
    body += &runs(&arms);
    body += &notes(report);
    body += &definitions();
    body += &reproduce(report, &arms);
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{}</title>\n\
         <style>\n{}{STYLE}body{{font-family:{}}}\n</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title),
        plot::VARIABLES,
        plot::FONT
    ))
}

/// Text that stands for itself in HTML, attributes included.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn section(title: &str, body: &str) -> String {
    if body.is_empty() { String::new() } else { format!("<section>\n<h2>{}</h2>\n{body}</section>\n", escape(title)) }
}

/// A table; cells are HTML, the first column is left-aligned.
fn rows(head: &[String], body: &[Vec<String>]) -> String {
    columns(head, body, 1)
}

/// A table whose first `words` columns are left-aligned.
fn columns(head: &[String], body: &[Vec<String>], words: usize) -> String {
    let cell = |tag: &str, index: usize, text: &String| {
        let class = if index < words { " class=\"word\"" } else { "" };
        format!("<{tag}{class}>{text}</{tag}>")
    };
    let cells = |tag: &str, row: &[String]| row.iter().enumerate().map(|(i, c)| cell(tag, i, c)).collect::<String>();
    let body: String = body.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", row))).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n",
        cells("th", head)
    )
}

fn with_unit(name: &str, unit: &str) -> String {
    format!("{}<span class=\"unit\">{}</span>", escape(name), escape(unit))
}

fn header(report: &Report, title: &str) -> String {
    let mut out = format!("<header>\n<h1>{}</h1>\n", escape(title));
    if report.scenario_name != title {
        out += &format!("<p class=\"scenario\">{}</p>\n", escape(&report.scenario_name));
    }
    if !report.description.trim().is_empty() {
        out += &format!("<pre class=\"description\">{}</pre>\n", escape(report.description.trim()));
    }
    let mut facts = report.facts.clone();
    let targets = [("TTFT", report.slo.ttft), ("TPOT", report.slo.tpot)];
    let targets: Vec<String> = targets
        .into_iter()
        .filter_map(|(what, limit)| limit.map(|limit| format!("{what} \u{2264} {}", seconds(limit.seconds()))))
        .collect();
    if !targets.is_empty() && !facts.iter().any(|(name, _)| name.eq_ignore_ascii_case("slo")) {
        facts.push(("SLO".into(), targets.join(", ")));
    }
    if !report.pool.is_empty() && !facts.iter().any(|(name, _)| name.eq_ignore_ascii_case("pool")) {
        facts.insert(0, ("pool".into(), report.pool.join(" > ")));
    }
    let item = |(name, value): &(String, String)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value));
    let items: String = facts.iter().map(item).collect();
    out + &format!("<dl>\n{items}</dl>\n</header>\n")
}

/// A policy with its colour and what must be said beside its name.
fn policy(view: &View<'_>, arm: &ArmResult) -> String {
    let look = view.everywhere.iter().find(|s| s.arm.policy == arm.policy);
    let color = look.map_or_else(|| "var(--muted)".into(), |s| s.paint.variable());
    let label = if arm.label.is_empty() { String::new() } else { format!("<small>{}</small>", escape(&arm.label)) };
    let other = if arm.other_output { "<span class=\"tag\">other output</span>" } else { "" };
    let (name, state) = (escape(&arm.policy), state(arm));
    format!("<i class=\"swatch\" style=\"background:{color}\"></i><b class=\"name\">{name}</b>{other}{state}{label}")
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
    let ranked: Vec<f64> =
        arms.iter().filter(|a| !a.other_output).filter_map(|a| Across::of(metric, a)).map(|a| a.mean).collect();
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

fn headline(report: &Report, view: &View<'_>, arms: &[&ArmResult], comparisons: &[Comparison]) -> String {
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
    let metrics: Vec<Metric> = Metric::ALL.into_iter().filter(|m| own.iter().any(|c| c.metric == *m)).collect();
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
    let compared: Vec<&&ArmResult> = arms.iter().filter(|a| own.iter().any(|c| c.policy == a.policy)).collect();
    let body: Vec<Vec<String>> = compared.iter().map(line).collect();
    let spoken = |c: &&&Comparison| {
        format!("<li><b>{}</b>, {}: {}.</li>\n", escape(&c.policy), c.metric.name(), escape(&signs(&c.verdict)))
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
fn signs(text: &str) -> String {
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
        Some(p) if p < 1.0 - crate::compare::CONFIDENCE => if better { "better" } else { "worse" },
        _ => "unclear",
    };
    let interval = interval.trim_end_matches(')').replace(", ", " to ");
    let interval = if interval.is_empty() { String::new() } else { format!("<small>{}</small>", signs(&interval)) };
    format!("<span class=\"{class}\">{}</span>{interval}", signs(value))
}

fn by_load(report: &Report) -> String {
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
                    let over = own.and_then(|a| table::saturation(a)).filter(|s| *s == Saturation::Overloaded);
                    let mark = if over.is_some() { "<span class=\"over\" title=\"overloaded\">\u{25b2}</span>" } else { "" };
                    row.push(own.map_or_else(|| "\u{2013}".into(), |a| mark.to_owned() + &cell(metric, a, best(metric, &arms))));
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

fn figure(f: &Figure) -> String {
    format!(
        "<figure id=\"{}\">\n<h3>{}</h3>\n{}\n<figcaption>{}</figcaption>\n</figure>\n",
        f.stem,
        escape(f.title),
        f.svg.trim(),
        escape(&f.caption)
    )
}

/// Mean over seeds of what a summary has; nothing where no seed has it.
fn over<T>(arm: &ArmResult, value: impl Fn(&Summary) -> Option<f64>, show: impl Fn(f64) -> T) -> Option<T> {
    Across::over(arm.seeds.iter().filter_map(|s| value(&s.summary))).map(|across| show(across.mean))
}

fn shown(value: Option<String>) -> String {
    value.map_or_else(|| "\u{2013}".into(), |v| escape(&v))
}

fn classes(arms: &[&ArmResult]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for class in arms.iter().flat_map(|a| &a.seeds).flat_map(|s| &s.summary.classes) {
        if !names.contains(&class.class.as_str()) {
            names.push(&class.class);
        }
    }
    let head = ["class", "policy", "finished", "TTFT mean", "TTFT p99", "TPOT mean", "TPOT p99", "E2E p50", "met SLO"];
    let mut body = Vec::new();
    for class in names {
        for arm in arms {
            let of = |value: &dyn Fn(&crate::summary::ClassSummary) -> Option<f64>, show: fn(f64) -> String| {
                let own = |s: &Summary| s.classes.iter().find(|c| c.class == class).and_then(value);
                shown(over(arm, own, show))
            };
            let stat = |pick: fn(&crate::summary::ClassSummary) -> Option<Stats>, at: fn(&Stats) -> f64| {
                of(&move |c| pick(c).map(|s| at(&s)), seconds)
            };
            body.push(vec![
                escape(class),
                escape(&name(arm)),
                of(&|c| Some(c.requests.finished as f64), |v| thousands(&format!("{v:.0}"))),
                stat(|c| c.ttft_s, |s| s.mean),
                stat(|c| c.ttft_s, |s| s.p99),
                stat(|c| c.tpot_s, |s| s.mean),
                stat(|c| c.tpot_s, |s| s.p99),
                stat(|c| c.e2e_s, |s| s.p50),
                of(&|c| c.goodput.map(|g| g.attained), share),
            ]);
        }
    }
    let head = head.map(str::to_owned);
    if body.is_empty() { String::new() } else { section("By class", &columns(&head, &body, 2)) }
}

fn models(arms: &[&ArmResult]) -> String {
    let head = ["policy", "model", "passes", "mean rows", "useful", "prefill and catch-up", "wasted"].map(str::to_owned);
    let mut body = Vec::new();
    for arm in arms {
        let ran = |model: &&String| {
            let own = |s: &Summary| s.models.iter().any(|m| m.model == **model && m.passes > 0);
            arm.seeds.iter().any(|s| own(&s.summary))
        };
        for model in arm.pool.iter().filter(ran) {
            let of = |value: fn(&crate::summary::ModelSummary) -> f64, show: fn(f64) -> String| {
                let own = |s: &Summary| s.models.iter().find(|m| m.model == *model).map(value);
                shown(over(arm, own, show))
            };
            body.push(vec![
                escape(&name(arm)),
                escape(model),
                of(|m| m.passes as f64, |v| thousands(&format!("{v:.0}"))),
                of(|m| m.batch_mean, number),
                of(|m| m.useful, share),
                of(|m| m.catch_up, share),
                of(|m| m.wasted, share),
            ]);
        }
        let idle = shown(over(arm, |s| Some(s.idle), share));
        body.push([escape(&name(arm)), "<em>idle</em>".into(), String::new(), String::new(), idle, String::new(), String::new()].into());
    }
    section("Time by model", &format!("<p>Shares of the replicas' time, means over seeds.</p>\n{}", columns(&head, &body, 2)))
}

fn acceptance(arms: &[&ArmResult]) -> String {
    let head = ["policy", "drafter", "verifier", "verifications", "drafted", "accepted", "acceptance", "similarity"];
    let mut body = Vec::new();
    for arm in arms {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for pair in arm.seeds.iter().flat_map(|s| &s.summary.pairs) {
            if !pairs.contains(&(&pair.drafter, &pair.verifier)) {
                pairs.push((&pair.drafter, &pair.verifier));
            }
        }
        for (drafter, verifier) in pairs {
            let of = |value: fn(&crate::summary::PairSummary) -> Option<f64>, show: fn(f64) -> String| {
                let same = |p: &&crate::summary::PairSummary| p.drafter == drafter && p.verifier == verifier;
                shown(over(arm, |s| s.pairs.iter().find(same).and_then(value), show))
            };
            let count: fn(f64) -> String = |v| thousands(&format!("{v:.0}"));
            let digits: fn(f64) -> String = |v| format!("{v:.3}");
            body.push(vec![
                escape(&name(arm)),
                escape(drafter),
                escape(verifier),
                of(|p| Some(p.verifications as f64), count),
                of(|p| Some(p.drafted_tokens as f64), count),
                of(|p| Some(p.accepted_tokens as f64), count),
                of(|p| p.acceptance, digits),
                of(|p| p.similarity, digits),
            ]);
        }
    }
    let intro = "<p>Acceptance: accepted tokens over accepted tokens and rejections; a block kept whole says only \u{201c}at \
                 least\u{201d}. Similarity: mean of 1 \u{2212} TV over examined positions. Means over seeds.</p>\n";
    let head = head.map(str::to_owned);
    if body.is_empty() { String::new() } else { section("Acceptance", &(intro.to_owned() + &columns(&head, &body, 3))) }
}

fn runs(arms: &[&ArmResult]) -> String {
    let head = [
        "policy", "arrived", "finished", "running", "waiting", "refused", "mean batch", "mean queue", "KV use", "preemptions",
        "shorter plans", "probes", "predicted / observed", "J per token",
    ];
    let line = |arm: &&ArmResult| {
        let count = |value: fn(&Counts) -> u64| {
            shown(over(arm, |s| Some(value(&s.requests) as f64), |v| thousands(&format!("{v:.0}"))))
        };
        let of = |value: fn(&Summary) -> Option<f64>, show: fn(f64) -> String| shown(over(arm, value, show));
        vec![
            escape(&name(arm)),
            count(|c| c.arrived),
            count(|c| c.finished),
            count(|c| c.running),
            count(|c| c.waiting),
            count(|c| c.too_long),
            of(|s| Some(s.batch_mean), number),
            of(|s| Some(s.queue_mean), number),
            of(|s| Some(s.kv_use), share),
            of(|s| Some(s.preemptions as f64), number),
            of(|s| Some(s.shortened_plans as f64), number),
            of(|s| Some(s.probes as f64), number),
            of(|s| s.predicted_over_observed, number),
            of(|s| s.joules_per_token, number),
        ]
    };
    let body: Vec<Vec<String>> = arms.iter().map(line).collect();
    // A column without anything in it says so once.
    let (kept, empty): (Vec<usize>, Vec<usize>) =
        (0..head.len()).partition(|&c| c < 3 || body.iter().any(|row| row[c] != "0" && row[c] != "\u{2013}"));
    let pick = |row: &Vec<String>| kept.iter().map(|&c| row[c].clone()).collect::<Vec<_>>();
    let names: Vec<&str> = empty.iter().map(|&c| head[c]).collect();
    let none = if names.is_empty() { String::new() } else { format!(" None or unknown: {}.", names.join(", ")) };
    let table = rows(&pick(&head.map(str::to_owned).to_vec()), &body.iter().map(pick).collect::<Vec<_>>());
    section("Requests and memory", &format!("<p>Means over seeds.{none}</p>\n{table}"))
}

fn notes(report: &Report) -> String {
    let mut notes: Vec<String> = report.notes.clone();
    for policy in report.policies() {
        let arms = || report.arms.iter().filter(|a| a.policy == policy);
        if arms().any(|a| a.other_output) {
            notes.push(format!("{policy}: its text comes from another target model; shown, never ranked or compared."));
        }
        let shortened: u64 = arms().flat_map(|a| &a.seeds).map(|s| s.summary.shortened_plans).sum();
        if shortened > 0 {
            notes.push(format!("{policy}: {} plans got a shorter chain because KV memory was short.", thousands(&shortened.to_string())));
        }
        if arms().any(|a| table::saturation(a) == Some(Saturation::Overloaded)) {
            notes.push(format!("{policy}: overloaded in at least one run; its latencies grow with the length of the run."));
        }
    }
    let items: String = notes.iter().map(|n| format!("<li>{}</li>\n", escape(n))).collect();
    if items.is_empty() { String::new() } else { section("Notes", &format!("<ul>\n{items}</ul>\n")) }
}

fn definitions() -> String {
    const WORDS: [(&str, &str); 8] = [
        ("TTFT, TPOT, E2E", "arrival to first token; (last \u{2212} first) / (n \u{2212} 1), undefined for n = 1; arrival to last token. Over finished requests."),
        ("ITL", "gaps between deliveries of one request; tokens of one round come together."),
        ("percentiles", "linear interpolation between order statistics."),
        ("throughput", "output tokens delivered per second of the run, its last requests included."),
        ("goodput", "requests per second that finished and met all their targets."),
        ("accepted", "tokens committed per round, rounds of the first token left out."),
        ("cost", "all devices for the length of the run, per million output tokens."),
        ("state", "OVERLOADED: the queue kept growing while requests arrived; BACKLOGGED: one request waited for every ten that ran; STABLE: neither; only the first two are tagged."),
    ];
    let items: String =
        WORDS.iter().map(|(word, meaning)| format!("<div><dt>{word}</dt><dd>{meaning}</dd></div>\n")).collect();
    section("Definitions", &format!("<dl class=\"words\">\n{items}</dl>\n"))
}

fn reproduce(report: &Report, arms: &[&ArmResult]) -> String {
    let mut seeds: Vec<String> = Vec::new();
    for seed in arms.iter().flat_map(|a| &a.seeds) {
        let text = seed.seed.to_string();
        if !seeds.contains(&text) {
            seeds.push(text);
        }
    }
    let command = if report.command.is_empty() {
        String::new()
    } else {
        format!("<pre class=\"command\">{}</pre>\n", escape(&report.command))
    };
    let line = format!("<p>Seeds: {}. The same command gives the same numbers.</p>\n", escape(&seeds.join(", ")));
    section("Run it again", &(command + &line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{arm, report};

    fn filled() -> Report {
        let other = ArmResult { other_output: true, ..arm("small", &[0.5, 0.6]) };
        let named = ArmResult { label: "<script>alert(1)</script>".into(), ..arm("a & b", &[0.9, 0.8]) };
        Report {
            description: "chat > code \"quoted\"".into(),
            facts: vec![("hardware".into(), "<b>H100</b>".into())],
            notes: vec!["a <note>".into()],
            command: "specrouter run 'x' && true".into(),
            ..report(vec![arm("target_only", &[1.0, 1.1]), named, other])
        }
    }

    #[test]
    fn the_page_is_self_contained_and_closes_what_it_opens() {
        let page = filled().html().unwrap();
        for outside in ["src=", "href=", "url(", "@import", "<script", "<link", "<img", "<iframe"] {
            assert!(!page.contains(outside), "{outside}");
        }
        // The namespace of SVG is a name and is not fetched.
        let addresses = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!addresses.contains("http:") && !addresses.contains("https:"));
        for tag in ["svg", "section", "table", "tr", "td", "figure", "p", "ul", "li", "dl", "div", "small", "strong", "span", "b", "pre", "style", "html"] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert!(page.matches("<svg").count() >= 4);
        assert!(!page.contains("#0102") && !page.contains("#0103") && !page.contains("#0104"));
    }

    #[test]
    fn what_users_wrote_is_text() {
        let page = filled().html().unwrap();
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(page.contains("a &amp; b") && page.contains("&lt;b&gt;H100&lt;/b&gt;") && page.contains("a &lt;note&gt;"));
        assert!(page.contains("specrouter run &#39;x&#39; &amp;&amp; true"));
        assert!(page.contains("chat &gt; code &quot;quoted&quot;"));
    }

    #[test]
    fn the_best_mean_is_marked_and_other_output_is_not_ranked() {
        let page = filled().html().unwrap();
        // 85 ms is best among the two that are ranked; 55 ms of the other model is better still.
        assert!(page.contains("<strong>85.0</strong>") && !page.contains("<strong>55.0</strong>"), "{page}");
        assert!(page.contains("<span class=\"tag\">other output</span>"));
    }

    #[test]
    fn the_same_results_give_the_same_page() {
        assert_eq!(filled().html().unwrap(), filled().html().unwrap());
    }

    #[test]
    fn without_results_there_is_no_page() {
        insta::assert_snapshot!(report(vec![arm("a", &[])]).html().unwrap_err(), @"a report needs at least one arm with at least one seed, got 1 arms and no seed");
    }

    #[test]
    fn minus_signs_are_printed_and_hyphens_are_left() {
        assert_eq!(signs("load-8 -20.0 % (-21.0, 3)"), "load-8 \u{2212}20.0 % (\u{2212}21.0, 3)");
    }
}
