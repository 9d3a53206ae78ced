//! What a policy remembers of each running sequence.

use crate::ids::{RequestId, Slot};

/// Something of each running request's, by its slot. A slot is reused, so a stranger's is never found.
#[derive(Clone, Debug)]
pub struct Books<T> {
    fresh: T,
    books: Vec<Option<(RequestId, T)>>,
}

impl<T: Copy> Books<T> {
    /// Every request begins with `fresh`.
    pub const fn new(fresh: T) -> Self {
        Self { fresh, books: Vec::new() }
    }

    /// The request's own.
    #[inline]
    pub fn get(&self, slot: Slot, request: RequestId) -> T {
        match self.books.get(slot.index()) {
            Some(&Some((owner, own))) if owner == request => own,
            _ => self.fresh,
        }
    }

    /// The request's own, to be changed.
    #[inline]
    pub fn get_mut(&mut self, slot: Slot, request: RequestId) -> &mut T {
        if slot.index() >= self.books.len() {
            self.books.resize(slot.index() + 1, None);
        }
        let book = &mut self.books[slot.index()];
        let own = book.filter(|&(owner, _)| owner == request).map_or(self.fresh, |(_, own)| own);
        &mut book.insert((request, own)).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_never_finds_what_its_slot_held_before() {
        let mut books = Books::new(2);
        assert_eq!(books.get(Slot(3), RequestId(0)), 2);
        *books.get_mut(Slot(3), RequestId(0)) += 5;
        *books.get_mut(Slot(3), RequestId(0)) += 1;
        assert_eq!(books.get(Slot(3), RequestId(0)), 8);
        assert_eq!((books.get(Slot(3), RequestId(9)), books.get(Slot(0), RequestId(0))), (2, 2));
        *books.get_mut(Slot(3), RequestId(9)) += 1;
        assert_eq!(books.get(Slot(3), RequestId(9)), 3);
    }
}
