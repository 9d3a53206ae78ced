//! One packed pass through a [`TensorDecoder`].

use candle_core::{D, Result, Tensor};
use candle_nn::ops::{rms_norm, softmax_last_dim, swiglu};
use candle_nn::rotary_emb::rope;
use specrouter_routing::ids::Slot;

use super::plan::{Plan, Rectangle, Words, Write};
use super::{Layer, TensorDecoder};
use crate::checks::{check_finite, check_packed};
use crate::kernels::attention::PAGE;
use crate::level::{ForwardError, LevelModel, Packed};

/// A [`Plan`]'s indices on the device, in the shapes that layers need.
struct Feed {
    /// `[T · all heads, 1, D / 2]` each.
    cos: Tensor,
    sin: Tensor,
    /// `[T, 2 · KV heads · D]`: each token's place, once for each of its numbers.
    places: Tensor,
    rectangles: Vec<Gather>,
    /// `[T · query heads]`: where each head of each token stands in the rectangles' outputs.
    back: Option<Tensor>,
}

/// What a rectangle reads.
struct Gather {
    /// `[rows · query heads · queries]`, among the heads of the pass.
    queries: Tensor,
    /// `[2 · rows · KV heads · keys]`, among the heads of the cache.
    cached: Tensor,
    /// `[rows, 1, queries, keys]`: 0 where a key is seen, −∞ where not.
    mask: Option<Tensor>,
}

/// The scalar, as often as `shape` asks.
fn spread(scalar: &Tensor, shape: (usize, usize, usize)) -> Result<Tensor> {
    scalar.broadcast_as(shape)
}

impl LevelModel for TensorDecoder {
    fn name(&self) -> &str {
        &self.config.spec.name
    }

    fn vocabulary(&self) -> usize {
        self.config.spec.vocab as usize
    }

    /// As the trait says. Everything has run when it returns, so that a clock read next is right: reading logits
    /// waits for the device, and a pass without any waits in [`synchronize`](TensorDecoder::synchronize).
    fn forward(&mut self, packed: &Packed, logits: &mut Vec<f32>) -> std::result::Result<(), ForwardError> {
        check_packed(self.name(), self.vocabulary(), packed, |slot| self.pages.len(slot))?;
        if packed.tokens.is_empty() {
            logits.clear();
            return Ok(());
        }
        let most = self.most_tokens();
        if packed.tokens.len() as u64 > most {
            return Err(ForwardError::Rows {
                model: self.name().to_owned(),
                what: "tokens of a pass on a device, at most",
                expected: most,
                got: packed.tokens.len() as u64,
            });
        }
        for row in &packed.rows {
            if self.pages.extend(row.slot, row.tokens).is_err() {
                return Err(ForwardError::KvFull {
                    model: self.name().to_owned(),
                    pages: self.pages.most(),
                    page: PAGE as u32,
                });
            }
        }
        *logits = self.run(packed).map_err(|source| self.refused(source))?;
        self.synchronize()?;
        check_finite(self.name(), self.vocabulary(), packed, logits)
    }

    fn truncate(&mut self, slot: Slot, len: u32) {
        let (poison, forgotten) = (self.poison, &mut self.forgotten);
        self.pages.truncate(slot, len, |place| {
            if poison {
                forgotten.push(place);
            }
        });
    }

    fn cached(&self, slot: Slot) -> u32 {
        self.pages.len(slot)
    }
}

impl TensorDecoder {
    /// Waits until the device has done all that it was asked. [`forward`](LevelModel::forward) ends with it.
    ///
    /// # Errors
    /// [`ForwardError::Device`] for what failed meanwhile.
    pub fn synchronize(&self) -> std::result::Result<(), ForwardError> {
        self.device.synchronize().map_err(|source| self.refused(source))
    }

    /// Tokens of a pass whose widest tensor the device's kernels can count, in 31 bits.
    fn most_tokens(&self) -> u64 {
        let spec = &self.config.spec;
        let qkv = (self.heads.all() * self.heads.dim) as u64;
        i32::MAX as u64 / qkv.max(2 * u64::from(spec.intermediate)).max(u64::from(spec.vocab))
    }

    fn refused(&self, source: candle_core::Error) -> ForwardError {
        ForwardError::Device { model: self.config.spec.name.clone(), source }
    }

