//! The `workload:` block of a scenario, as written, and what makes it refused.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lengths::LengthLaw;
use crate::slo::Slo;
use crate::units::{NonNegative, OutOfRange, Positive, Probability, Span};

/// Most requests of one run: ids, records and run time are sized for it.
pub const MAX_REQUESTS: u64 = 100_000_000;

/// Longest prompt or output in tokens, well past the context of any model.
pub const MAX_LENGTH: u32 = 1 << 24;

/// Longest run in simulated seconds, about 31 years, so that no time overflows.
const MAX_SPAN_S: f64 = 1e9;

/// Most classes of one workload.
const MAX_CLASSES: usize = 1024;

/// A workload that cannot be run. The user's fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WorkloadError {
    /// A field holds what it cannot hold.
    #[error("workload.{field}: expected {expected}, got {got}")]
    Value {
        /// Path below `workload`.
        field: String,
        /// What the field takes.
        expected: String,
        /// What came.
        got: String,
    },
    /// A field that this workload needs is not there.
    #[error("workload.{field} is missing: {why}")]
    Missing {
        /// Path below `workload`.
        field: String,
        /// Who needs it.
        why: &'static str,
    },
    /// A field that says nothing in this workload, so something else was meant.
    #[error("workload.{field} has no effect here: {why}")]
    NoEffect {
        /// Path below `workload`.
        field: String,
        /// What it would act on.
        why: &'static str,
    },
}

/// The requests of a scenario: how many, when they arrive, how long they are.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadConfig {
    /// Ends the arrivals after this many requests. Required without `horizon_s`, `file` or `piecewise`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Ends the arrivals at this time, in seconds. With `requests` too, whichever comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon_s: Option<Positive>,
    /// When requests arrive. A file that holds arrivals takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<Arrivals>,
    /// A recorded workload: arrivals and lengths are its own, whatever `arrivals` and the classes say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// What the file holds; told from its first line when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The length histograms that belong to a `servegen` file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lengths_file: Option<PathBuf>,
    /// Divides the arrival times of a file: 2 is twice its rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Positive>,
    /// Kinds of requests. Without any, a file's requests are all of class `all`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ClassConfig>,
    /// Public limit on the output of every request, in tokens; the default is what the context leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Cuts longer prompts to this many tokens; the default is to leave them as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prompt_tokens: Option<u32>,
}

/// When requests arrive.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Arrivals {
    /// Independent arrivals: exponential gaps.
    Poisson {
        /// Mean requests per second.
        rate_per_s: Positive,
    },
    /// Gamma-distributed gaps: bursty above a CV of 1, regular below.
    Gamma {
        /// Mean requests per second.
        rate_per_s: Positive,
        /// Standard deviation of the gaps over their mean.
        cv: Positive,
    },
    /// A rate that changes with time; the arrivals end with the last piece.
    Piecewise(Vec<Piece>),
    /// Each user sends its next request when its last one is answered; all start at time 0.
    ClosedLoop {
        /// Requests in flight.
        users: u32,
    },
    /// Equal gaps, the first request at time 0.
    Constant {
        /// Requests per second.
        rate_per_s: Positive,
    },
}

/// A stretch of time with one arrival rate.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// Where the piece ends, in seconds since the beginning.
    pub until_s: Positive,
    /// Mean requests per second; 0 is silence.
    pub rate_per_s: NonNegative,
    /// CV of the gaps that begin in this piece, in units of the mean gap; 1 is Poisson.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cv: Option<Positive>,
}

/// What a workload file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Azure LLM inference traces: TIMESTAMP, ContextTokens, GeneratedTokens.
    AzureCsv,
    /// Mooncake traces: a JSON object a line. Prefix sharing is not modelled.
    MooncakeJsonl,
    /// ServeGen: rates and gap laws per client, with `lengths_file`.
    Servegen,
    /// Lengths without arrivals: input_tokens, output_tokens. Needs `arrivals`.
    LengthsCsv,
    /// arrival_s, prompt_tokens, output_tokens and optionally class.
    Csv,
    /// Prompts, a JSON object a line: id, domain (the class), turns. For `record`; needs `arrivals`.
    PromptsJsonl,
}

