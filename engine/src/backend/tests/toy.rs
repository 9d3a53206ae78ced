//! A model that is a table: the next token depends on the last two. It checks every pass against its
//! cache, and poisons what is truncated.

use std::sync::Arc;

use specrouter_routing::ids::Slot;
use specrouter_routing::luck::{Luck, Stream};

use crate::level::{ForwardError, LevelModel, Packed};
use crate::sampling::{Distribution, Sampling, Warper};

/// What stands where tokens were truncated.
const POISON: u32 = u32::MAX;

/// Logits for every pair of last tokens; a text of one token has none before it.
pub struct Table {
    pub vocabulary: u32,
    rows: Vec<Vec<f32>>,
}

impl Table {
    /// `of(before, last)` gives the next token's weights.
    pub fn new(vocabulary: u32, of: impl Fn(Option<u32>, u32) -> Vec<f64>) -> Arc<Self> {
        let befores = std::iter::once(None).chain((0..vocabulary).map(Some));
        let pairs = befores.flat_map(|before| (0..vocabulary).map(move |last| (before, last)));
        let logits = |(before, last)| of(before, last).iter().map(|w| w.ln() as f32).collect();
        Arc::new(Self { vocabulary, rows: pairs.map(logits).collect() })
    }

    /// The same distribution whatever stands before.
    pub fn constant(weights: &[f64]) -> Arc<Self> {
        Self::new(weights.len() as u32, |_, _| weights.to_vec())
    }

    /// Random weights: a part shared by every model of a family, and a part of this model's own.
    pub fn random(vocabulary: u32, family: u64, own: u64, apart: f64) -> Arc<Self> {
        let draws = Luck::new(family).stream(Stream::Test);
        Self::new(vocabulary, |before, last| {
            let context = u64::from(before.map_or(0, |b| b + 1) * 64 + last);
            let shared = |token| draws.normal(context, token);
            let mine = |token| draws.normal(1 << 32 | own << 16 | context, token);
            (0..u64::from(vocabulary)).map(|t| (1.2 * shared(t) + apart * mine(t)).exp()).collect()
        })
    }

    pub fn logits(&self, text: &[u32]) -> &[f32] {
        let last = text[text.len() - 1];
        let before = if text.len() > 1 { text[text.len() - 2] + 1 } else { 0 };
        &self.rows[(before * self.vocabulary + last) as usize]
    }

    /// The warped distribution after `text`.
    pub fn next(&self, text: &[u32], sampling: &Sampling) -> Distribution {
        let mut p = Distribution::default();
        Warper::default().warp(self.logits(text), sampling, &mut p).unwrap();
        p
    }
}

#[derive(Default)]
struct Cache {
    tokens: Vec<u32>,
    len: usize,
}

pub struct Toy {
    name: String,
    table: Arc<Table>,
    caches: Vec<Cache>,
    pub tokens_run: u64,
}

impl Toy {
    pub fn new(index: usize, table: &Arc<Table>) -> Self {
        Self { name: format!("toy-{index}"), table: table.clone(), caches: Vec::new(), tokens_run: 0 }
    }

    /// What the cache of `slot` holds.
    pub fn cache(&self, slot: usize) -> &[u32] {
        self.caches.get(slot).map_or(&[], |cache| &cache.tokens[..cache.len])
    }
}

impl LevelModel for Toy {
    fn name(&self) -> &str {
        &self.name
    }

    fn vocabulary(&self) -> usize {
        self.table.vocabulary as usize
    }

    fn forward(&mut self, packed: &Packed, logits: &mut Vec<f32>) -> Result<(), ForwardError> {
        logits.clear();
        assert!(packed.want.is_sorted_by(|a, b| a < b));
        let (mut at, mut wants) = (0, packed.want.iter().peekable());
        for (index, row) in packed.rows.iter().enumerate() {
            assert!(row.tokens > 0);
            assert!(packed.rows[..index].iter().all(|other| other.slot != row.slot), "a slot comes once");
            let slot = row.slot.index();
            if self.caches.len() <= slot {
                self.caches.resize_with(slot + 1, Cache::default);
            }
            let cache = &mut self.caches[slot];
            assert_eq!(cache.len, row.context as usize, "the row begins where the cache ends");
            for &token in &packed.tokens[at..at + row.tokens as usize] {
                if token >= self.table.vocabulary {
                    let (model, vocabulary) = (self.name.clone(), self.table.vocabulary);
                    return Err(ForwardError::Token { model, vocabulary, token });
                }
                cache.tokens.truncate(cache.len);
                cache.tokens.push(token);
                cache.len += 1;
                let text = &cache.tokens[..cache.len];
                assert!(!text[text.len().saturating_sub(2)..].contains(&POISON), "nothing truncated is read");
                if wants.next_if(|&&want| want as usize == at).is_some() {
                    logits.extend_from_slice(self.table.logits(text));
                }
                at += 1;
                self.tokens_run += 1;
            }
        }
        assert!(wants.next().is_none() && at == packed.tokens.len());
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, len: u32) {
        if let Some(cache) = self.caches.get_mut(slot.index()) {
            cache.len = cache.len.min(len as usize);
            cache.tokens[cache.len..].fill(POISON);
        }
    }

    fn cached(&self, slot: Slot) -> u32 {
        self.caches.get(slot.index()).map_or(0, |cache| cache.len as u32)
    }
}
