//! A packed pass, laid out for a device: every index that its kernels need, made once and sent in one piece.
//!
//! Attention runs over rectangles, and rows are ragged. Rows of like size share a rectangle, since each rectangle
//! costs launches; rows that differ much have their own, since padding costs memory traffic. Padding never reads
//! memory that is not the row's: a key that is not there is read from the row's first place and masked.

use std::cmp::Reverse;
use std::num::TryFromIntError;
use std::ops::Range;

use specrouter_routing::ids::Slot;

use super::pages::Pages;
use crate::level::Packed;

/// Most numbers of a tensor that is gathered from or into: candle's kernels count them in 32 bits.
pub(super) const MOST_NUMBERS: u64 = u32::MAX as u64;

/// When launches are saved at the price of padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuning {
    /// What a rectangle of its own costs, in numbers moved through memory: eight launches of 4 µs at 3 TB/s, two
    /// bytes a number.
    pub(super) rectangle: u64,
    /// Most attention scores of a rectangle; 1 GiB in bf16. The kernels count in 31 bits.
    pub(super) most_scores: u64,
    /// Longer rows are cut: early tokens of a prompt need no keys of late ones.
    pub(super) piece: u32,
    /// Rows of at least so many tokens are copied into the cache in stretches. Fewer are scattered, all in one
    /// launch, whose threads walk the tokens one by one.
    pub(super) stretch: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { rectangle: 1 << 25, most_scores: 1 << 29, piece: 1024, stretch: 16 }
    }
}

/// Heads of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) dim: usize,
}

impl Heads {
    /// Heads of a token's stacked queries, keys and values.
    pub(super) const fn all(self) -> usize {
        self.queries + 2 * self.keys
    }

    /// Numbers of a token's keys and values.
    pub(super) const fn cached(self) -> usize {
        2 * self.keys * self.dim
    }
}

/// A part of [`Plan::words`].
pub(super) type Words = Range<usize>;

/// How some tokens' keys and values get to their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Each to its own.
    Scatter(Range<usize>),
    /// Tokens to places one behind another, from `place`.
    Copy { tokens: Range<usize>, place: usize },
}

/// Rows that attend together, padded to `queries` × `keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rectangle {
    pub(super) rows: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    /// `[rows, queries]`: the first of each token's heads among all of the pass.
    pub(super) tokens: Words,
    /// `[rows, keys]`: the first of each place's heads among all of the cache.
    pub(super) places: Words,
    /// `[rows, queries]`: how many keys each token sees; none where all see all.
    pub(super) sees: Option<Words>,
}

/// A pass of T tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// All indices.
    pub(super) words: Vec<u32>,
    /// `[T]` token ids.
    pub(super) tokens: Words,
    /// `[T, all heads]` rows of the table of angles: 0 turns nothing, then two for each position, for keys and for
    /// queries.
    pub(super) turns: Words,
    /// `[T]` places in the cache.
    pub(super) places: Words,
    /// `[W]` tokens that want logits.
    pub(super) want: Words,
    /// 0, 1, … up to the most keys of a masked rectangle.
    pub(super) counting: Words,
    pub(super) writes: Vec<Write>,
    pub(super) rectangles: Vec<Rectangle>,
    /// `[T]` each: where in the rectangles' outputs a token's first head stands, and how far apart its heads are;
    /// none where the outputs stand in the order of the tokens already.
    pub(super) back: Option<(Words, Words)>,
}

/// Tokens of a row that stand in one rectangle.
#[derive(Clone, Copy)]
struct Piece {
    slot: Slot,
    token: usize,
    queries: usize,
    keys: usize,
}

impl Plan {
    /// Lays out `packed`, whose rows `pages` counts as cached already.
    ///
    /// # Errors
    /// When an index needs more than 32 bits.
    pub(super) fn new(
        packed: &Packed,
        pages: &Pages,
        heads: Heads,
        tuning: Tuning,
    ) -> Result<Self, TryFromIntError> {
        let mut plan = Self { words: packed.tokens.clone(), ..Self::default() };
        plan.tokens = 0..packed.tokens.len();
        let (mut turns, mut places) = (Vec::new(), Vec::new());
        let mut pieces = Vec::new();
        for row in &packed.rows {
            let first = places.len();
            for position in row.context..row.context + row.tokens {
                let turn = 2 * position as usize + 1;
                turns.extend(std::iter::repeat_n(turn + 1, heads.queries));
                turns.extend(std::iter::repeat_n(turn, heads.keys));
                turns.extend(std::iter::repeat_n(0, heads.keys));
                places.push(pages.place(row.slot, position));
            }
            plan.write(first, &places[first..], row.tokens >= tuning.stretch);
            let scores = heads.queries as u64 * (u64::from(row.context) + u64::from(row.tokens));
            let most = (tuning.most_scores / scores).clamp(1, u64::from(tuning.piece.max(1))) as u32;
            for cut in (0..row.tokens).step_by(most as usize) {
                let queries = (row.tokens - cut).min(most) as usize;
                let (token, keys) = (first + cut as usize, (row.context + cut) as usize + queries);
                pieces.push(Piece { slot: row.slot, token, queries, keys });
            }
        }
        plan.turns = plan.put(turns)?;
        plan.places = plan.put(places)?;
        let start = plan.words.len();
        plan.words.extend_from_slice(&packed.want);
        plan.want = start..plan.words.len();
        plan.attend(pieces, pages, heads, tuning)?;
        Ok(plan)
    }

