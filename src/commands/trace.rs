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
    use std::path::PathBuf;

    use anyhow::{Context, bail};
    use specrouter_engine::pool;
    use specrouter_engine::settings::EngineConfig;
    use specrouter_engine::verify::Verify;
    use specrouter_routing::luck::Luck;
    use specrouter_routing::record::{Decoding, TextRecord};
    use specrouter_traces::{Table, Trace, TraceWriter};

    use crate::args::ScoreArgs;
    use crate::commands::run::{on_interrupt, progress};
    use crate::failure::Failure;
    use crate::{catalog, files, score, trace};

    /// Scores the texts of a trace that have no scores yet.
    pub(super) fn run(args: &ScoreArgs) -> Result<(), Failure> {
        let trace = trace::open(&args.trace).map_err(Failure::BadInput)?;
        let texts = unscored(&trace).map_err(Failure::BadInput)?;
        let (folders, settings) = models(&trace, args).map_err(Failure::BadInput)?;
        let stop = on_interrupt()?;
        pool::share_work(settings.threads);
        let run = trace.run();
        let mut models = Vec::new();
        for (folder, member) in folders.iter().zip(&run.models) {
            let model = pool::open(folder, &member.spec.name, &settings, run.kv_tokens);
            models.push(model.with_context(|| format!("cannot open {}", folder.display()))?);
        }
        let verify = match run.decoding {
            Decoding::Coupled => Verify::Coupled,
            Decoding::Speculative | Decoding::Greedy => Verify::Speculative,
        };
        let luck = Luck::new(run.seed);
        let mut writer = TraceWriter::resume(trace.folder()).map_err(anyhow::Error::new)?;
        let done = score::score(&texts, &mut models, (verify, luck), &mut writer, &stop)?;
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

    /// The folders of the pool, whose weights are those that ran, and how they ran.
    fn models(trace: &Trace, args: &ScoreArgs) -> anyhow::Result<(Vec<PathBuf>, EngineConfig)> {
        let (_, raw) = trace::scenario(trace, &[])?;
        let folders = match args.models.is_empty() {
            true => raw.pool.iter().filter(|name| catalog::is_path(name)).map(PathBuf::from).collect(),
            false => args.models.clone(),
        };
        let members = &trace.run().models;
        if folders.len() != members.len() {
            bail!(
                "expected the folders of {} models, got {}: name them with --model",
                members.len(),
                folders.len()
            );
        }
        for (folder, member) in folders.iter().zip(members) {
            let digest = files::weights_digest(folder)?;
            if member.weights_fnv1a.as_ref().is_some_and(|ran| *ran != digest) {
                bail!(
                    "{}: expected the weights of {} that ran ({}), got others ({digest})",
                    folder.display(),
                    member.spec.name,
                    member.weights_fnv1a.as_deref().unwrap_or_default()
                );
            }
        }
        Ok((folders, raw.engine.unwrap_or_default()))
    }
}