/// A kind of request.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassConfig {
    /// What the class is called, here and in the acceptance matrices.
    pub name: String,
    /// Share of the requests, relative to the other classes; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<NonNegative>,
    /// Prompt lengths. Required unless a file gives lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<Lengths>,
    /// Output lengths. Required unless a file gives lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<Lengths>,
    /// Public limit on the output, in tokens; the default is the workload's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Admission order under `priority`; higher goes first, 0 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Targets; one that is absent is the scenario's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloConfig>,
}

/// A law of lengths in tokens. Draws are rounded to whole tokens, at least 1.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Lengths {
    /// Always this many.
    Constant(u32),
    /// The logarithm is normal.
    Lognormal(Lognormal),
    /// The quantile function at these `[probability, tokens]`, linear between them.
    Quantiles(Vec<(Probability, NonNegative)>),
}

/// A log-normal law, located by exactly one of `median`, `mean` and `mu`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lognormal {
    /// Median in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median: Option<Positive>,
    /// Mean in tokens, before `min` and `max` act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Positive>,
    /// Mean of the natural logarithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mu: Option<f64>,
    /// Standard deviation of the natural logarithm.
    pub sigma: NonNegative,
    /// Shorter draws become this; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// Longer draws become this; 2^24 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// Targets on the times of a request, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SloConfig {
    /// Most time from arrival to first token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<Positive>,
    /// Most time per output token after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_ms: Option<Positive>,
}

impl SloConfig {
    /// The targets, those that are absent taken from `otherwise`.
    ///
    /// # Errors
    /// [`OutOfRange`] for targets past 584 years.
    pub fn resolve(&self, otherwise: Slo) -> Result<Slo, OutOfRange> {
        let span = |ms: Option<Positive>| ms.map(|ms| Span::from_seconds(ms.get() * 1e-3)).transpose();
        Ok(Slo { ttft: span(self.ttft_ms)?.or(otherwise.ttft), tpot: span(self.tpot_ms)?.or(otherwise.tpot) })
    }
}

impl WorkloadConfig {
    /// Checks what can be checked without opening the file.
    ///
    /// # Errors
    /// The first [`WorkloadError`], in the order of the fields.
    pub fn check(&self) -> Result<(), WorkloadError> {
        if let Some(requests) = self.requests {
            let range = format!("1 to {MAX_REQUESTS} (ids, records and run time are sized for that many)");
            within("requests", requests, (1..=MAX_REQUESTS).contains(&requests), range)?;
        }
        if let Some(horizon) = self.horizon_s {
            let range = format!("at most {MAX_SPAN_S:e} seconds (31 years)");
            within("horizon_s", format!("{:e}", horizon.get()), horizon.get() <= MAX_SPAN_S, range)?;
        }
        match (&self.arrivals, &self.file) {
            (Some(arrivals), _) => arrivals.check()?,
            (None, None) => {
                return Err(missing("arrivals", "say when requests arrive, or name a `file`"));
            }
            (None, Some(_)) => {}
        }
        if self.file.is_none() {
            self.check_generated()?;
        }
        if let Some(speed) = self.speed {
            let speed = speed.get();
            within("speed", speed, (1e-6..=1e6).contains(&speed), "0.000001 to 1000000")?;
        }
        check_limit("max_tokens", self.max_tokens)?;
        check_limit("max_prompt_tokens", self.max_prompt_tokens)?;
        self.check_classes()
    }

    /// What holds only where nothing is read from a file.
    fn check_generated(&self) -> Result<(), WorkloadError> {
        let idle = |field: &str, why| Err(WorkloadError::NoEffect { field: field.into(), why });
        if self.format.is_some() {
            return idle("format", "it describes `file`, and no file is named");
        }
        if self.lengths_file.is_some() {
            return idle("lengths_file", "it belongs to `file`, and no file is named");
        }
        if self.speed.is_some() {
            return idle("speed", "it speeds up the arrivals of a `file`; change the rate instead");
        }
        if self.classes.is_empty() {
            return Err(missing("classes", "without a file, classes say how long requests are"));
        }
        self.check_extent()
    }

