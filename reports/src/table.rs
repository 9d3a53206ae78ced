//! Plain-text tables for stdout, and the document behind `summary.json`.

use serde::Serialize;

use crate::compare::{Across, Comparison, Metric};
use crate::numbers::{change, number};
use crate::summary::{Saturation, Summary};
use crate::{ArmResult, Report};

/// Version of `summary.json`; a renamed or removed field raises it.
const SCHEMA: u32 = 1;

/// The content of `summary.json`, fields in the order of the text.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    schema: u32,
    title: &'a str,
    scenario: &'a str,
    command: &'a str,
    facts: Vec<Fact<'a>>,
    pool: &'a [String],
    classes: &'a [String],
    slo: Targets,
    baseline: Option<&'a str>,
    loads: Option<&'a [f64]>,
    load_unit: &'a str,
    arms: Vec<Arm<'a>>,
    comparisons: Vec<Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bound: Option<&'a crate::BoundReport>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct Fact<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct Targets {
    ttft_s: Option<f64>,
    tpot_s: Option<f64>,
}

#[derive(Serialize)]
struct Arm<'a> {
    policy: &'a str,
    label: &'a str,
    other_output: bool,
    load: Option<f64>,
    pool: &'a [String],
    saturation: Option<Saturation>,
    across_seeds: Vec<Row>,
    seeds: Vec<&'a Summary>,
}

#[derive(Serialize)]
pub(crate) struct Row {
    metric: Metric,
    unit: &'static str,
    #[serde(flatten)]
    across: Across,
}

impl<'a> Document<'a> {
    pub(crate) fn new(report: &'a Report) -> Self {
        let facts = report.facts.iter().map(|(name, value)| Fact { name, value });
        Self {
            schema: SCHEMA,
            title: &report.title,
            scenario: &report.scenario_name,
            command: &report.command,
            facts: facts.collect(),
            pool: &report.pool,
            classes: &report.classes,
            slo: Targets {
                ttft_s: report.slo.ttft.map(|s| s.seconds()),
                tpot_s: report.slo.tpot.map(|s| s.seconds()),
            },
            baseline: report.baseline_arm().map(|index| report.arms[index].policy.as_str()),
            loads: report.loads.as_deref(),
            load_unit: &report.load_unit,
            arms: report.arms.iter().map(Arm::new).collect(),
            comparisons: report.comparisons(),
            bound: report.bound.as_ref(),
            notes: &report.notes,
        }
    }
}

impl<'a> Arm<'a> {
    fn new(arm: &'a ArmResult) -> Self {
        let row = |metric| Across::of(metric, arm).map(|across| Row { metric, unit: metric.unit(), across });
        Self {
            policy: &arm.policy,
            label: &arm.label,
            other_output: arm.other_output,
            load: arm.load,
            pool: &arm.pool,
            saturation: saturation(arm),
            across_seeds: Metric::ALL.into_iter().filter_map(row).collect(),
            seeds: arm.seeds.iter().map(|s| &s.summary).collect(),
        }
    }
}

/// The worst label among the seeds.
pub(crate) fn saturation(arm: &ArmResult) -> Option<Saturation> {
    arm.seeds.iter().map(|s| s.summary.saturation).max()
}

/// A load as people read it: `0.8 of target-only capacity`.
pub(crate) fn load_text(report: &Report, load: f64) -> String {
    format!("{load} {}", report.load_unit).trim_end().to_owned()
}

