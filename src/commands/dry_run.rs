//! `specrouter run --dry-run`: what a scenario came to, without running it.

use serde_json::json;
use specrouter_routing::ids::{ClassId, ModelId};
use specrouter_routing::luck::Luck;
use specrouter_sim::acceptance::statistics::measure;

use crate::args::Format;
use crate::failure::Failure;
use crate::scenario::Scenario;
use crate::table::Table;

/// Prints the resolved scenario's size. (Resolving it has already read and checked everything.)
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn print(scenario: &Scenario, format: Format) -> Result<(), Failure> {
    let facts: Vec<(String, String)> = facts(scenario)
        .into_iter()
        .map(|(what, value)| (what.to_owned(), value))
        .chain(processes(scenario))
        .collect();
    let arms: Vec<&str> = scenario.arms.iter().map(|arm| arm.name.as_str()).collect();
    print_facts(&scenario.name, facts, &arms, scenario.workload.notes(), format)
}

/// Prints the size of a replay.
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn print_replay(scenario: &Scenario, notes: &[String], format: Format) -> Result<(), Failure> {
    let facts = facts(scenario).into_iter().map(|(what, value)| (what.to_owned(), value)).collect();
    let arms: Vec<&str> = scenario.arms.iter().map(|arm| arm.name.as_str()).collect();
    let notes = [scenario.workload.notes(), notes].concat();
    print_facts(&scenario.name, facts, &arms, &notes, format)
}

/// Prints what a scenario came to: facts, policies, notes.
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn print_facts(
    name: &str,
    facts: Vec<(String, String)>,
    arms: &[&str],
    notes: &[String],
    format: Format,
) -> Result<(), Failure> {
    if format == Format::Json {
        let facts: serde_json::Map<String, serde_json::Value> =
            facts.into_iter().map(|(what, value)| (what, value.into())).collect();
        return super::print_json(
            &json!({ "scenario": name, "facts": facts, "policies": arms, "notes": notes }),
        );
    }
    let mut table = Table::new(&["scenario", name]);
    for (what, value) in facts {
        table.row(vec![what, value]);
    }
    for (index, arm) in arms.iter().enumerate() {
        table.row(vec![if index == 0 { "policies".into() } else { String::new() }, (*arm).to_owned()]);
    }
    for (index, note) in notes.iter().enumerate() {
        table.row(vec![if index == 0 { "notes".into() } else { String::new() }, note.clone()]);
    }
    super::print(&table.text())
}

/// What the acceptance source makes of each class, drawn: the figures by which public traces of
/// acceptance are described, so that a source can be set beside one.
fn processes(scenario: &Scenario) -> Vec<(String, String)> {
    let target = scenario.pool.len() - 1;
    let classes = scenario.workload.classes();
    let pairs = (0..target).flat_map(|drafter| (0..classes.len()).map(move |class| (drafter, class)));
    pairs
        .map(|(drafter, class)| {
            let pair = (ModelId(drafter as u8), ModelId(target as u8));
            let luck = Luck::new(scenario.raw.seed);
            let s = measure(&scenario.acceptance, ClassId(class as u16), pair, luck, (300, 300));
            let what = format!("{}, {}", classes[class].name, scenario.pool[drafter].name);
            let value = format!(
                "acceptance {:.2}, SD {:.2} across requests, lag-1 correlation {:.2}, tokens a round {:.2} at 3 drafts, {:.2} at 8",
                s.pooled, s.request_spread, (100.0 * s.lag_1).round() / 100.0 + 0.0, s.tokens[0].measured, s.tokens[1].measured
            );
            (what, value)
        })
        .collect()
}

/// What the scenario came to: `(what, value with its unit)`, for the dry run and the report.
pub fn facts(scenario: &Scenario) -> Vec<(&'static str, String)> {
    let raw = &scenario.raw;
    let size = scenario.workload.size();
    let names: Vec<&str> = scenario.pool.iter().map(|model| model.name.as_str()).collect();
    let span =
        size.span_s.map_or_else(|| "until they are answered".to_owned(), |span| format!("over {span:.1} s"));
    let mut facts = vec![
        ("pool", names.join(" > ")),
        ("hardware", scenario.hardware.label()),
        ("policies know", scenario.profile_label()),
        ("replicas", format!("{}, tensor parallel {}", raw.replicas, raw.tensor_parallel)),
        ("KV cache", format!("{} tokens for each model and replica", scenario.kv_tokens)),
        ("context", format!("{} tokens", scenario.limits.context)),
        ("requests", format!("{} {span}", size.requests)),
        ("mean prompt", format!("{:.1} tokens", size.prompt_tokens)),
        ("mean output", format!("{:.1} tokens", size.output_tokens)),
        ("seeds", format!("{} from {}", scenario.seeds.len(), raw.seed)),
    ];
    if let Some(loads) = &scenario.loads {
        let loads: Vec<String> = loads.iter().map(f64::to_string).collect();
        facts.push(("loads", format!("{} of target-only capacity", loads.join(", "))));
    }
    facts
}