    /// Generated arrivals end, and before the request limit and the end of time.
    pub(super) fn check_extent(&self) -> Result<(), WorkloadError> {
        let Some(arrivals) = &self.arrivals else { return Ok(()) };
        let horizon = self.horizon_s.map(Positive::get);
        let Some(rate) = arrivals.rate_per_s() else {
            // Closed loops and pieces: the one has no rate, the others end by themselves.
            return match arrivals {
                Arrivals::ClosedLoop { .. } if self.requests.is_none() && horizon.is_none() => {
                    Err(missing("requests", "nothing else ends the run; or give `horizon_s`"))
                }
                Arrivals::Piecewise(pieces) if self.requests.is_none() => {
                    let mut start = 0.0;
                    let mut expected = 0.0;
                    for piece in pieces {
                        let until = piece.until_s.get().min(horizon.unwrap_or(f64::INFINITY));
                        expected += (until - start).max(0.0) * piece.rate_per_s.get();
                        start = piece.until_s.get();
                    }
                    check_expected("arrivals.piecewise", expected)
                }
                _ => Ok(()),
            };
        };
        match (self.requests, horizon) {
            (None, None) => Err(missing("requests", "nothing else ends the run; or give `horizon_s`")),
            (None, Some(horizon)) => check_expected("horizon_s", horizon * rate),
            (Some(requests), None) => {
                let span = requests as f64 / rate;
                let range =
                    format!("at most {MAX_SPAN_S:e} simulated seconds (31 years) at {rate} requests/s");
                within("requests", format!("{requests} requests, {span:e} s"), span <= MAX_SPAN_S, range)
            }
            (Some(_), Some(_)) => Ok(()),
        }
    }

    fn check_classes(&self) -> Result<(), WorkloadError> {
        let count = self.classes.len();
        within("classes", count, count <= MAX_CLASSES, format!("at most {MAX_CLASSES} classes"))?;
        for (index, class) in self.classes.iter().enumerate() {
            class.check(index, self.file.is_none())?;
            if self.classes[..index].iter().any(|other| other.name == class.name) {
                let got = format!("`{}` twice", class.name);
                return Err(value(
                    format!("classes[{index}].name"),
                    "a name of its own for every class",
                    got,
                ));
            }
        }
        let sum: f64 = self.classes.iter().map(ClassConfig::weight).sum();
        let ok = count == 0 || (sum > 0.0 && sum.is_finite());
        within("classes", format!("a sum of {sum}"), ok, "weights with a finite sum above 0")
    }
}

impl ClassConfig {
    /// Share of the requests, relative to the other classes.
    pub fn weight(&self) -> f64 {
        self.weight.map_or(1.0, NonNegative::get)
    }

    fn check(&self, index: usize, needs_lengths: bool) -> Result<(), WorkloadError> {
        let place = format!("classes[{index}]");
        if self.name.trim().is_empty() {
            return Err(value(format!("{place}.name"), "a name", format!("`{}`", self.name)));
        }
        let lengths = [("prompt_tokens", &self.prompt_tokens), ("output_tokens", &self.output_tokens)];
        for (name, lengths) in lengths {
            let field = format!("{place}.{name}");
            match lengths {
                Some(lengths) => LengthLaw::new(lengths, &field).map(drop)?,
                None if needs_lengths => {
                    return Err(WorkloadError::Missing {
                        field,
                        why: "without a file, every class says how long its requests are",
                    });
                }
                None => {}
            }
        }
        check_limit(&format!("{place}.max_tokens"), self.max_tokens)?;
        if let Some(slo) = &self.slo {
            slo.resolve(Slo::default())
                .map_err(|e| value(format!("{place}.slo"), e.expected, format!("{:e}", e.value)))?;
        }
        Ok(())
    }
}

