//! Plans as text: chain `0>2>3`, windows `3,5`, stop rule `never`, `top_probability<0.3` or
//! `entropy>1.5`.

use std::fmt::Write;

use specrouter_routing::chain::{ChainPlan, StopRule};
use specrouter_routing::ids::ModelId;

use super::columns::{Cells, Frame};
use crate::error::TraceError;

/// Puts the three cells of a plan.
pub(super) fn put(plan: &ChainPlan, cells: &mut Cells) {
    let mut text = String::with_capacity(32);
    list(&mut text, plan.models().iter().map(|m| m.0), '>');
    cells.text(&text);
    text.clear();
    list(&mut text, plan.windows().iter().copied(), ',');
    cells.text(&text);
    text.clear();
    // Shortest text that reads back as the same f32.
    let wrote = match plan.stop {
        StopRule::Never => write!(text, "never"),
        StopRule::TopProbabilityBelow(x) => write!(text, "top_probability<{x}"),
        StopRule::EntropyAbove(x) => write!(text, "entropy>{x}"),
    };
    wrote.expect("a String takes all text");
    cells.text(&text);
}

/// Reads the plans of the columns for chain, windows and stop rule.
pub(super) fn take(
    frame: &Frame,
    [chain, windows, stop]: [&'static str; 3],
) -> Result<Vec<ChainPlan>, TraceError> {
    let (chains, all_windows, stops) = (frame.texts(chain)?, frame.texts(windows)?, frame.texts(stop)?);
    let plan = |row: usize| {
        let bad = |column, expected, got: &str| frame.cell(row, column, expected, format!("{got:?}"));
        let models: Vec<u8> =
            numbers(chains[row], '>').ok_or_else(|| bad(chain, "pool indexes joined by >", chains[row]))?;
        let models: Vec<ModelId> = models.into_iter().map(ModelId).collect();
        let window: Vec<u32> = numbers(all_windows[row], ',')
            .ok_or_else(|| bad(windows, "numbers joined by commas", all_windows[row]))?;
        let rule = stop_rule(stops[row])
            .ok_or_else(|| bad(stop, "never, top_probability<x or entropy>x", stops[row]))?;
        let plan = ChainPlan::new(&models, &window).map_err(|source| TraceError::Chain {
            path: frame.path.clone(),
            row,
            column: chain,
            source,
        })?;
        Ok(plan.stopping(rule))
    };
    (0..frame.height()).map(plan).collect()
}

// Numbers of at most three digits: formatted by hand, since this runs twice for every decision.
fn list(text: &mut String, numbers: impl Iterator<Item = u8>, by: char) {
    for (index, number) in numbers.enumerate() {
        if index > 0 {
            text.push(by);
        }
        for (unit, zero_shown) in [(100, number >= 100), (10, number >= 10), (1, true)] {
            if zero_shown {
                text.push(char::from(b'0' + number / unit % 10));
            }
        }
    }
}

fn numbers<T: std::str::FromStr>(text: &str, by: char) -> Option<Vec<T>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(by).map(|number| number.parse().ok()).collect()
}

fn stop_rule(text: &str) -> Option<StopRule> {
    if text == "never" {
        return Some(StopRule::Never);
    }
    if let Some(x) = text.strip_prefix("top_probability<") {
        return x.parse().ok().map(StopRule::TopProbabilityBelow);
    }
    text.strip_prefix("entropy>")?.parse().ok().map(StopRule::EntropyAbove)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_as_they_are_read() {
        let mut text = String::new();
        list(&mut text, [0, 7, 10, 99, 100, 205, 255].into_iter(), ',');
        assert_eq!(text, "0,7,10,99,100,205,255");
        assert_eq!(numbers::<u8>(&text, ','), Some(vec![0, 7, 10, 99, 100, 205, 255]));
        assert_eq!(numbers::<u8>("", ','), Some(vec![]));
        assert_eq!(numbers::<u8>("1,,2", ','), None);
        assert_eq!(numbers::<u8>("256", ','), None);
    }

    #[test]
    fn stop_rules_are_read_and_nothing_else_is() {
        assert_eq!(stop_rule("never"), Some(StopRule::Never));
        assert_eq!(stop_rule("top_probability<0.3"), Some(StopRule::TopProbabilityBelow(0.3)));
        assert_eq!(stop_rule("entropy>1.5"), Some(StopRule::EntropyAbove(1.5)));
        for bad in ["", "Never", "entropy<1", "entropy>", "top_probability<x"] {
            assert_eq!(stop_rule(bad), None, "{bad:?}");
        }
    }
}
