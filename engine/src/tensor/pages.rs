//! Which places of the device's KV memory hold which tokens. Counts only; the tensors are the decoder's.
//!
//! A place holds the keys and values of one token in every layer. Places come in pages of [`PAGE`]; rolling back
//! changes a length and gives tail pages back, and no bytes move.

use std::collections::{BTreeMap, BTreeSet};

use specrouter_routing::ids::Slot;

use crate::kernels::attention::PAGE;
use crate::storage::Full;

/// The caches of one model.
#[derive(Debug)]
pub(super) struct Pages {
    most: u32,
    /// Pages that were ever taken: those at and above it are free too.
    made: u32,
    /// Lowest first, so that a prompt's pages mostly stand one behind another and are written in few copies.
    free: BTreeSet<u32>,
    caches: BTreeMap<Slot, Cache>,
}

/// One sequence's.
#[derive(Debug, Default)]
struct Cache {
    pages: Vec<u32>,
    len: u32,
}

impl Cache {
    fn place(&self, position: usize) -> usize {
        self.pages[position / PAGE] as usize * PAGE + position % PAGE
    }
}

impl Pages {
    pub(super) fn new(most: u32) -> Self {
        Self { most, made: 0, free: BTreeSet::new(), caches: BTreeMap::new() }
    }

    /// Pages in all.
    pub(super) const fn most(&self) -> u32 {
        self.most
    }

    /// Pages that some sequence holds.
    pub(super) fn used(&self) -> u32 {
        self.made - self.free.len() as u32
    }

    /// Tokens in the slot's cache.
    pub(super) fn len(&self, slot: Slot) -> u32 {
        self.caches.get(&slot).map_or(0, |cache| cache.len)
    }

    /// Makes room for `tokens` more tokens of `slot` and counts them as cached.
    ///
    /// # Errors
    /// [`Full`]; the pages taken by then stay the slot's until [`truncate`](Self::truncate).
    pub(super) fn extend(&mut self, slot: Slot, tokens: u32) -> Result<(), Full> {
        let cache = self.caches.entry(slot).or_default();
        let len = cache.len.checked_add(tokens).ok_or(Full)?;
        while cache.pages.len() * PAGE < len as usize {
            let page = match self.free.pop_first() {
                Some(page) => page,
                None if self.made < self.most => {
                    self.made += 1;
                    self.made - 1
                }
                None => return Err(Full),
            };
            cache.pages.push(page);
        }
        cache.len = len;
        Ok(())
    }

    /// Forgets all but the first `len` tokens of a slot, and tells the places of those forgotten.
    pub(super) fn truncate(&mut self, slot: Slot, len: u32, mut forgotten: impl FnMut(usize)) {
        let Some(cache) = self.caches.get_mut(&slot) else { return };
        let keep = len.min(cache.len);
        (keep..cache.len).for_each(|position| forgotten(cache.place(position as usize)));
        cache.len = keep;
        self.free.extend(cache.pages.drain((keep as usize).div_ceil(PAGE)..));
        if keep == 0 {
            self.caches.remove(&slot);
        }
    }

    /// The place of a token. `position` is below [`len`](Self::len).
    pub(super) fn place(&self, slot: Slot, position: u32) -> usize {
        self.caches[&slot].place(position as usize)
    }

    /// The places of the first `tokens` tokens of a slot, in order. `tokens` is at most [`len`](Self::len).
    pub(super) fn places(&self, slot: Slot, tokens: u32) -> impl Iterator<Item = usize> {
        let pages = self.caches.get(&slot).map_or(&[][..], |cache| &cache.pages);
        pages
            .iter()
            .flat_map(|&page| (0..PAGE).map(move |at| page as usize * PAGE + at))
            .take(tokens as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_random_walk_never_gives_a_place_to_two_tokens(
            steps in prop::collection::vec((0u32..4, 0u32..40, any::<bool>()), 1..60),
        ) {
            let mut pages = Pages::new(9);
            let mut lens = [0u32; 4];
            for (slot, amount, grow) in steps {
                let (id, len) = (Slot(slot), &mut lens[slot as usize]);
                let mut gone = 0;
                if !grow {
                    pages.truncate(id, amount, |_| gone += 1);
                    prop_assert_eq!(gone, len.saturating_sub(amount));
                    *len = amount.min(*len);
                } else if pages.extend(id, amount).is_ok() {
                    *len += amount;
                } else {
                    pages.truncate(id, *len, |_| gone += 1);
                    prop_assert_eq!(gone, 0, "an extension that failed has cached nothing");
                }
                let mut seen = BTreeSet::new();
                for (slot, &len) in (0..).zip(&lens) {
                    prop_assert_eq!(pages.len(Slot(slot)), len);
                    let places: Vec<usize> = pages.places(Slot(slot), len).collect();
                    prop_assert_eq!(places.len(), len as usize);
                    for (position, &place) in (0..).zip(&places) {
                        prop_assert_eq!(pages.place(Slot(slot), position), place);
                        prop_assert!(place < 9 * PAGE && seen.insert(place));
                    }
                }
                let used: u32 = lens.iter().map(|len| len.div_ceil(PAGE as u32)).sum();
                prop_assert_eq!(pages.used(), used);
            }
        }
    }

    #[test]
    fn a_prompt_in_fresh_memory_stands_in_one_piece() {
        let mut pages = Pages::new(20);
        pages.extend(Slot(3), 100).unwrap();
        pages.truncate(Slot(3), 0, |_| {});
        pages.extend(Slot(1), 7).unwrap();
        pages.extend(Slot(2), 100).unwrap();
        let places: Vec<usize> = pages.places(Slot(2), 100).collect();
        assert!(places.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }

    #[test]
    fn lengths_beyond_32_bits_are_full_and_not_wrapped() {
        let mut pages = Pages::new(2);
        pages.extend(Slot(0), 3).unwrap();
        assert_eq!(pages.extend(Slot(0), u32::MAX), Err(Full));
        assert_eq!(pages.len(Slot(0)), 3);
    }
}
