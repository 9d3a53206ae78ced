//! What a pass must be before it runs, and its logits after: alike for every decoder.

use std::collections::BTreeSet;

use specrouter_routing::ids::Slot;

use crate::level::{ForwardError, Packed};

/// Refuses rows that do not fit one another or the caches, whose lengths `cached` tells, and tokens outside the
/// vocabulary.
pub(crate) fn check_packed(
    model: &str,
    vocabulary: usize,
    packed: &Packed,
    cached: impl Fn(Slot) -> u32,
) -> Result<(), ForwardError> {
    let wrong = |what, expected: u64, got: u64| {
        Err(ForwardError::Rows { model: model.to_owned(), what, expected, got })
    };
    let tokens = packed.tokens.len() as u64;
    let sum: u64 = packed.rows.iter().map(|row| u64::from(row.tokens)).sum();
    if sum != tokens {
        return wrong("tokens of all rows", tokens, sum);
    }
    let mut slots = BTreeSet::new();
    for row in &packed.rows {
        if row.tokens == 0 {
            return wrong("tokens of a row, at least", 1, 0);
        }
        if !slots.insert(row.slot) {
            return wrong("rows of one slot, at most", 1, 2);
        }
        let cached = cached(row.slot);
        if cached != row.context {
            return wrong("context of a row", u64::from(cached), u64::from(row.context));
        }
    }
    if let Some(pair) = packed.want.windows(2).find(|pair| pair[0] >= pair[1]) {
        return wrong(
            "token with logits, above the one before, at least",
            u64::from(pair[0]) + 1,
            u64::from(pair[1]),
        );
    }
    if let Some(&last) = packed.want.last()
        && u64::from(last) >= tokens
    {
        return wrong("last token with logits, at most", tokens.saturating_sub(1), u64::from(last));
    }
    match packed.tokens.iter().find(|&&token| token as usize >= vocabulary) {
        Some(&token) => {
            Err(ForwardError::Token { model: model.to_owned(), vocabulary: vocabulary as u32, token })
        }
        None => Ok(()),
    }
}

/// Refuses NaN and +∞ in `[W, V]` logits; −∞ is a token that is never drawn.
pub(crate) fn check_finite(
    model: &str,
    vocabulary: usize,
    packed: &Packed,
    logits: &[f32],
) -> Result<(), ForwardError> {
    // Sums are NaN or +∞ when a number is; a sum that overflows is looked at again.
    let row_ok = |row: &[f32]| {
        let sum = row.chunks(16).fold([0f32; 16], |mut sum, chunk| {
            sum.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value.abs());
            sum
        });
        sum.iter().sum::<f32>().is_finite() || row.iter().all(|value| *value < f32::INFINITY)
    };
    let Some(index) = logits.chunks_exact(vocabulary).position(|row| !row_ok(row)) else { return Ok(()) };
    let token = packed.want[index];
    let mut first = 0;
    let row = packed.rows.iter().position(|row| {
        first += row.tokens;
        token < first
    });
    Err(ForwardError::NotFinite { model: model.to_owned(), row: row.unwrap_or(0) })
}
