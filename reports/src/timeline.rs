//! The beginning of a run as a trace that Perfetto and chrome://tracing open.
//!
//! One process per replica with one track per model (its passes) and counters of waiting and running
//! requests; one process of request lanes: a lane holds one request after the other, each as a span
//! of waiting and prefill (to the first token) and one of decoding.

use std::collections::BTreeSet;
use std::fmt::Write;

use specrouter_routing::record::{PassRecord, RequestRecord, Sink, Wants};
use specrouter_routing::units::{Span, Time};

/// Keeps the first requests of a run and the passes until the last of them has ended.
#[derive(Clone, Debug, Default)]
pub struct TimelineSink {
    requests: Vec<RequestRecord>,
    passes: Vec<PassRecord>,
}

impl TimelineSink {
    /// Requests that a timeline shows: those with the lowest ids.
    pub const REQUESTS: usize = 2000;
    /// Passes that it shows at most; a viewer grows slow beyond.
    pub const PASSES: usize = 400_000;

    /// True once nothing more is kept.
    fn full(&self) -> bool {
        self.requests.len() >= Self::REQUESTS || self.passes.len() >= Self::PASSES
    }

    /// The trace as `timeline.json` (Chrome's trace-event format), model names from `pool`.
    pub fn json(&self, pool: &[String]) -> String {
        let mut events = Events::default();
        let replicas: BTreeSet<u32> = self.passes.iter().map(|p| p.replica.0).collect();
        for replica in replicas {
            let pid = replica + 1;
            events.name("process_name", pid, 0, &format!("replica {replica}"));
            for (index, model) in pool.iter().enumerate() {
                events.name("thread_name", pid, index as u32 + 1, model);
                events.order(pid, index as u32 + 1);
            }
        }
        for pass in &self.passes {
            events.pass(pass, pool);
        }
        self.lanes(&mut events);
        events.finish()
    }

    fn lanes(&self, events: &mut Events) {
        const LANES: u32 = 0;
        let mut requests: Vec<&RequestRecord> = self.requests.iter().collect();
        requests.sort_by_key(|r| r.id);
        let mut free: BTreeSet<u32> = BTreeSet::new();
        let mut taken: BTreeSet<(Time, u32)> = BTreeSet::new();
        let mut lanes = 0;
        events.name("process_name", LANES, 0, "requests");
        for request in requests {
            let Some(end) = request.last_token.or(request.first_token) else { continue };
            while let Some(&(until, lane)) = taken.first() {
                if until > request.arrival {
                    break;
                }
                taken.pop_first();
                free.insert(lane);
            }
            let lane = free.pop_first().unwrap_or_else(|| {
                lanes += 1;
                events.name("thread_name", LANES, lanes, &format!("lane {lanes}"));
                events.order(LANES, lanes);
                lanes
            });
            taken.insert((end, lane));
            events.request(request, end, lane);
        }
    }
}

impl Sink for TimelineSink {
    fn wants(&self) -> Wants {
        Wants { passes: true, ..Wants::default() }
    }

    fn request(&mut self, record: &RequestRecord) {
        if record.id.0 < Self::REQUESTS as u64 {
            self.requests.push(*record);
        }
    }

    fn pass(&mut self, record: &PassRecord) {
        if !self.full() {
            self.passes.push(*record);
        }
    }
}

/// Events written one by one, so a long trace is held once.
#[derive(Default)]
struct Events {
    text: String,
}

impl Events {
    fn next(&mut self) {
        self.text.push_str(if self.text.is_empty() {
            "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
        } else {
            ",\n"
        });
    }

    /// Names process `pid` or its track `tid`.
    fn name(&mut self, what: &str, pid: u32, tid: u32, name: &str) {
        self.next();
        let name = quoted(name);
        self.write(format_args!(
            r#"{{"ph":"M","name":"{what}","pid":{pid},"tid":{tid},"args":{{"name":{name}}}}}"#
        ));
    }

    /// Tracks stand in the order of their ids.
    fn order(&mut self, pid: u32, tid: u32) {
        self.next();
        self.write(format_args!(
            r#"{{"ph":"M","name":"thread_sort_index","pid":{pid},"tid":{tid},"args":{{"sort_index":{tid}}}}}"#
        ));
    }

    fn pass(&mut self, p: &PassRecord, pool: &[String]) {
        let (pid, tid) = (p.replica.0 + 1, u32::from(p.model.0) + 1);
        let fallback = format!("model {}", p.model);
        let name = quoted(&format!("{} x{}", pool.get(p.model.index()).unwrap_or(&fallback), p.shape.rows));
        self.next();
        self.write(format_args!(
            r#"{{"ph":"X","name":{name},"cat":"pass","pid":{pid},"tid":{tid},"ts":{},"dur":{},"args":{{"tick":{},"rows":{},"new_tokens":{},"catch_up_tokens":{},"context_tokens":{},"kv_blocks_used":{}}}}}"#,
            micros(p.start.nanos()),
            micros(p.duration.nanos()),
            p.tick,
            p.shape.rows,
            p.shape.new_tokens,
            p.shape.catch_up_tokens,
            p.shape.context_tokens,
            p.kv_blocks_used,
        ));
        let end = micros((p.start + p.duration).nanos());
        for (name, value) in [("queue", p.queued), ("running", p.running)] {
            self.next();
            self.write(format_args!(
                r#"{{"ph":"C","name":"{name}","pid":{pid},"ts":{end},"args":{{"requests":{value}}}}}"#
            ));
        }
    }

