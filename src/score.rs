//! Shadow scoring of a trace's texts: what every model says of each token, after the run and outside its time.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use specrouter_engine::level::LevelModel;
use specrouter_engine::sampling::Sampling;
use specrouter_engine::score::{Scorer, Text};
use specrouter_engine::verify::Verify;
use specrouter_routing::luck::Luck;
use specrouter_routing::record::{Sink, TextRecord};
use specrouter_traces::TraceWriter;

/// Texts between two checkpoints: what a killed scoring may lose.
const CHECKPOINT: usize = 64;

/// Scores `texts`, which have their prompts, into the trace that `writer` writes; false when `stop` was raised.
///
/// # Errors
/// A text that the models cannot run, the disk.
pub fn score<M: LevelModel>(
    texts: &[TextRecord],
    models: &mut [M],
    (verify, luck): (Verify, Luck),
    writer: &mut TraceWriter,
    stop: &AtomicBool,
) -> anyhow::Result<bool> {
    let mut scorer = Scorer::new(verify, luck);
    for (index, record) in texts.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let text = Text {
            request: record.request,
            prompt: record.prompt.as_deref().unwrap_or_default(),
            output: &record.output,
            sampling: sampling(record)?,
            seed: record.seed,
        };
        scorer
            .score(models, text, |token| writer.token(token))
            .with_context(|| format!("request {} cannot be scored", record.request))?;
        if index % CHECKPOINT == CHECKPOINT - 1 {
            writer.checkpoint()?;
        }
    }
    Ok(true)
}

/// How a text was sampled.
///
/// # Errors
/// Numbers that no sampling has: the trace is damaged.
pub fn sampling(record: &TextRecord) -> anyhow::Result<Sampling> {
    let top_p = record.top_p.map(f64::from);
    let sampling = Sampling::new(f64::from(record.temperature), record.top_k, top_p);
    sampling.with_context(|| format!("texts: request {}", record.request))
}
