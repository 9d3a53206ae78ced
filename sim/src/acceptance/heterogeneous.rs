//! Heterogeneous acceptance: at each position the models' distributions are an explicit set system.
//!
//! With probability π all models agree, else a set of models is drawn with weights λ^h; a proposal of
//! `i` is kept by `k` iff `i` is in the set, given that `k` is. λ^h = (λ − π̄·[all]) / (1 − π̄), so the
//! marginals are the configured matrix for any law of π with mean π̄: a Beta law across requests, two
//! regimes along the output.

use specrouter_routing::ids::ModelId;

use super::beta;
use super::config::{AcceptanceError, RegimeConfig};
use super::constant::Matrix;
use super::law::{Coins, Cursor, Law, OffPath, Pair, Sequence, Walk};
use super::set_system::{MOST_MODELS, SetSystem, Table};
use super::signals;

/// π̄ as a share of the agreement λ allows. The rest stays in λ^h, so that requests which never agree
/// by π still accept something of everybody.
pub(crate) const SHARE: f64 = 0.95;
/// What a mask says besides its members: all agree by π.
const AGREED: u8 = 0xff;
/// Marks the second draw of a position, for depth, in the key's place for verifiers.
const THINNING: u8 = 0x40;

/// The set system of each class, and what varies π.
#[derive(Clone, Debug)]
pub struct Heterogeneous {
    /// The classes', and after them those of each class once the text has drifted.
    classes: Vec<System>,
    /// The first request of the drifted text, and how far its systems lie behind the others.
    drift: Option<(u64, u16)>,
    /// 1 / ln(1 − 1 / stay_tokens), where there are regimes.
    regime: Option<f64>,
    target: ModelId,
    /// Factors on λ^h by drafter and depth; empty for 1.
    depth: Vec<Vec<f64>>,
    deep: bool,
}

/// Where a class's π comes from, and what is drawn where the models do not agree.
#[derive(Clone, Debug)]
struct System {
    /// Configured acceptance; 0 for pairs the pool does not have.
    rates: [[f64; MOST_MODELS]; MOST_MODELS],
    /// Acceptance where the models do not agree by π.
    apart: [[f64; MOST_MODELS]; MOST_MODELS],
    /// Sets with the model.
    with: Vec<Table>,
    /// Sets with the first model and without the second, at `first · MOST_MODELS + second`.
    parting: Vec<Table>,
    /// Equally likely requests.
    latents: Vec<Latent>,
    /// Correlation of the copula that gives signals their rank correlation.
    follow: f64,
}

/// A request's π in both regimes, with their normal scores among all of the class.
#[derive(Clone, Copy, Debug, Default)]
struct Latent {
    low: f64,
    high: f64,
    low_score: f64,
    high_score: f64,
}

/// What the acceptance of a class is made of.
pub(crate) struct Settings<'a> {
    /// Models of the pool, cheapest first.
    pub names: &'a [&'a str],
    /// By class: its name and its matrix.
    pub classes: &'a [(String, Matrix)],
    /// From which request on, and by class.
    pub drift: Option<(u64, &'a [(String, Matrix)])>,
    pub request_spread: f64,
    pub regime: Option<RegimeConfig>,
    /// By model.
    pub depth: Vec<Vec<f64>>,
    pub signal_correlation: f64,
}

impl Heterogeneous {
    pub(crate) fn new(settings: Settings<'_>) -> Result<Self, AcceptanceError> {
        let models = settings.names.len();
        if models > MOST_MODELS {
            return Err(AcceptanceError::PoolTooLarge { most: MOST_MODELS, got: models });
        }
        if let Some(regime) = settings.regime
            && regime.stay_tokens.get() < 1.0
        {
            return Err(AcceptanceError::Stay(regime.stay_tokens.get()));
        }
        let drifted = settings.drift.map_or(&[][..], |(_, classes)| classes);
        let classes = settings.classes.iter().chain(drifted);
        let classes = classes.map(|(class, matrix)| System::new(class, matrix, &settings));
        Ok(Self {
            classes: classes.collect::<Result<_, _>>()?,
            drift: settings.drift.map(|(from, _)| (from, settings.classes.len() as u16)),
            regime: settings.regime.map(|r| 1.0 / libm::log1p(-1.0 / r.stay_tokens.get())),
            target: ModelId(models.saturating_sub(1) as u8),
            deep: settings.depth.iter().flatten().any(|factor| libm::fabs(factor - 1.0) > 0.0),
            depth: settings.depth,
        })
    }

    /// The configured acceptance.
    pub(crate) fn rate(&self, class: usize, drafter: ModelId, verifier: ModelId) -> f64 {
        self.classes[class].rates[drafter.index()][verifier.index()]
    }

