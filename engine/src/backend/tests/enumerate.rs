//! Every outcome of every coin, with its chance, through the real serving loop.
//!
//! A state is all that later passes can depend on; a script of choices that leads to it stands for
//! all scripts that do. Pass by pass, every state's representative is run again and its next pass is
//! run once for each outcome of the coins it tosses; states that are alike are merged.

use std::collections::{BTreeMap, BTreeSet};

use super::policies::State;
use super::*;
use crate::coins::Key;

/// Takes outcomes from a script, and past its end the first that is possible.
#[derive(Default)]
pub struct Scripted {
    script: Vec<u16>,
    at: usize,
    /// Choices from here on have their chances multiplied into `mass`.
    base: usize,
    mass: f64,
    /// For each choice past the script as it was given: how many outcomes it had.
    widths: Vec<u16>,
    /// Keys drawn so far: in production none comes twice.
    drawn: BTreeSet<Key>,
    /// Where draws do come again: the range that each key's uniform number is known to lie in.
    ranges: Option<BTreeMap<Key, (f64, f64)>>,
}

impl Scripted {
    fn new(script: Vec<u16>, base: usize, again: bool) -> Self {
        let ranges = again.then(BTreeMap::new);
        Self { script, base, mass: 1.0, ranges, ..Self::default() }
    }

    /// Tosses a coin whose outcomes are cells of [0, 1), one after another, of these sizes.
    fn toss(&mut self, key: Key, cells: impl Iterator<Item = f64>) -> usize {
        let (low, high) = match &self.ranges {
            Some(ranges) => ranges.get(&key).copied().unwrap_or((0.0, 1.0)),
            None => {
                assert!(self.drawn.insert(key), "R5: no draw comes again, but {key:?} did");
                (0.0, 1.0)
            }
        };
        let mut possible = Vec::new();
        let mut start = 0.0;
        for (outcome, size) in cells.enumerate() {
            let (from, to) = (f64::max(start, low), f64::min(start + size, high));
            // A whole cell keeps its exact size: adding sizes up would round it.
            let chance = if self.ranges.is_none() { size } else { (to - from) / (high - low) };
            if chance > 1e-14 {
                possible.push((outcome, from, to, chance));
            }
            start += size;
        }
        let choice = match self.script.get(self.at) {
            Some(&choice) => usize::from(choice),
            None => {
                self.script.push(0);
                self.widths.push(possible.len() as u16);
                0
            }
        };
        let (outcome, from, to, chance) = possible[choice];
        if self.at >= self.base {
            self.mass *= chance;
        }
        self.at += 1;
        if let Some(ranges) = &mut self.ranges {
            ranges.insert(key, (from, to));
        }
        outcome
    }
}

impl Coins for Scripted {
    fn categorical<W>(&mut self, key: Key, weights: W, total: f64) -> usize
    where
        W: Iterator<Item = f64> + Clone,
    {
        self.toss(key, weights.map(|w| w / total))
    }

    fn accept(&mut self, key: Key, probability: f64) -> bool {
        self.toss(key, [probability, 1.0 - probability].into_iter()) == 0
    }
}

/// What is enumerated: the jobs of a world under a policy. The last job is the one that is watched;
/// the others, if any, must toss no coins.
pub struct Setup {
    pub world: World,
    pub jobs: Vec<Job>,
    pub policy: Box<dyn Fn() -> (Box<dyn Policy>, State)>,
}

impl Setup {
    pub fn new(world: World, job: Job, policy: impl Fn() -> (Box<dyn Policy>, State) + 'static) -> Self {
        Self { world, jobs: vec![job], policy: Box::new(policy) }
    }

    pub fn always(world: World, job: Job, plan: ChainPlan) -> Self {
        Self::new(world, job, move || (Box::new(policies::Always(plan)), State::default()))
    }
}

/// The law of something about a run, and what was seen on the way.
#[derive(Default)]
pub struct Law {
    pub of: BTreeMap<Vec<u32>, f64>,
    pub states: u64,
    pub runs: u64,
    /// Runs in which a pass kept tokens of an intermediate level's block, and in which it rejected
    /// some.
    pub kept: u64,
    pub rejected: u64,
    /// States with a block pending and no cache: preempted in mid-round.
    pub preempted: u64,
}

/// The law of the watched request's first `tokens` output tokens, or of all if it ends before.
pub fn law(setup: &Setup, tokens: usize) -> Law {
    law_of(setup, |output, ended| (ended || output.len() >= tokens).then(|| output.len().min(tokens)))
}

