//! `specrouter generate`: one prompt, streamed, its tokens coloured by the model that put them there.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use specrouter_engine::backend::{CommittedToken, EngineBackend, Finished, Listener, Prompt};
use specrouter_engine::coins::Keyed;
use specrouter_engine::level::LevelModel;
use specrouter_engine::load::Checkpoint;
use specrouter_engine::pool;
use specrouter_engine::profile::{Grid, measure};
use specrouter_engine::sampling::Sampling;
use specrouter_engine::serve::{Jobs, Watcher, serve};
use specrouter_engine::settings::{Device, EngineConfig, Mode};
use specrouter_engine::stopwatch::Stopwatch;
use specrouter_engine::tokenizer::{TextStream, Tokenizer, same_vocabulary};
use specrouter_engine::verify::Verify;
use specrouter_routing::ids::{ClassId, ModelId, ReplicaId, RequestId};
use specrouter_routing::luck::{Luck, Stream};
use specrouter_routing::policies::{PolicyConfig, PolicyPool};
use specrouter_routing::policy::Policy;
use specrouter_routing::policy::price::Candidates;
use specrouter_routing::profile::{Corrected, ModelSpec, Table, TableRow};
use specrouter_routing::record::{RequestRecord, RoundRecord, Sink, Wants};
use specrouter_routing::replica::{Limits, Replica};
use specrouter_routing::request::{Request, Truth};
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Time;

use crate::args::{Color, GenerateArgs};
use crate::failure::Failure;
use crate::yaml::Document;

/// Most tokens that the windows of a chain may add up to.
const MAX_BLOCK: u32 = 32;

/// Continues the prompt on stdout; says on stderr who did the work.
///
/// # Errors
/// [`Failure::BadInput`] for models, a prompt or a policy that cannot be used, [`Failure::Failed`] for
/// the rest.
pub fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let sampling = Sampling::new(args.temperature, args.top_k, args.top_p).map_err(Failure::input)?;
    let mode = if args.device == Device::Cpu { Mode::Exact } else { Mode::Fast };
    let settings = EngineConfig { device: args.device, dtype: args.dtype, mode, ..EngineConfig::default() };
    pool::share_work(None);
    let opened = open(args, &settings).map_err(Failure::BadInput)?;
    let Opened { mut models, specs, tokenizer, stop } = opened;
    let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
    let luck = Luck::new(args.seed);
    let policy = policy(&args.policy, &specs, &names, luck).map_err(Failure::BadInput)?;
    let tokens = tokenizer.encode_user(&args.prompt).map_err(Failure::input)?;
    let context = specs.iter().map(|spec| spec.context).min().unwrap_or_default();
    let prompt_tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
    if prompt_tokens >= context {
        return Err(Failure::input(anyhow!(
            "the prompt must be shorter than the context of {context} tokens, got {prompt_tokens}"
        )));
    }

    let limits = Limits {
        max_running: 1,
        token_budget: 2048,
        max_block: MAX_BLOCK,
        hold_passes: None,
        context,
        by_priority: false,
    };
    let belief = belief(&mut models, &specs, context)?;
    let kv = vec![u64::from(context) + 64; specs.len()];
    let mut replica = Replica::new(ReplicaId(0), limits, &kv, 16, policy, Corrected::new(belief))
        .map_err(anyhow::Error::new)?;
    let coloured = match args.color {
        Color::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        Color::Always => true,
        Color::Never => false,
    };
    let painter = Painter {
        stream: TextStream::after(&tokens),
        tokenizer,
        stop: stop.clone(),
        coloured,
        levels: specs.len(),
        failed: None,
        counts: vec![0; specs.len()],
    };
    print_now(&args.prompt)?;
    let watch = Stopwatch::start();
    let mut backend =
        EngineBackend::with(models, Verify::Speculative, luck, watch, Keyed::new(luck), painter)
            .map_err(anyhow::Error::new)?;
    let request = Request {
        id: RequestId(0),
        class: ClassId(0),
        arrival: Time::ZERO,
        prompt_tokens,
        limit: args.max_tokens,
        priority: 0,
        slo: Slo::default(),
        truth: Truth::new(1),
    };
    let prompt = Prompt { tokens, sampling, seed: args.seed, stop };
    let mut once = std::iter::once((request, prompt));
    let mut counts = Counts::default();
    let jobs = Jobs::Arriving(&mut once);
    serve(&mut replica, &mut backend, watch, jobs, None, &mut counts, &mut Nobody)
        .map_err(anyhow::Error::new)?;
    let painter = backend.listener_mut();
    painter.end();
    if let Some(error) = painter.failed.take() {
        return Err(error.into());
    }
    print_now("\n")?;
    if !args.quiet {
        let shares = painter.counts.clone();
        counts.say(&names, &shares);
    }
    Ok(())
}

/// What is needed to decode.
struct Opened {
    models: Vec<Box<dyn LevelModel>>,
    specs: Vec<ModelSpec>,
    tokenizer: Tokenizer,
    stop: Vec<u32>,
}

fn open(args: &GenerateArgs, settings: &EngineConfig) -> anyhow::Result<Opened> {
    let (mut models, mut specs) = (Vec::new(), Vec::new());
    let mut tokenizers: Vec<Tokenizer> = Vec::new();
    let mut stop = Vec::new();
    for folder in &args.models {
        let name = name_of(folder);
        let checkpoint = Checkpoint::open(folder, &name)?;
        let spec = checkpoint.config().spec.clone();
        let tokenizer = Tokenizer::open(folder, &name)?;
        tokenizer.check_fits(spec.vocab)?;
        if let Some(first) = tokenizers.first() {
            same_vocabulary(first, &tokenizer)?;
        }
        stop = checkpoint.stop_tokens().to_vec();
        models.push(pool::open(folder, &name, settings, u64::from(spec.context) + 64)?);
        specs.push(spec);
        tokenizers.push(tokenizer);
    }
    let tokenizer = tokenizers.pop().context("no model was named")?;
    Ok(Opened { models, specs, tokenizer, stop })
}

