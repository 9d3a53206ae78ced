//! `specrouter policies`.

use serde_json::json;
use specrouter_routing::policies::catalog;

use crate::args::{Format, ListArgs};
use crate::failure::Failure;

/// Lists the policies a scenario can name, with parameters and defaults.
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn run(args: &ListArgs) -> Result<(), Failure> {
    if args.format == Format::Json {
        let parameter = |&(name, default, meaning): &(&str, &str, &str)| json!({ "name": name, "default": default, "meaning": meaning });
        let all = catalog().iter().map(|policy| {
            let parameters: Vec<_> = policy.parameters.iter().map(parameter).collect();
            json!({ "name": policy.name, "summary": policy.summary, "source": policy.source, "parameters": parameters, "example": policy.example })
        });
        return super::print_json(&all.collect::<Vec<_>>());
    }
    let names = catalog().iter().flat_map(|policy| policy.parameters).map(|parameter| parameter.0.len());
    let width = names.max().unwrap_or(0);
    let mut text = String::new();
    for policy in catalog() {
        text += &format!("{}\n  {}\n  {}\n", policy.name, policy.summary, policy.source);
        for (name, default, meaning) in policy.parameters {
            text += &format!("    {name:<width$}  {meaning} [{default}]\n");
        }
        text += &format!("    - {}\n\n", policy.example);
    }
    super::print(text.trim_end_matches('\n')).and_then(|()| super::print("\n"))
}
