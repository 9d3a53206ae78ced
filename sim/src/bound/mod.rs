//! The bound: what no policy can beat. Computed from a run's own luck, not run.
//!
//! - **Solo**: for each request the least time over all chains and over windows chosen at every fill,
//!   alone, without queue, lag or needless drafts, each pass at the least price of any pass that holds
//!   its row. Its TTFT, TPOT and E2E in any run are no less.
//! - **Capacity**: the same with every row at a valid share of the passes that it is packed in (see
//!   [`share`]). The device time of a run is no less than the sum over its requests.
//! - **Goodput**: no more requests meet their SLO than meet it by their solo bound.
//!
//! Prices are without noise. With noise (factors of mean 1, drawn independently of what is decided) a
//! single request may beat its bound by luck; its mean over the noise does not.

mod least;
mod share;
mod solo;
#[cfg(test)]
pub(crate) mod tests;
mod verdicts;

use specrouter_routing::chain::MAX_BLOCK;
use specrouter_routing::ids::RequestId;
use specrouter_routing::luck::Luck;
use specrouter_routing::profile::PassCosts;
use specrouter_routing::replica::Limits;
use specrouter_routing::request::Request;
use specrouter_routing::slo::Slo;
use specrouter_routing::units::Span;

use crate::acceptance::Source;
use crate::acceptance::law::Coins;

pub(crate) use least::Least;
use share::{PICOS, Share};
pub(crate) use solo::nanos;
use solo::{Passes, Prefill, Solo};
pub(crate) use verdicts::{Text, Verdicts};

/// What runs are made in: the same for every policy.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// Who keeps whose tokens.
    pub source: &'a Source,
    /// The run's.
    pub luck: Luck,
    /// What passes take, without noise. Not falling in contexts, pairs and logit rows, and indifferent
    /// to which tokens are catch-up. (A table counts the prices it extrapolates: hand in a copy.)
    pub costs: &'a dyn PassCosts,
    /// More tokens over the same rows may take less time. No [`CostModel`](crate::cost::CostModel) is
    /// like that, and searching for it takes time in proportion to `max_running` times `token_budget`.
    pub falling: bool,
    /// Of each replica.
    pub limits: &'a Limits,
    /// Models of the pool, the target last.
    pub models: usize,
    /// Tokens of the target's KV memory on a replica, in whole blocks.
    pub memory_tokens: u64,
    /// Copies of the pool.
    pub replicas: u32,
}

/// What no run of one request can beat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestBound {
    /// Who.
    pub request: RequestId,
    /// Its targets.
    pub slo: Slo,
    /// Tokens delivered; 0 for a request that is refused, whose bounds are 0 too.
    pub tokens: u32,
    /// Arrival to first token, at least.
    pub ttft: Span,
    /// First token to last, at least.
    pub decode: Span,
    /// Device time, at least, where passes are shared.
    pub device_seconds: f64,
}

impl RequestBound {
    /// Arrival to last token, at least.
    pub fn e2e(&self) -> Span {
        self.ttft + self.decode
    }

    /// Seconds per output token after the first, at least; `None` for a single token.
    pub fn tpot_seconds(&self) -> Option<f64> {
        (self.tokens > 1).then(|| self.decode.seconds() / f64::from(self.tokens - 1))
    }

    /// Could every target be met? `None` without targets and for a refused request.
    pub fn meets_slo(&self) -> Option<bool> {
        if self.slo == Slo::default() || self.tokens == 0 {
            return None;
        }
        let first = self.slo.ttft.is_none_or(|target| self.ttft <= target);
        let rest = u64::from(self.tokens - 1);
        let tpot = self
            .slo
            .tpot
            .is_none_or(|target| rest == 0 || self.decode.nanos() <= target.nanos().saturating_mul(rest));
        Some(first && tpot)
    }
}

/// The bound of a run's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// In the order they came.
    pub requests: Vec<RequestBound>,
    replicas: u32,
}

/// Requests on which shares are compared.
const SAMPLE: usize = 48;

