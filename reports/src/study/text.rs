//! The study as tables and sentences, and the document behind `compare.json`.

use serde::Serialize;

use super::{Kind, Regret, Share, Study, StudyArm, grouped, how, tests};
use crate::ArmResult;
use crate::bound::BoundReport;
use crate::compare::{Across, Comparison, Metric, sentence};
use crate::numbers::{change, number};
use crate::summary::Saturation;
use crate::table::{aligned, effect, means, saturation};

/// Version of `compare.json`; a renamed or removed field raises it.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
pub(super) struct Document<'a> {
    schema: u32,
    title: &'a str,
    command: &'a str,
    facts: &'a [(String, String)],
    baseline: &'a str,
    margin: f64,
    detect: f64,
    load_unit: &'a str,
    /// Tests that Holm's correction is over.
    tests: usize,
    arms: Vec<Arm<'a>>,
    comparisons: Vec<Comparison>,
    sentences: Vec<String>,
    regrets: Vec<Regret>,
    shares: Vec<Share>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct Arm<'a> {
    policy: &'a str,
    source: &'a str,
    kind: Kind,
    reference: bool,
    other_output: bool,
    load: Option<f64>,
    saturation: Option<Saturation>,
    seeds: Vec<u64>,
    means: Vec<Mean>,
    bound: Option<&'a BoundReport>,
}

#[derive(Serialize)]
struct Mean {
    metric: Metric,
    unit: &'static str,
    #[serde(flatten)]
    across: Across,
    /// One value a seed, in the order of the arm's seeds.
    values: Vec<Option<f64>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(study: &'a Study) -> Self {
        let comparisons = study.comparisons();
        Self {
            schema: SCHEMA,
            title: &study.title,
            command: &study.command,
            facts: &study.facts,
            baseline: &study.baseline,
            margin: study.terms.margin,
            detect: study.terms.detect,
            load_unit: &study.load_unit,
            tests: tests(study),
            arms: study.arms.iter().map(Arm::new).collect(),
            sentences: sentences(study, &comparisons).into_iter().map(|(_, said)| said).collect(),
            comparisons,
            regrets: study.regrets(),
            shares: study.shares(),
            notes: &study.notes,
        }
    }
}

impl<'a> Arm<'a> {
    fn new(own: &'a StudyArm) -> Self {
        let arm = &own.arm;
        let mean = |metric: Metric| {
            let across = Across::of(metric, arm)?;
            let values = arm.seeds.iter().map(|seed| metric.shown(&seed.summary)).collect();
            Some(Mean { metric, unit: metric.unit(), across, values })
        };
        Self {
            policy: &arm.policy,
            source: &own.source,
            kind: own.kind,
            reference: own.reference,
            other_output: arm.other_output,
            load: arm.load,
            saturation: saturation(arm),
            seeds: arm.seeds.iter().map(|seed| seed.seed).collect(),
            means: Metric::ALL.into_iter().filter_map(mean).collect(),
            bound: own.bound.as_ref(),
        }
    }
}

/// The verdicts, a sentence for each pair, load and class, with the load.
pub(super) fn sentences(study: &Study, all: &[Comparison]) -> Vec<(Option<f64>, String)> {
    let tests = tests(study);
    let said = |own: &Vec<&Comparison>| {
        let first = own.first()?;
        let class = first.class.as_ref().map_or_else(String::new, |class| format!("{class}: "));
        let at = first.load.map_or_else(String::new, |load| format!("load {load}: "));
        Some((first.load, format!("{at}{class}{}", sentence(own, tests, &study.terms))))
    };
    grouped(all).iter().filter_map(said).collect()
}

/// A line for each pair: what is beside what, and the change of every metric.
pub(super) fn changes(own: &[&Comparison]) -> Vec<Vec<String>> {
    let metrics: Vec<Metric> =
        Metric::TOGETHER.into_iter().filter(|m| own.iter().any(|c| c.metric == *m)).collect();
    let mut rows = vec![vec!["policy".to_owned(), "against".into(), "requests".into()]];
    rows[0].extend(metrics.iter().map(|m| m.name().to_owned()));
    let cloned: Vec<Comparison> = own.iter().map(|c| (*c).clone()).collect();
    for group in grouped(&cloned) {
        let first = group[0];
        let class = first.class.clone().unwrap_or_else(|| "all".into());
        let mut row = vec![first.policy.clone(), first.baseline.clone(), class];
        for metric in &metrics {
            let found = group.iter().find(|c| c.metric == *metric);
            row.push(found.map_or_else(|| "-".into(), |c| effect(c)));
        }
        rows.push(row);
    }
    rows
}

