//! How long prompts and outputs are, from what was served: a true output length is nobody's to know beforehand.

use crate::ids::{RequestId, Slot};

/// Output tokens believed of a request before any has ended, and how many requests that is worth.
const USUAL: f64 = 128.0;
const TRUST: f64 = 8.0;
/// Requests that the averages remember.
const MEMORY: f64 = 64.0;

/// Moving averages over requests.
pub(super) struct Lengths {
    /// By slot: who runs there, and the tokens delivered when it last started a round.
    running: Vec<Option<(RequestId, u32)>>,
    output: f64,
    ended: f64,
    prompt: f64,
    begun: f64,
}

impl Default for Lengths {
    fn default() -> Self {
        Self { running: Vec::new(), output: USUAL, ended: 0.0, prompt: 0.0, begun: 0.0 }
    }
}

impl Lengths {
    /// A sequence starts a round.
    pub fn see(&mut self, slot: Slot, request: RequestId, emitted: u32, prompt: u32) {
        if slot.index() >= self.running.len() {
            self.running.resize(slot.index() + 1, None);
        }
        let running = &mut self.running[slot.index()];
        if running.is_none_or(|(known, _)| known != request) {
            if let Some((_, ended)) = *running {
                self.ended = (self.ended + 1.0).min(MEMORY);
                self.output += (f64::from(ended) - self.output) / self.ended.max(TRUST);
            }
            self.begun = (self.begun + 1.0).min(MEMORY);
            self.prompt += (f64::from(prompt) - self.prompt) / self.begun;
        }
        *running = Some((request, emitted));
    }

    /// Mean output in tokens, at least 1.
    pub fn output(&self) -> f64 {
        self.output.max(1.0)
    }

    /// Mean prompt in tokens.
    pub fn prompt(&self) -> f64 {
        self.prompt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_when_another_takes_its_slot() {
        let mut lengths = Lengths::default();
        for request in 0..200 {
            lengths.see(Slot(0), RequestId(request), 1, 50);
            lengths.see(Slot(0), RequestId(request), 40, 50);
        }
        assert!((lengths.output() - 40.0).abs() < 5.0, "{}", lengths.output());
        assert!((lengths.prompt() - 50.0).abs() < 1e-9);
    }
}
