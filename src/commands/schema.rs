//! `specrouter schema`.

use crate::failure::Failure;
use crate::scenario::RawScenario;

/// Prints the JSON Schema of a scenario, derived from the types that read it.
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn run() -> Result<(), Failure> {
    super::print_json(&schemars::schema_for!(RawScenario))
}
