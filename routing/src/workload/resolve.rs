//! From what was typed to what is meant: a checked workload that streams can be drawn from.

use std::sync::Arc;

use super::arrivals::{RatePiece, expected, pieces};
use super::clients::ClientLoad;
use super::config::{Arrivals, ClassConfig, Format, MAX_LENGTH, MAX_REQUESTS, WorkloadConfig, WorkloadError};
use super::config::{missing, value};
use super::lengths::LengthLaw;
use super::stream::RequestStream;
use crate::ids::ClassId;
use crate::luck::Luck;
use crate::slo::Slo;
use crate::units::{Positive, Time};

/// A recorded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// When it arrives, since the first one.
    pub arrival: Time,
    /// Prompt length in tokens, at least 1.
    pub prompt_tokens: u32,
    /// Output length in tokens, at least 1.
    pub output_tokens: u32,
    /// Its class where the file says one.
    pub class: Option<ClassId>,
    /// What else it asked for, where the file says so; its class's otherwise.
    pub terms: Option<Terms>,
}

/// What a request asks for besides its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Most output tokens, at least 1.
    pub limit: u32,
    /// Admission order; higher goes first.
    pub priority: u8,
    /// Its targets.
    pub slo: Slo,
}

/// What a workload file holds. Shared: every arm and seed reads the same rows.
#[derive(Clone, Debug)]
pub enum FileSource {
    /// Requests with their arrivals, in order.
    Recorded(Arc<[FileRow]>),
    /// Clients from which arrivals and lengths are drawn.
    Clients(Arc<ClientLoad>),
    /// `(prompt, output)` lengths without arrivals, drawn as pairs.
    Lengths(Arc<[(u32, u32)]>),
    /// Requests without arrivals, sent one after the other, and again from the first: prompts.
    InOrder(Arc<[FileRow]>),
}

/// A workload file as read.
#[derive(Clone, Debug)]
pub struct FileWorkload {
    /// The file, as a user would call it.
    pub name: String,
    /// The format it was read as.
    pub format: Format,
    /// Its contents.
    pub source: FileSource,
    /// The names that its class ids stand for; empty when it says no classes.
    pub class_names: Vec<String>,
    /// What a reader of the results should know: rows out of order, what is not modelled.
    pub notes: Vec<String>,
}

/// What a workload takes from the rest of its scenario.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Most tokens of prompt and output together that the pool can hold.
    pub context_tokens: u32,
    /// Targets of classes that name none.
    pub slo: Slo,
}

/// A class of requests, checked.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Admission order; higher goes first.
    pub priority: u8,
    /// Its targets.
    pub slo: Slo,
    /// Its share of the requests where classes are drawn, 0 to 1.
    pub share: f64,
    pub(super) max_tokens: u32,
    /// Prompt and output laws; `None` where a file gives lengths.
    pub(super) laws: Option<(LengthLaw, LengthLaw)>,
}

/// Expected extent of a workload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Requests; exact where they are counted, not drawn.
    pub requests: u64,
    /// Seconds from the beginning to the last arrival; `None` in a closed loop without horizon.
    pub span_s: Option<f64>,
    /// Mean prompt length in tokens.
    pub prompt_tokens: f64,
    /// Mean output length in tokens, before limits.
    pub output_tokens: f64,
}

/// A checked workload. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Workload {
    pub(super) plan: Arc<Plan>,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) arrivals: ArrivalPlan,
    pub(super) lengths: LengthPlan,
    pub(super) classes: Vec<Class>,
    /// Share of this class and those before it.
    pub(super) shares: Vec<f64>,
    pub(super) requests: u64,
    /// Arrivals at or after it do not happen.
    pub(super) horizon: Time,
    pub(super) speed: f64,
    pub(super) context_tokens: u32,
    pub(super) max_prompt_tokens: u32,
    notes: Vec<String>,
}

#[derive(Debug)]
pub(super) enum ArrivalPlan {
    Renewal(Vec<RatePiece>),
    Constant { rate_per_s: f64 },
    Closed { users: u32 },
    Recorded(Arc<[FileRow]>),
    Clients(Arc<ClientLoad>),
}

#[derive(Debug)]
pub(super) enum LengthPlan {
    /// By the laws of the request's class.
    Classes,
    /// Pairs of a file, drawn with equal chances.
    Pairs(Arc<[(u32, u32)]>),
    /// Rows of a file, request `n` the `n`-th, again from the first after the last.
    InOrder(Arc<[FileRow]>),
    /// With the arrivals.
    OfArrivals,
}

