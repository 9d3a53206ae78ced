//! `specrouter models`.

use specrouter_routing::profile::ModelKind;

use crate::args::{Format, ListArgs};
use crate::catalog;
use crate::failure::Failure;
use crate::table::Table;

/// Lists the model catalog. JSON has every dimension and the sources.
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn run(args: &ListArgs) -> Result<(), Failure> {
    let all = catalog::models().map_err(anyhow::Error::new)?;
    if args.format == Format::Json {
        return super::print_json(&all);
    }
    let mut table = Table::new(&[
        "model",
        "kind",
        "vocabulary",
        "layers",
        "hidden",
        "weights GB",
        "KV KB/token",
        "context tokens",
    ]);
    for model in all {
        let kind = match &model.kind {
            ModelKind::Model => "model".to_owned(),
            ModelKind::Head { of } => format!("head of {of}"),
            ModelKind::Ngram => "ngram".to_owned(),
        };
        // A look-up has no layers, and 0 would read like a number.
        let size = |value: f64| if value > 0.0 { format!("{value:.2}") } else { "-".into() };
        let count = |value: u32| if value > 0 { value.to_string() } else { "-".into() };
        table.row(vec![
            model.name.clone(),
            kind,
            model.family.clone(),
            count(model.layers),
            count(model.hidden),
            size(model.resident_bytes() as f64 / 1e9),
            size(model.kv_bytes_per_token() as f64 / 1e3),
            model.context.to_string(),
        ]);
    }
    super::print(&table.text())
}