fn name_of(folder: &Path) -> String {
    folder
        .file_name()
        .map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The policy of `--policy`: a name or a line of YAML.
fn policy(text: &str, specs: &[ModelSpec], names: &[String], luck: Luck) -> anyhow::Result<Box<dyn Policy>> {
    let document = Document::parse("--policy", text.as_bytes())?;
    let config: PolicyConfig = document.read()?;
    let draws = luck.stream(Stream::Policy);
    // The one prompt's class, by the name that workloads without classes have.
    let (candidates, classes) = (Candidates::of_pool(specs), ["all".to_owned()]);
    let pool = PolicyPool { names, candidates, classes: &classes, max_block: MAX_BLOCK, draws };
    Ok(config.build(&pool)?)
}

/// A short measurement, of which policies start.
fn belief(
    models: &mut [Box<dyn LevelModel>],
    specs: &[ModelSpec],
    context: u32,
) -> anyhow::Result<Arc<Table>> {
    let grid = Grid { repeats: 3, ..Grid::quick(1, context) };
    let mut rows: Vec<TableRow> = Vec::new();
    for model in models {
        rows.extend(measure(model, &grid, Stopwatch::start(), &mut || true)?);
    }
    Ok(Arc::new(Table::new(specs, &rows)?))
}

/// Writes to stdout at once.
fn print_now(text: &str) -> Result<(), Failure> {
    super::print(text)
}

/// Prints tokens as they are committed.
struct Painter {
    stream: TextStream,
    tokenizer: Tokenizer,
    stop: Vec<u32>,
    coloured: bool,
    levels: usize,
    failed: Option<anyhow::Error>,
    /// Tokens of each model.
    counts: Vec<u32>,
}

impl Painter {
    fn paint(&mut self, token: &CommittedToken) -> anyhow::Result<()> {
        self.counts[token.model.index()] += 1;
        if self.stop.contains(&token.token) {
            return Ok(());
        }
        let text = self.stream.push(&self.tokenizer, token.token)?;
        self.write(&text, token.model)
    }

    fn write(&self, text: &str, model: ModelId) -> anyhow::Result<()> {
        if text.is_empty() {
            return Ok(()); // Half a character; the rest comes with the next token.
        }
        let text = match self.coloured {
            true => format!("\x1b[{}m{text}\x1b[0m", colour(model, self.levels)),
            false => text.to_owned(),
        };
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot write to stdout"),
            _ => Ok(()),
        }
    }

    /// What the stream held back.
    fn end(&mut self) {
        let last = ModelId((self.levels - 1) as u8);
        let rest = self.stream.finish(&self.tokenizer).map_err(anyhow::Error::new);
        if let Err(error) = rest.and_then(|text| self.write(&text, last)) {
            self.failed.get_or_insert(error);
        }
    }
}

/// The target plain, the models below it in colours of their own.
fn colour(model: ModelId, levels: usize) -> &'static str {
    const BELOW: [&str; 7] = ["32", "36", "33", "35", "34", "31", "37"];
    if model.index() + 1 == levels { "0" } else { BELOW[model.index() % BELOW.len()] }
}

impl Listener for Painter {
    fn committed(&mut self, _: RequestId, tokens: &[CommittedToken]) {
        for token in tokens {
            if self.failed.is_none() {
                self.failed = self.paint(token).err();
            }
        }
    }
}

/// Nobody waits for the finished text: it has been printed.
struct Nobody;

impl Watcher for Nobody {
    fn finished(&mut self, _: Finished) {}

    fn go_on(&mut self, _: Time) -> bool {
        true
    }
}

/// What is said at the end.
#[derive(Default)]
struct Counts {
    rounds: u32,
    drafted: u32,
    accepted: u32,
    tokens: u32,
    first: Option<Time>,
    last: Option<Time>,
}

impl Sink for Counts {
    fn wants(&self) -> Wants {
        Wants { rounds: true, ..Wants::default() }
    }

    fn request(&mut self, record: &RequestRecord) {
        (self.tokens, self.first, self.last) = (record.output_tokens, record.first_token, record.last_token);
    }

    fn round(&mut self, record: &RoundRecord) {
        self.rounds += 1;
        self.drafted += u32::from(record.drafted);
        self.accepted += u32::from(record.accepted);
    }
}

impl Counts {
    fn say(&self, names: &[String], shares: &[u32]) {
        let rate = match (self.first, self.last) {
            (Some(first), Some(last)) if last > first && self.tokens > 1 => {
                format!("{:.0} tokens/s", f64::from(self.tokens - 1) / (last.seconds() - first.seconds()))
            }
            _ => "too short to time".to_owned(),
        };
        let rounds = f64::from(self.rounds.max(1));
        let by: Vec<String> =
            names.iter().zip(shares).map(|(name, count)| format!("{name} {count}")).collect();
        super::run::progress::say(&format!(
            "{} tokens, {rate}, {} passes of the target, {:.2} tokens each; {} of {} drafted tokens accepted; tokens by model: {}",
            self.tokens,
            self.rounds,
            f64::from(self.tokens) / rounds,
            self.accepted,
            self.drafted,
            by.join(", "),
        ));
    }
}
