//! One file per subcommand; each answers `Result<(), Failure>` and prints its result on stdout.

pub mod calibrate;
pub mod compare;
pub mod completions;
pub mod dry_run;
#[cfg(feature = "engine")]
pub mod generate;
pub mod hardware;
pub mod models;
pub mod policies;
#[cfg(feature = "engine")]
pub mod profile;
#[cfg(feature = "engine")]
pub mod record;
pub mod replay;
pub mod run;
pub mod scenarios;
pub mod schema;
#[cfg(feature = "engine")]
pub mod selfcheck;
pub mod trace;
#[cfg(feature = "engine")]
pub mod validate;

use std::io::{ErrorKind, Write};

use crate::failure::Failure;

/// Writes a command's result to stdout. A reader that has seen enough (`| head`) is no error.
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(e).context("cannot write to stdout").into())
        }
        _ => Ok(()),
    }
}

/// Writes `value` to stdout as JSON.
///
/// # Errors
/// [`Failure::Failed`] when stdout cannot be written.
pub fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::new)?;
    print(&(text + "\n"))
}
