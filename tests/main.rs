//! One binary that drives the built program, as a user does.

// All of this is a test, its helpers too: an unwrap that fails is a failed test, and a test that finds
// no recorded data says so.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod bad_input;
mod calibrate;
mod command;
mod compare;
mod costs;
mod floors;
mod guide;
mod league;
mod program;
#[cfg(feature = "engine")]
mod record;
#[cfg(feature = "engine")]
mod replay;
mod run;
#[cfg(feature = "engine")]
mod selfcheck;
#[cfg(feature = "engine")]
mod trace;
#[cfg(feature = "engine")]
mod twins;