    fn put(&mut self, words: impl IntoIterator<Item = usize>) -> Result<Words, TryFromIntError> {
        let start = self.words.len();
        for word in words {
            self.words.push(u32::try_from(word)?);
        }
        Ok(start..self.words.len())
    }

    /// Notes how the tokens from `first` on, of one row, get to `places`.
    fn write(&mut self, first: usize, places: &[usize], copy: bool) {
        for (token, &place) in (first..).zip(places) {
            match self.writes.last_mut() {
                Some(Write::Scatter(tokens)) if !copy => tokens.end = token + 1,
                Some(Write::Copy { tokens, place: start }) if copy && place == *start + tokens.len() => {
                    tokens.end = token + 1;
                }
                _ if copy => self.writes.push(Write::Copy { tokens: token..token + 1, place }),
                _ => self.writes.push(Write::Scatter(token..token + 1)),
            }
        }
    }

    fn attend(
        &mut self,
        mut pieces: Vec<Piece>,
        pages: &Pages,
        heads: Heads,
        tuning: Tuning,
    ) -> Result<(), TryFromIntError> {
        let tokens = self.tokens.len();
        pieces.sort_by_key(|piece| (Reverse(piece.queries), Reverse(piece.keys), piece.token));
        let (mut first_head, mut step) = (vec![0; tokens], vec![0; tokens]);
        let (mut output, mut masked) = (0, 0);
        let mut rest = pieces.as_mut_slice();
        while !rest.is_empty() {
            let (own, others) = rest.split_at_mut(shared(rest, heads, tuning));
            rest = others;
            own.sort_by_key(|piece| piece.token); // In the tokens' order, so that decoding needs no way back.
            let most = |size: fn(&Piece) -> usize| own.iter().map(size).max().unwrap_or(0);
            let (queries, keys) = (most(|piece| piece.queries), most(|piece| piece.keys));
            let (mut heads_at, mut places, mut sees) = (Vec::new(), Vec::new(), Vec::new());
            for (row, piece) in own.iter().enumerate() {
                for query in 0..queries {
                    // Padding repeats the last token; nobody reads its output.
                    let real = query.min(piece.queries - 1);
                    heads_at.push((piece.token + real) * heads.all());
                    sees.push(piece.keys - piece.queries + real + 1);
                    if query == real {
                        first_head[piece.token + query] = output + row * heads.queries * queries + query;
                        step[piece.token + query] = queries;
                    }
                }
                let start = places.len();
                // A place's heads stand together: keys, then values.
                places
                    .extend(pages.places(piece.slot, piece.keys as u32).map(|place| place * 2 * heads.keys));
                let own_first = places[start];
                places.resize(start + keys, own_first);
            }
            output += own.len() * heads.queries * queries;
            let sees = match sees.iter().all(|&seen| seen == keys) {
                true => None,
                false => {
                    masked = masked.max(keys);
                    Some(self.put(sees)?)
                }
            };
            let (tokens, places) = (self.put(heads_at)?, self.put(places)?);
            self.rectangles.push(Rectangle { rows: own.len(), queries, keys, tokens, places, sees });
        }
        self.counting = self.put(0..masked)?;
        if !matches!(self.rectangles.as_slice(), [only] if only.queries == 1) {
            self.back = Some((self.put(first_head)?, self.put(step)?));
        }
        Ok(())
    }
}

/// How many of the first pieces share a rectangle. Largest first; each next joins if padding costs less than a
/// rectangle of its own.
fn shared(pieces: &[Piece], heads: Heads, tuning: Tuning) -> usize {
    let cost = |rows: usize, queries: usize, keys: usize| {
        // Keys and values are read, written and read again; scores five times, in products, mask and softmax.
        let numbers = 3 * heads.cached() + 5 * heads.queries * queries;
        tuning.rectangle.saturating_add(rows as u64 * keys as u64 * numbers as u64)
    };
    let Some(first) = pieces.first() else { return 0 };
    let (queries, mut keys) = (first.queries, first.keys);
    let mut rows = 1;
    for piece in &pieces[1..] {
        let most = keys.max(piece.keys);
        let together = cost(rows + 1, queries, most);
        let apart = cost(rows, queries, keys).saturating_add(cost(1, piece.queries, piece.keys));
        let scores = (rows as u64 + 1) * (heads.queries * queries) as u64 * most as u64;
        let cached = (rows as u64 + 1) * most as u64 * heads.cached() as u64;
        if together > apart || scores > tuning.most_scores || cached > MOST_NUMBERS {
            break;
        }
        (rows, keys) = (rows + 1, most);
    }
    rows
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
