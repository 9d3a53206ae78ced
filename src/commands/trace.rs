//! `specrouter trace check` and `trace score`.

use serde_json::json;
use specrouter_traces::{Trace, check};

use crate::args::{CheckArgs, Format, TraceCommand};
use crate::failure::Failure;
use crate::trace;

/// Does what was asked of the trace.
///
/// # Errors
/// [`Failure::BadInput`] for what is no trace, [`Failure::Failed`] for one that contradicts itself.
pub fn run(command: &TraceCommand) -> Result<(), Failure> {
    match command {
        TraceCommand::Check(args) => check_all(args),
        #[cfg(feature = "engine")]
        TraceCommand::Score(args) => score::run(args),
    }
}

fn check_all(args: &CheckArgs) -> Result<(), Failure> {
    let (mut text, mut all, mut damaged) = (String::new(), Vec::new(), 0);
    for folder in trace::find(&args.trace).map_err(Failure::BadInput)? {
        let trace = Trace::open(&folder).map_err(Failure::input)?;
        let found = check(&trace);
        damaged += usize::from(!found.is_sound());
        let rows: Vec<String> = found.rows.iter().map(|(table, rows)| format!("{table} {rows}")).collect();
        text += &format!("{}: {}\n", folder.display(), if found.is_sound() { "sound" } else { "DAMAGED" });
        text += &format!("  rows: {}\n", rows.join(", "));
        found.missing.iter().for_each(|missing| text += &format!("  missing: {missing}\n"));
        found.faults.iter().for_each(|fault| text += &format!("  fault: {fault}\n"));
        all.push(json!({
            "trace": folder.display().to_string(),
            "sound": found.is_sound(),
            "rows": found.rows.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
            "missing": found.missing,
            "faults": found.faults,
        }));
    }
    match args.format {
        Format::Table => super::print(&text)?,
        Format::Json => super::print_json(&all)?,
    }
    match damaged {
        0 => Ok(()),
        n => Err(anyhow::anyhow!("{n} of {} traces are damaged", all.len()).into()),
    }
}

#[cfg(feature = "engine")]
mod score {
    use std::collections::BTreeSet;

    use anyhow::{Context, bail};
    use specrouter_engine::pool;
    use specrouter_routing::luck::Luck;
    use specrouter_routing::record::TextRecord;
    use specrouter_traces::{Table, Trace, TraceWriter};

    use crate::args::ScoreArgs;
    use crate::commands::run::{on_interrupt, progress};
    use crate::failure::Failure;
    use crate::scenario::executed::{model_folders, verify_of};
    use crate::{score, trace};

    /// Scores the texts of a trace that have no scores yet.
    pub(super) fn run(args: &ScoreArgs) -> Result<(), Failure> {
        let trace = trace::open(&args.trace).map_err(Failure::BadInput)?;
        let texts = unscored(&trace).map_err(Failure::BadInput)?;
        let (_, raw) = trace::scenario(&trace, &[]).map_err(Failure::BadInput)?;
        let folders = model_folders(&trace, &raw, &args.models).map_err(Failure::BadInput)?;
        let settings = raw.engine.unwrap_or_default();
        let stop = on_interrupt()?;
        pool::share_work(settings.threads);
        let run = trace.run();
        let mut models = Vec::new();
        for (folder, member) in folders.iter().zip(&run.models) {
            let model = pool::open(folder, &member.spec.name, &settings, run.kv_tokens);
            models.push(model.with_context(|| format!("cannot open {}", folder.display()))?);
        }
        let luck = Luck::new(run.seed);
        let mut writer = TraceWriter::resume(trace.folder()).map_err(anyhow::Error::new)?;
        let done = score::score(&texts, &mut models, (verify_of(run.decoding), luck), &mut writer, &stop)?;
        if !done {
            writer.checkpoint().map_err(anyhow::Error::new)?;
            return Err(Failure::Interrupted("what was scored is kept".into()));
        }
        let manifest = writer.finish().map_err(anyhow::Error::new)?;
        if !args.quiet {
            let rows = manifest.rows(Table::Tokens).unwrap_or_default();
            progress::say(&format!("scored {} texts; tokens has {rows} rows now", texts.len()));
        }
        Ok(())
    }

    /// Texts without scores.
    fn unscored(trace: &Trace) -> anyhow::Result<Vec<TextRecord>> {
        let mut texts = trace.texts()?;
        if trace.manifest().rows(Table::Tokens).is_some() {
            let scored: BTreeSet<_> = trace.tokens()?.iter().map(|token| token.request).collect();
            texts.retain(|text| !scored.contains(&text.request));
        }
        match texts.iter().find(|text| text.prompt.is_none()) {
            Some(text) => bail!("request {}: its prompt was not kept, so it cannot be scored", text.request),
            None => Ok(texts),
        }
    }
}
