//! Keys and values of one model's sequences, in pages.
//!
//! The serving loop counts blocks (`routing::kv`) and says which sequences may grow; this keeps the
//! tensors. A sequence's cache is a list of pages and a length: rolling back changes the length and
//! gives tail pages back, and no bytes move.

use specrouter_routing::ids::Slot;

use crate::kernels::attention::{HeadShape, PAGE, poison_page, write_page};
use crate::kernels::lanes::Line;

/// No page is free, and no more may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The caches of one model.
#[derive(Debug)]
pub struct KvStore {
    shape: HeadShape,
    layers: usize,
    /// `[layers, page_lines]` each; made when first needed.
    pages: Vec<Box<[Line]>>,
    free: Vec<u32>,
    most: u32,
    caches: Vec<Cache>,
    poison: bool,
}

/// One sequence's.
#[derive(Clone, Debug, Default)]
struct Cache {
    pages: Vec<u32>,
    len: u32,
}

impl KvStore {
    /// An empty store of at most `most_pages` pages of [`PAGE`] tokens. With `poison`, what is
    /// forgotten is overwritten with NaN, so that a read of it cannot go unseen.
    pub fn new(shape: HeadShape, layers: usize, most_pages: u32, poison: bool) -> Self {
        Self {
            shape,
            layers,
            pages: Vec::new(),
            free: Vec::new(),
            most: most_pages,
            caches: Vec::new(),
            poison,
        }
    }

    /// Pages in all, made or not.
    pub const fn most_pages(&self) -> u32 {
        self.most
    }

    /// Pages that some sequence holds.
    pub fn used_pages(&self) -> u32 {
        (self.pages.len() - self.free.len()) as u32
    }

    /// Tokens in the slot's cache.
    pub fn len(&self, slot: Slot) -> u32 {
        self.caches.get(slot.index()).map_or(0, |cache| cache.len)
    }

    /// Makes room for `tokens` more tokens of `slot`, and counts them as cached: they are to be
    /// written before they are read.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed then but for pages taken, which [`truncate`](Self::truncate) gives
    /// back.
    pub fn extend(&mut self, slot: Slot, tokens: u32) -> Result<(), Full> {
        if slot.index() >= self.caches.len() {
            self.caches.resize(slot.index() + 1, Cache::default());
        }
        let len = self.caches[slot.index()].len + tokens;
        while (self.caches[slot.index()].pages.len() * PAGE) < len as usize {
            let page = match self.free.pop() {
                Some(page) => page,
                None if (self.pages.len() as u32) < self.most => {
                    let lines = self.layers * self.shape.page_lines();
                    self.pages.push(vec![Line([f32::NAN; PAGE]); lines].into_boxed_slice());
                    (self.pages.len() - 1) as u32
                }
                None => return Err(Full),
            };
            self.caches[slot.index()].pages.push(page);
        }
        self.caches[slot.index()].len = len;
        Ok(())
    }

    /// Writes the keys and values, each `[kv_heads, D]`, of one token in one layer.
    ///
    /// # Panics
    /// When `position` is not cached.
    pub fn write(&mut self, slot: Slot, layer: usize, position: u32, keys: &[f32], values: &[f32]) {
        let cache = &self.caches[slot.index()];
        assert!(position < cache.len, "position {position} of {} cached", cache.len);
        let page = cache.pages[position as usize / PAGE] as usize;
        let lines = self.shape.page_lines();
        let page = &mut self.pages[page][layer * lines..][..lines];
        write_page(self.shape, page, position as usize % PAGE, keys, values);
    }

    /// One layer's pages of a slot, in order, appended to `to`.
    pub fn pages<'a>(&'a self, slot: Slot, layer: usize, to: &mut Vec<&'a [Line]>) {
        let lines = self.shape.page_lines();
        let pages = self.caches.get(slot.index()).map_or(&[][..], |cache| &cache.pages);
        to.extend(pages.iter().map(|&page| &self.pages[page as usize][layer * lines..][..lines]));
    }

    /// Forgets all but the first `len` tokens of a slot.
    pub fn truncate(&mut self, slot: Slot, len: u32) {
        let Some(cache) = self.caches.get_mut(slot.index()) else { return };
        let (keep, lines) = ((len as usize).div_ceil(PAGE), self.shape.page_lines());
        if len < cache.len {
            if self.poison {
                for (index, &page) in cache.pages.iter().enumerate().skip(len as usize / PAGE) {
                    let from = (len as usize).saturating_sub(index * PAGE).min(PAGE);
                    for layer in self.pages[page as usize].chunks_mut(lines) {
                        poison_page(self.shape, layer, from);
                    }
                }
            }
            cache.len = len;
        }
        if cache.pages.len() > keep && len <= cache.len {
            self.free.extend(cache.pages.drain(keep..).rev());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SHAPE: HeadShape = HeadShape { heads: 2, kv_heads: 1, head_dim: 5 };

    /// What each slot's cache must hold: a number for each token.
    type Model = BTreeMap<u32, Vec<f32>>;

    fn read(store: &KvStore, slot: Slot, layer: usize, position: usize) -> (f32, f32) {
        let mut pages = Vec::new();
        store.pages(slot, layer, &mut pages);
        let page = pages[position / PAGE];
        (page[SHAPE.keys_at(0)].0[position % PAGE], page[SHAPE.values_at(0) + position % PAGE].0[4])
    }

    proptest! {
        #[test]
        fn a_random_walk_of_growth_and_rollback_keeps_every_cache_and_every_page(
            steps in prop::collection::vec((0u32..4, 0u32..40, any::<bool>()), 1..60),
        ) {
            let (layers, most) = (2, 9);
            let mut store = KvStore::new(SHAPE, layers, most, true);
            let mut model = Model::new();
            let mut next = 0.0;
            for (slot, amount, grow) in steps {
                let tokens = model.entry(slot).or_default();
                let id = Slot(slot);
                if grow {
                    let old = tokens.len();
                    if store.extend(id, amount).is_err() {
                        store.truncate(id, old as u32);
                    } else {
                        for position in old..old + amount as usize {
                            next += 1.0;
                            tokens.push(next);
                            for layer in 0..layers {
                                let own = next * (layer + 1) as f32;
                                store.write(id, layer, position as u32, &[own; 5], &[-own; 5]);
                            }
                        }
                    }
                } else {
                    store.truncate(id, amount);
                    tokens.truncate(amount as usize);
                }
                let pages: usize = model.values().map(|tokens| tokens.len().div_ceil(PAGE)).sum();
                prop_assert_eq!(store.used_pages() as usize, pages);
                for (&slot, tokens) in &model {
                    prop_assert_eq!(store.len(Slot(slot)) as usize, tokens.len());
                    for (position, &token) in tokens.iter().enumerate() {
                        for layer in 0..layers {
                            let own = token * (layer + 1) as f32;
                            prop_assert_eq!(read(&store, Slot(slot), layer, position), (own, -own));
                        }
                    }
                    if tokens.len() % PAGE > 0 {
                        prop_assert!(read(&store, Slot(slot), 0, tokens.len()).0.is_nan(), "forgotten rows are poisoned");
                    }
                }
            }
        }
    }
}
