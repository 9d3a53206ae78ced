//! Texts and scored tokens: rows with lists.

use specrouter_routing::ids::{ReplicaId, RequestId};
use specrouter_routing::record::{Opinion, TextRecord, TokenRecord};

use super::Row;
use super::columns::{Cells, Frame, Lists};
use crate::error::TraceError;
use crate::manifest::Run;
use crate::schema::Table;

impl Row for TextRecord {
    const TABLE: Table = Table::Texts;

    fn put(&self, _run: &Run, cells: &mut Cells) {
        cells.u32(self.replica.0);
        cells.u64(self.request.0);
        cells.u64(self.seed);
        cells.f32(self.temperature);
        cells.u32_or_null(self.top_k);
        cells.f32_or_null(self.top_p);
        cells.u32s_or_null(self.prompt.as_deref());
        cells.u32s_or_null(Some(&self.output));
        cells.bool_or_null(Some(self.stopped));
    }

    fn take(frame: &Frame) -> Result<Vec<Self>, TraceError> {
        let (replica, request) = (frame.u32s("replica")?, frame.u64s("request")?);
        let (seed, temperature) = (frame.u64s("seed")?, frame.f32s("temperature")?);
        let (top_k, top_p) = (frame.u32s_or_null("top_k")?, frame.f32s_or_null("top_p")?);
        let (prompt, output) = (frame.lists_of_u32("prompt")?, frame.lists_of_u32("output")?);
        let stopped = frame.bools("stopped")?;
        let row = |i: usize| {
            Ok(Self {
                replica: ReplicaId(replica[i]),
                request: RequestId(request[i]),
                seed: seed[i],
                temperature: temperature[i],
                top_k: top_k[i],
                top_p: top_p[i],
                prompt: prompt.row(i).map(|_| whole(frame, "prompt", &prompt, i)).transpose()?,
                output: whole(frame, "output", &output, i)?,
                stopped: stopped[i],
            })
        };
        (0..frame.height()).map(row).collect()
    }
}

impl Row for TokenRecord {
    const TABLE: Table = Table::Tokens;

    fn put(&self, _run: &Run, cells: &mut Cells) {
        // By column, so that a reader of one column reads no other.
        let column = |of: fn(&Opinion) -> f32| self.models.iter().map(of).collect::<Vec<f32>>();
        cells.u32(self.replica.0);
        cells.u64(self.request.0);
        cells.u32(self.position);
        cells.u32_or_null(self.token);
        cells.f32_options(&self.models.iter().map(|model| model.log_probability).collect::<Vec<_>>());
        cells.u32_options(&self.models.iter().map(|model| model.choice).collect::<Vec<_>>());
        cells.f32s(&column(|model| model.top_probability));
        cells.f32s(&column(|model| model.entropy));
        cells.f32s(&self.overlaps);
        cells.f32s(&self.coins);
    }

    fn take(frame: &Frame) -> Result<Vec<Self>, TraceError> {
        let (replica, request) = (frame.u32s("replica")?, frame.u64s("request")?);
        let (position, token) = (frame.u32s("position")?, frame.u32s_or_null("token")?);
        let (log_probabilities, choices) =
            (frame.lists_of_f32("log_probabilities")?, frame.lists_of_u32("choices")?);
        let (tops, entropies) = (frame.lists_of_f32("top_probabilities")?, frame.lists_of_f32("entropies")?);
        let (overlaps, coins) = (frame.lists_of_f32("overlaps")?, frame.lists_of_f32("coins")?);
        let row = |i: usize| {
            let tops = whole(frame, "top_probabilities", &tops, i)?;
            let entropies = whole(frame, "entropies", &entropies, i)?;
            let count = tops.len();
            let as_long = |column, got: usize| match got == count {
                true => Ok(()),
                false => Err(frame.cell(i, column, "as long as top_probabilities", got.to_string())),
            };
            let log_probabilities = log_probabilities.row(i).unwrap_or_default();
            let choices = choices.row(i).unwrap_or_default();
            as_long("entropies", entropies.len())?;
            as_long("log_probabilities", log_probabilities.len())?;
            as_long("choices", choices.len())?;
            let models = (0..count).map(|m| Opinion {
                log_probability: log_probabilities[m],
                choice: choices[m],
                top_probability: tops[m],
                entropy: entropies[m],
            });
            Ok(Self {
                replica: ReplicaId(replica[i]),
                request: RequestId(request[i]),
                position: position[i],
                token: token[i],
                models: models.collect(),
                overlaps: whole(frame, "overlaps", &overlaps, i)?,
                coins: whole(frame, "coins", &coins, i)?,
            })
        };
        (0..frame.height()).map(row).collect()
    }
}

/// A list without nulls.
fn whole<T: Copy>(
    frame: &Frame,
    column: &'static str,
    lists: &Lists<T>,
    row: usize,
) -> Result<Vec<T>, TraceError> {
    let elements = lists.row(row).and_then(|row| row.iter().copied().collect());
    elements.ok_or_else(|| frame.cell(row, column, "a list without nulls", "null".to_owned()))
}