/// How the pairs belong together, each way once.
pub(super) fn ways(own: &[&Comparison]) -> Vec<String> {
    let mut ways: Vec<(String, Vec<String>)> = Vec::new();
    for c in own.iter().filter(|c| c.class.is_none()) {
        let (way, pair) = (how(c), format!("{} against {}", c.policy, c.baseline));
        match ways.iter_mut().find(|known| known.0 == way) {
            Some(known) if known.1.contains(&pair) => {}
            Some(known) => known.1.push(pair),
            None => ways.push((way, vec![pair])),
        }
    }
    // The usual way goes first and needs no names.
    ways.sort_by_key(|(_, pairs)| std::cmp::Reverse(pairs.len()));
    let named = |(index, (way, pairs)): (usize, (String, Vec<String>))| match index {
        0 => way,
        _ => format!("but {}: {way}", pairs.join(", ")),
    };
    ways.into_iter().enumerate().map(named).collect()
}

/// The regrets at one load: a heading and a line for each policy.
pub(super) fn regrets(all: &[Regret]) -> Vec<Vec<String>> {
    let metrics: Vec<Metric> =
        Metric::TOGETHER.into_iter().filter(|m| all.iter().any(|r| r.metric == *m)).collect();
    let mut rows = vec![vec!["policy".to_owned()]];
    rows[0].extend(metrics.iter().map(|m| m.name().to_owned()));
    let bare = |x: f64| change(x).trim_end_matches(" %").to_owned();
    for group in all.chunk_by(|a, b| a.policy == b.policy) {
        let mut row = vec![group[0].policy.clone()];
        for metric in &metrics {
            let found = group.iter().find(|r| r.metric == *metric);
            row.push(found.map_or_else(
                || "-".into(),
                |r| {
                    let range = r.interval.map(|i| format!(" ({}, {})", bare(i.low), bare(i.high)));
                    format!("{}{}", change(r.effect), range.unwrap_or_default())
                },
            ));
        }
        rows.push(row);
    }
    rows
}

/// The shares at one load, below the bounds they are of.
pub(super) fn shares(all: &[Share]) -> Vec<Vec<String>> {
    let metrics: Vec<Metric> =
        Metric::ALL.into_iter().filter(|m| all.iter().any(|s| s.metric == *m)).collect();
    let mut rows = vec![vec!["policy".to_owned()]];
    rows[0].extend(metrics.iter().map(|m| m.name().to_owned()));
    for group in all.chunk_by(|a, b| a.policy == b.policy) {
        let of = |metric: &Metric| group.iter().find(|s| s.metric == *metric);
        let mut row = vec![group[0].policy.clone()];
        for metric in &metrics {
            row.push(of(metric).map_or_else(
                || "-".into(),
                |s| {
                    let bound = format!("{} {}", number(s.bound), metric.unit());
                    // Adding 0 makes a -0 of rounding a 0.
                    let share =
                        s.share.map(|share| format!("{} % to {bound}", (100.0 * share).round() + 0.0));
                    share.unwrap_or_else(|| format!("- to {bound}"))
                },
            ));
        }
        rows.push(row);
    }
    rows
}

pub(super) const CHANGES: &str = "change (95 % interval)";
pub(super) const REGRETS: &str = "regret to the better of clairvoyant and hindsight (95 % interval)";

pub(super) fn shares_heading(study: &Study) -> String {
    format!("share of the bound's gain over {}; no policy can beat the bound", study.baseline)
}

pub(super) fn text(study: &Study) -> String {
    let comparisons = study.comparisons();
    let mut out = format!("{}\n\n", study.title);
    let (all_regrets, all_shares) = (study.regrets(), study.shares());
    for load in study.loads() {
        if let Some(load) = load {
            out += format!("load {load} {}", study.load_unit).trim_end();
            out.push('\n');
        }
        let arms: Vec<&ArmResult> =
            study.arms.iter().map(|own| &own.arm).filter(|arm| arm.load == load).collect();
        out += &format!("{}\n", means(&arms));
        let own: Vec<&Comparison> = comparisons.iter().filter(|c| c.load == load).collect();
        if !own.is_empty() {
            out += &format!("{CHANGES}; {}\n", ways(&own).join("; "));
            out += &format!("{}\n", aligned(&changes(&own), &[0, 1, 2]));
        }
        let regret: Vec<Regret> = all_regrets.iter().filter(|r| r.load == load).cloned().collect();
        if !regret.is_empty() {
            out += &format!("{REGRETS}\n{}\n", aligned(&regrets(&regret), &[0]));
        }
        let share: Vec<Share> = all_shares.iter().filter(|s| s.load == load).cloned().collect();
        if !share.is_empty() {
            out += &format!("{}\n{}\n", shares_heading(study), aligned(&shares(&share), &[0]));
        }
    }
    for (_, said) in sentences(study, &comparisons) {
        out += &format!("{said}.\n");
    }
    if comparisons.iter().any(|c| c.p.is_some()) {
        out += &format!("\n{}\n", basis(study));
    }
    if study.arms.iter().any(|own| own.arm.other_output) {
        out += "* other output: another target model, outside comparisons\n";
    }
    for note in &study.notes {
        out += &format!("note: {note}\n");
    }
    out
}

/// What verdicts rest on.
pub(super) fn basis(study: &Study) -> String {
    format!(
        "beats, loses: p < 0.05 after Holm's correction over all {} tests here; intervals are of one comparison at a time",
        tests(study)
    )
}

