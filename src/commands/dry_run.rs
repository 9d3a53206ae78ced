//! `specrouter run --dry-run`: what a scenario came to, without running it.

use serde_json::json;

use crate::args::Format;
use crate::failure::Failure;
use crate::scenario::Scenario;
use crate::table::Table;

/// Prints the resolved scenario's size. (Resolving it has already read and checked everything.)
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn print(scenario: &Scenario, format: Format) -> Result<(), Failure> {
    let facts = facts(scenario);
    let arms: Vec<&str> = scenario.arms.iter().map(|arm| arm.name.as_str()).collect();
    let notes = scenario.workload.notes();
    if format == Format::Json {
        let facts: serde_json::Map<String, serde_json::Value> =
            facts.into_iter().map(|(what, value)| (what.to_owned(), value.into())).collect();
        return super::print_json(
            &json!({ "scenario": scenario.name, "facts": facts, "policies": arms, "notes": notes }),
        );
    }
    let mut table = Table::new(&["scenario", &scenario.name]);
    for (what, value) in facts {
        table.row(vec![what.to_owned(), value]);
    }
    for (index, arm) in arms.iter().enumerate() {
        table.row(vec![if index == 0 { "policies".into() } else { String::new() }, (*arm).to_owned()]);
    }
    for (index, note) in notes.iter().enumerate() {
        table.row(vec![if index == 0 { "notes".into() } else { String::new() }, note.clone()]);
    }
    super::print(&table.text())
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
