//! A request as it arrives.

use crate::ids::{ClassId, RequestId};
use crate::slo::Slo;
use crate::units::Time;

/// A request as it arrives at the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its place in the order of arrival; every order of rows is by this.
    pub id: RequestId,
    /// Its class in the scenario: a label that a server would know.
    pub class: ClassId,
    /// When it arrives.
    pub arrival: Time,
    /// Prompt length in tokens, at least 1.
    pub prompt_tokens: u32,
    /// Most output tokens (`max_tokens`), at least 1. Public.
    pub limit: u32,
    /// Admission order under `priority`; higher goes first.
    pub priority: u8,
    /// Its targets.
    pub slo: Slo,
    /// What only a backend may know.
    pub truth: Truth,
}

/// What only a backend may know of a request. The serving loop carries it and policies never see
/// it: a policy gets a [`RequestView`](crate::policy::RequestView), which has no such field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    output_tokens: u32,
}

impl Truth {
    /// The output ends with a stop token at this length (at least 1), if the limit does not end
    /// it before.
    pub const fn new(output_tokens: u32) -> Self {
        Self { output_tokens }
    }

    /// For backends: the output's true length in tokens.
    pub const fn output_tokens(self) -> u32 {
        self.output_tokens
    }
}
