//! The self-contained `report.html`: styles and plots inline, nothing loaded, light and dark.

mod details;
mod results;

pub(crate) use results::signs;

use crate::numbers::{seconds, thousands};
use crate::plot::{self, Figure, View};
use crate::summary::Saturation;
use crate::{ArmResult, Report, ReportError, bound, table};

const STYLE: &str = include_str!("report.css");

/// The whole page.
pub(crate) fn page(report: &Report) -> Result<String, ReportError> {
    let (view, figures, comparisons) = (View::new(report), plot::all(report)?, report.comparisons());
    let arms: Vec<&ArmResult> = view.arms.iter().map(|s| s.arm).collect();
    let title = if report.title.is_empty() { &report.scenario_name } else { &report.title };
    let mut body = header(report, title);
    body += &results::headline(report, &view, &arms, &comparisons);
    if report.loads.is_some() {
        body += &results::by_load(report);
    }
    body += &bound(report);
    body += &section("Plots", &figures.iter().map(figure).collect::<String>());
    body += &details::classes(&arms);
    body += &details::models(&arms);
    body += &details::acceptance(&arms);
    body += &details::runs(&arms);
    body += &notes(report);
    body += &definitions();
    body += &reproduce(report, &arms);
    Ok(shell(title, &body))
}

/// A whole page around `body`.
pub(crate) fn shell(title: &str, body: &str) -> String {
    shell_with(title, "", body)
}

/// A whole page around `body`, with rules of its own after those of all pages.
pub(crate) fn shell_with(title: &str, style: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{}</title>\n\
         <style>\n{}{STYLE}{style}body{{font-family:{}}}\n</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title),
        plot::VARIABLES,
        plot::FONT
    )
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

pub(crate) fn section(title: &str, body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!("<section>\n<h2>{}</h2>\n{body}</section>\n", escape(title))
    }
}

/// A table; cells are HTML, the first column is left-aligned.
fn rows(head: &[String], body: &[Vec<String>]) -> String {
    columns(head, body, 1)
}

/// A table whose first `words` columns are left-aligned.
pub(crate) fn columns(head: &[String], body: &[Vec<String>], words: usize) -> String {
    let cell = |tag: &str, index: usize, text: &String| {
        let class = if index < words { " class=\"word\"" } else { "" };
        format!("<{tag}{class}>{text}</{tag}>")
    };
    let cells =
        |tag: &str, row: &[String]| row.iter().enumerate().map(|(i, c)| cell(tag, i, c)).collect::<String>();
    let body: String = body.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", row))).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n",
        cells("th", head)
    )
}

/// What nothing can beat, and how much of its gain each policy has.
fn bound(report: &Report) -> String {
    let Some(mut all) = bound::rows(report) else { return String::new() };
    all.iter_mut().flatten().for_each(|cell| *cell = escape(cell));
    let head = all.remove(0);
    let words = format!("<p>{}.</p>\n", escape(bound::HEADING));
    section("The bound", &(words + &rows(&head, &all)))
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
        .filter_map(|(what, limit)| {
            limit.map(|limit| format!("{what} \u{2264} {}", seconds(limit.seconds())))
        })
        .collect();
    if !targets.is_empty() && !facts.iter().any(|(name, _)| name.eq_ignore_ascii_case("slo")) {
        facts.push(("SLO".into(), targets.join(", ")));
    }
    if !report.pool.is_empty() && !facts.iter().any(|(name, _)| name.eq_ignore_ascii_case("pool")) {
        facts.insert(0, ("pool".into(), report.pool.join(" > ")));
    }
    out + &list(&facts) + "</header>\n"
}

/// Facts as a list of terms.
pub(crate) fn list(facts: &[(String, String)]) -> String {
    let item = |(name, value): &(String, String)| {
        format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value))
    };
    format!("<dl>\n{}</dl>\n", facts.iter().map(item).collect::<String>())
}

fn figure(f: &Figure) -> String {
    drawing(f.stem, f.title, &f.svg, &f.caption)
}

/// A plot with its title and its words.
pub(crate) fn drawing(id: &str, title: &str, svg: &str, caption: &str) -> String {
    format!(
        "<figure id=\"{}\">\n<h3>{}</h3>\n{}\n<figcaption>{}</figcaption>\n</figure>\n",
        escape(id),
        escape(title),
        svg.trim(),
        escape(caption)
    )
}

fn notes(report: &Report) -> String {
    let mut notes: Vec<String> = report.notes.clone();
    for policy in report.policies() {
        let arms = || report.arms.iter().filter(|a| a.policy == policy);
        if arms().any(|a| a.other_output) {
            notes.push(format!(
                "{policy}: its text comes from another target model; shown, never ranked or compared."
            ));
        }
        let shortened: u64 = arms().flat_map(|a| &a.seeds).map(|s| s.summary.shortened_plans).sum();
        if shortened > 0 {
            notes.push(format!(
                "{policy}: {} plans got a shorter chain because KV memory was short.",
                thousands(&shortened.to_string())
            ));
        }
        if arms().any(|a| table::saturation(a) == Some(Saturation::Overloaded)) {
            notes.push(format!(
                "{policy}: overloaded in at least one run; its latencies grow with the length of the run."
            ));
        }
    }
    let items: String = notes.iter().map(|n| format!("<li>{}</li>\n", escape(n))).collect();
    if items.is_empty() { String::new() } else { section("Notes", &format!("<ul>\n{items}</ul>\n")) }
}

fn definitions() -> String {
    const WORDS: [(&str, &str); 8] = [
        (
            "TTFT, TPOT, E2E",
            "arrival to first token; (last \u{2212} first) / (n \u{2212} 1), undefined for n = 1; arrival to last token. Over finished requests.",
        ),
        ("ITL", "gaps between deliveries of one request; tokens of one round come together."),
        ("percentiles", "linear interpolation between order statistics."),
        ("throughput", "output tokens delivered per second of the run, its last requests included."),
        ("goodput", "requests per second that finished and met all their targets."),
        ("accepted", "tokens committed per round, rounds of the first token left out."),
        ("cost", "all devices for the length of the run, per million output tokens."),
        (
            "state",
            "OVERLOADED: the queue kept growing while requests arrived; BACKLOGGED: one request waited for every ten that ran; STABLE: neither; only the first two are tagged.",
        ),
    ];
    let items: String = WORDS
        .iter()
        .map(|(word, meaning)| format!("<div><dt>{word}</dt><dd>{meaning}</dd></div>\n"))
        .collect();
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
    let line =
        format!("<p>Seeds: {}. The same command gives the same numbers.</p>\n", escape(&seeds.join(", ")));
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
        for tag in [
            "svg", "section", "table", "tr", "td", "figure", "p", "ul", "li", "dl", "div", "small", "strong",
            "span", "b", "pre", "style", "html",
        ] {
            let opened =
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert!(page.matches("<svg").count() >= 4);
        assert!(!page.contains("#0102") && !page.contains("#0103") && !page.contains("#0104"));
    }

    #[test]
    fn what_users_wrote_is_text() {
        let page = filled().html().unwrap();
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(
            page.contains("a &amp; b")
                && page.contains("&lt;b&gt;H100&lt;/b&gt;")
                && page.contains("a &lt;note&gt;")
        );
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