    /// Standard deviation across requests of the acceptance of a pair.
    pub(crate) fn request_spread(&self, class: usize, drafter: ModelId, verifier: ModelId) -> f64 {
        let system = &self.classes[class];
        let apart = system.apart[drafter.index()][verifier.index()];
        let (mut sum, mut squares) = (0.0, 0.0);
        for latent in &system.latents {
            let pi = (latent.low + latent.high) / 2.0;
            let rate = pi + (1.0 - pi) * apart;
            sum += rate;
            squares += rate * rate;
        }
        let n = system.latents.len() as f64;
        libm::sqrt((squares / n - sum * sum / (n * n)).max(0.0))
    }

    /// Moves a cursor to the run that covers `position`, from the start if it lies behind.
    #[inline]
    fn seek(&self, coins: &Coins, sequence: &Sequence, cursor: Cursor, position: u32) -> Cursor {
        if position >= cursor.start && position < cursor.end {
            cursor
        } else {
            self.go(coins, sequence, cursor, position)
        }
    }

    #[cold]
    fn go(&self, coins: &Coins, sequence: &Sequence, mut cursor: Cursor, position: u32) -> Cursor {
        let Some(inverse) = self.regime else { return Cursor { start: 0, end: u32::MAX, run: 0 } };
        if position < cursor.start || cursor.end == 0 {
            cursor = Cursor { start: 0, end: self.run(coins, sequence, inverse, 0), run: 0 };
        }
        while position >= cursor.end {
            let run = cursor.run.saturating_add(1);
            let length = self.run(coins, sequence, inverse, run);
            cursor = Cursor { start: cursor.end, end: cursor.end.saturating_add(length), run };
            if cursor.end == u32::MAX {
                break;
            }
        }
        cursor
    }

    /// The length of a run: geometric, at least 1.
    fn run(&self, coins: &Coins, sequence: &Sequence, inverse: f64, run: u32) -> u32 {
        let u = coins.request.uniform(sequence.request.0, 1 + u64::from(run));
        (libm::log(1.0 - u) * inverse).min(f64::from(u32::MAX - 1)) as u32 + 1
    }

    /// Is the high regime on at a position.
    #[inline]
    fn high(&self, walk: &mut Walk<'_>, position: u32) -> bool {
        walk.cursor = self.seek(walk.coins, walk.sequence, walk.cursor, position);
        walk.cursor.run.is_multiple_of(2) == walk.sequence.high_first
    }

    /// π at a position.
    #[inline]
    fn agreement(&self, walk: &mut Walk<'_>, position: u32) -> f64 {
        if self.regime.is_some() && self.high(walk, position) {
            walk.sequence.high
        } else {
            walk.sequence.low
        }
    }

    /// Where the run that the walk stands in ends, at most `end`.
    #[inline]
    fn run_end(&self, walk: &Walk<'_>, end: u32) -> u32 {
        if self.regime.is_some() { walk.cursor.end.min(end) } else { end }
    }

    #[inline]
    fn system(&self, walk: &Walk<'_>) -> &System {
        &self.classes[usize::from(walk.sequence.class)]
    }

    /// The factor on λ^h at a depth.
    #[inline]
    fn factor(&self, drafter: ModelId, depth: u32) -> f64 {
        let factors = &self.depth[drafter.index()];
        factors.get((depth as usize).min(factors.len().saturating_sub(1))).copied().unwrap_or(1.0)
    }

    /// Is the drafter in the set, once its depth has thinned or filled the sets it is in.
    #[inline]
    fn member(&self, set: u8, walk: &Walk<'_>, pair: Pair, luck: impl FnOnce() -> f64) -> bool {
        let member = set >> pair.drafter.0 & 1 == 1;
        if !self.deep || set == AGREED {
            return member;
        }
        let factor = self.factor(pair.drafter, pair.depth);
        if factor < 1.0 {
            member && luck() < factor
        } else if factor > 1.0 && !member {
            let apart = self.system(walk).apart[pair.drafter.index()][pair.verifier.index()];
            luck() * (1.0 - apart) < (factor * apart).min(1.0) - apart
        } else {
            member
        }
    }
}

