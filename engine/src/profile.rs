//! Measured pass times: what `profile` writes, and what policies start from when nobody measured.

use specrouter_routing::ids::Slot;
use specrouter_routing::profile::TableRow;

use crate::level::{ForwardError, LevelModel, Packed, PackedRow};
use crate::stopwatch::Stopwatch;

/// The passes to time: every combination of the three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Sequences in a pass.
    pub rows: Vec<u32>,
    /// New tokens of each.
    pub new_tokens: Vec<u32>,
    /// Cached tokens of each.
    pub context_tokens: Vec<u32>,
    /// Timings of each pass; their median counts.
    pub repeats: u32,
}

impl Grid {
    /// A second's worth: enough to tell which chain may pay. Rows go up to `most_rows`, contexts up to
    /// half of `context`.
    pub fn quick(most_rows: u32, context: u32) -> Self {
        let mut rows: Vec<u32> = [1, 4, 16, 64].into_iter().filter(|&r| r < most_rows).collect();
        rows.push(most_rows.clamp(1, 256));
        rows.dedup();
        let contexts = [32, 256].into_iter().filter(|&c| c <= context / 2).collect::<Vec<_>>();
        let context_tokens = if contexts.is_empty() { vec![1] } else { contexts };
        Self { rows, new_tokens: vec![1, 2, 3, 4, 6, 9], context_tokens, repeats: 5 }
    }
}

/// Times the grid's passes of one model. Tokens are arbitrary: dense models do the same work for all.
///
/// Slots `0 ..` are used and left empty; passes that do not fit the KV memory are left out.
///
/// # Errors
/// [`ForwardError`] for anything but full KV memory.
pub fn measure<M: LevelModel>(
    model: &mut M,
    grid: &Grid,
    watch: Stopwatch,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Vec<TableRow>, ForwardError> {
    let mut table = Vec::new();
    let mut logits = Vec::new();
    let vocabulary = model.vocabulary() as u32;
    let most = grid.rows.iter().copied().max().unwrap_or(0);
    for &context in &grid.context_tokens {
        let mut filled = 0;
        for &rows in &grid.rows {
            match fill(model, filled..rows, context, &mut logits) {
                Ok(()) => filled = filled.max(rows),
                // Larger ones do not fit either.
                Err(ForwardError::KvFull { .. }) => break,
                Err(error) => return Err(error),
            }
            for &new in &grid.new_tokens {
                let tokens: Vec<u32> = (0..new).map(|i| (i * 11 + 3) % vocabulary).collect();
                let pieces: Vec<(u32, u32, &[u32])> =
                    (0..rows).map(|row| (row, context, tokens.as_slice())).collect();
                let mut times = Vec::new();
                for repeat in 0..=grid.repeats {
                    if !go_on() {
                        clear(model, most);
                        return Ok(table);
                    }
                    let begin = watch.read();
                    let result = forward(model, &pieces, &mut logits);
                    let end = watch.read();
                    (0..rows).for_each(|row| model.truncate(Slot(row), context));
                    match result {
                        // The first finds cold caches.
                        Ok(()) if repeat > 0 => times.push(end.nanos() - begin.nanos()),
                        Ok(()) => {}
                        Err(ForwardError::KvFull { .. }) => break,
                        Err(error) => return Err(error),
                    }
                }
                times.sort_unstable();
                if let Some(&median) = times.get(times.len() / 2) {
                    table.push(TableRow {
                        model: model.name().to_owned(),
                        rows,
                        new_tokens: rows * new,
                        context_tokens: f64::from(context),
                        seconds: median.max(1) as f64 * 1e-9,
                    });
                }
            }
        }
        clear(model, most);
    }
    Ok(table)
}

/// Prompts of `context` tokens for these slots.
fn fill<M: LevelModel>(
    model: &mut M,
    slots: std::ops::Range<u32>,
    context: u32,
    logits: &mut Vec<f32>,
) -> Result<(), ForwardError> {
    let vocabulary = model.vocabulary() as u32;
    for slot in slots {
        let tokens: Vec<u32> = (0..context).map(|i| (i * 7 + slot * 13) % vocabulary).collect();
        forward(model, &[(slot, 0, &tokens)], logits)?;
    }
    Ok(())
}

fn clear<M: LevelModel>(model: &mut M, rows: u32) {
    (0..rows).for_each(|row| model.truncate(Slot(row), 0));
}

/// One pass of rows `(slot, context, tokens)`, with logits of every token but a prompt's.
fn forward<M: LevelModel>(
    model: &mut M,
    pieces: &[(u32, u32, &[u32])],
    logits: &mut Vec<f32>,
) -> Result<(), ForwardError> {
    let mut packed = Packed::default();
    for &(slot, context, tokens) in pieces {
        packed.rows.push(PackedRow { slot: Slot(slot), context, tokens: tokens.len() as u32 });
        packed.tokens.extend_from_slice(tokens);
    }
    if pieces.iter().any(|&(_, context, _)| context > 0) {
        packed.want = (0..packed.tokens.len() as u32).collect();
    }
    model.forward(&packed, logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::{Decoder, DecoderOptions};
    use crate::load::{nested, tiny_config};

    #[test]
    fn every_pass_of_the_grid_is_timed_and_the_caches_are_left_empty() {
        let [(config, mut source), ..] = nested(&tiny_config(), 3, 0.3, 0.2);
        let mut model = Decoder::load(config, &mut source, DecoderOptions::new(4096)).unwrap();
        let grid = Grid { rows: vec![1, 3], new_tokens: vec![1, 2], context_tokens: vec![4, 20], repeats: 2 };
        let table = measure(&mut model, &grid, Stopwatch::start(), &mut || true).unwrap();
        assert_eq!(table.len(), 8);
        assert!(table.iter().all(|row| row.seconds > 0.0 && row.new_tokens >= row.rows));
        assert_eq!(model.used_pages(), 0);
        let mut left = 3;
        let mut stop = || {
            left -= 1;
            left > 0
        };
        assert!(measure(&mut model, &grid, Stopwatch::start(), &mut stop).unwrap().len() < 8);
    }

    #[test]
    fn passes_that_do_not_fit_are_left_out() {
        let [(config, mut source), ..] = nested(&tiny_config(), 3, 0.3, 0.2);
        let mut model = Decoder::load(config, &mut source, DecoderOptions::new(64)).unwrap();
        let grid =
            Grid { rows: vec![1, 4], new_tokens: vec![1, 8], context_tokens: vec![12, 100], repeats: 1 };
        let table = measure(&mut model, &grid, Stopwatch::start(), &mut || true).unwrap();
        // Four pages of 16: four rows of 12 + 1 fit, of 12 + 8 do not; a context of 100 never does.
        assert_eq!(table.len(), 3);
        assert_eq!(model.used_pages(), 0);
    }
}
