//! One arm under one seed on real models.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use specrouter_engine::backend::{EngineBackend, Finished};
use specrouter_engine::level::LevelModel;
use specrouter_engine::serve::{Ended, Jobs, Watcher, serve};
use specrouter_engine::settings;
use specrouter_engine::stopwatch::Stopwatch;
use specrouter_reports::{Collector, Facts, Keep, SeedResult, SeedSummary};
use specrouter_routing::hand_on;
use specrouter_routing::ids::{ReplicaId, RequestId};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::profile::{Corrected, PassCosts};
use specrouter_routing::record::{RequestRecord, RoundRecord, Sink, TextRecord, Wants};
use specrouter_routing::replica::Replica;
use specrouter_routing::units::Time;
use specrouter_traces::{Member, Mode, Run, Tables, TraceWriter};

use super::texts::{StepBook, Texts};
use crate::commands::run::progress::Bar;
use crate::keep::{Both, folder};
use crate::scenario::{self, Arm, Decides, Recording, build};
use crate::score::score;

/// The models of the pool, which one arm after another uses.
pub type Models = Vec<Box<dyn LevelModel>>;

/// Where an arm is recorded, and who watches.
pub struct Surroundings<'a> {
    /// The run's folder.
    pub out: &'a Path,
    /// What policies know of pass times beforehand.
    pub belief: Arc<dyn PassCosts>,
    /// Progress.
    pub bar: &'a Bar,
    /// Raised by Ctrl-C.
    pub stop: &'a AtomicBool,
    /// The models, for the manifest.
    pub members: &'a [Member],
    /// What runs them, likewise.
    pub device: &'a str,
    /// Is this the first seed?
    pub first: bool,
}

/// Records `arm` under `seed`; `None` when it was interrupted: what had finished is kept, marked as
/// incomplete.
///
/// # Errors
/// A policy's bad answer, a pass that failed, the disk.
pub fn record(
    recording: &Recording,
    arm: &Arm,
    seed: u64,
    models: &mut Models,
    around: &Surroundings<'_>,
) -> anyhow::Result<Option<SeedSummary>> {
    let pool: Vec<String> = recording.pool.iter().map(|model| model.name.clone()).collect();
    let classes = recording.workload.class_names();
    let folder = folder(around.out, &arm.name, None, seed);
    let tables = match recording.raw.output.tables.unwrap_or(scenario::Tables::Full) {
        scenario::Tables::Summary => Tables::Summary,
        scenario::Tables::Requests => Tables::Requests,
        scenario::Tables::Full => Tables::Full,
    };
    let mut collector = Collector::new(Keep::Summary);
    if tables != Tables::Summary && around.first {
        collector = collector.with_timeline();
    }
    let writer = match tables {
        Tables::Summary => None,
        _ => {
            let run = Run {
                tool_version: env!("CARGO_PKG_VERSION").into(),
                scenario: recording.resolved_text()?,
                seed,
                policy: arm.name.clone(),
                models: around.members.to_vec(),
                classes: classes.clone(),
                device: around.device.to_owned(),
                decoding: recording.raw.decoding(),
                mode: match recording.engine.mode {
                    settings::Mode::Exact => Mode::Exact,
                    settings::Mode::Fast => Mode::Fast,
                },
                kv_tokens: recording.kv_tokens,
                users: recording.workload.users(),
            };
            Some(TraceWriter::create(&folder, tables, run)?)
        }
    };
    let texts = match recording.raw.output.texts.unwrap_or(true) {
        true => Some(Texts::create(&folder)?),
        false => None,
    };

    let raw = &recording.raw;
    let Decides::Policy(config) = &arm.decides else { unreachable!("a recording's arms are policies") };
    let luck = Luck::new(seed);
    let (max_block, draws) = (recording.limits.max_block, luck.stream(Stream::Policy).part(0));
    let policy = build(config, &recording.pool, &arm.members, &classes, max_block, draws)?;
    let kv = vec![recording.kv_tokens; pool.len()];
    let believed = Corrected::new(Arc::clone(&around.belief));
    let (id, limits) = (ReplicaId(0), recording.limits.clone());
    let mut replica = Replica::new(id, limits, &kv, raw.limits.block_size, policy, believed)?;
    let watch = Stopwatch::start();
    let mut backend = EngineBackend::new(std::mem::take(models), recording.verify, luck, watch)?;

    let (steps, ids) = (RefCell::new(StepBook::default()), RefCell::new(Vec::new()));
    let both = Both { collector, writer };
    let mut sink = Ears {
        both,
        steps: &steps,
        ids: &ids,
        told: 0,
        prompts: raw.output.prompts.unwrap_or(true),
        bar: around.bar,
        kept: watch,
    };
    let watcher = &mut Watch { recording, texts, steps: &steps, ids: &ids, failed: None, stop: around.stop };
    let mut requests = recording.workload.stream(luck);
    let ended = match recording.workload.users() {
        Some(users) => {
            let mut left = recording.workload.size().requests;
            let mut send = |id: RequestId, now: Time| {
                left = left.checked_sub(1)?;
                Some((requests.next_request(id, now)?, recording.prompt(id.0).1))
            };
            let jobs = Jobs::Users(users, &mut send);
            serve(&mut replica, &mut backend, watch, jobs, recording.workload.horizon(), &mut sink, watcher)
        }
        None => {
            let mut arriving = requests.by_ref().map(|request| {
                let prompt = recording.prompt(request.id.0).1;
                (request, prompt)
            });
            let jobs = Jobs::Arriving(&mut arriving);
            serve(&mut replica, &mut backend, watch, jobs, recording.workload.horizon(), &mut sink, watcher)
        }
    };
    let end = watch.read();
    let tally = replica.close(&mut sink);
    sink.tell_texts();
    let failed = watcher.failed.take();
    *models = backend.into_models();
    let writer = sink.both.writer.take();
    let ended = match (ended, failed) {
        (Ok(ended), None) => ended,
        (Err(error), _) => {
            keep(writer);
            return Err(error).with_context(|| format!("{}, seed {seed}", arm.name));
        }
        (Ok(_), Some(error)) => {
            keep(writer);
            return Err(error);
        }
    };
    if ended == Ended::Interrupted {
        keep(writer);
        return Ok(None);
    }
    if let Some(mut writer) = writer {
        writer.end_run()?;
        if tables == Tables::Full {
            let scored = score(&ids.borrow(), models, (recording.verify, luck), &mut writer, around.stop)?;
            if !scored {
                keep(Some(writer));
                return Ok(None);
            }
        }
        writer.finish()?;
    }
    if let Some(timeline) = &sink.both.collector.timeline {
        crate::files::put(&folder.join("timeline.json"), &timeline.json(&pool))?;
    }
    let result = SeedResult {
        seed,
        columns: sink.both.collector.columns,
        tally,
        end,
        replicas: 1,
        devices_per_replica: 1,
        dollars_per_device_hour: None,
        watts_per_device: None,
        kv_blocks_total: recording.kv_tokens / u64::from(raw.limits.block_size) * pool.len() as u64,
    };
    Ok(Some(result.reduce(&Facts { pool, classes })))
}

