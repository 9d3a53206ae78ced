//! `specrouter completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Typed;
use crate::failure::Failure;

/// Prints the completion script of `shell`.
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn run(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Typed::command(), "specrouter", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}
