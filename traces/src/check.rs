//! Is a trace what it says it is: conservation, joins and ranges, and what is missing.

use std::collections::{BTreeMap, BTreeSet};

use specrouter_routing::ids::{ReplicaId, RequestId};
use specrouter_routing::record::{
    PassRecord, RequestRecord, RoundRecord, Status, TextRecord, TokenRecord, VerificationRecord, pairs,
    triples,
};

use crate::error::TraceError;
use crate::read::Trace;
use crate::schema::Table;

/// Faults of one kind that are told; the others are counted.
const TOLD: usize = 3;
/// Rounding of f32 sums of probabilities.
const SLACK: f32 = 1e-3;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Rows of every table present, in the schema's order.
    pub rows: Vec<(&'static str, u64)>,
    /// What contradicts itself: the trace is damaged.
    pub faults: Vec<String>,
    /// What is not there: a level of tables, a killed recording.
    pub missing: Vec<String>,
}

impl Findings {
    /// Nothing contradicts itself.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Reads every table and compares them with each other.
///
/// A table that cannot be read is a fault that names its file, and the others are checked all the same.
pub fn check(trace: &Trace) -> Findings {
    let mut found = Findings::default();
    let manifest = trace.manifest();
    found.rows = Table::ALL.into_iter().filter_map(|t| Some((t.name(), manifest.rows(t)?))).collect();
    if !manifest.ended {
        found.missing.push("the run's end: the recording was killed or still goes on".into());
    }
    let absent: Vec<&str> =
        Table::ALL.iter().map(|t| t.name()).filter(|t| !manifest.tables.contains_key(*t)).collect();
    if !absent.is_empty() {
        found.missing.push(format!("tables: {}", absent.join(", ")));
    }
    let requests = found.table(trace, Table::Requests, Trace::requests);
    let passes = found.table(trace, Table::Passes, Trace::passes);
    let verifications = found.table(trace, Table::Verifications, Trace::verifications);
    let rounds = found.table(trace, Table::Rounds, Trace::rounds);
    let decisions = found.table(trace, Table::Decisions, Trace::decisions);
    let texts = found.table(trace, Table::Texts, Trace::texts);
    let tokens = found.table(trace, Table::Tokens, Trace::tokens);

    let models = trace.run().models.len();
    let known = found.requests(trace, requests.as_deref());
    found.passes(models, passes.as_deref());
    found.rounds(models, manifest.ended, known.as_ref(), passes.as_deref(), rounds.as_deref());
    found.verifications(models, known.as_ref(), rounds.as_deref(), verifications.as_deref());
    if let Some(decisions) = &decisions {
        found.all(
            decisions,
            |d| manifest.ended && strange(known.as_ref(), d.request),
            |d, at| format!("decisions, row {at}: request must be in requests, got {}", d.request),
        );
    }
    found.texts(known.as_ref(), texts.as_deref(), tokens.as_deref());
    found.tokens(models, known.as_ref(), tokens.as_deref());
    found
}

/// Requests by id.
type Known<'a> = BTreeMap<RequestId, &'a RequestRecord>;

/// Is the request not in the table of requests? Unknown while there is no such table. (Until a run ends, the table has
/// only the requests that did.)
fn strange(known: Option<&Known<'_>>, request: RequestId) -> bool {
    known.is_some_and(|known| !known.contains_key(&request))
}

impl Findings {
    fn table<R>(
        &mut self,
        trace: &Trace,
        table: Table,
        read: impl Fn(&Trace) -> Result<Vec<R>, TraceError>,
    ) -> Option<Vec<R>> {
        trace.manifest().tables.get(table.name())?;
        read(trace).map_err(|error| self.faults.push(error.to_string())).ok()
    }

    /// Tells the first rows that are `wrong` and counts the others.
    fn all<R>(&mut self, rows: &[R], wrong: impl Fn(&R) -> bool, tell: impl Fn(&R, usize) -> String) {
        let mut faults = rows.iter().enumerate().filter(|(_, row)| wrong(row));
        self.faults.extend(faults.by_ref().take(TOLD).map(|(at, row)| tell(row, at)));
        let more = faults.count();
        if more > 0 {
            self.faults.push(format!("... and {more} more rows like that"));
        }
    }