impl Arrivals {
    /// Sets the rate of requests; `false` where there is none to set.
    pub fn set_rate(&mut self, rate: Positive) -> bool {
        match self {
            Self::Poisson { rate_per_s } | Self::Gamma { rate_per_s, .. } | Self::Constant { rate_per_s } => {
                *rate_per_s = rate;
                true
            }
            Self::Piecewise(_) | Self::ClosedLoop { .. } => false,
        }
    }
}

impl WorkloadConfig {
    /// Checks the block, joins it with its file and makes it meant.
    ///
    /// `file` is what the named file holds; the caller has opened it, since this crate reads none.
    ///
    /// # Errors
    /// [`WorkloadError`], naming the field, what it takes and what came.
    pub fn resolve(
        &self,
        around: &Surroundings,
        file: Option<&FileWorkload>,
    ) -> Result<Workload, WorkloadError> {
        self.check()?;
        if self.file.is_some() != file.is_some() {
            return Err(missing("file", "a file is read where one is named, and only there"));
        }
        let mut notes: Vec<String> = file.map_or(Vec::new(), |file| file.notes.clone());
        let (arrivals, lengths) = match file {
            None => (self.generated()?, LengthPlan::Classes),
            Some(file) => {
                self.note_overridden(file, &mut notes);
                self.plans_of(file, &mut notes, around)?
            }
        };
        let classes = self.resolve_classes(around, file)?;
        if let LengthPlan::InOrder(rows) = &lengths {
            check_rows(rows, classes.len())?;
        }
        if let ArrivalPlan::Recorded(rows) = &arrivals {
            check_rows(rows, classes.len())?;
            if classes.len() > 1 && rows.iter().any(|row| row.class.is_none()) {
                notes.push("requests get classes by weight: the file says none".into());
            }
        }
        let mut sum = 0.0;
        let shares = classes
            .iter()
            .map(|class| {
                sum += class.share;
                sum
            })
            .collect();
        let requests = match &lengths {
            // Prompts are sent once, if nothing else says how many requests there are.
            LengthPlan::InOrder(rows) if self.horizon_s.is_none() => rows.len() as u64,
            _ => MAX_REQUESTS,
        };
        let horizon = self.horizon_s.map_or(Ok(Time::NEVER), |horizon| Time::from_seconds(horizon.get()));
        Ok(Workload {
            plan: Arc::new(Plan {
                arrivals,
                lengths,
                classes,
                shares,
                requests: self.requests.unwrap_or(requests),
                horizon: horizon.map_err(|e| value("horizon_s", e.expected, e.value))?,
                speed: self.speed.map_or(1.0, Positive::get),
                context_tokens: around.context_tokens,
                max_prompt_tokens: self.max_prompt_tokens.unwrap_or(MAX_LENGTH),
                notes,
            }),
        })
    }

    /// Arrivals without a file.
    fn generated(&self) -> Result<ArrivalPlan, WorkloadError> {
        match &self.arrivals {
            None => Err(missing("arrivals", "the file holds lengths only")),
            Some(Arrivals::ClosedLoop { users }) => Ok(ArrivalPlan::Closed { users: *users }),
            Some(Arrivals::Constant { rate_per_s }) => {
                Ok(ArrivalPlan::Constant { rate_per_s: rate_per_s.get() })
            }
            Some(arrivals) => Ok(ArrivalPlan::Renewal(pieces(arrivals).unwrap_or_default())),
        }
    }