/// Makes what was written of an unfinished trace readable. (Its manifest says that it is not whole.)
fn keep(writer: Option<TraceWriter>) {
    if let Some(mut writer) = writer {
        // An earlier error is being told already.
        let _ = writer.checkpoint();
    }
}

/// Writes texts as they are finished, and lets Ctrl-C and a full disk end the run.
struct Watch<'a> {
    recording: &'a Recording,
    texts: Option<Texts>,
    steps: &'a RefCell<StepBook>,
    /// Finished texts as token ids, by the order of their ends.
    ids: &'a RefCell<Vec<TextRecord>>,
    failed: Option<anyhow::Error>,
    stop: &'a AtomicBool,
}

impl Watcher for Watch<'_> {
    fn finished(&mut self, text: Finished) {
        let steps = self.steps.borrow_mut().take(text.request);
        self.ids.borrow_mut().push(self.recording.record_of(&text));
        if let Some(texts) = &mut self.texts
            && self.failed.is_none()
        {
            self.failed = texts.write(self.recording, &text, &steps).err();
        }
    }

    fn go_on(&mut self, _: Time) -> bool {
        self.failed.is_none() && !self.stop.load(Ordering::Relaxed)
    }
}

/// Time between two checkpoints of the trace: what a killed recording may lose.
const CHECKPOINT_NANOS: u64 = 10_000_000_000;

/// Listens for the tables, the texts' steps and the progress bar.
struct Ears<'a> {
    both: Both,
    steps: &'a RefCell<StepBook>,
    ids: &'a RefCell<Vec<TextRecord>>,
    /// How many of them the trace has.
    told: usize,
    /// It keeps their prompts too.
    prompts: bool,
    bar: &'a Bar,
    /// Started at the last checkpoint.
    kept: Stopwatch,
}

impl Ears<'_> {
    /// Hands on the texts that are new.
    fn tell_texts(&mut self) {
        let ids = self.ids.borrow();
        for text in &ids[self.told..] {
            match self.prompts {
                true => self.both.text(text),
                false => self.both.text(&TextRecord { prompt: None, ..text.clone() }),
            }
        }
        self.told = ids.len();
    }
}

impl Sink for Ears<'_> {
    fn wants(&self) -> Wants {
        Wants { rounds: true, ..self.both.wants() }
    }

    fn request(&mut self, record: &RequestRecord) {
        self.both.request(record);
        self.bar.advance(1, 0);
        self.tell_texts();
        if self.kept.read().nanos() >= CHECKPOINT_NANOS
            && let Some(writer) = &mut self.both.writer
        {
            // An error stays in the writer and is told at the end.
            let _ = writer.checkpoint();
            self.kept = Stopwatch::start();
        }
    }

    fn round(&mut self, record: &RoundRecord) {
        self.both.round(record);
        self.steps.borrow_mut().add(record);
    }

    hand_on!(both);
}
