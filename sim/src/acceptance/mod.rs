//! Acceptance sources: who keeps whose token, as a pure function of the luck's key.

mod beta;
mod config;
mod constant;
pub mod fitted;
mod heterogeneous;
pub(crate) mod law;
pub(crate) mod path;
mod position;
mod recorded;
mod set_system;
pub mod signals;
pub mod statistics;

use specrouter_routing::chain::MAX_MODELS;
use specrouter_routing::ids::{ClassId, ModelId};
use specrouter_routing::luck::Luck;
use specrouter_routing::profile::{ModelKind, ModelSpec};
use specrouter_routing::record::{Opinion, RequestRecord, TokenRecord, pairs};
use specrouter_routing::units::{NonNegative, Probability};

pub use config::{AcceptanceConfig, AcceptanceError, DriftConfig, HeterogeneousConfig, Pairs, RegimeConfig};
pub use constant::Constant;
pub use heterogeneous::Heterogeneous;
pub use position::PerPosition;
pub use recorded::{Recorded, RecordedError};

use constant::{Matrix, ordered_pairs};
use heterogeneous::Settings;
use law::{Coins, Law, Pair, Sequence, Walk};
use signals::Signal;

/// An acceptance source, resolved against a pool and its request classes. Immutable: share it.
#[derive(Clone, Debug)]
pub enum Source {
    /// Independent coins, one rate per pair.
    Constant(Constant),
    /// Independent coins, a rate per pair and depth.
    PerPosition(PerPosition),
    /// The set system.
    Heterogeneous(Heterogeneous),
    /// Recorded texts.
    Recorded(Recorded),
}

/// Runs `$body` with `$law` bound to the source's law.
macro_rules! with_law {
    ($source:expr, $law:ident => $body:expr) => {
        match $source {
            $crate::acceptance::Source::Constant($law) => $body,
            $crate::acceptance::Source::PerPosition($law) => $body,
            $crate::acceptance::Source::Heterogeneous($law) => $body,
            $crate::acceptance::Source::Recorded($law) => $body,
        }
    };
}
pub(crate) use with_law;

impl Source {
    /// Resolves names against the pool (`models`, cheapest first, target last) and the workload's
    /// `classes`, and checks that such models can exist.
    ///
    /// # Errors
    /// [`AcceptanceError`]: names that are unknown or missing, and numbers that no models have.
    pub fn resolve(
        config: &AcceptanceConfig,
        models: &[ModelSpec],
        classes: &[String],
    ) -> Result<Self, AcceptanceError> {
        let pool = Pool::new(models)?;
        match config {
            AcceptanceConfig::Constant(pairs) => {
                let matrix = pool.matrix("acceptance.constant", pairs)?;
                Ok(Self::Constant(Constant::new(&matrix, &pool.names)?))
            }
            AcceptanceConfig::PerPosition(pairs) => {
                const PLACE: &str = "acceptance.per_position";
                let mut source = PerPosition::new();
                pool.each(PLACE, pairs, |drafter, verifier, rates: &Vec<Probability>| {
                    if rates.is_empty() {
                        let place = format!("{PLACE}.{}.{}", pool.names[drafter], pool.names[verifier]);
                        return Err(AcceptanceError::Empty { place });
                    }
                    source.set(drafter, verifier, rates.iter().map(|rate| rate.get()).collect());
                    Ok(())
                })?;
                Ok(Self::PerPosition(source))
            }
            AcceptanceConfig::Heterogeneous(config) => {
                const PLACE: &str = "acceptance.heterogeneous";
                let drift = config.drift.as_ref().map(|drift| {
                    let place = format!("{PLACE}.drift.matrix");
                    Ok((drift.from_request, pool.classes(&place, &drift.matrix, classes)?))
                });
                let drift = drift.transpose()?;
                let classes = pool.classes(&format!("{PLACE}.matrix"), &config.matrix, classes)?;
                let settings = Settings {
                    names: &pool.names,
                    classes: &classes,
                    drift: drift.as_ref().map(|(from, classes)| (*from, classes.as_slice())),
                    request_spread: config.request_spread.get(),
                    regime: config.regime,
                    depth: pool.depth(config)?,
                    signal_correlation: config.signal_correlation.get(),
                };
                Ok(Self::Heterogeneous(Heterogeneous::new(settings)?))
            }
        }
    }

