//! One binary that drives the built program, as a user does.

mod bad_input;
mod command;
mod costs;
mod floors;
mod program;
mod run;
