//! The tables behind the results: by class, by model, by pair of models, by run.

use super::{columns, escape, rows, section};
use crate::ArmResult;
use crate::compare::Across;
use crate::numbers::{number, seconds, share, thousands};
use crate::plot::name;
use crate::summary::{ClassSummary, Counts, ModelSummary, PairSummary, Stats, Summary};

/// Mean over seeds of what a summary has; nothing where no seed has it.
fn over<T>(arm: &ArmResult, value: impl Fn(&Summary) -> Option<f64>, show: impl Fn(f64) -> T) -> Option<T> {
    Across::over(arm.seeds.iter().filter_map(|s| value(&s.summary))).map(|across| show(across.mean))
}

fn shown(value: Option<String>) -> String {
    value.map_or_else(|| "\u{2013}".into(), |v| escape(&v))
}

pub(super) fn classes(arms: &[&ArmResult]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for class in arms.iter().flat_map(|a| &a.seeds).flat_map(|s| &s.summary.classes) {
        if !names.contains(&class.class.as_str()) {
            names.push(&class.class);
        }
    }
    let head = [
        "class",
        "policy",
        "finished",
        "TTFT mean",
        "TTFT p99",
        "TPOT mean",
        "TPOT p99",
        "E2E p50",
        "met SLO",
    ];
    let mut body = Vec::new();
    for class in names {
        for arm in arms {
            let of = |value: &dyn Fn(&ClassSummary) -> Option<f64>, show: fn(f64) -> String| {
                let own = |s: &Summary| s.classes.iter().find(|c| c.class == class).and_then(value);
                shown(over(arm, own, show))
            };
            let stat = |pick: fn(&ClassSummary) -> Option<Stats>, at: fn(&Stats) -> f64| {
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

pub(super) fn models(arms: &[&ArmResult]) -> String {
    let head = ["policy", "model", "passes", "mean rows", "useful", "prefill and catch-up", "wasted"]
        .map(str::to_owned);
    let mut body = Vec::new();
    for arm in arms {
        let ran = |model: &&String| {
            let own = |s: &Summary| s.models.iter().any(|m| m.model == **model && m.passes > 0);
            arm.seeds.iter().any(|s| own(&s.summary))
        };
        for model in arm.pool.iter().filter(ran) {
            let of = |value: fn(&ModelSummary) -> f64, show: fn(f64) -> String| {
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
        body.push(
            [
                escape(&name(arm)),
                "<em>idle</em>".into(),
                String::new(),
                String::new(),
                idle,
                String::new(),
                String::new(),
            ]
            .into(),
        );
    }
    section(
        "Time by model",
        &format!("<p>Shares of the replicas' time, means over seeds.</p>\n{}", columns(&head, &body, 2)),
    )
}

pub(super) fn acceptance(arms: &[&ArmResult]) -> String {
    let head =
        ["policy", "drafter", "verifier", "verifications", "drafted", "accepted", "acceptance", "similarity"];
    let mut body = Vec::new();
    for arm in arms {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for pair in arm.seeds.iter().flat_map(|s| &s.summary.pairs) {
            if !pairs.contains(&(&pair.drafter, &pair.verifier)) {
                pairs.push((&pair.drafter, &pair.verifier));
            }
        }
        for (drafter, verifier) in pairs {
            let of = |value: fn(&PairSummary) -> Option<f64>, show: fn(f64) -> String| {
                let same = |p: &&PairSummary| p.drafter == drafter && p.verifier == verifier;
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
    if body.is_empty() {
        String::new()
    } else {
        section("Acceptance", &(intro.to_owned() + &columns(&head, &body, 3)))
    }
}

pub(super) fn runs(arms: &[&ArmResult]) -> String {
    let head = [
        "policy",
        "arrived",
        "finished",
        "running",
        "waiting",
        "refused",
        "mean batch",
        "mean queue",
        "KV use",
        "preemptions",
        "shorter plans",
        "probes",
        "predicted / observed",
        "J per token",
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
    let none =
        if names.is_empty() { String::new() } else { format!(" None or unknown: {}.", names.join(", ")) };
    let table = rows(&pick(&head.map(str::to_owned).to_vec()), &body.iter().map(pick).collect::<Vec<_>>());
    section("Requests and memory", &format!("<p>Means over seeds.{none}</p>\n{table}"))
}