    fn plans_of(
        &self,
        file: &FileWorkload,
        notes: &mut Vec<String>,
        around: &Surroundings,
    ) -> Result<(ArrivalPlan, LengthPlan), WorkloadError> {
        let mut note_prompts = |prompts: &mut dyn Iterator<Item = u32>| {
            let (cut, context) = (self.max_prompt_tokens, around.context_tokens);
            let (mut count, mut shortened, mut too_long) = (0u64, 0u64, 0u64);
            for prompt in prompts {
                count += 1;
                shortened += u64::from(cut.is_some_and(|most| prompt > most));
                too_long += u64::from(prompt.min(cut.unwrap_or(MAX_LENGTH)) >= context);
            }
            if shortened > 0 {
                let most = cut.unwrap_or(MAX_LENGTH);
                notes.push(format!(
                    "{shortened} of {count} prompts are cut to {most} tokens (max_prompt_tokens)"
                ));
            }
            if too_long > 0 {
                notes.push(format!(
                    "{too_long} of {count} prompts do not fit the context of {context} tokens; max_prompt_tokens would cut them"
                ));
            }
        };
        match &file.source {
            FileSource::Recorded(rows) => {
                note_prompts(&mut rows.iter().map(|row| row.prompt_tokens));
                Ok((ArrivalPlan::Recorded(rows.clone()), LengthPlan::OfArrivals))
            }
            FileSource::Clients(load) => Ok((ArrivalPlan::Clients(load.clone()), LengthPlan::OfArrivals)),
            FileSource::Lengths(pairs) => {
                if self.speed.is_some() {
                    let why = "it speeds up the arrivals of a file, and this file has none; change the rate instead";
                    return Err(WorkloadError::NoEffect { field: "speed".into(), why });
                }
                self.check_extent()?;
                note_prompts(&mut pairs.iter().map(|pair| pair.0));
                if pairs.is_empty()
                    || pairs.iter().any(|&(prompt, output)| !tokens(prompt) || !tokens(output))
                {
                    return Err(value("file", format!("pairs of 1 to {MAX_LENGTH} tokens"), "others"));
                }
                Ok((self.generated()?, LengthPlan::Pairs(pairs.clone())))
            }
            FileSource::InOrder(rows) => {
                note_prompts(&mut rows.iter().map(|row| row.prompt_tokens));
                Ok((self.generated()?, LengthPlan::InOrder(rows.clone())))
            }
        }
    }

    /// A file may be put under a scenario that has arrivals and lengths of its own; that is said.
    fn note_overridden(&self, file: &FileWorkload, notes: &mut Vec<String>) {
        let lengths = self.classes.iter().any(|c| c.prompt_tokens.is_some() || c.output_tokens.is_some());
        let arrivals = self.arrivals.is_some()
            && !matches!(file.source, FileSource::Lengths(_) | FileSource::InOrder(_));
        let what = match (arrivals, lengths) {
            (true, true) => "arrivals and lengths",
            (true, false) => "arrivals",
            (false, true) => "lengths",
            (false, false) => return,
        };
        notes.push(format!("{what} are those of {}, not the scenario's own", file.name));
    }

    fn resolve_classes(
        &self,
        around: &Surroundings,
        file: Option<&FileWorkload>,
    ) -> Result<Vec<Class>, WorkloadError> {
        let implied: Vec<ClassConfig>;
        let configs = if self.classes.is_empty() {
            let mut names = file.map_or(Vec::new(), |file| file.class_names.clone());
            if names.is_empty() {
                names.push("all".into());
            }
            implied = names.into_iter().map(|name| ClassConfig { name, ..ClassConfig::default() }).collect();
            &implied
        } else {
            &self.classes
        };
        let sum: f64 = configs.iter().map(ClassConfig::weight).sum();
        let resolve = |(index, class): (usize, &ClassConfig)| {
            let place = format!("classes[{index}]");
            let law = |lengths, name| {
                Option::map(lengths, |lengths| LengthLaw::new(lengths, &format!("{place}.{name}")))
                    .transpose()
            };
            let prompt = law(class.prompt_tokens.as_ref(), "prompt_tokens")?;
            let output = law(class.output_tokens.as_ref(), "output_tokens")?;
            let slo = class.slo.unwrap_or_default().resolve(around.slo);
            Ok(Class {
                name: class.name.clone(),
                priority: class.priority.unwrap_or(0),
                slo: slo.map_err(|e| value(format!("{place}.slo"), e.expected, format!("{:e}", e.value)))?,
                share: class.weight() / sum,
                max_tokens: class.max_tokens.or(self.max_tokens).unwrap_or(MAX_LENGTH),
                laws: prompt.zip(output).filter(|_| file.is_none()),
            })
        };
        configs.iter().enumerate().map(resolve).collect()
    }
}

fn tokens(count: u32) -> bool {
    (1..=MAX_LENGTH).contains(&count)
}

fn check_rows(rows: &[FileRow], classes: usize) -> Result<(), WorkloadError> {
    let refuse = |expected: &str, got: String| Err(value("file", expected, got));
    if rows.is_empty() {
        return refuse("at least one request", "none".into());
    }
    if let Some(row) = rows.iter().find(|row| !tokens(row.prompt_tokens) || !tokens(row.output_tokens)) {
        return refuse("requests of 1 to 2^24 tokens each way", format!("{row:?}"));
    }
    if !rows.is_sorted_by_key(|row| row.arrival) {
        return refuse("requests in order of arrival", "others".into());
    }
    match rows.iter().find_map(|row| row.class.filter(|class| class.index() >= classes)) {
        Some(class) => refuse(&format!("classes 0 to {}", classes - 1), class.to_string()),
        None => Ok(()),
    }
}

