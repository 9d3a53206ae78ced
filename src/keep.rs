//! What a run keeps: the report's collector and the trace's writer, listening together.

use std::path::{Path, PathBuf};

use specrouter_reports::Collector;
use specrouter_routing::record::{
    DecisionRecord, PassRecord, RequestRecord, RoundRecord, Sink, TextRecord, TokenRecord,
    VerificationRecord, Wants,
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

/// Methods of [`Sink`] that both hear.
macro_rules! both {
    ($($method:ident($record:ty)),+) => {
        $(fn $method(&mut self, record: $record) {
            self.collector.$method(record);
            if let Some(writer) = &mut self.writer {
                writer.$method(record);
            }
        })+
    };
}

impl Sink for Both {
    fn wants(&self) -> Wants {
        let (a, b) = (self.collector.wants(), self.writer.as_ref().map(Sink::wants).unwrap_or_default());
        Wants {
            passes: a.passes || b.passes,
            verifications: a.verifications || b.verifications,
            rounds: a.rounds || b.rounds,
            decisions: a.decisions || b.decisions,
            texts: a.texts || b.texts,
            tokens: a.tokens || b.tokens,
        }
    }

    both!(
        request(&RequestRecord),
        gap(Span),
        pass(&PassRecord),
        verification(&VerificationRecord),
        round(&RoundRecord),
        decision(&DecisionRecord),
        text(&TextRecord),
        token(&TokenRecord)
    );
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