impl Bound {
    /// The bound of `requests` in `world`. For them to be refused or cut, the world's limits apply as
    /// they do in a [`Replica`](specrouter_routing::replica::Replica).
    pub fn compute<'r>(world: &World<'_>, requests: impl IntoIterator<Item = &'r Request>) -> Self {
        let requests: Vec<&Request> = requests.into_iter().collect();
        let mut work = Work::new(world, &requests);
        work.choose_shares(&requests);
        let requests = requests.iter().map(|request| work.request(request)).collect();
        Self { requests, replicas: world.replicas }
    }

    /// Output tokens.
    pub fn tokens(&self) -> u64 {
        self.requests.iter().map(|r| u64::from(r.tokens)).sum()
    }

    /// Device time of all requests, at least.
    pub fn device_seconds(&self) -> f64 {
        self.requests.iter().map(|r| r.device_seconds).sum()
    }

    /// From the first arrival to the last token, at least: no replica is ever idle.
    pub fn seconds(&self) -> f64 {
        self.device_seconds() / f64::from(self.replicas.max(1))
    }

    /// Most output tokens per second; 0 of no requests.
    pub fn tokens_per_second(&self) -> f64 {
        self.per_second(self.tokens())
    }

    /// Most requests per second; 0 of no requests.
    pub fn requests_per_second(&self) -> f64 {
        self.per_second(self.requests.iter().filter(|r| r.tokens > 0).count() as u64)
    }

    fn per_second(&self, count: u64) -> f64 {
        if count == 0 { 0.0 } else { count as f64 / self.seconds() }
    }

    /// Most requests that meet all their targets.
    pub fn most_meeting_slo(&self) -> u64 {
        self.requests.iter().filter(|r| r.meets_slo() == Some(true)).count() as u64
    }
}

/// What a run delivers of a request; `None` if it is refused.
fn text(world: &World<'_>, request: &Request) -> Option<Text> {
    let room = u64::from(world.limits.context.min(u32::MAX - 1)).min(world.memory_tokens);
    let room = room.checked_sub(u64::from(request.prompt_tokens)).filter(|&room| room > 0)?;
    let limit = request.limit.min(u32::try_from(room).unwrap_or(u32::MAX)).max(1);
    let output = request.truth.output_tokens().max(1);
    let tokens = output.min(limit);
    Some(Text { request: request.id, class: request.class, output, tokens })
}

/// Buffers and memos of one computation.
struct Work<'a> {
    world: &'a World<'a>,
    passes: Passes<'a>,
    coins: Coins,
    /// Most tokens of a block.
    most: usize,
    /// Most tokens that a row's cache holds, and the mean at half of the outputs.
    longest: u32,
    mean_context: u32,
    solo: Solo<'a>,
    prefill: Prefill<'a>,
    /// By model, of rows with logits.
    shares: Vec<Share>,
    /// Of the target's rows without: chunks of prompts.
    chunks: Share,
    verdicts: Verdicts,
    least: Least,
}

impl<'a> Work<'a> {
    fn new(world: &'a World<'a>, requests: &[&Request]) -> Self {
        let texts = || requests.iter().filter_map(|r| text(world, r).map(|t| (r.prompt_tokens, t)));
        let rows = world.limits.max_running.min(requests.len().max(1) as u32);
        // Draft rows run whatever the budget.
        let tokens = world.limits.token_budget.max(rows);
        let passes = Passes { costs: world.costs, falling: world.falling, rows, tokens };
        let output = texts().map(|(_, t)| t.tokens).max().unwrap_or(1);
        let most = world.limits.max_block.min(MAX_BLOCK).min(output) as usize;
        let prompt = texts().map(|(prompt, _)| prompt).max().unwrap_or(1);
        let context: u64 = texts().map(|(prompt, t)| u64::from(prompt + t.tokens / 2)).sum();
        Self {
            world,
            passes,
            coins: Coins::new(world.luck),
            most,
            // Drafts may run past a stop token that they do not know of.
            longest: texts().map(|(prompt, t)| prompt + t.tokens + MAX_BLOCK).max().unwrap_or(1),
            mean_context: (context / texts().count().max(1) as u64) as u32,
            solo: Solo::new(passes, world.models, most),
            prefill: Prefill::new(passes, world.models - 1, prompt),
            shares: vec![Share::default(); world.models],
            chunks: Share::default(),
            verdicts: Verdicts::default(),
            least: Least::default(),
        }
    }

