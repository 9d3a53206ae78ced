//! The requests of one run, one at a time.

use super::arrivals::Clock;
use super::clients::ClientClock;
use super::config::MAX_REQUESTS;
use super::resolve::{ArrivalPlan, LengthPlan, Terms, Workload};
use crate::ids::{ClassId, RequestId};
use crate::luck::{Draws, Luck, Stream};
use crate::request::{Request, Truth};
use crate::units::Time;

/// The requests of one run in order of arrival.
///
/// Request `n` is the same however the stream is read; a clone goes on where the original stands.
#[derive(Clone, Debug)]
pub struct RequestStream {
    workload: Workload,
    arrivals: Draws,
    lengths: Draws,
    next_id: u64,
    clock: ArrivalClock,
    ended: bool,
}

#[derive(Clone, Debug)]
enum ArrivalClock {
    Renewal(Clock),
    Clients(ClientClock),
    /// Arrivals that follow from the request's id alone.
    ById,
}

impl RequestStream {
    pub(super) fn new(workload: Workload, luck: Luck) -> Self {
        let clock = match &workload.plan.arrivals {
            ArrivalPlan::Renewal(_) => ArrivalClock::Renewal(Clock::default()),
            ArrivalPlan::Clients(_) => ArrivalClock::Clients(ClientClock::new()),
            ArrivalPlan::Constant { .. } | ArrivalPlan::Closed { .. } | ArrivalPlan::Recorded(_) => {
                ArrivalClock::ById
            }
        };
        let (arrivals, lengths) = (luck.stream(Stream::Arrival), luck.stream(Stream::Length));
        Self { workload, arrivals, lengths, next_id: 0, clock, ended: false }
    }

    /// In a closed loop: the request with this id, sent at `arrival`. The driver numbers on from
    /// where the iterator ended, one for each request that was answered.
    ///
    /// `None` once the workload has had all its requests or the time is past its horizon, and in
    /// workloads whose lengths are recorded with their arrivals.
    pub fn next_request(&self, id: RequestId, arrival: Time) -> Option<Request> {
        let plan = &*self.workload.plan;
        if id.0 >= plan.requests || arrival >= plan.horizon || matches!(plan.lengths, LengthPlan::OfArrivals)
        {
            return None;
        }
        Some(self.drawn(id.0, arrival))
    }

    /// A request whose lengths are drawn.
    fn drawn(&self, id: u64, arrival: Time) -> Request {
        let plan = &*self.workload.plan;
        if let LengthPlan::InOrder(rows) = &plan.lengths {
            let row = rows[(id % rows.len() as u64) as usize]; // Checked: there is one.
            let class = row.class.unwrap_or_else(|| self.class(id));
            return self.request(id, arrival, class, (row.prompt_tokens, row.output_tokens), row.terms);
        }
        let class = self.class(id);
        let (u, v) = self.lengths.uniform_pair(id, 0);
        let (prompt, output) = match (&plan.lengths, &plan.classes[class.index()].laws) {
            (LengthPlan::Pairs(pairs), _) => pairs[((u * pairs.len() as f64) as usize).min(pairs.len() - 1)],
            (_, Some((prompt, output))) => (prompt.at(u), output.at(v)),
            (_, None) => unreachable!("`check` demands laws of every class where nothing else gives lengths"),
        };
        self.request(id, arrival, class, (prompt, output), None)
    }

    /// The class of a request that no file gives one.
    fn class(&self, id: u64) -> ClassId {
        let shares = &self.workload.plan.shares;
        if shares.len() == 1 {
            return ClassId(0);
        }
        let u = self.lengths.uniform(id, 1);
        // The last sum may be a hair under 1; a class without weight is never drawn.
        let index = shares.partition_point(|share| *share <= u).min(shares.len() - 1);
        ClassId(index as u16)
    }

