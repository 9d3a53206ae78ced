//! `specrouter scenarios`.

use serde_json::json;

use crate::args::{Format, ListArgs};
use crate::catalog;
use crate::failure::Failure;
use crate::table::Table;

/// Lists the embedded scenarios, each with the first line of its opening comment.
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn run(args: &ListArgs) -> Result<(), Failure> {
    let all: Vec<(String, String)> = catalog::scenario_names()
        .into_iter()
        .map(|name| {
            let comment =
                catalog::scenario(name).map_or_else(|_| String::new(), |source| source.opening_comment());
            (name.to_owned(), comment.lines().next().unwrap_or_default().to_owned())
        })
        .collect();
    match args.format {
        Format::Json => super::print_json(
            &all.iter().map(|(name, shows)| json!({ "name": name, "shows": shows })).collect::<Vec<_>>(),
        ),
        Format::Table => {
            let mut table = Table::new(&["scenario", "shows"]);
            for (name, shows) in all {
                table.row(vec![name, shows]);
            }
            super::print(&table.text())
        }
    }
}