    fn run(&mut self, packed: &Packed) -> Result<Vec<f32>> {
        self.apply_poison()?;
        let plan =
            Plan::new(packed, &self.pages, self.heads, self.tuning).map_err(candle_core::Error::wrap)?;
        let reach =
            packed.rows.iter().map(|row| row.context as usize + row.tokens as usize).max().unwrap_or(0);
        self.turns.reach(reach)?;
        let words = Tensor::from_slice(&plan.words, plan.words.len(), &self.device)?;
        let feed = self.feed(&plan, &words)?;
        let mut x = self.embed.index_select(&part(&words, &plan.tokens)?, 0)?;
        for layer in &self.layers {
            x = self.layer(layer, &x, &plan, &feed)?;
        }
        if plan.want.is_empty() {
            return Ok(Vec::new());
        }
        let x = match packed.want.iter().copied().eq(0..packed.tokens.len() as u32) {
            true => x, // All of them.
            false => x.index_select(&part(&words, &plan.want)?, 0)?,
        };
        let head = self.head.as_ref().unwrap_or(&self.embed);
        let x = rms_norm(&x, &self.norm, self.config.norm_epsilon as f32)?;
        x.matmul(&head.t()?)?.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()
    }

    /// Overwrites what was forgotten since the last pass.
    fn apply_poison(&mut self) -> Result<()> {
        if self.forgotten.is_empty() {
            return Ok(());
        }
        let nan = Tensor::full(f32::NAN, (1, self.heads.cached()), &self.device)?.to_dtype(self.dtype)?;
        for place in self.forgotten.drain(..) {
            for layer in &self.layers {
                layer.cache.slice_set(&nan, 0, place)?;
            }
        }
        Ok(())
    }

    fn feed(&self, plan: &Plan, words: &Tensor) -> Result<Feed> {
        let (tokens, heads) = (plan.tokens.len(), self.heads);
        let turns = part(words, &plan.turns)?;
        let angles =
            |table: &Tensor| table.index_select(&turns, 0)?.reshape((tokens * heads.all(), 1, heads.dim / 2));
        let places = part(words, &plan.places)?.unsqueeze(1)?;
        let gather = |rectangle| self.gather(rectangle, plan, words);
        let back = match &plan.back {
            None => None,
            Some((first, step)) => {
                let own = self.constants.query_heads.reshape((1, heads.queries))?;
                let step = part(words, step)?.unsqueeze(1)?.broadcast_mul(&own)?;
                Some(step.broadcast_add(&part(words, first)?.unsqueeze(1)?)?.flatten_all()?)
            }
        };
        Ok(Feed {
            cos: angles(&self.turns.cos)?,
            sin: angles(&self.turns.sin)?,
            places: places.broadcast_as((tokens, heads.cached()))?.contiguous()?,
            rectangles: plan.rectangles.iter().map(gather).collect::<Result<_>>()?,
            back,
        })
    }

    fn gather(&self, rectangle: &Rectangle, plan: &Plan, words: &Tensor) -> Result<Gather> {
        let &Rectangle { rows, queries, keys, .. } = rectangle;
        let tokens = part(words, &rectangle.tokens)?.reshape((rows, 1, queries))?;
        let places = part(words, &rectangle.places)?.reshape((1, rows, 1, keys))?;
        let mask = match &rectangle.sees {
            None => None,
            Some(sees) => {
                let shape = (rows, queries, keys);
                let sees = part(words, sees)?.reshape((rows, queries, 1))?;
                let key = part(words, &plan.counting)?.narrow(0, 0, keys)?.reshape((1, 1, keys))?;
                let Self { constants, .. } = self;
                let seen = key.broadcast_lt(&sees)?;
                Some(
                    seen.where_cond(&spread(&constants.zero, shape)?, &spread(&constants.never, shape)?)?
                        .unsqueeze(1)?,
                )
            }
        };
        Ok(Gather {
            queries: tokens.broadcast_add(&self.constants.query_heads)?.flatten_all()?,
            cached: places.broadcast_add(&self.constants.cached_heads)?.flatten_all()?,
            mask,
        })
    }