    fn request(
        &self,
        id: u64,
        arrival: Time,
        class: ClassId,
        (prompt, output): (u32, u32),
        terms: Option<Terms>,
    ) -> Request {
        let plan = &*self.workload.plan;
        let kind = &plan.classes[class.index()];
        let prompt_tokens = prompt.min(plan.max_prompt_tokens);
        let room = plan.context_tokens.saturating_sub(prompt_tokens);
        Request {
            id: RequestId(id),
            class,
            arrival,
            prompt_tokens,
            // A prompt that leaves no room keeps a limit of 1; admission is where it fails.
            limit: terms.map_or(kind.max_tokens, |terms| terms.limit).min(room).max(1),
            priority: terms.map_or(kind.priority, |terms| terms.priority),
            slo: terms.map_or(kind.slo, |terms| terms.slo),
            truth: Truth::new(output),
        }
    }

    /// A recorded moment at the workload's speed.
    fn sped_up(&self, nanos: u64) -> Option<Time> {
        let speed = self.workload.plan.speed;
        // Exact where nothing is changed: 2^53 nanoseconds are only 104 days.
        if speed.to_bits() == 1f64.to_bits() {
            return Some(Time::from_nanos(nanos));
        }
        Time::from_seconds(nanos as f64 * 1e-9 / speed).ok()
    }

    fn advance(&mut self) -> Option<Request> {
        let id = self.next_id;
        let Self { workload, clock, arrivals, .. } = self;
        let plan = &*workload.plan;
        if id >= plan.requests.min(MAX_REQUESTS) {
            return None;
        }
        let arrived = match (&plan.arrivals, clock) {
            (ArrivalPlan::Renewal(pieces), ArrivalClock::Renewal(clock)) => {
                Arrived::At(Time::from_seconds(clock.advance(pieces, arrivals, id)?).ok()?)
            }
            (ArrivalPlan::Clients(load), ArrivalClock::Clients(clock)) => {
                let (nanos, histogram) = clock.advance(load, arrivals)?;
                let lengths = load.lengths(histogram, self.lengths.uniform_pair(id, 0));
                Arrived::With { nanos, lengths, class: None, terms: None }
            }
            (ArrivalPlan::Recorded(rows), _) => {
                let row = rows.get(id as usize)?;
                let lengths = (row.prompt_tokens, row.output_tokens);
                Arrived::With { nanos: row.arrival.nanos(), lengths, class: row.class, terms: row.terms }
            }
            (ArrivalPlan::Constant { rate_per_s }, _) => {
                Arrived::At(Time::from_seconds(id as f64 / rate_per_s).ok()?)
            }
            (ArrivalPlan::Closed { users }, _) if id < u64::from(*users) => Arrived::At(Time::ZERO),
            _ => return None,
        };
        let horizon = plan.horizon;
        let request = match arrived {
            Arrived::At(arrival) => self.drawn(id, arrival),
            Arrived::With { nanos, lengths, class, terms } => {
                let class = class.unwrap_or_else(|| self.class(id));
                self.request(id, self.sped_up(nanos)?, class, lengths, terms)
            }
        };
        if request.arrival >= horizon {
            return None;
        }
        self.next_id += 1;
        Some(request)
    }
}

/// What the arrivals say of the next request.
enum Arrived {
    /// When; its lengths are drawn.
    At(Time),
    /// Everything, at the file's own speed.
    With { nanos: u64, lengths: (u32, u32), class: Option<ClassId>, terms: Option<Terms> },
}

impl Iterator for RequestStream {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        if self.ended {
            return None;
        }
        let request = self.advance();
        self.ended = request.is_none();
        request
    }
}

impl std::iter::FusedIterator for RequestStream {}

#[cfg(test)]
mod tests {
    use super::super::config::{
        Arrivals, ClassConfig, Format, Lengths, Lognormal, SloConfig, WorkloadConfig,
    };
    use super::super::resolve::{FileRow, FileSource, FileWorkload, Surroundings};
    use super::*;
    use crate::slo::Slo;
    use crate::units::{NonNegative, Positive, Span};
    use std::sync::Arc;

    fn positive(v: f64) -> Positive {
        Positive::new(v).unwrap()
    }

    fn lognormal(median: f64, sigma: f64) -> Option<Lengths> {
        let median = Some(positive(median));
        let sigma = NonNegative::new(sigma).unwrap();
        Some(Lengths::Lognormal(Lognormal { median, mean: None, mu: None, sigma, min: None, max: None }))
    }

