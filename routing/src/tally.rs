//! What a replica counts as it goes: enough for every summary and plot, small enough to be always
//! on. Tallies of replicas add up.

use std::collections::BTreeMap;

use crate::chain::{MAX_BLOCK, MAX_MODELS};
use crate::ids::ModelId;
use crate::profile::PassShape;
use crate::units::{Span, Time};

/// Widest block that can stand before a verifier: Σ windows.
const WIDTH: usize = MAX_BLOCK as usize + 1;

/// Time and tokens of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelTally {
    /// Passes.
    pub passes: u64,
    /// Σ rows over passes.
    pub rows: u64,
    /// Tokens run through it.
    pub new_tokens: u64,
    /// Of those, catch-up, prefill and probes.
    pub catch_up_tokens: u64,
    /// Time of its passes.
    pub busy: Span,
    /// The share of `busy` that catch-up, prefill and probes took, by tokens, in nanoseconds.
    pub catch_up_nanos: f64,
    /// Tokens it put up to the level above, or to the committed text if it is the target.
    pub proposed_tokens: u64,
    /// Of those, kept.
    pub kept_tokens: u64,
}

/// Verifications of one drafter by one verifier: `count(drafted, accepted)`.
///
/// A sufficient statistic for acceptance by position: full acceptances are censored, and say so by
/// `accepted == drafted`.
#[derive(Clone, Debug, PartialEq)]
pub struct PairTally {
    counts: Vec<u64>,
    /// Positions where both distributions were compared.
    pub examined: u64,
    /// Σ similarity over them.
    pub similarity: f64,
}

impl Default for PairTally {
    fn default() -> Self {
        Self { counts: vec![0; WIDTH * WIDTH], examined: 0, similarity: 0.0 }
    }
}

impl PairTally {
    /// One verification.
    #[inline]
    pub fn add(&mut self, drafted: u8, accepted: u8, examined: u8, similarity: f32) {
        self.counts[usize::from(drafted) * WIDTH + usize::from(accepted)] += 1;
        self.examined += u64::from(examined);
        self.similarity += f64::from(similarity);
    }

    /// How often a block of `drafted` tokens had `accepted` of them kept.
    pub fn count(&self, drafted: usize, accepted: usize) -> u64 {
        self.counts[drafted * WIDTH + accepted]
    }

    /// `(tried, kept)` at each position of the block: of the verifications that reached the
    /// position, how many kept its token.
    pub fn by_position(&self) -> Vec<(u64, u64)> {
        let mut at = vec![(0, 0); WIDTH - 1];
        for drafted in 0..WIDTH {
            for accepted in 0..=drafted {
                let n = self.count(drafted, accepted);
                for (position, slot) in at.iter_mut().enumerate().take(drafted) {
                    slot.0 += if accepted >= position { n } else { 0 };
                    slot.1 += if accepted > position { n } else { 0 };
                }
            }
        }
        at.truncate(at.iter().rposition(|&(tried, _)| tried > 0).map_or(0, |last| last + 1));
        at
    }

    /// Tokens drafted and tokens accepted, over all verifications.
    pub fn totals(&self) -> (u64, u64) {
        let cells = (0..WIDTH).flat_map(|d| (0..=d).map(move |a| (d, a)));
        cells.fold((0, 0), |(drafted, accepted), (d, a)| {
            let n = self.count(d, a);
            (drafted + n * d as u64, accepted + n * a as u64)
        })
    }

    /// `(verifications, of those with every token kept)`, blocks of 0 left out.
    pub fn full(&self) -> (u64, u64) {
        (1..WIDTH).fold((0, 0), |(all, full), d| {
            (all + (0..=d).map(|a| self.count(d, a)).sum::<u64>(), full + self.count(d, d))
        })
    }

    fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        self.examined += other.examined;
        self.similarity += other.similarity;
    }
}

/// Gaps between deliveries, in buckets 1/32 of a doubling wide (2.2 %).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GapTally {
    counts: Vec<u64>,
    total: u64,
}