    /// `x` is `[T, H]`, and so is what comes back.
    fn layer(&self, layer: &Layer, x: &Tensor, plan: &Plan, feed: &Feed) -> Result<Tensor> {
        let (tokens, heads, epsilon) = (plan.tokens.len(), self.heads, self.config.norm_epsilon as f32);
        let mut qkv = rms_norm(x, &layer.norm, epsilon)?.matmul(&layer.qkv.t()?)?;
        if let Some(bias) = &layer.qkv_bias {
            qkv = qkv.broadcast_add(bias)?;
        }
        if let Some((q_norm, k_norm)) = &layer.head_norms {
            let all = qkv.reshape((tokens, heads.all(), heads.dim))?;
            let q = rms_norm(&all.narrow(1, 0, heads.queries)?.contiguous()?, q_norm, epsilon)?;
            let k = rms_norm(&all.narrow(1, heads.queries, heads.keys)?.contiguous()?, k_norm, epsilon)?;
            let v = all.narrow(1, heads.queries + heads.keys, heads.keys)?;
            qkv = Tensor::cat(&[&q, &k, &v], 1)?;
        }
        let qkv = rope(&qkv.reshape((tokens * heads.all(), 1, 1, heads.dim))?, &feed.cos, &feed.sin)?;
        self.write(layer, &qkv.reshape((tokens, heads.all() * heads.dim))?, plan, feed)?;
        let attended = self.attend(layer, &qkv.reshape((tokens * heads.all(), heads.dim))?, plan, feed)?;
        let x = (x + attended.reshape((tokens, heads.queries * heads.dim))?.matmul(&layer.out.t()?)?)?;
        let gate_up = rms_norm(&x, &layer.mlp_norm, epsilon)?.matmul(&layer.gate_up.t()?)?;
        x + swiglu(&gate_up)?.matmul(&layer.down.t()?)?
    }

    /// Keys and values of `[T, all heads · D]` into the layer's cache.
    fn write(&self, layer: &Layer, qkv: &Tensor, plan: &Plan, feed: &Feed) -> Result<()> {
        let first = self.heads.queries * self.heads.dim;
        let new = qkv.narrow(1, first, self.heads.cached())?.contiguous()?;
        for write in &plan.writes {
            match write {
                Write::Copy { tokens, place } => {
                    layer.cache.slice_set(&new.narrow(0, tokens.start, tokens.len())?, 0, *place)?;
                }
                Write::Scatter(tokens) => {
                    let places = feed.places.narrow(0, tokens.start, tokens.len())?;
                    layer.cache.scatter_set(&places, &new.narrow(0, tokens.start, tokens.len())?, 0)?;
                }
            }
        }
        Ok(())
    }

    /// Every token attends to its own prefix: `[T · query heads, D]` of `[T · all heads, D]`.
    fn attend(&self, layer: &Layer, qkv: &Tensor, plan: &Plan, feed: &Feed) -> Result<Tensor> {
        let heads = self.heads;
        let group = heads.queries / heads.keys;
        let cache = layer.cache.reshape(((), heads.dim))?;
        let mut outputs = Vec::with_capacity(plan.rectangles.len());
        for (rectangle, gather) in plan.rectangles.iter().zip(&feed.rectangles) {
            let &Rectangle { rows, queries, keys, .. } = rectangle;
            // A key head's queries, of all tokens, are one matrix: no head of the cache is repeated.
            let batch = rows * heads.keys;
            let q = qkv.index_select(&gather.queries, 0)?.reshape((batch, group * queries, heads.dim))?;
            let cached = cache.index_select(&gather.cached, 0)?.reshape((2, batch, keys, heads.dim))?;
            let mut scores = q.matmul(&cached.get(0)?.t()?)?;
            if let Some(mask) = &gather.mask {
                scores = scores.reshape((rows, heads.queries, queries, keys))?.broadcast_add(mask)?;
            }
            let weights = softmax_last_dim(&scores)?.reshape((batch, group * queries, keys))?;
            outputs.push(weights.matmul(&cached.get(1)?)?.reshape(((), heads.dim))?);
        }
        let all = match outputs.as_slice() {
            [only] => only.clone(),
            many => Tensor::cat(many, 0)?,
        };
        match &feed.back {
            None => Ok(all),
            Some(back) => all.index_select(back, 0),
        }
    }
}

/// Words of a plan, on the device.
fn part(words: &Tensor, range: &Words) -> Result<Tensor> {
    words.narrow(D::Minus1, range.start, range.len())
}
