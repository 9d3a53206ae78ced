//! `specrouter hardware`.

use crate::args::{Format, ListArgs};
use crate::catalog;
use crate::failure::Failure;
use crate::table::Table;

/// Lists the hardware catalog: what the data sheets say. JSON has what is achieved and the sources too.
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn run(args: &ListArgs) -> Result<(), Failure> {
    let all = catalog::all_hardware().map_err(anyhow::Error::new)?;
    if args.format == Format::Json {
        return super::print_json(&all);
    }
    let mut table = Table::new(&[
        "hardware",
        "memory GB",
        "bandwidth TB/s",
        "bf16 TFLOP/s",
        "fp8 TFLOP/s",
        "link GB/s",
        "watts",
        "$/h",
    ]);
    for spec in all {
        let sheet = &spec.sheet;
        table.row(vec![
            spec.name.clone(),
            sheet.memory_gb.get().to_string(),
            sheet.bandwidth_tb_s.get().to_string(),
            sheet.bf16_tflops.get().to_string(),
            sheet.fp8_tflops.map_or_else(|| "-".into(), |rate| rate.get().to_string()),
            sheet.link_gb_s.get().to_string(),
            sheet.watts.get().to_string(),
            sheet.dollars_per_hour.get().to_string(),
        ]);
    }
    super::print(&table.text())
}