impl GapTally {
    /// One gap.
    #[inline]
    pub fn add(&mut self, gap: Span) {
        let index = Self::bucket(gap.nanos());
        if index >= self.counts.len() {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
        self.total += 1;
    }

    /// Number of gaps.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// True without gaps.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The `q`-quantile in seconds, to 2.2 %: the middle of its bucket. `None` without gaps.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = ((self.total as f64 * q).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        self.counts.iter().enumerate().find_map(|(index, &n)| {
            seen += n;
            (n > 0 && seen >= rank).then(|| (Self::edge(index) + Self::edge(index + 1)) * 0.5e-9)
        })
    }

    /// `(upper edge in seconds, gaps at or below it)` for every bucket in use: a CDF.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let mut seen = 0;
        let edges = self.counts.iter().enumerate().filter(|&(_, &n)| n > 0);
        edges
            .map(|(index, &n)| {
                seen += n;
                (Self::edge(index + 1) * 1e-9, seen)
            })
            .collect()
    }

    /// Adds the gaps of another.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        self.total += other.total;
    }

    #[inline]
    fn bucket(nanos: u64) -> usize {
        if nanos < 32 {
            return nanos as usize;
        }
        let power = 63 - nanos.leading_zeros(); // at least 5
        ((power as usize - 5) << 5) + 32 + ((nanos >> (power - 5)) as usize & 31)
    }

    fn edge(index: usize) -> f64 {
        if index < 32 {
            return index as f64;
        }
        let (power, step) = ((index - 32) / 32, (index - 32) % 32);
        (32 + step) as f64 * (1u64 << power) as f64
    }
}

/// State of a replica over one stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stretch {
    /// Time covered by passes, in nanoseconds.
    pub busy_nanos: f64,
    /// ∫ requests waiting dt over passes, in requests × nanoseconds.
    pub queued: f64,
    /// ∫ requests running dt over passes.
    pub running: f64,
    /// ∫ KV blocks used dt over passes.
    pub kv_blocks: f64,
    /// Output tokens committed.
    pub tokens: u64,
    /// Sequence-rounds begun, by the set of models in their chain (bit i = model i).
    pub chains: BTreeMap<u8, u64>,
}

/// A series of stretches of equal width. The width doubles when there would be more than
/// [`Series::MOST`], so its size does not grow with the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// log2 of a stretch's nanoseconds.
    shift: u32,
    stretches: Vec<Stretch>,
}

impl Default for Series {
    fn default() -> Self {
        Self { shift: 24, stretches: Vec::new() } // 17 ms
    }
}

impl Series {
    /// Most stretches of a series.
    pub const MOST: usize = 256;

    /// The stretch that holds `time`.
    #[inline]
    pub fn at(&mut self, time: Time) -> &mut Stretch {
        let mut index = (time.nanos() >> self.shift) as usize;
        while index >= Self::MOST {
            self.double();
            index /= 2;
        }
        if index >= self.stretches.len() {
            self.stretches.resize_with(index + 1, Stretch::default);
        }
        &mut self.stretches[index]
    }

    /// Width of a stretch.
    pub fn width(&self) -> Span {
        Span::from_nanos(1 << self.shift)
    }

    /// The stretches from the beginning of the run.
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    fn double(&mut self) {
        self.shift += 1;
        let mut halves = std::mem::take(&mut self.stretches).into_iter();
        while let Some(mut first) = halves.next() {
            if let Some(second) = halves.next() {
                first.add(&second);
            }
            self.stretches.push(first);
        }
    }

    fn merge(&mut self, mut other: Self) {
        while self.shift < other.shift {
            self.double();
        }
        while other.shift < self.shift {
            other.double();
        }
        if self.stretches.len() < other.stretches.len() {
            self.stretches.resize_with(other.stretches.len(), Stretch::default);
        }
        self.stretches.iter_mut().zip(&other.stretches).for_each(|(a, b)| a.add(b));
    }
}

impl Stretch {
    fn add(&mut self, other: &Self) {
        self.busy_nanos += other.busy_nanos;
        self.queued += other.queued;
        self.running += other.running;
        self.kv_blocks += other.kv_blocks;
        self.tokens += other.tokens;
        for (&chain, &rounds) in &other.chains {
            *self.chains.entry(chain).or_default() += rounds;
        }
    }
}

/// Everything a replica counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// By model of the pool.
    pub models: Vec<ModelTally>,
    /// By drafter × [`MAX_MODELS`] + verifier; `None` where nothing was verified.
    pairs: Vec<Option<Box<PairTally>>>,
    /// Gaps between deliveries.
    pub gaps: GapTally,
    /// The run over time.
    pub series: Series,
    /// Sequence-rounds committed, the prefill's included.
    pub rounds: u64,
    /// Tokens put before the target, accepted by it, and committed.
    pub drafted_tokens: u64,
    /// Of the drafted, accepted by the target.
    pub accepted_tokens: u64,
    /// Committed.
    pub emitted_tokens: u64,
    /// Probe rows run.
    pub probes: u64,
    /// Preemptions.
    pub preemptions: u64,
    /// Plans that were given a shorter chain because KV memory was short.
    pub shortened_plans: u64,
    /// Decisions asked of the policy, and sequences planned by them.
    pub decisions: u64,
    /// Sum over passes of `PassCosts` belief and observed seconds: how well the policy's profile
    /// foretells.
    pub predicted_seconds: f64,
    /// Observed seconds of the same passes.
    pub observed_seconds: f64,
}

