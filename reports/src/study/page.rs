//! The study as a self-contained page.

use super::text::{CHANGES, REGRETS, basis, changes, regrets, sentences, shares, shares_heading, ways};
use super::{Study, grouped};
use crate::compare::{Comparison, Metric, Outcome};
use crate::html::{columns, drawing, escape, list, section, shell, signs};
use crate::numbers::number;
use crate::plot::Paint;
use crate::plot::effects::{Row, forest};
use crate::{ReportError, table};

pub(super) fn page(study: &Study) -> Result<String, ReportError> {
    let comparisons = study.comparisons();
    let mut body = format!("<header>\n<h1>{}</h1>\n{}</header>\n", escape(&study.title), list(&study.facts));
    body += &verdicts(study, &comparisons);
    let (all_regrets, all_shares) = (study.regrets(), study.shares());
    for load in study.loads() {
        let at = load.map_or_else(String::new, |load| format!(" at load {load} {}", study.load_unit));
        body += &section(&format!("Arms{}", at.trim_end()), &means(study, load));
        let own: Vec<&Comparison> = comparisons.iter().filter(|c| c.load == load).collect();
        let id = load.map_or_else(|| "effects".into(), |load| format!("effects-{load}"));
        body += &section(&format!("Changes{}", at.trim_end()), &effects(&own, &id)?);
        let regret: Vec<_> = all_regrets.iter().filter(|r| r.load == load).cloned().collect();
        let share: Vec<_> = all_shares.iter().filter(|s| s.load == load).cloned().collect();
        let mut inner = String::new();
        if !regret.is_empty() {
            inner += &table(REGRETS, &regrets(&regret), 1);
        }
        if !share.is_empty() {
            inner += &table(&shares_heading(study), &shares(&share), 1);
        }
        body += &section(&format!("References{}", at.trim_end()), &inner);
    }
    let notes: String = study.notes.iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
    if !notes.is_empty() {
        body += &section("Notes", &format!("<ul>\n{notes}</ul>\n"));
    }
    let command = format!("<pre class=\"command\">{}</pre>\n", escape(&study.command));
    Ok(shell(&study.title, &(body + &section("Run it again", &command))))
}

fn verdicts(study: &Study, comparisons: &[Comparison]) -> String {
    let said = sentences(study, comparisons);
    if said.is_empty() {
        return String::new();
    }
    let items: String =
        said.iter().map(|(_, said)| format!("<li>{}.</li>\n", escape(&signs(said)))).collect();
    let words = format!("<p>{}.</p>\n", escape(&basis(study)));
    section("Verdicts", &format!("<ul>\n{items}</ul>\n{words}"))
}

/// A table of escaped cells under its words; the first row is its head.
fn table(words: &str, rows: &[Vec<String>], left: usize) -> String {
    let escaped = |row: &Vec<String>| row.iter().map(|cell| escape(&signs(cell))).collect::<Vec<_>>();
    let Some((head, body)) = rows.split_first() else { return String::new() };
    let body: Vec<Vec<String>> = body.iter().map(escaped).collect();
    format!("<p>{}.</p>\n{}", escape(words), columns(&escaped(head), &body, left))
}

fn means(study: &Study, load: Option<f64>) -> String {
    let arms: Vec<_> = study.arms.iter().filter(|own| own.arm.load == load).collect();
    let plain: Vec<_> = arms.iter().map(|own| &own.arm).collect();
    let metrics = table::metrics(&plain);
    let mut rows = vec![vec!["policy".to_owned(), "source".into(), "seeds".into()]];
    rows[0].extend(metrics.iter().map(|m| format!("{}, {}", m.name(), m.unit())));
    for own in arms {
        let state = table::saturation(&own.arm).filter(|s| *s != crate::Saturation::Stable);
        let mut name = own.arm.policy.clone();
        name += if own.reference { " (reference)" } else { "" };
        name += if own.arm.other_output { " (other output)" } else { "" };
        name += &state.map_or_else(String::new, |state| format!(" {state}"));
        let source = format!("{}: {}", own.kind.as_str(), own.source);
        let mut row = vec![name, source, own.arm.seeds.len().to_string()];
        row.extend(metrics.iter().map(|m| cell(*m, &own.arm)));
        rows.push(row);
    }
    table("Means over seeds, \u{b1} half of the 95 % interval", &rows, 2)
}