impl Arrivals {
    /// One line for people.
    pub fn label(&self) -> String {
        match self {
            Self::Poisson { rate_per_s } => format!("Poisson, {} requests/s", rate_per_s.get()),
            Self::Gamma { rate_per_s, cv } => {
                format!("gamma, {} requests/s, CV {}", rate_per_s.get(), cv.get())
            }
            Self::Constant { rate_per_s } => format!("constant, {} requests/s", rate_per_s.get()),
            Self::Piecewise(pieces) => format!("piecewise, {} rates", pieces.len()),
            Self::ClosedLoop { users: 1 } => "closed loop, 1 user".to_owned(),
            Self::ClosedLoop { users } => format!("closed loop, {users} users"),
        }
    }

    /// Mean requests per second where one number says it.
    pub fn rate_per_s(&self) -> Option<f64> {
        match self {
            Self::Poisson { rate_per_s } | Self::Gamma { rate_per_s, .. } | Self::Constant { rate_per_s } => {
                Some(rate_per_s.get())
            }
            Self::Piecewise(_) | Self::ClosedLoop { .. } => None,
        }
    }

    fn check(&self) -> Result<(), WorkloadError> {
        match self {
            Self::Poisson { rate_per_s } => check_rate("arrivals.poisson.rate_per_s", rate_per_s.get()),
            Self::Constant { rate_per_s } => check_rate("arrivals.constant.rate_per_s", rate_per_s.get()),
            Self::Gamma { rate_per_s, cv } => {
                check_rate("arrivals.gamma.rate_per_s", rate_per_s.get())?;
                check_cv("arrivals.gamma.cv", *cv)
            }
            Self::ClosedLoop { users } => {
                let ok = (1..=1_000_000).contains(users);
                within("arrivals.closed_loop.users", *users, ok, "1 to 1000000")
            }
            Self::Piecewise(pieces) => check_pieces(pieces),
        }
    }
}

fn check_pieces(pieces: &[Piece]) -> Result<(), WorkloadError> {
    let mut start = 0.0;
    for (index, piece) in pieces.iter().enumerate() {
        let place = format!("arrivals.piecewise[{index}]");
        let until = piece.until_s.get();
        let range = format!("later than the piece before, which ends at {start}, and at most {MAX_SPAN_S:e}");
        within(&format!("{place}.until_s"), until, until > start && until <= MAX_SPAN_S, range)?;
        if piece.rate_per_s.get() > 0.0 {
            check_rate(&format!("{place}.rate_per_s"), piece.rate_per_s.get())?;
        }
        if let Some(cv) = piece.cv {
            check_cv(&format!("{place}.cv"), cv)?;
        }
        start = until;
    }
    let ok = pieces.iter().any(|piece| piece.rate_per_s.get() > 0.0);
    within("arrivals.piecewise", "none", ok, "at least one piece with a rate above 0")
}

fn check_rate(field: &str, rate: f64) -> Result<(), WorkloadError> {
    let ok = (1e-6..=1e9).contains(&rate);
    within(field, rate, ok, "0.000001 to 1e9 requests/s (time is in nanoseconds)")
}

fn check_cv(field: &str, cv: Positive) -> Result<(), WorkloadError> {
    within(field, cv.get(), (0.001..=100.0).contains(&cv.get()), "0.001 to 100")
}

fn check_expected(field: &str, expected: f64) -> Result<(), WorkloadError> {
    let range =
        format!("at most {MAX_REQUESTS} requests (ids, records and run time are sized for that many)");
    within(field, format!("{expected:e} expected"), expected <= MAX_REQUESTS as f64, range)
}

fn check_limit(field: &str, limit: Option<u32>) -> Result<(), WorkloadError> {
    match limit {
        Some(tokens) => {
            within(field, tokens, (1..=MAX_LENGTH).contains(&tokens), format!("1 to {MAX_LENGTH} tokens"))
        }
        None => Ok(()),
    }
}

/// An error unless `ok`.
pub(super) fn within(
    field: &str,
    got: impl ToString,
    ok: bool,
    expected: impl Into<String>,
) -> Result<(), WorkloadError> {
    if ok { Ok(()) } else { Err(value(field, expected, got)) }
}

pub(super) fn value(
    field: impl Into<String>,
    expected: impl Into<String>,
    got: impl ToString,
) -> WorkloadError {
    WorkloadError::Value { field: field.into(), expected: expected.into(), got: got.to_string() }
}