    /// The configured acceptance of a pair for a class, for reports. By position it is accepted / (accepted +
    /// rejections) of blocks as long as the list; with depth factors, that at factor 1. 0 for a pair the
    /// constant and per-position sources have no number for.
    pub fn mean_acceptance(&self, class: ClassId, drafter: ModelId, verifier: ModelId) -> f64 {
        match self {
            Self::Constant(source) => source.rate(drafter, verifier),
            Self::PerPosition(source) => source.mean(drafter, verifier),
            Self::Heterogeneous(source) => source.rate(class.index(), drafter, verifier),
            Self::Recorded(source) => source.mean(drafter, verifier),
        }
    }

    /// Standard deviation across requests of the pair's mean acceptance; 0 for recorded texts, which are what they are.
    pub fn request_spread(&self, class: ClassId, drafter: ModelId, verifier: ModelId) -> f64 {
        match self {
            Self::Constant(_) | Self::PerPosition(_) | Self::Recorded(_) => 0.0,
            Self::Heterogeneous(source) => source.request_spread(class.index(), drafter, verifier),
        }
    }

    /// Shows `visit` what the pool's `models` models say of each position of a finished request: overlaps and
    /// signals; there are no tokens.
    pub fn score(&self, luck: Luck, of: &RequestRecord, models: usize, mut visit: impl FnMut(&TokenRecord)) {
        let (coins, request, class, output) = (Coins::new(luck), of.id, of.class, of.output_tokens);
        let mut sequence = Sequence { request, class: class.0, output, ..Sequence::default() };
        with_law!(self, law => law.admit(&coins, &mut sequence));
        let model = |index: usize| ModelId(index as u8);
        let mut record = TokenRecord { replica: of.replica, request, ..TokenRecord::default() };
        for position in 0..output {
            with_law!(self, law => law.settle(&coins, &mut sequence, position));
            record.position = position;
            record.overlaps.clear();
            record.overlaps.extend(pairs(models).map(|(i, k)| {
                let pair = Pair { drafter: model(i), verifier: model(k), depth: 0 };
                match self {
                    // Committed text is no block: the mean rate stands for it.
                    Self::PerPosition(_) => self.mean_acceptance(class, pair.drafter, pair.verifier) as f32,
                    _ => {
                        with_law!(self, law => law.similarity(&mut Walk::new(&coins, &sequence), position, pair)) as f32
                    }
                }
            }));
            record.models.clear();
            record.models.extend((0..models).map(|index| {
                // The target's own signals follow the acceptance of the model below it.
                let drafter = index.min(models.saturating_sub(2));
                let pair = Pair { drafter: model(drafter), verifier: model(models - 1), depth: 0 };
                let signal = self.signal(&coins, &sequence, position, pair);
                Opinion {
                    top_probability: signal.top_probability,
                    entropy: signal.entropy,
                    ..Opinion::default()
                }
            }));
            visit(&record);
        }
    }

    /// The confidence signal of a draft at an output position.
    pub(crate) fn signal(&self, coins: &Coins, sequence: &Sequence, position: u32, pair: Pair) -> Signal {
        if let Self::Recorded(source) = self {
            return source.signal(sequence.request, position, pair.drafter);
        }
        let mut walk = Walk::new(coins, sequence);
        let latent = with_law!(self, law => law.score(&mut walk, position));
        let mean = self.mean_acceptance(ClassId(sequence.class), pair.drafter, pair.verifier);
        Signal::new(mean, Signal::score(coins, &walk, position, pair, latent))
    }
}

/// A pool's names, and which pairs it needs.
struct Pool<'a> {
    names: Vec<&'a str>,
    kinds: Vec<&'a ModelKind>,
    /// `needed[drafter][verifier]`.
    needed: [[bool; MAX_MODELS]; MAX_MODELS],
}

impl<'a> Pool<'a> {
    fn new(models: &'a [ModelSpec]) -> Result<Self, AcceptanceError> {
        let names: Vec<&str> = models.iter().map(|m| m.name.as_str()).take(MAX_MODELS).collect();
        let kinds: Vec<&ModelKind> = models.iter().map(|m| &m.kind).take(MAX_MODELS).collect();
        let mut needed = [[false; MAX_MODELS]; MAX_MODELS];
        for (i, kind) in kinds.iter().enumerate() {
            match kind {
                ModelKind::Head { of } => {
                    let target = names.iter().position(|name| name == of);
                    let Some(target) = target.filter(|&k| k > i) else {
                        let (head, of) = (names[i].to_owned(), of.clone());
                        return Err(AcceptanceError::HeadWithoutTarget { head, of, known: list(names) });
                    };
                    needed[i][target] = true;
                }
                ModelKind::Model | ModelKind::Ngram => needed[i][i + 1..names.len()].fill(true),
            }
        }
        Ok(Self { names, kinds, needed })
    }

