//! The fit report: one section a subject, numbers and plots, and where data do not suffice, that.

use specrouter_reports::fit::{
    FitAxis, FitCurve, FitPanel, FitPlot, FitPoint, FitReport, FitSection, FitTable, Look, Scale,
};
use specrouter_traces::calibrate::acceptance::Origin;
use specrouter_traces::calibrate::goodness::{self, Test};
use specrouter_traces::calibrate::variation::Measured;
use specrouter_traces::calibrate::{Estimate, Fitted};

use super::fits::{Fits, PairCourse};
use super::gather::Gathered;
use crate::scenario::CostsRef;
use crate::scenario::profile::Profile;

/// The whole page.
pub fn page(
    gathered: &Gathered,
    fits: &Fits,
    profile: &Profile,
    mut notes: Vec<String>,
    command: &str,
) -> FitReport {
    let mut sections = Vec::new();
    if gathered.samples.iter().any(|samples| !samples.is_empty()) {
        sections.push(costs(fits, profile));
    }
    let evidence = &gathered.evidence;
    if fits.pool.len() > 1 && !(evidence.texts.is_empty() && evidence.blocks.is_empty()) {
        sections.extend([
            matrix(fits),
            variation(fits, &mut notes),
            courses(fits),
            signals(fits, &mut notes),
            judged(fits),
        ]);
    }
    let seeds = gathered.sources.len();
    let measured = &profile.measured;
    let mut facts = vec![
        ("pool".to_owned(), fits.pool.join(" > ")),
        ("device".to_owned(), measured.device.clone().unwrap_or_else(|| "not said".into())),
        ("traces".to_owned(), seeds.to_string()),
        ("passes".to_owned(), measured.passes.to_string()),
        ("requests".to_owned(), measured.requests.to_string()),
        (
            "scored tokens".to_owned(),
            gathered.evidence.texts.iter().map(|t| t.len()).sum::<usize>().to_string(),
        ),
    ];
    if let Some(decoding) = measured.decoding {
        facts.push(("decoding".into(), decoding.as_str().into()));
    }
    FitReport { title: "Calibration".into(), facts, sections, notes, command: command.into() }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// A fit's text, or why there is none.
fn or_why<T>(fit: &Fitted<T>, text: impl Fn(&T) -> String) -> String {
    match fit {
        Ok(value) => text(value),
        Err(shortage) => shortage.to_string(),
    }
}

fn requests(estimate: &Fitted<Estimate>) -> String {
    match estimate {
        Ok(estimate) => estimate.requests.to_string(),
        Err(shortage) => shortage.got.to_string(),
    }
}

fn interval(ends: Option<(f64, f64)>) -> String {
    ends.map_or_else(|| "-".into(), |(low, high)| format!("{low:.3} to {high:.3}"))
}

fn axis(label: &str, scale: Scale) -> FitAxis {
    FitAxis { label: label.into(), scale }
}

fn points(all: impl IntoIterator<Item = (f64, f64)>) -> Vec<FitPoint> {
    all.into_iter().map(FitPoint::from).collect()
}

fn costs(fits: &Fits, profile: &Profile) -> FitSection {
    let mut table = FitTable {
        head: head(&[
            "model",
            "passes",
            "terms: median",
            "p95",
            "total",
            "table: median",
            "p95",
            "total",
            "cells",
            "per pass",
            "row",
            "token",
            "context",
            "pair",
            "after another",
            "after idling",
        ]),
        words: 1,
        ..FitTable::default()
    };
    let mut panels = Vec::new();
    for (index, (name, costs)) in fits.costs.iter().enumerate() {
        let Ok(costs) = costs else {
            table.rows.push(vec![name.clone(), or_why(costs, |_| String::new())]);
            continue;
        };
        let terms = costs.linear;
        let micro = |seconds: f64| format!("{seconds:.3e} s");
        table.rows.push(vec![
            name.clone(),
            costs.passes.to_string(),
            percent(costs.linear_error.median),
            percent(costs.linear_error.p95),
            format!("{:.3}", costs.linear_error.total),
            costs.table_error.map_or_else(|| "-".into(), |error| percent(error.median)),
            costs.table_error.map_or_else(|| "-".into(), |error| percent(error.p95)),
            costs.table_error.map_or_else(|| "-".into(), |error| format!("{:.3}", error.total)),
            costs.table.len().to_string(),
            micro(terms.pass_s.get()),
            micro(terms.row_s.get()),
            micro(terms.token_s.get()),
            micro(terms.context_token_s.get()),
            micro(terms.pair_s.get()),
            micro(costs.after_other_s),
            micro(costs.after_idle_s),
        ]);
        panels.push(FitPanel {
            title: name.clone(),
            x: axis("observed", Scale::Seconds),
            y: axis("predicted", Scale::Seconds),
            diagonal: true,
            curves: vec![FitCurve {
                name: String::new(),
                look: Look::Dots,
                color: index,
                points: points(costs.points.iter().map(|&(predicted, observed)| (observed, predicted))),
            }],
        });
    }
    let taken = match &profile.costs {
        Some(CostsRef::Table { .. }) => "The profile takes the table.",
        Some(_) => "The profile takes the terms.",
        None => "The profile has no costs.",
    };
    let words = format!(
        "Relative errors of passes that the fit had not seen: blocks of time, each held out once. A pass costs what passed until the \
         next of its replica began, while requests ran. Total: all that was predicted over all that was observed. The better of terms and table is the one with the smaller mean error. {taken}"
    );
    let plots = if panels.is_empty() {
        Vec::new()
    } else {
        vec![FitPlot {
            stem: "costs".into(),
            title: "Predicted and observed pass times".into(),
            caption: "Held-out passes by the better fit of each model; on the dashed line both are equal."
                .into(),
            panels,
        }]
    };
    FitSection { title: "Pass times".into(), words, tables: vec![table], plots }
}

fn matrix(fits: &Fits) -> FitSection {
    let mut rows = Vec::new();
    for class in &fits.classes {
        for pair in &class.pairs {
            let origin = match pair.origin {
                Origin::Scores => "scored tokens",
                Origin::Rounds => "judged blocks",
                Origin::Triangle => "never seen: triangle",
                Origin::Nothing if requests(&pair.scores) != "0" || requests(&pair.rounds) != "0" => {
                    "not enough data"
                }
                Origin::Nothing => "nothing known",
            };
            let behind = match pair.origin {
                Origin::Scores | Origin::Nothing => requests(&pair.scores),
                _ => requests(&pair.rounds),
            };
            rows.push(vec![
                class.class.clone(),
                fits.pair(pair.drafter, pair.verifier),
                origin.into(),
                pair.acceptance.map_or_else(|| "-".into(), |a| format!("{a:.3}")),
                interval(pair.interval),
                behind,
                or_why(&pair.rounds, |e: &Estimate| format!("{:.3} ({:.3} to {:.3})", e.mean, e.low, e.high)),
            ]);
        }
    }
    let names =
        ["class", "pair", "from", "acceptance", "95 % interval", "requests", "by judged blocks alone"];
    FitSection {
        title: "Acceptance".into(),
        words: "Mean over committed positions, every position once; intervals are over requests. Judged blocks alone give \
                accepted / (accepted + rejections), which is exact for one acceptance and low where it varies. Pairs never seen have \
                the bounds of the triangle of total variation."
            .into(),
        tables: vec![FitTable { head: head(&names), rows, words: 3 }],
        plots: Vec::new(),
    }
}

fn variation(fits: &Fits, notes: &mut Vec<String>) -> FitSection {
    let mut section = FitSection {
        title: "How acceptance varies".into(),
        words: "Of a draft that the target rejects as often as the mean over the drafts, about its class's mean. Of two tokens of \
                one text the covariance at a distance is what requests differ by, and what is left of the regime they share; errors leave \
                out groups of requests in turn."
            .into(),
        ..FitSection::default()
    };
    let shown = |m: Measured| format!("{:.4} \u{b1} {:.4}", m.value, m.standard_error);
    match &fits.variation {
        Ok(found) => {
            let mut rows = vec![vec!["spread between requests".into(), shown(found.request_spread)]];
            match &found.regime {
                Some(regime) => rows.extend([
                    vec!["regimes: half their distance".into(), shown(regime.spread)],
                    vec!["regimes: mean run, tokens".into(), shown(regime.stay_tokens)],
                ]),
                None => rows.push(vec!["regimes".into(), "none that is clear".into()]),
            }
            rows.push(vec!["from token to token besides".into(), format!("{:.4}", found.noise)]);
            section.tables.push(FitTable { head: head(&["what", "value"]), rows, words: 1 });
            let by_lag = |value: fn(&(f64, f64)) -> f64| {
                points(found.covariance.iter().enumerate().skip(1).map(|(lag, at)| (lag as f64, value(at))))
            };
            let curve = |name: &str, look, color, points| FitCurve { name: name.into(), look, color, points };
            section.plots.push(FitPlot {
                stem: "covariance".into(),
                title: "Covariance along a text".into(),
                caption:
                    "A level that stays is what requests differ by; a fall towards it is the length of runs."
                        .into(),
                panels: vec![FitPanel {
                    title: String::new(),
                    x: axis("distance, tokens", Scale::Plain),
                    y: axis("covariance", Scale::Plain),
                    diagonal: false,
                    curves: vec![
                        curve("measured", Look::Dots, 0, by_lag(|at| at.0)),
                        curve("fitted", Look::Dashed, 1, by_lag(|at| at.1)),
                    ],
                }],
            });
        }
        Err(shortage) => notes.push(format!("how acceptance varies: {shortage}")),
    }
    spreads(fits, &mut section, notes);
    section
}

fn spreads(fits: &Fits, section: &mut FitSection, notes: &mut Vec<String>) {
    let (mut rows, mut panels) = (Vec::new(), Vec::new());
    for class in &fits.classes {
        let spreads = match &class.spreads {
            Some(Ok(spreads)) => spreads,
            Some(Err(shortage)) => {
                notes.push(format!("spread between requests of class {}: {shortage}", class.class));
                continue;
            }
            None => continue,
        };
        for spread in spreads {
            let PairCourse { drafter, verifier, .. } = fits.courses[spread.pair];
            let pair = fits.pair(drafter, verifier);
            rows.push(vec![
                class.class.clone(),
                pair.clone(),
                format!("{:.3}", spread.mean),
                format!("{:.4}", spread.deviation),
                spread.beta.map_or_else(|| "-".into(), |(a, b)| format!("{a:.1}, {b:.1}")),
                or_why(&goodness::beta_shape(spread), |t| format!("{:.3}", t.statistic)),
                or_why(&goodness::beta_shape(spread), |t| p(t.p)),
            ]);
            if verifier + 1 == fits.pool.len() {
                let n = spread.observed.len() as f64;
                let steps = spread.observed.iter().enumerate().map(|(i, &x)| (x, (i + 1) as f64 / n));
                let curve =
                    |name: &str, look, color, points| FitCurve { name: name.into(), look, color, points };
                panels.push(FitPanel {
                    title: format!("{}: {pair}", class.class),
                    x: axis("a request's own acceptance", Scale::Plain),
                    y: axis("share of requests", Scale::Unit),
                    diagonal: false,
                    curves: vec![
                        curve("requests", Look::Stairs, 0, points(steps)),
                        curve("Beta law", Look::Dashed, 1, points(goodness::beta_distribution(spread))),
                    ],
                });
            }
        }
    }
    let names = ["class", "pair", "mean of requests", "spread", "Beta law", "KS distance", "p"];
    section.tables.push(FitTable { head: head(&names), rows, words: 2 });
    if !panels.is_empty() {
        section.plots.push(FitPlot {
            stem: "requests".into(),
            title: "Acceptance by request".into(),
            caption: "Requests' own means over 16 tokens and more, sampling included, and the Beta law of their mean and deviation. \
                      Its p is too large, since both come from the data: a small one is news."
                .into(),
            panels,
        });
    }
}

/// A p-value as people read it.
fn p(value: f64) -> String {
    if value < 0.001 { "< 0.001".into() } else { format!("{value:.3}") }
}

fn courses(fits: &Fits) -> FitSection {
    let with = |estimate: &Estimate, x: f64| FitPoint {
        x,
        y: estimate.mean,
        interval: Some((estimate.low, estimate.high)),
    };
    let curves = |of: &dyn Fn(&PairCourse) -> Vec<FitPoint>| -> Vec<FitCurve> {
        let each = fits.courses.iter().enumerate().map(|(color, course)| FitCurve {
            name: fits.pair(course.drafter, course.verifier),
            look: Look::Dotted,
            color,
            points: of(course),
        });
        each.filter(|curve| !curve.points.is_empty()).collect()
    };
    let middle = |from: u32, to: u32| (f64::from(from) + f64::from(to)) / 2.0 + 1.0;
    let along = curves(&|course| {
        course.by_position.iter().map(|s| with(&s.acceptance, middle(s.from, s.to))).collect()
    });
    let deep =
        curves(&|course| course.by_depth.iter().map(|d| with(&d.acceptance, f64::from(d.depth))).collect());
    let mut section = FitSection { title: "Along the output and the block".into(), ..FitSection::default() };
    let mut rows = Vec::new();
    for course in &fits.courses {
        let (first, last) = (course.by_position.first(), course.by_position.last());
        if let (Some(first), Some(last)) = (first, last) {
            rows.push(vec![
                fits.pair(course.drafter, course.verifier),
                format!(
                    "{:.3} ({})",
                    first.acceptance.mean,
                    interval(Some((first.acceptance.low, first.acceptance.high)))
                ),
                format!(
                    "{:.3} ({})",
                    last.acceptance.mean,
                    interval(Some((last.acceptance.low, last.acceptance.high)))
                ),
                format!("{}-{}", last.from, last.to),
            ]);
        }
    }
    let names = ["pair", "acceptance at the first token", "at the last stretch", "tokens"];
    section.tables.push(FitTable { head: head(&names), rows, words: 1 });
    let panel = |title: &str, x: FitAxis, curves| FitPanel {
        title: title.into(),
        x,
        y: axis("acceptance", Scale::Plain),
        diagonal: false,
        curves,
    };
    let mut panels = Vec::new();
    if !along.is_empty() {
        panels.push(panel("by position", axis("output token, counted from 1", Scale::Log), along));
    }
    if !deep.is_empty() {
        panels.push(panel("by depth", axis("tokens before it in the block", Scale::Plain), deep));
    }
    if panels.is_empty() {
        section.words = "Not enough data: no stretch of the output and no depth has 20 requests.".into();
    } else {
        section.plots.push(FitPlot {
            stem: "positions".into(),
            title: "Acceptance by position and by depth".into(),
            caption: "By position from scored tokens; by depth of the tokens that were judged there. Intervals are over requests.".into(),
            panels,
        });
    }
    section
}

fn signals(fits: &Fits, notes: &mut Vec<String>) -> FitSection {
    let mut section = FitSection {
        title: "Signals".into(),
        words: "Spearman's correlation of what a drafter's distribution looks like with the chance that its token is kept, within \
                classes. The mapping leads from what is measured to acceptance: the identity where tokens are sampled and \
                verified by min(1, p/q), a rising curve where choices must agree."
            .into(),
        ..FitSection::default()
    };
    match &fits.signals {
        Ok(found) => {
            let mapping = |index: usize| {
                or_why(&fits.mapping, |maps| {
                    let map = &maps[index];
                    let curve = format!("curve of {} points, residual {:.3}", map.points.len(), map.residual);
                    if map.points.is_empty() { "identity".into() } else { curve }
                })
            };
            let rows = found.iter().enumerate().map(|(index, quality)| {
                vec![
                    fits.pair(quality.drafter, quality.verifier),
                    mapping(index),
                    format!("{:.3}", quality.top_probability),
                    format!("{:.3}", quality.entropy),
                    quality.positions.to_string(),
                ]
            });
            let names = ["pair", "mapping f", "top probability", "entropy", "tokens"];
            section.tables.push(FitTable { head: head(&names), rows: rows.collect(), words: 2 });
            let curves = fits.courses.iter().enumerate().map(|(color, course)| FitCurve {
                name: fits.pair(course.drafter, course.verifier),
                look: Look::Dotted,
                color,
                points: points(course.signal_curve.iter().copied()),
            });
            section.plots.push(FitPlot {
                stem: "signals".into(),
                title: "How well confidence foretells acceptance".into(),
                caption: "Bins of as many tokens each, by the drafter's top probability.".into(),
                panels: vec![FitPanel {
                    title: String::new(),
                    x: axis("top probability of the drafter", Scale::Unit),
                    y: axis("acceptance", Scale::Unit),
                    diagonal: false,
                    curves: curves.collect(),
                }],
            });
        }
        Err(shortage) => notes.push(format!("signals: {shortage}")),
    }
    match &fits.levels {
        Ok(levels) => {
            let rows = levels.iter().map(|level| {
                let pair = format!("{} and {}", fits.pool[level.first], fits.pool[level.second]);
                vec![pair, format!("{:.3}", level.correlation)]
            });
            let names = ["levels", "correlation of their acceptance by the target"];
            section.tables.push(FitTable { head: head(&names), rows: rows.collect(), words: 1 });
        }
        Err(shortage) => notes.push(format!("correlation of levels: {shortage}")),
    }
    section
}

fn judged(fits: &Fits) -> FitSection {
    let test = |test: &Test| {
        let freedom = test.freedom.map_or_else(String::new, |f| format!(" on {f}"));
        format!("{:.1}{freedom}, p {}", test.statistic, p(test.p))
    };
    let rows = fits.courses.iter().map(|course| {
        let coin = or_why(&course.one_coin, |(length, found)| format!("{length} tokens: {}", test(found)));
        let agreement = or_why(&course.rounds_against_scores, |found| {
            let kept = format!("{} of {} kept, {:.0} foretold", found.kept, found.judged, found.foretold);
            found.test.as_ref().map_or(kept.clone(), |found| format!("{kept}: {}", test(found)))
        });
        vec![fits.pair(course.drafter, course.verifier), coin, agreement]
    });
    let names = ["pair", "accepted lengths against one coin", "rounds against the scores of their tokens"];
    FitSection {
        title: "Accepted lengths".into(),
        words: "Chi-square with its degrees of freedom. One coin: whether independent coins of one acceptance make such lengths; a \
                small p says that acceptance varies. Rounds against scores: whether what rounds kept is what the \
                scores of the same tokens foretell; a small p says that the two accounts disagree."
            .into(),
        tables: vec![FitTable { head: head(&names), rows: rows.collect(), words: 3 }],
        plots: Vec::new(),
    }
}
