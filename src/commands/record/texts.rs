//! The generated texts, a JSON object a line, each with vLLM's speculative-decoding fields.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use specrouter_engine::backend::Finished;
use specrouter_engine::tokenizer::Tokenizer;
use specrouter_routing::ids::RequestId;
use specrouter_routing::record::RoundRecord;

use crate::scenario::Recording;

/// One request's rounds, in the words of vLLM's per-request object.
///
/// A step is a round that verified a draft; rounds without one bring their token and count in no
/// field. The mean acceptance length counts the correction or bonus token, as vLLM does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    drafted: Vec<u32>,
    accepted: Vec<u32>,
}

impl Steps {
    /// Adds a round.
    pub fn add(&mut self, round: &RoundRecord) {
        if round.drafted > 0 {
            self.drafted.push(u32::from(round.drafted));
            self.accepted.push(u32::from(round.accepted));
        }
    }

    /// The object that vLLM emits. Ratios are null where no draft was verified.
    pub fn to_json(&self) -> serde_json::Value {
        let (drafts, drafted) = (self.drafted.len(), self.drafted.iter().sum::<u32>());
        let accepted: u32 = self.accepted.iter().sum();
        let mut histogram = vec![0u32; self.accepted.iter().max().map_or(0, |&most| most as usize + 1)];
        let mut by_length: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (&drafted, &accepted) in self.drafted.iter().zip(&self.accepted) {
            histogram[accepted as usize] += 1;
            let own = by_length.entry(drafted).or_insert_with(|| vec![0; drafted as usize + 1]);
            own[accepted as usize] += 1;
        }
        let ratio = |value: f64| (drafts > 0).then_some(value);
        json!({
            "mean_acceptance_length": ratio(1.0 + f64::from(accepted) / drafts as f64),
            "draft_acceptance_rate": ratio(f64::from(accepted) / f64::from(drafted)),
            "acceptance_histogram": histogram,
            "acceptance_histogram_by_draft_length": by_length,
            "per_step_accepted": self.accepted,
            "per_step_drafted": self.drafted,
        })
    }
}

/// Writes texts as they are finished: what a killed run had finished is there.
pub struct Texts {
    file: File,
    path: PathBuf,
}

impl Texts {
    /// Opens `texts.jsonl` in `folder`.
    ///
    /// # Errors
    /// Whatever the disk says, with the path.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let path = folder.join("texts.jsonl");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file, path })
    }

    /// Writes one text.
    ///
    /// # Errors
    /// Whatever the disk says, with the path.
    pub fn write(&mut self, recording: &Recording, text: &Finished, steps: &Steps) -> anyhow::Result<()> {
        let (ready, _) = recording.prompt(text.request.0);
        let output = decoded(recording.tokenizer.as_ref(), text, &recording.stop)?;
        let line = json!({
            "request": text.request.0,
            "id": ready.text.id,
            "domain": ready.text.domain,
            "prompt_tokens": text.prompt_tokens,
            "output_tokens": text.output().len(),
            "text": output,
            "token_ids": text.output(),
            "finish_reason": if text.stopped { "stop" } else { "length" },
            "spec_decode": steps.to_json(),
        });
        // One write a line, so a line is whole or the last.
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The output without its stop token; null where there is no tokenizer.
fn decoded(tokenizer: Option<&Tokenizer>, text: &Finished, stop: &[u32]) -> anyhow::Result<Option<String>> {
    let Some(tokenizer) = tokenizer else { return Ok(None) };
    let output = text.output();
    let output = match output.split_last() {
        Some((last, before)) if stop.contains(last) => before,
        _ => output,
    };
    Ok(Some(tokenizer.decode(output)?))
}

/// Steps of every running request.
#[derive(Default)]
pub struct StepBook(BTreeMap<RequestId, Steps>);

impl StepBook {
    /// Notes a round.
    pub fn add(&mut self, round: &RoundRecord) {
        self.0.entry(round.request).or_default().add(round);
    }

    /// The steps of a request that has ended.
    pub fn take(&mut self, request: RequestId) -> Steps {
        self.0.remove(&request).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_as_vllm_tells_them() {
        let steps = Steps { drafted: vec![3, 3, 2], accepted: vec![3, 0, 1] };
        insta::assert_snapshot!(steps.to_json().to_string(), @r#"{"acceptance_histogram":[1,1,0,1],"acceptance_histogram_by_draft_length":{"2":[0,1,0],"3":[1,0,0,1]},"draft_acceptance_rate":0.5,"mean_acceptance_length":2.333333333333333,"per_step_accepted":[3,0,1],"per_step_drafted":[3,3,2]}"#);
        assert!(Steps::default().to_json()["mean_acceptance_length"].is_null());
    }
}
