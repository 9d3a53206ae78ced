//! How a command fails, and the exit code that says so.

use std::process::ExitCode;

/// How a command fails.
#[derive(Debug)]
pub enum Failure {
    /// The user's input cannot be used: exit code 2.
    BadInput(anyhow::Error),
    /// The input was good and the work failed: exit code 1.
    Failed(anyhow::Error),
    /// Ctrl-C; what had finished is kept: exit code 130.
    Interrupted(String),
}

impl Failure {
    /// Blames the input.
    pub fn input(error: impl Into<anyhow::Error>) -> Self {
        Self::BadInput(error.into())
    }

    /// The process's exit code.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::BadInput(_) => 2,
            Self::Interrupted(_) => 130,
        })
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadInput(error) | Self::Failed(error) => {
                write!(f, "error: {error}")?;
                // Messages of libraries may end with their cause: it is not said twice.
                let mut said = error.to_string();
                for cause in error.chain().skip(1).map(ToString::to_string) {
                    if !said.contains(&cause) {
                        write!(f, ": {cause}")?;
                        said = cause;
                    }
                }
                Ok(())
            }
            Self::Interrupted(kept) => write!(f, "interrupted: {kept}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_and_its_causes_are_one_line_and_no_cause_is_said_twice() {
        let cause = std::io::Error::other("disk full");
        let failure = Failure::from(anyhow::Error::new(cause).context("cannot write results"));
        assert_eq!(failure.to_string(), "error: cannot write results: disk full");
        let cause = std::io::Error::other("disk full");
        assert_eq!(
            Failure::input(anyhow::Error::new(cause).context("a file: disk full")).to_string(),
            "error: a file: disk full"
        );
    }
}
