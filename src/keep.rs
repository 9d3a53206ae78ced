//! What a run keeps: the report's collector and the trace's writer, listening together.

use std::path::{Path, PathBuf};

use specrouter_reports::Collector;
use specrouter_routing::record::{
    DecisionRecord, PassRecord, RequestRecord, RoundRecord, Sink, VerificationRecord, Wants,
};
use specrouter_routing::units::Span;
use specrouter_traces::TraceWriter;

/// Where an arm's tables of one seed go: names as file names, loads beside each other.
pub fn folder(out: &Path, arm: &str, load: Option<f64>, seed: u64) -> PathBuf {
    let mut name: String =
        arm.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    while name.contains("--") {
        name = name.replace("--", "-");
    }
    let arms = out.join("arms").join(name.trim_matches('-'));
    let arms = load.map_or(arms.clone(), |load| arms.join(format!("load-{load}")));
    arms.join(format!("seed-{seed}"))
}

/// The report's collector and the trace's writer, listening together.
pub struct Both {
    /// The report's.
    pub collector: Collector,
    /// The trace's, where one is written.
    pub writer: Option<TraceWriter>,
}

impl Sink for Both {
    fn wants(&self) -> Wants {
        let (a, b) = (self.collector.wants(), self.writer.as_ref().map(Sink::wants).unwrap_or_default());
        Wants {
            passes: a.passes || b.passes,
            verifications: a.verifications || b.verifications,
            rounds: a.rounds || b.rounds,
            decisions: a.decisions || b.decisions,
        }
    }

    fn request(&mut self, record: &RequestRecord) {
        self.collector.request(record);
        if let Some(writer) = &mut self.writer {
            writer.request(record);
        }
    }

    fn gap(&mut self, gap: Span) {
        self.collector.gap(gap);
    }

    fn pass(&mut self, record: &PassRecord) {
        self.collector.pass(record);
        if let Some(writer) = &mut self.writer {
            writer.pass(record);
        }
    }

    fn verification(&mut self, record: &VerificationRecord) {
        self.collector.verification(record);
        if let Some(writer) = &mut self.writer {
            writer.verification(record);
        }
    }

    fn round(&mut self, record: &RoundRecord) {
        self.collector.round(record);
        if let Some(writer) = &mut self.writer {
            writer.round(record);
        }
    }

    fn decision(&mut self, record: &DecisionRecord) {
        self.collector.decision(record);
        if let Some(writer) = &mut self.writer {
            writer.decision(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_become_folder_names() {
        let at = |arm, load| folder(Path::new("out"), arm, load, 7).display().to_string();
        assert_eq!(
            at("static llama-68m>llama-3.1-8b (4)", None),
            "out/arms/static-llama-68m-llama-3.1-8b-4/seed-7"
        );
        assert_eq!(at("specrouter", Some(0.5)), "out/arms/specrouter/load-0.5/seed-7");
    }
}