    /// Of shares along the slopes of passes from one token a row to the whole budget, those under which
    /// a sample of the requests costs most. Any would do.
    fn choose_shares(&mut self, requests: &[&Request]) {
        let stride = requests.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<&Request> = requests.iter().step_by(stride).copied().collect();
        let target = self.world.models - 1;
        let (passes, longest) = (self.passes, self.longest);
        let mut best: Option<(f64, Vec<Share>, Share)> = None;
        let mut tokens = passes.rows;
        loop {
            let along = |model| Share::along(&passes, model, tokens, self.mean_context);
            self.shares = (0..=target).map(|model| along(model).valid(&passes, model, 1, longest)).collect();
            self.chunks = along(target).valid(&passes, target, 0, longest);
            let total: f64 = sample.iter().map(|request| self.device_seconds(request)).sum();
            if best.as_ref().is_none_or(|best| total > best.0) {
                best = Some((total, self.shares.clone(), self.chunks));
            }
            if tokens >= passes.tokens {
                break;
            }
            tokens = tokens.saturating_mul(2).min(passes.tokens);
        }
        if let Some((_, shares, chunks)) = best {
            (self.shares, self.chunks) = (shares, chunks);
        }
    }

    fn read(&mut self, text: Text) {
        self.verdicts.read(self.world.source, &self.coins, text, self.world.models, self.most);
    }

    /// The cost of the output after its first token, under the prices that `least` was made with.
    fn decode(&mut self, tokens: u32) -> u64 {
        if tokens < 2 { 0 } else { self.least.rest(&self.verdicts, usize::MAX)[1] }
    }

    fn device_seconds(&mut self, request: &Request) -> f64 {
        let Some(text) = text(self.world, request) else { return 0.0 };
        self.read(text);
        self.shared(request.prompt_tokens, text.tokens)
    }

    /// Device time of a request whose verdicts have been read.
    fn shared(&mut self, prompt: u32, tokens: u32) -> f64 {
        let shares = &self.shares;
        self.least.make(&self.verdicts, self.most, |model, position, prices| {
            let known = prompt + position as u32 - 1;
            for (own, price) in prices.iter_mut().enumerate().skip(1) {
                *price = shares[model].picos(own as u32, known);
            }
        });
        // The last chunk, of one token or more, has logits; the others need not.
        let last = shares[self.world.models - 1].picos(1, 0);
        let chunks = prompt.div_ceil(self.passes.tokens) - 1;
        let others = self.chunks.row * f64::from(chunks) + self.chunks.token * f64::from(prompt - 1);
        let picos = last + (others * PICOS) as u64 + self.decode(tokens);
        picos as f64 / PICOS
    }

    fn request(&mut self, request: &Request) -> RequestBound {
        let refused = RequestBound {
            request: request.id,
            slo: request.slo,
            tokens: 0,
            ttft: Span::ZERO,
            decode: Span::ZERO,
            device_seconds: 0.0,
        };
        let Some(text) = text(self.world, request) else { return refused };
        self.read(text);
        let prompt = request.prompt_tokens;
        let device_seconds = self.shared(prompt, text.tokens);
        let solo = &mut self.solo;
        self.least.make(&self.verdicts, self.most, |model, position, prices| {
            solo.prices(model, prompt + position as u32 - 1, prices);
        });
        RequestBound {
            tokens: text.tokens,
            ttft: Span::from_nanos(self.prefill.nanos(prompt)),
            decode: Span::from_nanos(self.decode(text.tokens)),
            device_seconds,
            ..refused
        }
    }
}