#[cfg(test)]
mod tests {
    use super::super::samples::{own, study};
    #[test]
    fn a_study_says_what_it_found_in_sentences() {
        let arms = vec![
            own("goodput", "g", &[1.0, 1.0, 1.0, 1.0, 1.0]),
            own("router", "g", &[0.90, 0.91, 0.92, 0.905, 0.915]),
            own("same", "g", &[1.0, 1.0, 1.0, 1.0, 1.0]),
            own("close", "g", &[1.001, 0.999, 1.002, 1.0, 0.998]),
            own("wild", "g", &[0.8, 1.3, 0.9, 1.1, 1.0]),
            own("other", "h", &[1.3, 1.31, 1.29, 1.30, 1.32]),
        ];
        insta::assert_snapshot!(study(arms).text(), @r"
        a study

        policy   TTFT mean  TTFT p99  TPOT mean  TPOT p99  throughput        cost  state
                        ms        ms         ms        ms    tokens/s  $/M tokens
        goodput        100       100        100       100       0.500       4,000  STABLE
        router        91.2      91.2       91.0      91.0       0.500       4,000  STABLE
        same           100       100        100       100       0.500       4,000  STABLE
        close          100       100        100       100       0.500       4,000  STABLE
        wild           102       102        102       102       0.500       4,000  STABLE
        other          130       130        130       130       0.500       4,000  STABLE

        change (95 % interval); paired by seed, 5 seeds; but other against goodput: not paired, Welch's t on 5 and 5 seeds
        policy  against  requests               TTFT mean                TTFT p99               TPOT mean                TPOT p99        throughput              cost
        router  goodput  all          -8.8 % (-9.8, -7.8)     -8.8 % (-9.8, -7.8)    -9.0 % (-10.0, -8.0)    -9.0 % (-10.0, -8.0)  0.0 % (0.0, 0.0)  0.0 % (0.0, 0.0)
        same    goodput  all             0.0 % (0.0, 0.0)        0.0 % (0.0, 0.0)        0.0 % (0.0, 0.0)        0.0 % (0.0, 0.0)  0.0 % (0.0, 0.0)  0.0 % (0.0, 0.0)
        close   goodput  all             0.0 % (0.0, 0.0)        0.0 % (0.0, 0.0)      0.0 % (-0.2, +0.2)      0.0 % (-0.2, +0.2)  0.0 % (0.0, 0.0)  0.0 % (0.0, 0.0)
        wild    goodput  all        +0.6 % (-20.2, +26.7)   +0.6 % (-20.2, +26.7)   +0.6 % (-20.2, +26.7)   +0.6 % (-20.2, +26.7)  0.0 % (0.0, 0.0)  0.0 % (0.0, 0.0)
        other   goodput  all       +30.4 % (+29.0, +31.8)  +30.4 % (+29.0, +31.8)  +30.4 % (+29.0, +31.8)  +30.4 % (+29.0, +31.8)  0.0 % (0.0, 0.0)  0.0 % (0.0, 0.0)

        router beats goodput by 8.8 % [7.8, 9.8] in TTFT mean, 8.8 % [7.8, 9.8] in TTFT p99, 9.0 % [8.0, 10.0] in TPOT mean, 9.0 % [8.0, 10.0] in TPOT p99; exactly equal in every seed: throughput, cost.
        same against goodput: exactly equal in every seed: TTFT mean, TTFT p99, TPOT mean, TPOT p99, throughput, cost.
        close against goodput: no difference larger than 0.3 % in TPOT mean, 0.3 % in TPOT p99; exactly equal in every seed: TTFT mean, TTFT p99, throughput, cost.
        wild against goodput: exactly equal in every seed: throughput, cost; unclear: TTFT mean between -20.2 % and +26.7 % (about 1,372 seeds would tell 2 %), TTFT p99 between -20.2 % and +26.7 % (about 1,372 seeds would tell 2 %), TPOT mean between -20.2 % and +26.7 % (about 1,372 seeds would tell 2 %), TPOT p99 between -20.2 % and +26.7 % (about 1,372 seeds would tell 2 %).
        other loses to goodput by 30.4 % [29.0, 31.8] in TTFT mean, 30.4 % [29.0, 31.8] in TTFT p99, 30.4 % [29.0, 31.8] in TPOT mean, 30.4 % [29.0, 31.8] in TPOT p99; exactly equal in every seed: throughput, cost.

        beats, loses: p < 0.05 after Holm's correction over all 25 tests here; intervals are of one comparison at a time
        ");
    }

    #[test]
    fn the_document_holds_every_value_of_every_seed() {
        let study = study(vec![own("a", "g", &[1.0, 1.1]), own("b", "g", &[0.9, 0.8])]);
        let parsed: serde_json::Value = serde_json::from_str(&study.to_json()).unwrap();
        assert_eq!(parsed["arms"][1]["means"][0]["values"].as_array().unwrap().len(), 2);
        assert_eq!(parsed["comparisons"][0]["pairing"], "seeds");
        assert_eq!(parsed["sentences"].as_array().unwrap().len(), 1);
    }
}