    fn class(name: &str, weight: f64, prompt: f64) -> ClassConfig {
        ClassConfig {
            name: name.into(),
            weight: Some(NonNegative::new(weight).unwrap()),
            prompt_tokens: lognormal(prompt, 0.9),
            output_tokens: lognormal(150.0, 0.8),
            ..ClassConfig::default()
        }
    }

    fn two_classes(arrivals: Arrivals) -> WorkloadConfig {
        WorkloadConfig {
            requests: Some(50_000),
            arrivals: Some(arrivals),
            classes: vec![class("chat", 0.6, 400.0), class("code", 0.4, 1500.0)],
            ..WorkloadConfig::default()
        }
    }

    fn gamma() -> Arrivals {
        Arrivals::Gamma { rate_per_s: positive(12.0), cv: positive(1.5) }
    }

    const AROUND: Surroundings =
        Surroundings { context_tokens: 131_072, slo: Slo { ttft: None, tpot: None } };

    fn resolve(config: &WorkloadConfig) -> Workload {
        config.resolve(&AROUND, None).unwrap()
    }

    fn requests(config: &WorkloadConfig, seed: u64) -> Vec<Request> {
        resolve(config).stream(Luck::new(seed)).collect()
    }

    fn recorded(rows: &[(u64, u32, u32, Option<u16>)]) -> FileWorkload {
        let row = |&(nanos, prompt_tokens, output_tokens, class): &(u64, u32, u32, Option<u16>)| FileRow {
            arrival: Time::from_nanos(nanos),
            prompt_tokens,
            output_tokens,
            class: class.map(ClassId),
            terms: None,
        };
        FileWorkload {
            name: "trace.csv".into(),
            format: Format::Csv,
            source: FileSource::Recorded(rows.iter().map(row).collect()),
            class_names: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_requests_and_another_seed_others() {
        let config = two_classes(gamma());
        let (a, b, c) = (requests(&config, 7), requests(&config, 7), requests(&config, 8));
        assert_eq!(a, b);
        assert_ne!(a, c);
        assert_eq!(a.len(), 50_000);
        assert!(a.is_sorted_by_key(|request| request.arrival));
        assert!(a.iter().enumerate().all(|(place, request)| request.id == RequestId(place as u64)));
    }

    #[test]
    fn a_stream_read_in_two_halves_equals_one_read() {
        let workload = resolve(&two_classes(gamma()));
        let whole: Vec<Request> = workload.stream(Luck::new(3)).collect();
        let mut stream = workload.stream(Luck::new(3));
        let mut halves: Vec<Request> = stream.by_ref().take(20_000).collect();
        let resumed = stream.clone();
        drop(stream);
        halves.extend(resumed);
        assert_eq!(whole, halves);
    }

    #[test]
    fn classes_and_lengths_have_their_shares_and_medians() {
        let requests = requests(&two_classes(gamma()), 11);
        let n = requests.len() as f64;
        let chat: Vec<&Request> = requests.iter().filter(|request| request.class == ClassId(0)).collect();
        assert!((chat.len() as f64 / n - 0.6).abs() < 4.0 * (0.24 / n).sqrt(), "{}", chat.len());
        // The share of draws at or under a quantile is binomial.
        let check = |lengths: &mut dyn Iterator<Item = u32>, at: f64, share: f64| {
            let (mut below, mut count) = (0.0, 0.0);
            for length in lengths {
                count += 1.0;
                below += f64::from(u8::from(f64::from(length) <= at));
            }
            let error = 4.0 * (share * (1.0 - share) / count).sqrt() + 0.5 / at;
            assert!((below / count - share).abs() < error, "{at}: {} ± {error}", below / count);
        };
        for (z, share) in [(-1.281_552, 0.1), (0.0, 0.5), (1.281_552, 0.9), (2.326_348, 0.99)] {
            check(&mut chat.iter().map(|r| r.prompt_tokens), 400.0 * f64::exp(0.9 * z), share);
            check(&mut requests.iter().map(|r| r.truth.output_tokens()), 150.0 * f64::exp(0.8 * z), share);
        }
    }

    #[test]
    fn prompts_outputs_and_gaps_are_unrelated() {
        let requests = requests(&two_classes(gamma()), 5);
        let rank = |x: f64| x.ln();
        let gaps = requests.windows(2).map(|r| (r[1].arrival - r[0].arrival).seconds() + 1e-9);
        let series: Vec<[f64; 3]> = requests[1..]
            .iter()
            .zip(gaps)
            .map(|(r, gap)| [rank(r.prompt_tokens.into()), rank(r.truth.output_tokens().into()), rank(gap)])
            .collect();
        let n = series.len() as f64;
        let mean = |f: &dyn Fn(&[f64; 3]) -> f64| series.iter().map(f).sum::<f64>() / n;
        for (i, j) in [(0, 1), (0, 2), (1, 2)] {
            let (a, b) = (mean(&|x| x[i]), mean(&|x| x[j]));
            let covariance = mean(&|x| (x[i] - a) * (x[j] - b));
            let scale = (mean(&|x| (x[i] - a).powi(2)) * mean(&|x| (x[j] - b).powi(2))).sqrt();
            assert!((covariance / scale).abs() < 4.0 / n.sqrt(), "{i} {j}: {}", covariance / scale);
        }
    }

    #[test]
    fn arrivals_end_at_the_count_or_the_horizon_whichever_is_first() {
        let mut config = two_classes(Arrivals::Constant { rate_per_s: positive(5.0) });
        config.horizon_s = Some(positive(10.0));
        let requests = requests(&config, 1);
        assert_eq!((requests.len(), requests[49].arrival), (50, Time::from_nanos(9_800_000_000)));
        config.requests = Some(7);
        assert_eq!(resolve(&config).stream(Luck::new(1)).count(), 7);
        assert_eq!(resolve(&config).size().requests, 7);
    }

    #[test]
    fn a_closed_loop_starts_every_user_and_then_waits_for_the_driver() {
        let config =
            WorkloadConfig { requests: Some(100), ..two_classes(Arrivals::ClosedLoop { users: 64 }) };
        let workload = resolve(&config);
        assert_eq!(workload.users(), Some(64));
        let mut stream = workload.stream(Luck::new(2));
        let first: Vec<Request> = stream.by_ref().collect();
        assert_eq!(first.len(), 64);
        assert!(first.iter().all(|request| request.arrival == Time::ZERO));
        let later = Time::from_nanos(5);
        let next = stream.next_request(RequestId(64), later).unwrap();
        assert_eq!((next.id, next.arrival), (RequestId(64), later));
        // Lengths belong to the id, not to the moment.
        let same = stream.next_request(RequestId(3), later).unwrap();
        assert_eq!((same.prompt_tokens, same.truth), (first[3].prompt_tokens, first[3].truth));
        assert_eq!(stream.next_request(RequestId(100), later), None);
    }

    #[test]
    fn recorded_rows_come_back_at_the_stated_speed() {
        let file =
            recorded(&[(0, 10, 5, None), (4_000_000_000, 20, 6, Some(1)), (9_000_000_001, 30, 7, None)]);
        let mut config = WorkloadConfig {
            file: Some("trace.csv".into()),
            classes: two_classes(gamma()).classes,
            ..WorkloadConfig::default()
        };
        let read = |config: &WorkloadConfig| -> Vec<Request> {
            config.resolve(&AROUND, Some(&file)).unwrap().stream(Luck::new(1)).collect()
        };
        let plain = read(&config);
        assert_eq!(plain.len(), 3);
        assert_eq!(
            (plain[1].class, plain[1].prompt_tokens, plain[1].truth.output_tokens()),
            (ClassId(1), 20, 6)
        );
        assert_eq!(plain[2].arrival, Time::from_nanos(9_000_000_001));
        config.speed = Some(positive(2.0));
        assert_eq!(read(&config)[1].arrival, Time::from_nanos(2_000_000_000));
        config.horizon_s = Some(positive(4.5));
        assert_eq!(read(&config).len(), 2);
        let workload = config.resolve(&AROUND, Some(&file)).unwrap();
        assert_eq!(workload.size().requests, 2);
        insta::assert_snapshot!(workload.notes().join("\n"), @r#"
lengths are those of trace.csv, not the scenario's own
requests get classes by weight: the file says none
"#);
    }

    #[test]
    fn pairs_of_lengths_stay_together() {
        let pairs: Vec<(u32, u32)> = (1..=1000).map(|i| (i, 10_000 - i)).collect();
        let file = FileWorkload { source: FileSource::Lengths(Arc::from(pairs)), ..recorded(&[]) };
        let config = WorkloadConfig {
            file: Some("lengths.csv".into()),
            requests: Some(20_000),
            max_prompt_tokens: Some(990),
            arrivals: Some(Arrivals::Poisson { rate_per_s: positive(3.0) }),
            ..WorkloadConfig::default()
        };
        let workload = config.resolve(&AROUND, Some(&file)).unwrap();
        let requests: Vec<Request> = workload.stream(Luck::new(4)).collect();
        assert!(requests.iter().all(|r| r.prompt_tokens == (10_000 - r.truth.output_tokens()).min(990)));
        let mean = requests.iter().map(|r| f64::from(r.truth.output_tokens())).sum::<f64>() / 20_000.0;
        assert!((mean - 9499.5).abs() < 4.0 * 288.7 / 20_000f64.sqrt(), "{mean}");
        insta::assert_snapshot!(workload.notes().join("\n"), @"10 of 1000 prompts are cut to 990 tokens (max_prompt_tokens)");
        let refused = WorkloadConfig { arrivals: None, ..config.clone() }.resolve(&AROUND, Some(&file));
        insta::assert_snapshot!(refused.unwrap_err(), @"workload.arrivals is missing: the file holds lengths only");
        let refused = WorkloadConfig { speed: Some(positive(2.0)), ..config }.resolve(&AROUND, Some(&file));
        insta::assert_snapshot!(refused.unwrap_err(), @"workload.speed has no effect here: it speeds up the arrivals of a file, and this file has none; change the rate instead");
    }

    #[test]
    fn limits_are_the_class_s_the_workload_s_or_what_the_context_leaves() {
        let mut config = two_classes(gamma());
        config.requests = Some(500);
        for class in &mut config.classes {
            class.prompt_tokens = Some(Lengths::Constant(1000));
        }
        let limit = |config: &WorkloadConfig, context_tokens, class| {
            let around = Surroundings { context_tokens, ..AROUND };
            let stream = config.resolve(&around, None).unwrap().stream(Luck::new(1));
            let found: Vec<u32> = stream.filter(|r| r.class == ClassId(class)).map(|r| r.limit).collect();
            assert!(found.iter().all(|limit| *limit == found[0]));
            found[0]
        };
        assert_eq!(limit(&config, 4096, 0), 3096);
        config.max_tokens = Some(256);
        config.classes[1].max_tokens = Some(64);
        assert_eq!((limit(&config, 4096, 0), limit(&config, 4096, 1)), (256, 64));
        assert_eq!((limit(&config, 1100, 0), limit(&config, 900, 0)), (100, 1));
    }

    #[test]
    fn targets_and_priority_are_the_class_s_where_it_has_its_own() {
        let mut config = two_classes(gamma());
        config.classes[1].slo = Some(SloConfig { ttft_ms: Some(positive(250.0)), tpot_ms: None });
        config.classes[1].priority = Some(3);
        let slo = Slo { ttft: Some(Span::from_nanos(1)), tpot: Some(Span::from_nanos(2)) };
        let workload = config.resolve(&Surroundings { slo, ..AROUND }, None).unwrap();
        let request = workload.stream(Luck::new(1)).find(|r| r.class == ClassId(1)).unwrap();
        assert_eq!(request.slo, Slo { ttft: Some(Span::from_nanos(250_000_000)), ..slo });
        assert_eq!((request.priority, workload.classes()[0].slo), (3, slo));
    }

    #[test]
    fn sizes_foretell_the_stream() {
        let config = two_classes(gamma());
        let size = resolve(&config).size();
        let requests = requests(&config, 1);
        let mean = requests.iter().map(|r| f64::from(r.prompt_tokens)).sum::<f64>() / 50_000.0;
        assert_eq!(size.requests, 50_000);
        assert!((size.prompt_tokens / mean - 1.0).abs() < 0.03, "{size:?} {mean}");
        let span = requests[49_999].arrival.seconds();
        assert!((size.span_s.unwrap() / span - 1.0).abs() < 4.0 * 1.5 / 50_000f64.sqrt(), "{size:?} {span}");
    }
}