/// The tables of stdout: one block of rows for each load, then the changes against the baseline.
pub(crate) fn text(report: &Report) -> String {
    let comparisons = report.comparisons();
    let mut loads: Vec<Option<f64>> = Vec::new();
    for arm in &report.arms {
        if !loads.contains(&arm.load) {
            loads.push(arm.load);
        }
    }
    let mut out = String::new();
    if !report.title.is_empty() {
        out += &format!("{}\n\n", report.title);
    }
    for load in loads {
        if let Some(load) = load {
            out += &format!("load {}\n", load_text(report, load));
        }
        let arms: Vec<&ArmResult> = report.arms.iter().filter(|arm| arm.load == load).collect();
        let own: Vec<&Comparison> = comparisons.iter().filter(|c| c.load == load).collect();
        out += &means(&arms);
        out.push('\n');
        if let Some(first) = own.first() {
            out += &changes(&arms, &own, first);
            out.push('\n');
        }
    }
    if report.arms.iter().any(|arm| arm.other_output) {
        out += "* other output: another target model, outside comparisons\n";
    }
    if let Some(bound) = crate::bound::text(report) {
        out += &bound;
        out.push('\n');
    }
    for note in &report.notes {
        out += &format!("note: {note}\n");
    }
    out
}

/// The metrics that at least one arm has.
pub(crate) fn metrics(arms: &[&ArmResult]) -> Vec<Metric> {
    let has = |metric: &Metric| arms.iter().any(|arm| Across::of(*metric, arm).is_some());
    Metric::ALL.into_iter().filter(has).collect()
}

pub(crate) fn means(arms: &[&ArmResult]) -> String {
    let metrics = metrics(arms);
    let mut rows = vec![vec![String::from("policy")], vec![String::new()]];
    for metric in &metrics {
        rows[0].push(metric.name().into());
        rows[1].push(metric.unit().into());
    }
    rows[0].push("state".into());
    rows[1].push(String::new());
    for arm in arms {
        let mut row = vec![format!("{}{}", arm.policy, if arm.other_output { " *" } else { "" })];
        for metric in &metrics {
            row.push(Across::of(*metric, arm).map_or_else(|| "-".into(), |across| number(across.mean)));
        }
        row.push(saturation(arm).map_or("", Saturation::as_str).into());
        rows.push(row);
    }
    let last = rows[0].len() - 1;
    aligned(&rows, &[0, last])
}

fn changes(arms: &[&ArmResult], comparisons: &[&Comparison], first: &Comparison) -> String {
    let seeds = comparisons.iter().map(|c| c.seeds).max().unwrap_or(0);
    let mut out = match seeds {
        1 => format!("change against {}; one seed: no interval\n", first.baseline),
        n => format!("change against {} (95 % interval over {n} seeds)\n", first.baseline),
    };
    let metrics: Vec<Metric> =
        Metric::ALL.into_iter().filter(|m| comparisons.iter().any(|c| c.metric == *m)).collect();
    let mut rows = vec![vec![String::from("policy")]];
    rows[0].extend(metrics.iter().map(|m| m.name().to_owned()));
    for arm in arms {
        let own: Vec<&&Comparison> = comparisons.iter().filter(|c| c.policy == arm.policy).collect();
        if own.is_empty() {
            continue;
        }
        let mut row = vec![arm.policy.clone()];
        for metric in &metrics {
            let cell = own.iter().find(|c| c.metric == *metric).map(|c| effect(c));
            row.push(cell.unwrap_or_else(|| "-".into()));
        }
        rows.push(row);
    }
    out += &aligned(&rows, &[0]);
    out
}

/// `-20.0 % (-21.0, -18.2)`
pub(crate) fn effect(c: &Comparison) -> String {
    let size = |x: f64| if c.relative { change(x) } else { number(x) };
    let bare = |x: f64| size(x).trim_end_matches(" %").to_owned();
    match c.interval {
        Some(i) => format!("{} ({}, {})", size(c.effect), bare(i.low), bare(i.high)),
        None => size(c.effect),
    }
}