    fn requests<'a>(&mut self, trace: &Trace, requests: Option<&'a [RequestRecord]>) -> Option<Known<'a>> {
        let requests = requests?;
        let classes = trace.run().classes.len();
        self.all(
            requests,
            |r| r.class.index() >= classes,
            |r, at| format!("requests, row {at}: class must be below {classes}, got {}", r.class),
        );
        let times = |r: &RequestRecord| [Some(r.arrival), r.first_token, r.last_token];
        self.all(
            requests,
            |r| !times(r).iter().flatten().is_sorted(),
            |r, at| {
                format!(
                    "requests, row {at}: arrival, first and last token must follow one another, got {:?}",
                    times(r)
                )
            },
        );
        let unfit = |r: &RequestRecord| r.output_tokens > r.limit;
        self.all(requests, unfit, |r, at| {
            format!("requests, row {at}: output_tokens must be at most {}, got {}", r.limit, r.output_tokens)
        });
        let mut seen = BTreeSet::new();
        let twice: Vec<_> = requests.iter().filter(|r| !seen.insert(r.id)).map(|r| r.id).collect();
        self.all(&twice, |_| true, |id, _| format!("requests: id {id} stands twice"));
        let known: Known<'_> = requests.iter().map(|r| (r.id, r)).collect();
        let unfinished = requests.iter().filter(|r| r.status != Status::Finished).count();
        if unfinished > 0 {
            self.missing.push(format!("ends of {unfinished} of {} requests", requests.len()));
        }
        Some(known)
    }

    fn passes(&mut self, models: usize, passes: Option<&[PassRecord]>) {
        let Some(passes) = passes else { return };
        self.all(
            passes,
            |p| p.model.index() >= models,
            |p, at| format!("passes, row {at}: model must be below {models}, got {}", p.model),
        );
        let shapeless = |p: &PassRecord| {
            let s = &p.shape;
            s.rows == 0
                || s.new_tokens < s.rows
                || s.catch_up_tokens > s.new_tokens
                || s.logit_rows > s.new_tokens
        };
        self.all(passes, shapeless, |p, at| {
            format!("passes, row {at}: no pass has this shape: {:?}", p.shape)
        });
        let mut last = BTreeMap::new();
        let mut overlap = Vec::new();
        for (at, pass) in passes.iter().enumerate() {
            let end = pass.start.nanos().saturating_add(pass.duration.nanos());
            if let Some((tick, before)) = last.insert(pass.replica, (pass.tick, end))
                && (pass.tick <= tick || pass.start.nanos() < before)
            {
                overlap.push(at);
            }
        }
        self.all(
            &overlap,
            |_| true,
            |&at, _| {
                format!("passes, row {at}: a replica's passes must follow one another, got {:?}", passes[at])
            },
        );
    }

    fn rounds(
        &mut self,
        models: usize,
        ended: bool,
        known: Option<&Known<'_>>,
        passes: Option<&[PassRecord]>,
        rounds: Option<&[RoundRecord]>,
    ) {
        let Some(rounds) = rounds else { return };
        self.all(
            rounds,
            |r| r.plan.target().index() >= models,
            |r, at| {
                format!("rounds, row {at}: models must be below {models}, got chain {:?}", r.plan.models())
            },
        );
        self.all(
            rounds,
            |r| ended && strange(known, r.request),
            |r, at| format!("rounds, row {at}: request must be in requests, got {}", r.request),
        );
        self.all(rounds, |r| r.accepted > r.drafted || r.emitted > r.accepted.saturating_add(1), |r, at| {
            format!(
                "rounds, row {at}: accepted is at most drafted and emitted at most one more, got {}, {}, {}",
                r.drafted, r.accepted, r.emitted
            )
        });
        if let Some(passes) = passes {
            let ticks: BTreeMap<ReplicaId, BTreeSet<u64>> =
                passes.iter().fold(BTreeMap::new(), |mut all, p| {
                    all.entry(p.replica).or_default().insert(p.tick);
                    all
                });
            let ran = |r: &RoundRecord| {
                let own = ticks.get(&r.replica);
                // A round is told before its last pass, which is the one that a killed run may lack.
                let going_on = || {
                    !ended && own.and_then(BTreeSet::last).map_or(0, |t| t.saturating_add(1)) == r.end_tick
                };
                own.is_some_and(|own| own.contains(&r.end_tick)) || going_on()
            };
            self.all(rounds, |r| r.start_tick > r.end_tick || !ran(r), |r, at| {
                format!(
                    "rounds, row {at}: start_tick is at most end_tick, which is a pass of the replica, got {}, {}",
                    r.start_tick, r.end_tick
                )
            });
        }
        // Conservation: the rounds of a request follow one another and make up its output.
        let mut emitted: BTreeMap<RequestId, (u32, u32)> = BTreeMap::new();
        let mut broken = Vec::new();
        for (at, round) in rounds.iter().enumerate() {
            let (next, tokens) = emitted.entry(round.request).or_default();
            if (round.round, round.position) != (*next, *tokens) {
                broken.push((at, *next, *tokens));
            }
            *next = round.round.saturating_add(1);
            *tokens = round.position.saturating_add(u32::from(round.emitted));
        }
        self.all(
            &broken,
            |_| true,
            |&(at, next, tokens), _| {
                format!(
                    "rounds, row {at}: expected round {next} at position {tokens}, got {} at {}",
                    rounds[at].round, rounds[at].position
                )
            },
        );
        let finished = known.into_iter().flat_map(BTreeMap::values).filter(|r| r.status == Status::Finished);
        let unlike: Vec<_> = finished
            .filter_map(|r| {
                let tokens = emitted.get(&r.id).map_or(0, |e| e.1);
                (tokens != r.output_tokens).then_some((r.id, r.output_tokens, tokens))
            })
            .collect();
        self.all(
            &unlike,
            |_| true,
            |(id, output, tokens), _| {
                format!("request {id}: its rounds emitted {tokens} tokens, its output has {output}")
            },
        );
    }

    fn verifications(
        &mut self,
        models: usize,
        known: Option<&Known<'_>>,
        rounds: Option<&[RoundRecord]>,
        verifications: Option<&[VerificationRecord]>,
    ) {
        let Some(rows) = verifications else { return };
        self.all(
            rows,
            |v| v.drafter >= v.verifier || v.verifier.index() >= models,
            |v, at| format!("verifications, row {at}: no such pair: {} under {}", v.drafter, v.verifier),
        );
        let odd = |x: Option<f32>| x.is_some_and(|x| !(0.0..=1.0 + SLACK).contains(&x));
        self.all(
            rows,
            |v| v.accepted > v.drafted || odd(v.similarity),
            |v, at| {
                format!(
                    "verifications, row {at}: accepted is at most drafted and similarity in 0 to 1, got {v:?}"
                )
            },
        );
        if let Some(rounds) = rounds {
            let told: BTreeSet<(RequestId, u32)> = rounds.iter().map(|r| (r.request, r.round)).collect();
            let last: BTreeMap<RequestId, u32> = told.iter().copied().collect();
            let finished = |id: RequestId| {
                known.and_then(|known| known.get(&id)).is_some_and(|r| r.status == Status::Finished)
            };
            // The last round of an unfinished request has no row yet.
            let next = |id: RequestId| last.get(&id).map_or(0, |last| last.saturating_add(1));
            let lost = |v: &VerificationRecord| {
                !told.contains(&(v.request, v.round)) && (finished(v.request) || v.round != next(v.request))
            };
            self.all(rows, lost, |v, at| {
                format!("verifications, row {at}: no round {} of request {}", v.round, v.request)
            });
        }
    }

    fn texts(
        &mut self,
        known: Option<&Known<'_>>,
        texts: Option<&[TextRecord]>,
        tokens: Option<&[TokenRecord]>,
    ) {
        let Some(texts) = texts else { return };
        let unlike = |t: &TextRecord| match known.map(|known| known.get(&t.request)) {
            None => false,
            Some(None) => true,
            Some(Some(r)) => {
                t.output.len() != r.output_tokens as usize
                    || t.prompt.as_ref().is_some_and(|prompt| prompt.len() != r.prompt_tokens as usize)
            }
        };
        self.all(texts, unlike, |t, at| {
            format!("texts, row {at}: request {} has other lengths in requests, or is not there", t.request)
        });
        let scored: BTreeSet<RequestId> = tokens.unwrap_or_default().iter().map(|t| t.request).collect();
        let unscored = texts.iter().filter(|t| !t.output.is_empty() && !scored.contains(&t.request)).count();
        if unscored > 0 {
            let how = match texts.iter().all(|t| t.prompt.is_some()) {
                true => "`specrouter trace score` makes them",
                false => "they cannot be made: prompts were not kept",
            };
            self.missing.push(format!("scores of {unscored} of {} texts; {how}", texts.len()));
        }
    }

    fn tokens(&mut self, models: usize, known: Option<&Known<'_>>, tokens: Option<&[TokenRecord]>) {
        let Some(tokens) = tokens else { return };
        let (pairs, triples) = (pairs(models).count(), triples(models).count());
        let odd = |t: &TokenRecord| {
            t.models.len() != models
                || t.overlaps.len() != pairs
                || !(t.coins.is_empty() || t.coins.len() == triples)
        };
        self.all(tokens, odd, |t, at| {
            format!(
                "tokens, row {at}: lists must be of {models} models, {pairs} pairs and {triples} or no triples, got {}, {}, {}",
                t.models.len(),
                t.overlaps.len(),
                t.coins.len()
            )
        });
        let share = |x: f32| (-SLACK..=1.0 + SLACK).contains(&x);
        let outside = |t: &TokenRecord| {
            !t.overlaps.iter().chain(&t.coins).all(|&x| share(x))
                || !t.models.iter().all(|m| {
                    share(m.top_probability)
                        && m.entropy >= -SLACK
                        && m.log_probability.is_none_or(|l| l <= SLACK)
                })
        };
        self.all(tokens, outside, |t, at| {
            format!("tokens, row {at}: chances are in 0 to 1 and logarithms at most 0, got {t:?}")
        });
        let mut lengths: BTreeMap<RequestId, u32> = BTreeMap::new();
        let mut broken = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            let next = lengths.entry(token.request).or_default();
            if token.position != *next {
                broken.push((at, *next));
            }
            *next = token.position.saturating_add(1);
        }
        self.all(
            &broken,
            |_| true,
            |&(at, next), _| {
                format!("tokens, row {at}: expected position {next}, got {}", tokens[at].position)
            },
        );
        let Some(known) = known else { return };
        let unlike: Vec<_> = lengths
            .iter()
            .filter(|(id, length)| known.get(id).is_none_or(|r| r.output_tokens != **length))
            .collect();
        self.all(
            &unlike,
            |_| true,
            |(id, length), _| {
                format!("request {id}: tokens has {length} positions, requests has another number")
            },
        );
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