impl Workload {
    /// The requests of the run with this luck, in order of arrival. In a closed loop, the first
    /// request of every user; the others come from [`RequestStream::next_request`].
    pub fn stream(&self, luck: Luck) -> RequestStream {
        RequestStream::new(self.clone(), luck)
    }

    /// The classes, by [`ClassId`].
    pub fn classes(&self) -> &[Class] {
        &self.plan.classes
    }

    /// Their names.
    pub fn class_names(&self) -> Vec<String> {
        self.classes().iter().map(|class| class.name.clone()).collect()
    }

    /// Users of a closed loop; `None` when arrivals do not wait for answers.
    pub fn users(&self) -> Option<u32> {
        match self.plan.arrivals {
            ArrivalPlan::Closed { users } => Some(users),
            _ => None,
        }
    }

    /// The time at which arrivals end, where the scenario says one.
    pub fn horizon(&self) -> Option<Time> {
        Some(self.plan.horizon).filter(|horizon| *horizon != Time::NEVER)
    }

    /// What a reader of the results should know about the workload, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.plan.notes
    }

    /// How much there is to run; reads every row of a recorded workload.
    pub fn size(&self) -> Size {
        let plan = &*self.plan;
        let horizon_s = self.horizon().map(Time::seconds);
        let horizon = horizon_s.unwrap_or(f64::INFINITY);
        let most = plan.requests as f64;
        let by_rate = |rate: f64| {
            let requests = (rate * horizon).min(most);
            (requests, Some(requests / rate))
        };
        let (requests, span_s) = match &plan.arrivals {
            ArrivalPlan::Constant { rate_per_s } => by_rate(*rate_per_s),
            ArrivalPlan::Renewal(pieces) => {
                let requests = expected(pieces, horizon).min(most);
                (requests, Some(span_of(pieces, requests)))
            }
            ArrivalPlan::Closed { .. } => (most, horizon_s),
            ArrivalPlan::Recorded(rows) => {
                let before = rows.partition_point(|row| row.arrival.seconds() / plan.speed < horizon);
                let count = before.min(plan.requests as usize);
                let last = count.checked_sub(1).map_or(0.0, |last| rows[last].arrival.seconds());
                (count as f64, Some(last / plan.speed))
            }
            ArrivalPlan::Clients(load) => {
                let span = load.span().seconds() / plan.speed;
                let all = load.requests() as f64;
                let requests = (all * (horizon / span).min(1.0)).min(most);
                (requests, Some(span * requests / all))
            }
        };
        let (prompt_tokens, output_tokens) = self.mean_lengths(requests as usize);
        Size { requests: requests.round() as u64, span_s, prompt_tokens, output_tokens }
    }

    fn mean_lengths(&self, requests: usize) -> (f64, f64) {
        let plan = &*self.plan;
        let mean = |pairs: &mut dyn ExactSizeIterator<Item = (u32, u32)>| {
            let count = pairs.len().max(1) as f64;
            let (prompt, output) =
                pairs.fold((0.0, 0.0), |sum, pair| (sum.0 + f64::from(pair.0), sum.1 + f64::from(pair.1)));
            (prompt / count, output / count)
        };
        match (&plan.arrivals, &plan.lengths) {
            (_, LengthPlan::Pairs(pairs)) => mean(&mut pairs.iter().copied()),
            (ArrivalPlan::Recorded(rows), _) => {
                mean(&mut rows[..requests].iter().map(|row| (row.prompt_tokens, row.output_tokens)))
            }
            (ArrivalPlan::Clients(load), _) => load.mean_lengths(),
            _ => plan.classes.iter().fold((0.0, 0.0), |sum, class| match &class.laws {
                Some((prompt, output)) => {
                    (sum.0 + class.share * prompt.mean(), sum.1 + class.share * output.mean())
                }
                None => sum,
            }),
        }
    }
}

/// When `requests` arrivals are expected to have come.
fn span_of(pieces: &[RatePiece], requests: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1e10);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if expected(pieces, middle) < requests { low = middle } else { high = middle }
    }
    high
}