/// Columns two spaces apart, right-aligned but for those in `left`.
pub(crate) fn aligned(rows: &[Vec<String>], left: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(c, cell)| {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            if left.contains(&c) { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        out += cells.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use specrouter_routing::tally::Tally;

    use super::*;
    use crate::summary::tests::{request, result};
    use crate::{Facts, SeedResult};

    /// An arm whose seed `i` has TPOT 100 ms and TTFT 100 ms times `scale[i]`.
    pub(crate) fn arm(policy: &str, scale: &[f64]) -> ArmResult {
        let facts = Facts { pool: vec!["large".into()], classes: vec!["chat".into()] };
        let seed = |(index, scale): (usize, &f64)| {
            let ms = |x: f64| (x * scale * 1000.0).round() as u64;
            let r = request(0, 0, ms(0.1), ms(0.5), 5);
            SeedResult { seed: index as u64, ..result(&[r], Tally::new(1)) }.reduce(&facts)
        };
        ArmResult {
            policy: policy.into(),
            label: String::new(),
            other_output: false,
            load: None,
            pool: facts.pool.clone(),
            seeds: scale.iter().enumerate().map(seed).collect(),
        }
    }

    pub(crate) fn report(arms: Vec<ArmResult>) -> Report {
        Report {
            title: "two arms".into(),
            arms,
            pool: vec!["large".into()],
            classes: vec!["chat".into()],
            ..Report::default()
        }
    }

    #[test]
    fn the_table_is_aligned_and_says_its_units() {
        let other = ArmResult { other_output: true, ..arm("small model", &[0.5, 0.5, 0.5]) };
        let arms = vec![arm("target_only", &[1.0, 1.0, 1.0]), arm("static", &[0.8, 0.7, 0.9]), other];
        let notes = vec!["3 plans were shortened".to_owned()];
        insta::assert_snapshot!(text(&Report { notes, ..report(arms) }), @r"
        two arms

        policy         TTFT mean  TTFT p99  TPOT mean  TPOT p99  throughput        cost  state
                              ms        ms         ms        ms    tokens/s  $/M tokens
        target_only          100       100        100       100       0.500       4,000  STABLE
        static              80.0      80.0       80.0      80.0       0.500       4,000  STABLE
        small model *       50.0      50.0       50.0      50.0       0.500       4,000  STABLE

        change against target_only (95 % interval over 3 seeds)
        policy              TTFT mean               TTFT p99              TPOT mean               TPOT p99        throughput
        static  -20.4 % (-41.8, +8.8)  -20.4 % (-41.8, +8.8)  -20.4 % (-41.8, +8.8)  -20.4 % (-41.8, +8.8)  0.0 % (0.0, 0.0)

        * other output: another target model, outside comparisons
        note: 3 plans were shortened
        ");
    }

    #[test]
    fn one_seed_has_no_interval() {
        let text = text(&report(vec![arm("a", &[1.0]), arm("b", &[0.8])]));
        assert!(
            text.contains("one seed: no interval") && text.contains("-20.0 %") && !text.contains("("),
            "{text}"
        );
    }

    #[test]
    fn a_sweep_has_a_block_for_each_load() {
        let at = |load, arm: ArmResult| ArmResult { load: Some(load), ..arm };
        let arms = vec![
            at(0.2, arm("a", &[1.0])),
            at(0.2, arm("b", &[0.9])),
            at(0.8, arm("a", &[2.0])),
            at(0.8, arm("b", &[1.0])),
        ];
        let report = Report { loads: Some(vec![0.2, 0.8]), load_unit: "of capacity".into(), ..report(arms) };
        let text = report.text_table();
        assert!(text.contains("load 0.2 of capacity\n") && text.contains("load 0.8 of capacity\n"), "{text}");
        assert!(text.contains("-10.0 %") && text.contains("-50.0 %"), "{text}");
    }

    #[test]
    fn the_document_is_the_same_both_ways_and_has_no_clock_in_it() {
        let report = report(vec![arm("a", &[1.0, 1.1]), arm("b", &[0.9, 0.8])]);
        let parsed: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&parsed), keys(&report.summary_json()));
        assert_eq!(parsed["arms"][0]["seeds"].as_array().unwrap().len(), 2);
        assert_eq!(report.to_json(), report.to_json());
        assert_eq!(parsed["schema"], 1);
        assert_eq!(parsed["arms"][1]["seeds"][0]["seed"], 0);
        assert_eq!(parsed["comparisons"][0]["baseline"], "a");
    }
}