    fn index(&self, place: &str, name: &str) -> Result<usize, AcceptanceError> {
        self.names.iter().position(|known| *known == name).ok_or_else(|| AcceptanceError::UnknownModel {
            place: place.to_owned(),
            name: name.to_owned(),
            known: list(self.names.iter().copied()),
        })
    }

    /// Hands every pair to `take`, by index, and checks that all that are needed came.
    fn each<T>(
        &self,
        place: &str,
        pairs: &Pairs<T>,
        mut take: impl FnMut(usize, usize, &T) -> Result<(), AcceptanceError>,
    ) -> Result<(), AcceptanceError> {
        let mut given = [[false; MAX_MODELS]; MAX_MODELS];
        for (drafter, verifiers) in pairs {
            let i = self.index(place, drafter)?;
            for (verifier, value) in verifiers {
                let k = self.index(&format!("{place}.{drafter}"), verifier)?;
                if k <= i {
                    return Err(AcceptanceError::Order {
                        place: place.to_owned(),
                        drafter: drafter.clone(),
                        verifier: verifier.clone(),
                        known: list(self.names.iter().copied()),
                    });
                }
                take(i, k, value)?;
                given[i][k] = true;
            }
        }
        let missing = ordered_pairs(self.names.len()).find(|&(i, k)| self.needed[i][k] && !given[i][k]);
        missing.map_or(Ok(()), |(i, k)| {
            let of = pairs.get(self.names[i]);
            Err(AcceptanceError::MissingPair {
                place: place.to_owned(),
                drafter: self.names[i].to_owned(),
                verifier: self.names[k].to_owned(),
                given: list(of.into_iter().flatten().map(|(name, _)| name.as_str())),
            })
        })
    }

    fn matrix(&self, place: &str, pairs: &Pairs<Probability>) -> Result<Matrix, AcceptanceError> {
        let mut matrix = [[None; MAX_MODELS]; MAX_MODELS];
        self.each(place, pairs, |drafter, verifier, rate| {
            matrix[drafter][verifier] = Some(rate.get());
            Ok(())
        })?;
        Ok(matrix)
    }

    /// The matrix of each class, in the classes' order.
    fn classes(
        &self,
        place: &str,
        matrices: &std::collections::BTreeMap<String, Pairs<Probability>>,
        classes: &[String],
    ) -> Result<Vec<(String, Matrix)>, AcceptanceError> {
        const ALL: &str = "all";
        if let Some(name) = matrices.keys().find(|name| *name != ALL && !classes.contains(name)) {
            let known = list(classes.iter().map(String::as_str));
            return Err(AcceptanceError::UnknownClass { place: place.to_owned(), name: name.clone(), known });
        }
        let mut found = Vec::new();
        for class in classes {
            let Some((key, pairs)) = matrices.get_key_value(class).or_else(|| matrices.get_key_value(ALL))
            else {
                let given = list(matrices.keys().map(String::as_str));
                return Err(AcceptanceError::MissingClass {
                    place: place.to_owned(),
                    name: class.clone(),
                    given,
                });
            };
            let place = format!("{place}.{key}");
            found.push((class.clone(), self.matrix(&place, pairs)?));
        }
        Ok(found)
    }

    /// Depth factors by model.
    fn depth(&self, config: &HeterogeneousConfig) -> Result<Vec<Vec<f64>>, AcceptanceError> {
        const PLACE: &str = "acceptance.heterogeneous.depth";
        let mut depth = vec![Vec::new(); self.names.len()];
        for (model, factors) in &config.depth {
            let index = self.index(PLACE, model)?;
            if factors.is_empty() {
                return Err(AcceptanceError::Empty { place: format!("{PLACE}.{model}") });
            }
            depth[index] = factors.iter().map(|factor: &NonNegative| factor.get()).collect();
            if let (ModelKind::Model, Some(&factor)) =
                (self.kinds[index], depth[index].iter().find(|&&f| f > 1.0))
            {
                return Err(AcceptanceError::Depth { model: model.clone(), factor });
            }
        }
        Ok(depth)
    }
}

/// `a, b, c`, or `none`.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
pub(crate) mod tests;