impl Tally {
    /// An empty tally of a pool of `models`.
    pub fn new(models: usize) -> Self {
        Self { models: vec![ModelTally::default(); models], ..Self::default() }
    }

    /// Every pair that was verified, as `((drafter, verifier), tally)`.
    pub fn pairs(&self) -> impl Iterator<Item = ((ModelId, ModelId), &PairTally)> {
        let id = |index: usize| ModelId(index as u8);
        let key = move |index: usize| (id(index / MAX_MODELS), id(index % MAX_MODELS));
        self.pairs.iter().enumerate().filter_map(move |(index, pair)| Some((key(index), pair.as_deref()?)))
    }

    /// One pair.
    pub fn pair(&self, drafter: ModelId, verifier: ModelId) -> Option<&PairTally> {
        self.pairs.get(drafter.index() * MAX_MODELS + verifier.index())?.as_deref()
    }

    /// One pair, to add to.
    #[inline]
    pub fn pair_mut(&mut self, drafter: ModelId, verifier: ModelId) -> &mut PairTally {
        if self.pairs.is_empty() {
            self.pairs.resize_with(MAX_MODELS * MAX_MODELS, || None);
        }
        self.pairs[drafter.index() * MAX_MODELS + verifier.index()].get_or_insert_default()
    }

    /// One pass.
    #[inline]
    pub fn pass(&mut self, model: ModelId, shape: &PassShape, duration: Span) {
        let tally = &mut self.models[model.index()];
        tally.passes += 1;
        tally.rows += u64::from(shape.rows);
        tally.new_tokens += u64::from(shape.new_tokens);
        tally.busy += duration;
        if shape.catch_up_tokens > 0 {
            tally.catch_up_tokens += u64::from(shape.catch_up_tokens);
            tally.catch_up_nanos += duration.nanos() as f64 * f64::from(shape.catch_up_tokens)
                / f64::from(shape.new_tokens.max(1));
        }
    }

    /// Adds the tally of another replica of the same pool.
    pub fn merge(&mut self, other: Self) {
        for (a, b) in self.models.iter_mut().zip(&other.models) {
            a.passes += b.passes;
            a.rows += b.rows;
            a.new_tokens += b.new_tokens;
            a.catch_up_tokens += b.catch_up_tokens;
            a.busy += b.busy;
            a.catch_up_nanos += b.catch_up_nanos;
            a.proposed_tokens += b.proposed_tokens;
            a.kept_tokens += b.kept_tokens;
        }
        for ((drafter, verifier), tally) in other.pairs() {
            self.pair_mut(drafter, verifier).merge(tally);
        }
        self.gaps.merge(&other.gaps);
        self.series.merge(other.series);
        self.rounds += other.rounds;
        self.drafted_tokens += other.drafted_tokens;
        self.accepted_tokens += other.accepted_tokens;
        self.emitted_tokens += other.emitted_tokens;
        self.probes += other.probes;
        self.preemptions += other.preemptions;
        self.shortened_plans += other.shortened_plans;
        self.decisions += other.decisions;
        self.predicted_seconds += other.predicted_seconds;
        self.observed_seconds += other.observed_seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_quantiles_are_within_their_bucket() {
        let mut gaps = GapTally::default();
        (1..=1000u64).for_each(|ms| gaps.add(Span::from_nanos(ms * 1_000_000)));
        for q in [0.01, 0.5, 0.9, 0.99] {
            let truth = q;
            assert!((gaps.quantile(q).unwrap() / truth - 1.0).abs() < 0.025, "{q}");
        }
        assert_eq!(GapTally::default().quantile(0.5), None);
    }

    #[test]
    fn a_series_keeps_its_totals_when_its_width_doubles() {
        let mut series = Series::default();
        for second in 0..1000u64 {
            series.at(Time::from_nanos(second * 1_000_000_000)).tokens += 1;
        }
        assert!(series.stretches().len() <= Series::MOST);
        assert_eq!(series.stretches().iter().map(|s| s.tokens).sum::<u64>(), 1000);
    }

    #[test]
    fn positions_count_only_what_was_reached() {
        let mut pair = PairTally::default();
        pair.add(3, 3, 3, 3.0);
        pair.add(3, 1, 2, 1.0);
        pair.add(1, 0, 1, 0.0);
        assert_eq!(pair.by_position(), vec![(3, 2), (2, 1), (1, 1)]);
        assert_eq!((pair.totals(), pair.full()), ((7, 4), (3, 1)));
    }
}