pub(super) fn missing(field: &str, why: &'static str) -> WorkloadError {
    WorkloadError::Missing { field: field.into(), why }
}

#[cfg(test)]
mod tests {
    use super::super::resolve::Surroundings;
    use super::*;

    fn positive(v: f64) -> Positive {
        Positive::new(v).unwrap()
    }

    fn plain() -> WorkloadConfig {
        let class = ClassConfig {
            name: "chat".into(),
            prompt_tokens: Some(Lengths::Constant(10)),
            output_tokens: Some(Lengths::Constant(20)),
            ..ClassConfig::default()
        };
        WorkloadConfig {
            requests: Some(100),
            arrivals: Some(Arrivals::Poisson { rate_per_s: positive(1.0) }),
            classes: vec![class],
            ..WorkloadConfig::default()
        }
    }

    /// The message that `change` to a sound workload earns.
    #[track_caller]
    fn refused(change: impl Fn(&mut WorkloadConfig)) -> String {
        let mut config = plain();
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    fn piecewise(pieces: &[(f64, f64)]) -> Option<Arrivals> {
        let piece = |&(until, rate): &(f64, f64)| Piece {
            until_s: positive(until),
            rate_per_s: NonNegative::new(rate).unwrap(),
            cv: None,
        };
        Some(Arrivals::Piecewise(pieces.iter().map(piece).collect()))
    }

    #[test]
    fn a_sound_workload_passes() {
        plain().check().unwrap();
        let mut config = plain();
        config.requests = None;
        config.arrivals = piecewise(&[(10.0, 0.0), (20.0, 3.0)]);
        config.check().unwrap();
    }

    #[test]
    fn extents_that_cannot_be_run_are_refused() {
        insta::assert_snapshot!(refused(|w| w.requests = None), @"workload.requests is missing: nothing else ends the run; or give `horizon_s`");
        insta::assert_snapshot!(refused(|w| w.requests = Some(0)), @"workload.requests: expected 1 to 100000000 (ids, records and run time are sized for that many), got 0");
        insta::assert_snapshot!(refused(|w| w.requests = Some(1_000_000_000_000)), @"workload.requests: expected 1 to 100000000 (ids, records and run time are sized for that many), got 1000000000000");
        insta::assert_snapshot!(refused(|w| w.horizon_s = Some(positive(1e12))), @"workload.horizon_s: expected at most 1e9 seconds (31 years), got 1e12");
        insta::assert_snapshot!(refused(|w| {
            w.requests = None;
            w.horizon_s = Some(positive(9e8));
        }), @"workload.horizon_s: expected at most 100000000 requests (ids, records and run time are sized for that many), got 9e8 expected");
        insta::assert_snapshot!(refused(|w| {
            w.requests = Some(100_000_000);
            w.arrivals = Some(Arrivals::Poisson { rate_per_s: positive(0.001) });
        }), @"workload.requests: expected at most 1e9 simulated seconds (31 years) at 0.001 requests/s, got 100000000 requests, 1e11 s");
        insta::assert_snapshot!(refused(|w| {
            w.requests = None;
            w.arrivals = piecewise(&[(1e6, 1e6)]);
        }), @"workload.arrivals.piecewise: expected at most 100000000 requests (ids, records and run time are sized for that many), got 1e12 expected");
        insta::assert_snapshot!(refused(|w| {
            w.requests = None;
            w.arrivals = Some(Arrivals::ClosedLoop { users: 3 });
        }), @"workload.requests is missing: nothing else ends the run; or give `horizon_s`");
    }

    #[test]
    fn arrivals_that_cannot_be_drawn_are_refused() {
        insta::assert_snapshot!(refused(|w| w.arrivals = None), @"workload.arrivals is missing: say when requests arrive, or name a `file`");
        let gamma = |rate, cv| Some(Arrivals::Gamma { rate_per_s: positive(rate), cv: positive(cv) });
        insta::assert_snapshot!(refused(|w| w.arrivals = gamma(1e10, 1.0)), @"workload.arrivals.gamma.rate_per_s: expected 0.000001 to 1e9 requests/s (time is in nanoseconds), got 10000000000");
        insta::assert_snapshot!(refused(|w| w.arrivals = gamma(1.0, 1e-9)), @"workload.arrivals.gamma.cv: expected 0.001 to 100, got 0.000000001");
        insta::assert_snapshot!(refused(|w| w.arrivals = Some(Arrivals::ClosedLoop { users: 0 })), @"workload.arrivals.closed_loop.users: expected 1 to 1000000, got 0");
        insta::assert_snapshot!(refused(|w| w.arrivals = piecewise(&[])), @"workload.arrivals.piecewise: expected at least one piece with a rate above 0, got none");
        insta::assert_snapshot!(refused(|w| w.arrivals = piecewise(&[(5.0, 0.0)])), @"workload.arrivals.piecewise: expected at least one piece with a rate above 0, got none");
        insta::assert_snapshot!(refused(|w| w.arrivals = piecewise(&[(5.0, 1.0), (5.0, 2.0)])), @"workload.arrivals.piecewise[1].until_s: expected later than the piece before, which ends at 5, and at most 1e9, got 5");
        insta::assert_snapshot!(Positive::new(0.0).unwrap_err(), @"value must be a finite number above 0, got 0");
    }

    #[test]
    fn classes_that_say_too_little_are_refused() {
        insta::assert_snapshot!(refused(|w| w.classes.clear()), @"workload.classes is missing: without a file, classes say how long requests are");
        insta::assert_snapshot!(refused(|w| w.classes[0].name = " ".into()), @"workload.classes[0].name: expected a name, got ` `");
        insta::assert_snapshot!(refused(|w| w.classes.push(w.classes[0].clone())), @"workload.classes[1].name: expected a name of its own for every class, got `chat` twice");
        insta::assert_snapshot!(refused(|w| w.classes[0].weight = Some(NonNegative::new(0.0).unwrap())), @"workload.classes: expected weights with a finite sum above 0, got a sum of 0");
        insta::assert_snapshot!(refused(|w| w.classes[0].output_tokens = None), @"workload.classes[0].output_tokens is missing: without a file, every class says how long its requests are");
        insta::assert_snapshot!(refused(|w| w.classes[0].prompt_tokens = Some(Lengths::Constant(0))), @"workload.classes[0].prompt_tokens.constant: expected 1 to 16777216 tokens, got 0");
        insta::assert_snapshot!(refused(|w| w.classes[0].max_tokens = Some(0)), @"workload.classes[0].max_tokens: expected 1 to 16777216 tokens, got 0");
        insta::assert_snapshot!(refused(|w| {
            w.classes[0].slo = Some(SloConfig { ttft_ms: Some(positive(1e300)), tpot_ms: None });
        }), @"workload.classes[0].slo: expected a finite number of seconds, 0 or more, got 1e297");
        insta::assert_snapshot!(refused(|w| w.max_tokens = Some(u32::MAX)), @"workload.max_tokens: expected 1 to 16777216 tokens, got 4294967295");
    }

    #[test]
    fn fields_of_a_file_are_refused_without_one() {
        insta::assert_snapshot!(refused(|w| w.format = Some(Format::Csv)), @"workload.format has no effect here: it describes `file`, and no file is named");
        insta::assert_snapshot!(refused(|w| w.lengths_file = Some("x".into())), @"workload.lengths_file has no effect here: it belongs to `file`, and no file is named");
        insta::assert_snapshot!(refused(|w| w.speed = Some(positive(2.0))), @"workload.speed has no effect here: it speeds up the arrivals of a `file`; change the rate instead");
        let around = Surroundings { context_tokens: 4096, slo: Slo::default() };
        let config = WorkloadConfig { file: Some("x.csv".into()), ..plain() };
        insta::assert_snapshot!(config.resolve(&around, None).unwrap_err(), @"workload.file is missing: a file is read where one is named, and only there");
        insta::assert_snapshot!(refused(|w| {
            w.file = Some("x.csv".into());
            w.speed = Some(positive(1e9));
        }), @"workload.speed: expected 0.000001 to 1000000, got 1000000000");
    }
}