/// The law of the watched request's output when `end` first answers, cut to what it answers.
pub fn law_of(setup: &Setup, end: impl Fn(&[u32], bool) -> Option<usize>) -> Law {
    let mut law = Law::default();
    let mut level = BTreeMap::from([(Vec::new(), (1.0, Vec::new()))]);
    for ticks in 1.. {
        assert!(ticks < 400, "every script comes to its end");
        let mut next: BTreeMap<Vec<u64>, (f64, Vec<u16>)> = BTreeMap::new();
        for (mass, script) in level.into_values() {
            law.states += 1;
            let mut stack = vec![script.clone()];
            while let Some(given) = stack.pop() {
                law.runs += 1;
                let length = given.len();
                let (mut machine, state) = reach(setup, given, script.len(), ticks);
                for seen in &machine.sink.verifications {
                    law.kept += u64::from(seen.level == 1 && seen.accepted > 0);
                    law.rejected += u64::from(seen.level == 1 && seen.accepted < seen.drafted);
                }
                let more = machine.begin();
                let coins = &machine.backend.hand.coins;
                for (index, &width) in coins.widths.iter().enumerate() {
                    let before = &coins.script[..length + index];
                    stack.extend((1..width).map(|other| [before, &[other]].concat()));
                }
                let mass = mass * coins.mass;
                let watched = RequestId(setup.jobs.len() as u64 - 1);
                let finished = machine.backend.finished.iter().find(|f| f.request == watched);
                let running = machine.backend.contents.iter().flatten().find(|c| c.request == watched);
                let output = match (finished, running) {
                    (Some(finished), _) => finished.output(),
                    (None, Some(running)) => &running.text[running.prompt..],
                    (None, None) => &[],
                };
                if let Some(cut) = end(output, finished.is_some()) {
                    *law.of.entry(output[..cut].to_vec()).or_default() += mass;
                    continue;
                }
                assert!(more, "a request that has not ended has a pass to wait for");
                law.preempted += u64::from(machine.preempted_in_mid_round());
                let entry = next.entry(machine.key(&state)).or_insert_with(|| (0.0, coins.script.clone()));
                entry.0 += mass;
            }
        }
        if next.is_empty() {
            return law;
        }
        level = next;
    }
    law
}

/// Runs a script through `ticks` passes.
fn reach(setup: &Setup, script: Vec<u16>, base: usize, ticks: u32) -> (Machine<Scripted>, State) {
    let again = matches!(setup.world.broken, Some(Broken::ReusedDraws));
    let (policy, state) = (setup.policy)();
    let mut machine = Machine::new(&setup.world, policy, Scripted::new(script, base, again));
    for (id, job) in setup.jobs.iter().enumerate() {
        machine.submit(id as u64, job);
    }
    for _ in 0..ticks {
        assert!(machine.begin());
        machine.finish();
        machine.check();
    }
    (machine, state)
}

impl Machine<Scripted> {
    /// All that the next passes can depend on, once the next has begun.
    fn key(&self, state: &State) -> Vec<u64> {
        let mut key: Vec<u64> = state.lock().unwrap().iter().map(|&s| u64::from(s)).collect();
        let mut word = |word: u64| key.push(word);
        for (slot, contents) in self.backend.contents.iter().enumerate() {
            let Some(contents) = contents else { continue };
            word(contents.request.0 << 32 | contents.text.len() as u64);
            contents.text.iter().for_each(|&t| word(u64::from(t)));
            for block in &contents.blocks {
                word(block.len() as u64);
                for p in block {
                    word(u64::from(p.token) << 8 | u64::from(p.level));
                    p.distribution.iter().for_each(|(_, q)| word(q.to_bits()));
                }
            }
            self.backend.models.iter().for_each(|m| word(m.cache(slot).len() as u64));
            let Some(ranges) = &self.backend.hand.coins.ranges else { continue };
            for (key, range) in ranges.iter().filter(|(k, _)| k.position as usize >= contents.output()) {
                word(u64::from(key.position) << 32 | u64::from(key.model.0) << 8 | key.purpose as u64);
                word(range.0.to_bits());
                word(range.1.to_bits());
            }
        }
        let pass = self.replica.pass();
        for (model, id) in (0..self.backend.models.len()).map(|m| (m, ModelId(m as u8))) {
            word(u64::from(self.replica.kv().free(id)) << 8 | model as u64);
        }
        word(u64::from(pass.model().0));
        // Who was in the last pass has not waited for one; with `hold_passes` of 1 that is all that
        // is remembered of waiting.
        format!("{} {:?} {:?}", self.last, pass.cohorts(), pass.rows())
            .bytes()
            .for_each(|b| word(u64::from(b)));
        key
    }

    fn preempted_in_mid_round(&self) -> bool {
        let empty = |slot: usize| self.backend.models.iter().all(|m| m.cache(slot).is_empty());
        let mut contents = self.backend.contents.iter().enumerate();
        contents.any(|(slot, c)| {
            c.as_ref().is_some_and(|c| c.blocks.iter().any(|b| !b.is_empty())) && empty(slot)
        })
    }
}

/// The target's own law of the first `tokens` output tokens of a job.
pub fn target_law(world: &World, job: &Job, tokens: usize) -> BTreeMap<Vec<u32>, f64> {
    let mut law = BTreeMap::new();
    let mut open = vec![(Vec::new(), 1.0)];
    while let Some((output, mass)) = open.pop() {
        let stopped = output.last().is_some_and(|t| job.stop.contains(t));
        if stopped || output.len() >= tokens.min(job.limit as usize) {
            *law.entry(output).or_default() += mass;
            continue;
        }
        let text = [&job.prompt[..], &output[..]].concat();
        for (token, p) in world.target().next(&text, &job.sampling).iter().filter(|&(_, p)| p > 0.0) {
            open.push(([&output[..], &[token]].concat(), mass * p));
        }
    }
    law
}

/// The greatest difference between two laws, at any outcome.
pub fn distance(a: &BTreeMap<Vec<u32>, f64>, b: &BTreeMap<Vec<u32>, f64>) -> f64 {
    let outcomes: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let at = |law: &BTreeMap<Vec<u32>, f64>, outcome| law.get(outcome).copied().unwrap_or(0.0);
    outcomes.into_iter().map(|o| (at(a, o) - at(b, o)).abs()).fold(0.0, f64::max)
}