impl System {
    fn new(class: &str, matrix: &Matrix, settings: &Settings<'_>) -> Result<Self, AcceptanceError> {
        let names = settings.names;
        let models = names.len();
        let lambda = SetSystem::solve(models, matrix).ok_or_else(|| infeasible(class, matrix, names))?;
        // All models alike leave nothing to be apart in; a π̄ below 1 keeps λ^h defined.
        let mean = SHARE * lambda.agreement();
        let apart = lambda.without(mean);

        let to_target: Vec<f64> =
            (0..models.saturating_sub(1)).filter_map(|m| matrix[m][models - 1]).collect();
        let spread = settings.request_spread;
        let mut deviation = 0.0;
        if spread > 0.0 && !to_target.is_empty() {
            // α(π) = π + (1 − π)·α^h, so 1 − α is (1 − π)·(1 − ᾱ) / (1 − π̄).
            let rejected = 1.0 - to_target.iter().sum::<f64>() / to_target.len() as f64;
            let largest = rejected / (1.0 - mean) * libm::sqrt(beta::MOST_VARIANCE * mean * (1.0 - mean));
            if spread > largest {
                return Err(AcceptanceError::Spread { class: class.to_owned(), asked: spread, largest });
            }
            deviation = spread * (1.0 - mean) / rejected;
        }
        let swing = settings.regime.map_or(0.0, |r| r.spread.get());
        let mut latents: Vec<Latent> = beta::atoms(mean, deviation)
            .into_iter()
            .map(|pi| {
                let swing = swing.min(pi).min(1.0 - pi);
                Latent { low: pi - swing, high: pi + swing, ..Latent::default() }
            })
            .collect();
        let values: Vec<f64> = latents.iter().flat_map(|l| [l.low, l.high]).collect();
        let scores = signals::normal_scores(&values);
        for (latent, scores) in latents.iter_mut().zip(scores.chunks(2)) {
            (latent.low_score, latent.high_score) = (scores[0], scores[1]);
        }
        let follow = signals::copula(&scores, settings.signal_correlation);

        let mut rates = [[0.0; MOST_MODELS]; MOST_MODELS];
        let mut left = [[0.0; MOST_MODELS]; MOST_MODELS];
        let mut parting = vec![apart.table(0, Some(0)); MOST_MODELS * MOST_MODELS];
        for i in 0..models {
            for k in 0..models {
                rates[i][k] = matrix[i.min(k)][i.max(k)].unwrap_or_else(|| lambda.mass(1 << i | 1 << k));
                left[i][k] = apart.mass(1 << i | 1 << k).min(1.0);
                let table = apart.table(i, Some(k));
                // Only thinning by depth can ask for a parting that λ^h does not have.
                parting[i * MOST_MODELS + k] = if table.is_empty() { apart.table(i, None) } else { table };
            }
        }
        let with = (0..models).map(|m| apart.table(m, None)).collect();
        Ok(Self { rates, apart: left, with, parting, latents, follow })
    }
}

impl System {
    /// What is drawn among the sets with `holder` when all agree with probability `pi`. The set is
    /// looked up either way: whether all agree is a coin no branch predictor foresees.
    #[inline]
    fn scene(&self, holder: ModelId, pi: f64, u: f64) -> u8 {
        let set = self.with[holder.index()].draw((u - pi) * (1.0 / (1.0 - pi)));
        std::hint::select_unpredictable(u < pi, AGREED, set)
    }
}

/// Names the triple that breaks the triangle of total variation, or else the whole pool.
fn infeasible(class: &str, matrix: &Matrix, names: &[&str]) -> AcceptanceError {
    let far = |i: usize, k: usize| matrix[i.min(k)][i.max(k)].map(|rate| 1.0 - rate);
    let models = names.len();
    let mut worst: Option<(f64, AcceptanceError)> = None;
    for i in 0..models {
        for k in i + 1..models {
            for by in (0..models).filter(|&by| by != i && by != k) {
                if let (Some(direct), Some(near), Some(rest)) = (far(i, k), far(i, by), far(by, k))
                    && direct > near + rest
                    && worst.as_ref().is_none_or(|(most, _)| direct - near - rest > *most)
                {
                    let error = AcceptanceError::Triangle {
                        class: class.to_owned(),
                        models: [i, k, by].map(|m| names[m].to_owned()),
                        far: direct,
                        near,
                        rest,
                    };
                    worst = Some((direct - near - rest, error));
                }
            }
        }
    }
    let whole = || AcceptanceError::NoSetSystem { class: class.to_owned(), models: names.join(", ") };
    worst.map_or_else(whole, |(_, error)| error)
}

impl Law for Heterogeneous {
    type Scene = u8;

    fn admit(&self, coins: &Coins, sequence: &mut Sequence) {
        if let Some((_, behind)) = self.drift.filter(|(from, _)| sequence.request.0 >= *from) {
            sequence.class += behind;
        }
        let latents = &self.classes[usize::from(sequence.class)].latents;
        let (which, first) = coins.request.uniform_pair(sequence.request.0, 0);
        let latent = (which * latents.len() as f64) as usize;
        sequence.latent = latent as u16;
        (sequence.low, sequence.high) = (latents[latent].low, latents[latent].high);
        sequence.high_first = first < 0.5;
    }