    fn request(&mut self, r: &RequestRecord, end: Time, lane: u32) {
        let first = r.first_token.unwrap_or(end);
        let args = format!(
            r#"{{"request":{},"class":{},"replica":{},"prompt_tokens":{},"output_tokens":{},"rounds":{},"preemptions":{},"status":"{}"}}"#,
            r.id,
            r.class,
            r.replica,
            r.prompt_tokens,
            r.output_tokens,
            r.rounds,
            r.preemptions,
            r.status.as_str(),
        );
        let spans = [
            ("wait and prefill".to_owned(), r.arrival, first),
            (format!("decode x{}", r.output_tokens), first, end),
        ];
        for (name, from, to) in spans {
            let length = to.since(from).unwrap_or(Span::ZERO);
            self.next();
            self.write(format_args!(
                r#"{{"ph":"X","name":"{name}","cat":"request","pid":0,"tid":{lane},"ts":{},"dur":{},"args":{args}}}"#,
                micros(from.nanos()),
                micros(length.nanos()),
            ));
        }
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a string takes every text");
    }

    fn finish(mut self) -> String {
        self.text += "\n]}\n";
        self.text
    }
}

/// Microseconds with all nanoseconds kept.
fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use specrouter_routing::ids::{ModelId, ReplicaId};
    use specrouter_routing::profile::PassShape;

    use super::*;
    use crate::summary::tests::request;

    fn pass(start: u64) -> PassRecord {
        PassRecord {
            replica: ReplicaId(0),
            tick: start,
            model: ModelId(1),
            start: Time::from_nanos(start),
            duration: Span::from_nanos(1500),
            after: specrouter_routing::backend::After::Same,
            shape: PassShape::uniform(3, 5, 100),
            queued: 2,
            running: 3,
            kv_blocks_used: 7,
        }
    }

    fn sink(requests: u64, passes: u64) -> TimelineSink {
        let mut sink = TimelineSink::default();
        (0..requests).for_each(|i| sink.request(&request(i, 0, 1, 2, 2)));
        (0..passes).for_each(|i| sink.pass(&pass(i * 2000)));
        sink
    }

    fn events(sink: &TimelineSink) -> Vec<serde_json::Value> {
        let json = sink.json(&["a \"quoted\" <model>".into(), "large".into()]);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        value["traceEvents"].as_array().unwrap().clone()
    }

    #[test]
    fn passes_become_slices_on_the_track_of_their_model() {
        let events = events(&sink(1, 2));
        let slices: Vec<_> = events.iter().filter(|e| e["cat"] == "pass").collect();
        assert_eq!((slices.len(), &slices[0]["pid"], &slices[0]["tid"]), (2, &1.into(), &2.into()));
        assert_eq!((&slices[1]["ts"], &slices[1]["dur"]), (&2.0.into(), &1.5.into()));
        assert_eq!((&slices[0]["args"]["rows"], &slices[0]["args"]["new_tokens"]), (&3.into(), &15.into()));
        assert_eq!(events.iter().filter(|e| e["ph"] == "C").count(), 4);
        assert!(events.iter().any(|e| e["args"]["name"] == "a \"quoted\" <model>"));
    }

    #[test]
    fn requests_that_overlap_get_lanes_of_their_own_and_lanes_are_used_again() {
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        let mut sink = TimelineSink::default();
        for (id, from, to) in [(0, 0, 10), (1, 5, 20), (2, 12, 30)] {
            sink.request(&RequestRecord { arrival: at(from), ..request(id, 0, from + 1, to, 4) });
        }
        let events = events(&sink);
        let decodes: Vec<_> =
            events.iter().filter(|e| e["name"] == "decode x4").map(|e| e["tid"].clone()).collect();
        assert_eq!(decodes, [1, 2, 1]);
    }

    #[test]
    fn it_keeps_the_first_two_thousand_requests_and_stops_when_they_have_ended() {
        let mut sink = sink(TimelineSink::REQUESTS as u64 + 10, 5);
        assert_eq!((sink.requests.len(), sink.passes.len()), (TimelineSink::REQUESTS, 0));
        sink.pass(&pass(0));
        assert!(sink.passes.is_empty());
        assert!(events(&TimelineSink::default()).len() <= 1);
    }
}
