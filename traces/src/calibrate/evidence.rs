//! What traces say of acceptance, gathered: scored texts, and judged blocks.

use std::collections::BTreeMap;

use specrouter_routing::ids::RequestId;
use specrouter_routing::record::{
    RequestRecord, RoundRecord, TokenRecord, Verdict, VerificationRecord, pair_index, pairs,
};

/// Who a row is about: the run and the request. Arms of one run meet the same requests, so theirs are one
/// cluster: they are no new evidence of how requests differ.
pub type Cluster = (usize, u64);

/// The acceptance side of one trace.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Number of the run: traces of one scenario and seed share it.
    pub run: usize,
    /// For each of the trace's models its place in [`Evidence::pool`].
    pub models: &'a [usize],
    /// For each of the trace's classes its place in [`Evidence::classes`].
    pub classes: &'a [usize],
    /// Every request.
    pub requests: &'a [RequestRecord],
    /// Every verification.
    pub verifications: &'a [VerificationRecord],
    /// Every round.
    pub rounds: &'a [RoundRecord],
    /// Every scored position; empty where there are none.
    pub tokens: &'a [TokenRecord],
}

/// A scored text: what the models say of each position, from the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Whose.
    pub cluster: Cluster,
    /// Its class.
    pub class: usize,
    /// `[pair][position]`, pairs as [`pairs`] lists them: the chance that a token is kept.
    pub overlaps: Vec<Vec<f32>>,
    /// `[model][position]`: probability of the likeliest token.
    pub top_probability: Vec<Vec<f32>>,
    /// `[model][position]`: entropy in nats.
    pub entropy: Vec<Vec<f32>>,
}

impl Text {
    /// Scored positions.
    pub fn len(&self) -> usize {
        self.overlaps.first().map_or(0, Vec::len)
    }

    /// Is nothing scored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A block before its verifier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    /// Whose; `None` where the source does not say, and then there is no interval.
    pub cluster: Option<Cluster>,
    /// Its class.
    pub class: usize,
    /// Who proposed.
    pub drafter: usize,
    /// Who judged.
    pub verifier: usize,
    /// Tokens judged at most.
    pub drafted: u32,
    /// Tokens kept.
    pub accepted: u32,
    /// A token was rejected; without that, `accepted` is a lower bound.
    pub rejected: bool,
}

/// A round's block before the target, placed on its text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// Index of the text.
    pub text: usize,
    /// Output position of the block's first token.
    pub position: u32,
    /// Place of the chain's last pair in the order of [`pairs`].
    pub pair: usize,
    /// Tokens put before the target.
    pub drafted: u32,
    /// Tokens kept.
    pub accepted: u32,
}

/// Everything known of who keeps whose token.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Models by name, cheapest first, target last.
    pub pool: Vec<String>,
    /// Classes by name.
    pub classes: Vec<String>,
    /// Scored texts.
    pub texts: Vec<Text>,
    /// Judged blocks.
    pub blocks: Vec<Block>,
    /// Rounds on scored texts.
    pub placed: Vec<Placed>,
}

impl Evidence {
    /// Nothing known yet.
    pub fn new(pool: Vec<String>, classes: Vec<String>) -> Self {
        Self { pool, classes, ..Self::default() }
    }

    /// Adds a trace. Rows of requests that the trace does not list are left aside, as are scores of a trace
    /// with a part of the pool.
    pub fn add(&mut self, seen: &Observed<'_>) {
        let class_of: BTreeMap<RequestId, usize> =
            seen.requests.iter().filter_map(|r| Some((r.id, *seen.classes.get(r.class.index())?))).collect();
        for v in seen.verifications.iter().filter(|v| v.drafted > 0) {
            let model = |index: usize| seen.models.get(index).copied();
            if let (Some(&class), Some(drafter), Some(verifier)) =
                (class_of.get(&v.request), model(v.drafter.index()), model(v.verifier.index()))
            {
                self.blocks.push(Block {
                    cluster: Some((seen.run, v.request.0)),
                    class,
                    drafter,
                    verifier,
                    drafted: u32::from(v.drafted),
                    accepted: u32::from(v.accepted),
                    rejected: v.verdict == Verdict::Reject,
                });
            }
        }
        if seen.models.len() == self.pool.len() {
            self.add_texts(seen, &class_of);
        }
    }

    fn add_texts(&mut self, seen: &Observed<'_>, class_of: &BTreeMap<RequestId, usize>) {
        let models = self.pool.len();
        let mut order: Vec<&TokenRecord> = seen
            .tokens
            .iter()
            .filter(|t| t.models.len() == models && t.overlaps.len() == pairs(models).count())
            .collect();
        order.sort_by_key(|t| (t.request, t.position));
        let mut text_of: BTreeMap<RequestId, usize> = BTreeMap::new();
        for tokens in order.chunk_by(|a, b| a.request == b.request) {
            let request = tokens[0].request;
            // A text is scored from its first position on, each once; what is not is no text.
            let whole = tokens.iter().enumerate().all(|(place, token)| token.position as usize == place);
            let Some(&class) = class_of.get(&request).filter(|_| whole) else { continue };
            let column = |value: &dyn Fn(&TokenRecord) -> f32| tokens.iter().map(|t| value(t)).collect();
            text_of.insert(request, self.texts.len());
            self.texts.push(Text {
                cluster: (seen.run, request.0),
                class,
                overlaps: (0..pairs(models).count()).map(|p| column(&|t| t.overlaps[p])).collect(),
                top_probability: (0..models).map(|m| column(&|t| t.models[m].top_probability)).collect(),
                entropy: (0..models).map(|m| column(&|t| t.models[m].entropy)).collect(),
            });
        }
        for round in seen.rounds.iter().filter(|r| r.drafted > 0) {
            let chain = round.plan.models();
            if let (Some(&text), [.., drafter, verifier]) = (text_of.get(&round.request), chain) {
                self.placed.push(Placed {
                    text,
                    position: round.position,
                    pair: pair_index(models, drafter.index(), verifier.index()),
                    drafted: u32::from(round.drafted),
                    accepted: u32::from(round.accepted),
                });
            }
        }
    }
}