    #[inline]
    fn settle(&self, coins: &Coins, sequence: &mut Sequence, committed: u32) {
        if self.regime.is_some() {
            sequence.cursor = self.seek(coins, sequence, sequence.cursor, committed);
        }
    }

    #[inline]
    fn on_path(&self, walk: &mut Walk<'_>, position: u32) -> u8 {
        let pi = self.agreement(walk, position);
        let u = walk.coins.on_path(walk.sequence.request, position, self.target.0);
        self.system(walk).scene(self.target, pi, u)
    }

    #[inline]
    fn keeps(&self, set: u8, walk: &Walk<'_>, position: u32, pair: Pair) -> bool {
        let luck = || walk.coins.on_path(walk.sequence.request, position, THINNING | pair.drafter.0);
        self.member(set, walk, pair, luck)
    }

    #[inline]
    fn beyond(&self, walk: &mut Walk<'_>, position: u32, holder: ModelId, off: &mut OffPath<'_>) -> u8 {
        let pi = self.agreement(walk, position);
        self.system(walk).scene(holder, pi, off.uniform())
    }

    #[inline]
    fn leaving(&self, walk: &Walk<'_>, _: Option<u32>, pair: Pair, off: &mut OffPath<'_>) -> u8 {
        self.system(walk).parting[pair.drafter.index() * MOST_MODELS + pair.verifier.index()]
            .draw(off.uniform())
    }

    #[inline]
    fn keeps_off(&self, set: u8, walk: &Walk<'_>, pair: Pair, off: &mut OffPath<'_>) -> bool {
        self.member(set, walk, pair, || off.uniform())
    }

    #[inline]
    fn similarity(&self, walk: &mut Walk<'_>, position: u32, pair: Pair) -> f64 {
        let pi = self.agreement(walk, position);
        let mut apart = self.system(walk).apart[pair.drafter.index()][pair.verifier.index()];
        if self.deep {
            apart = (apart * self.factor(pair.drafter, pair.depth)).min(1.0);
        }
        pi + (1.0 - pi) * apart
    }

    #[inline]
    fn similarities(
        &self,
        mut walk: Walk<'_>,
        first: u32,
        count: u32,
        drafter: ModelId,
        verifier: ModelId,
    ) -> f64 {
        let end = first + count;
        let (mut sum, mut position) = (0.0, first);
        while position < end {
            let pair = Pair { drafter, verifier, depth: position - first };
            let similarity = self.similarity(&mut walk, position, pair);
            let next = if self.deep { position + 1 } else { self.run_end(&walk, end) };
            sum += similarity * f64::from(next - position);
            position = next;
        }
        sum
    }

    #[inline]
    fn prefix(&self, mut walk: Walk<'_>, first: u32, count: u32, drafter: ModelId, target: ModelId) -> u32 {
        let mut kept = 0;
        if self.deep {
            while kept < count {
                let scene = self.on_path(&mut walk, first + kept);
                if !self.keeps(scene, &walk, first + kept, Pair { drafter, verifier: target, depth: kept }) {
                    break;
                }
                kept += 1;
            }
            return kept;
        }
        // The same, with what does not change within a run outside the loop.
        let table = &self.system(&walk).with[self.target.index()];
        let request = walk.sequence.request;
        while kept < count {
            let pi = self.agreement(&mut walk, first + kept);
            let scale = 1.0 / (1.0 - pi);
            let end = self.run_end(&walk, first + count) - first;
            while kept < end {
                let u = walk.coins.on_path(request, first + kept, self.target.0);
                let set = std::hint::select_unpredictable(u < pi, AGREED, table.draw((u - pi) * scale));
                if set >> drafter.0 & 1 == 0 {
                    return kept;
                }
                kept += 1;
            }
        }
        kept
    }

    fn probe(
        &self,
        coins: &Coins,
        sequence: &mut Sequence,
        committed: u32,
        window: u32,
        drafter: ModelId,
        target: ModelId,
    ) -> f64 {
        let first = committed.saturating_sub(window);
        sequence.behind = self.seek(coins, sequence, sequence.behind, first);
        let mut walk = Walk { coins, sequence, cursor: sequence.behind };
        let pair = Pair { drafter, verifier: target, depth: 0 };
        (first..committed).map(|position| self.similarity(&mut walk, position, pair)).sum()
    }

    fn score(&self, walk: &mut Walk<'_>, position: u32) -> (f64, f64) {
        let high = self.high(walk, position);
        let system = self.system(walk);
        let latent = &system.latents[usize::from(walk.sequence.latent)];
        (if high { latent.high_score } else { latent.low_score }, system.follow)
    }
}