fn cell(metric: Metric, arm: &crate::ArmResult) -> String {
    let Some(across) = crate::compare::Across::of(metric, arm) else { return "\u{2013}".into() };
    let half = across.interval.map(|i| format!(" \u{b1} {}", number((i.high - i.low) / 2.0)));
    format!("{}{}", number(across.mean), half.unwrap_or_default())
}

/// The table of changes, then the plot.
fn effects(own: &[&Comparison], id: &str) -> Result<String, ReportError> {
    if own.is_empty() {
        return Ok(String::new());
    }
    let (cells, cloned) = (changes(own), own.iter().map(|c| (*c).clone()).collect::<Vec<_>>());
    let groups = grouped(&cloned);
    let (head, body) = (&cells[0], &cells[1..]);
    let head: Vec<String> = head.iter().map(|cell| escape(cell)).collect();
    let body: Vec<Vec<String>> = body
        .iter()
        .zip(&groups)
        .map(|(row, group)| {
            let coloured = |(column, cell): (usize, &String)| {
                let text = escape(&signs(cell));
                let found = group.iter().find(|c| c.metric.name() == head[column]);
                match found.map(|c| c.outcome) {
                    Some(Outcome::Better) => format!("<span class=\"better\">{text}</span>"),
                    Some(Outcome::Worse) => format!("<span class=\"worse\">{text}</span>"),
                    _ => text,
                }
            };
            row.iter().enumerate().map(coloured).collect()
        })
        .collect();
    let words = format!("{CHANGES}; {}. Green and red: a difference after correction", ways(own).join("; "));
    let mut out = format!("<p>{}.</p>\n{}", escape(&words), columns(&head, &body, 3));
    let several = groups.iter().any(|g| g[0].baseline != groups[0][0].baseline);
    // Long names are cut, and classes stand below their pair.
    let name = |c: &Comparison| match (&c.class, several) {
        (Some(class), _) => format!("\u{b7} {class}"),
        (None, true) => format!("{} / {}", c.policy, c.baseline),
        (None, false) => c.policy.clone(),
    };
    let (mut rows, mut pairs) = (Vec::new(), 0);
    for group in &groups {
        // Classes follow all requests of their pair, and share its colour.
        pairs += usize::from(group[0].class.is_none());
        let own: Vec<&Comparison> = group.iter().copied().filter(|c| c.relative).collect();
        if !own.is_empty() {
            rows.push(Row { name: name(group[0]), paint: Paint::Series(pairs.saturating_sub(1)), own });
        }
    }
    if let Some(svg) = forest(&rows)? {
        let caption = "Dot: mean change; line: 95 % interval. A line that crosses 0 shows no difference.";
        out += &drawing(id, "Changes", &svg, caption);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{own, study};

    #[test]
    fn the_page_is_self_contained_and_what_users_wrote_is_text() {
        let page = study(vec![
            own("a & b", "g", &[1.0, 1.1, 1.05]),
            own("<script>", "g", &[0.9, 0.8, 0.85]),
            own("c", "h", &[0.9, 0.8, 0.85]),
        ])
        .html()
        .unwrap();
        for outside in ["src=", "href=", "url(", "@import", "<script", "<link", "<img"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("&lt;script&gt; ") && page.contains("a &amp; b") && page.contains("<svg"));
        for tag in ["table", "tr", "td", "section", "figure", "span", "ul", "li"] {
            let opened =
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn without_results_there_is_no_page() {
        insta::assert_snapshot!(study(vec![own("a", "g", &[])]).html().unwrap_err(), @"a report needs at least one arm with at least one seed, got 1 arms and no seed");
    }
}
