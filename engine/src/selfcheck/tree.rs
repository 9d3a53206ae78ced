//! A model of one prompt, computed once: the logits behind every short continuation that was ever met.
//!
//! A distribution is counted over a million outputs of the same prompt. Their contexts are few, so each is run
//! through the model once and looked up afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use specrouter_routing::ids::Slot;

use crate::level::{ForwardError, LevelModel, Packed, PackedRow};

/// Contexts that are run through the model in one pass.
const AT_ONCE: usize = 32;

/// What a model says behind `prompt` and at most `depth` tokens more. Behind longer texts it says what it said
/// behind the first `depth` tokens of them: a model of its own, which is the real one as far as `depth + 1`
/// output tokens go.
///
/// Clones share what was computed, and have caches of their own.
#[derive(Debug)]
pub struct Tree<M> {
    name: String,
    vocabulary: usize,
    prompt: Arc<[u32]>,
    depth: usize,
    grown: Arc<Mutex<Grown<M>>>,
    /// Tokens in each slot's cache: of the prompt, and the output's.
    caches: Vec<(usize, Vec<u32>)>,
}

#[derive(Debug)]
struct Grown<M> {
    model: M,
    nodes: Vec<Node>,
    logits: Vec<f32>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: BTreeMap<u32, usize>,
    logits: Option<Arc<[f32]>>,
}

impl<M> Clone for Tree<M> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            vocabulary: self.vocabulary,
            prompt: self.prompt.clone(),
            depth: self.depth,
            grown: self.grown.clone(),
            caches: Vec::new(),
        }
    }
}

impl<M: LevelModel> Tree<M> {
    /// The tree of `model`, whose caches are empty, behind `prompt` of at least one token.
    pub fn new(model: M, prompt: &[u32], depth: usize) -> Self {
        let (name, vocabulary) = (model.name().to_owned(), model.vocabulary());
        let grown = Arc::new(Mutex::new(Grown { model, nodes: vec![Node::default()], logits: Vec::new() }));
        Self { name, vocabulary, prompt: prompt.into(), depth, grown, caches: Vec::new() }
    }

    /// Contexts that were computed.
    pub fn computed(&self) -> usize {
        let grown = self.grown.lock().unwrap_or_else(PoisonError::into_inner);
        grown.nodes.iter().filter(|node| node.logits.is_some()).count()
    }

    /// `[V]` logits behind the prompt and each of `outputs`.
    ///
    /// # Errors
    /// [`ForwardError`], from the model.
    pub fn logits(&self, outputs: &[Vec<u32>]) -> Result<Vec<Arc<[f32]>>, ForwardError> {
        let mut grown = self.grown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = Vec::new();
        let mut at = Vec::with_capacity(outputs.len());
        for output in outputs {
            let path = &output[..output.len().min(self.depth)];
            let node = grown.node(path);
            if grown.nodes[node].logits.is_none() && !missing.iter().any(|&(other, _)| other == node) {
                missing.push((node, path));
            }
            at.push(node);
        }
        for some in missing.chunks(AT_ONCE) {
            grown.compute(&self.prompt, some, self.vocabulary)?;
        }
        Ok(at.iter().filter_map(|&node| grown.nodes[node].logits.clone()).collect())
    }

    fn wrong(&self, what: &'static str, expected: usize, got: usize) -> ForwardError {
        let (expected, got) = (expected as u64, got as u64);
        ForwardError::Rows { model: self.name.clone(), what, expected, got }
    }
}

impl<M: LevelModel> Grown<M> {
    /// The node of a path, made if it is new.
    fn node(&mut self, path: &[u32]) -> usize {
        path.iter().fold(0, |node, token| {
            if let Some(&child) = self.nodes[node].children.get(token) {
                return child;
            }
            self.nodes.push(Node::default());
            let child = self.nodes.len() - 1;
            self.nodes[node].children.insert(*token, child);
            child
        })
    }

    /// Runs at most [`AT_ONCE`] contexts in one pass. Every slot keeps the prompt from pass to pass.
    fn compute(
        &mut self,
        prompt: &[u32],
        contexts: &[(usize, &[u32])],
        vocabulary: usize,
    ) -> Result<(), ForwardError> {
        let mut packed = Packed::default();
        for (index, (_, path)) in contexts.iter().enumerate() {
            let slot = Slot(index as u32);
            // The last token is run again where its logits are wanted.
            self.model.truncate(slot, (prompt.len() - usize::from(path.is_empty())) as u32);
            let context = self.model.cached(slot);
            let before = packed.tokens.len();
            packed.tokens.extend(prompt.iter().chain(*path).skip(context as usize));
            let tokens = (packed.tokens.len() - before) as u32;
            packed.rows.push(PackedRow { slot, context, tokens });
            packed.want.push(packed.tokens.len() as u32 - 1);
        }
        self.model.forward(&packed, &mut self.logits)?;
        for ((node, _), logits) in contexts.iter().zip(self.logits.chunks_exact(vocabulary)) {
            self.nodes[*node].logits = Some(logits.into());
        }
        Ok(())
    }
}

impl<M: LevelModel> LevelModel for Tree<M> {
    fn name(&self) -> &str {
        &self.name
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn forward(&mut self, packed: &Packed, logits: &mut Vec<f32>) -> Result<(), ForwardError> {
        logits.clear();
        let mut outputs = Vec::with_capacity(packed.want.len());
        let (mut at, mut wants) = (0, packed.want.iter().peekable());
        for row in &packed.rows {
            let slot = row.slot.index();
            if self.caches.len() <= slot {
                self.caches.resize_with(slot + 1, Default::default);
            }
            let cached = self.cached(row.slot);
            if cached != row.context {
                return Err(self.wrong("context of a row", cached as usize, row.context as usize));
            }
            for &token in &packed.tokens[at..at + row.tokens as usize] {
                let (known, output) = &mut self.caches[slot];
                if *known < self.prompt.len() {
                    let expected = self.prompt[*known];
                    *known += 1;
                    if token != expected {
                        return Err(self.wrong("token of the prompt", expected as usize, token as usize));
                    }
                } else {
                    output.push(token);
                }
                if wants.next_if(|&&want| want as usize == at).is_some() {
                    let (known, output) = &self.caches[slot];
                    if *known < self.prompt.len() {
                        return Err(self.wrong("tokens before the first logits", self.prompt.len(), *known));
                    }
                    outputs.push(output[..output.len().min(self.depth)].to_vec());
                }
                at += 1;
            }
        }
        for row in self.logits(&outputs)? {
            logits.extend_from_slice(&row);
        }
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, len: u32) {
        if let Some((known, output)) = self.caches.get_mut(slot.index()) {
            *known = (*known).min(len as usize);
            output.truncate((len as usize).saturating_sub(self.prompt.len()));
        }
    }

    fn cached(&self, slot: Slot) -> u32 {
        self.caches.get(slot.index()).map_or(0, |(known, output)| (known + output.len()) as u32)
    }
}
