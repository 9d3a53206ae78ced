use super::*;
use crate::level::PackedRow;

const HEADS: Heads = Heads { queries: 4, keys: 2, dim: 8 };

/// A plan of rows `(slot, context, tokens)`, all of whose tokens want logits, and its pages.
fn plan(rows: &[(u32, u32, u32)], tuning: Tuning) -> (Plan, Pages) {
    let mut pages = Pages::new(1000);
    let mut packed = Packed::default();
    for &(slot, context, tokens) in rows {
        pages.extend(Slot(slot), context + tokens).unwrap();
        packed.rows.push(PackedRow { slot: Slot(slot), context, tokens });
        packed.tokens.extend((0..tokens).map(|token| token + slot));
    }
    packed.want = (0..packed.tokens.len() as u32).collect();
    (Plan::new(&packed, &pages, HEADS, tuning).unwrap(), pages)
}

fn sizes(plan: &Plan) -> Vec<(usize, usize, usize)> {
    plan.rectangles.iter().map(|r| (r.rows, r.queries, r.keys)).collect()
}

#[test]
fn decoding_at_one_length_needs_one_rectangle_no_mask_and_no_way_back() {
    let (plan, _) = plan(&[(5, 30, 1), (2, 30, 1), (9, 30, 1)], Tuning::default());
    assert_eq!(sizes(&plan), [(3, 1, 31)]);
    assert_eq!((plan.rectangles[0].sees.clone(), plan.back), (None, None));
    assert_eq!(plan.writes, [Write::Scatter(0..3)]);
}

#[test]
fn a_long_prompt_beside_decoding_has_a_rectangle_of_its_own() {
    let rows = [(0, 100, 2), (1, 0, 900), (2, 90, 1)];
    let big = Tuning { rectangle: 1 << 20, ..Tuning::default() };
    let (apart, _) = plan(&rows, big);
    assert_eq!(sizes(&apart), [(1, 900, 900), (2, 2, 102)]);
    let (together, _) = plan(&rows, Tuning { rectangle: u64::MAX / 4, ..big });
    assert_eq!(sizes(&together), [(3, 900, 900)]);
    let (limited, _) = plan(&rows, Tuning { rectangle: u64::MAX / 4, most_scores: 4 * 900 * 900, ..big });
    assert_eq!(sizes(&limited), [(1, 900, 900), (2, 2, 102)]);
    let (cut, _) = plan(&rows, Tuning { piece: 400, ..big });
    assert_eq!(sizes(&cut), [(1, 400, 800), (1, 400, 400), (1, 100, 900), (2, 2, 102)]);
}

#[test]
fn a_long_context_cuts_rows_so_that_scores_stay_within_their_limit() {
    let tuning = Tuning { rectangle: u64::MAX / 4, most_scores: 4 * 5064 * 10, ..Tuning::default() };
    let (plan, _) = plan(&[(0, 5000, 64)], tuning);
    assert_eq!(
        sizes(&plan).iter().map(|&(_, queries, _)| queries).collect::<Vec<_>>(),
        [10, 10, 10, 10, 10, 10, 4]
    );
    assert!(sizes(&plan).iter().all(|&(rows, queries, keys)| rows * 4 * queries * keys <= 4 * 5064 * 10));
}

#[test]
fn every_token_comes_back_to_its_own_place_and_sees_its_own_prefix() {
    let rows = [(0, 100, 3), (1, 0, 50), (2, 90, 1), (3, 17, 3), (4, 0, 2)];
    for (rectangle, piece) in [(0, 1024), (0, 7), (1 << 14, 1024), (u64::MAX / 4, 20)] {
        let (plan, pages) = plan(&rows, Tuning { rectangle, piece, ..Tuning::default() });
        let words = |range: &Words| &plan.words[range.clone()];
        // What each output of the rectangles is: a token's head.
        let mut outputs = Vec::new();
        let mut seen = vec![0; plan.tokens.len()];
        for r in &plan.rectangles {
            let tokens = words(&r.tokens);
            for row in 0..r.rows {
                for head in 0..HEADS.queries {
                    outputs.extend(
                        (0..r.queries).map(|q| (tokens[row * r.queries + q] as usize / HEADS.all(), head)),
                    );
                }
                for q in 0..r.queries {
                    let token = tokens[row * r.queries + q] as usize / HEADS.all();
                    let sees =
                        r.sees.as_ref().map_or(r.keys, |sees| words(sees)[row * r.queries + q] as usize);
                    seen[token] = sees;
                    let places = &words(&r.places)[row * r.keys..][..r.keys];
                    let (slot, _) = owner(&rows, token);
                    let own: Vec<u32> =
                        pages.places(Slot(slot), sees as u32).map(|p| (p * 2 * HEADS.keys) as u32).collect();
                    assert_eq!(places[..sees], own);
                    let all: Vec<u32> = pages
                        .places(Slot(slot), pages.len(Slot(slot)))
                        .map(|p| (p * 2 * HEADS.keys) as u32)
                        .collect();
                    assert!(places.iter().all(|place| all.contains(place)), "no other row's memory is read");
                }
            }
        }
        let (first, step) = plan.back.as_ref().unwrap();
        for (token, &seen) in seen.iter().enumerate() {
            assert_eq!(seen, owner(&rows, token).1 as usize + 1);
            for head in 0..HEADS.queries {
                let at = words(first)[token] as usize + head * words(step)[token] as usize;
                assert_eq!(outputs[at], (token, head));
            }
        }
        let most = plan.rectangles.iter().filter(|r| r.sees.is_some()).map(|r| r.keys).max().unwrap_or(0);
        assert_eq!(plan.counting.len(), most);
    }
}

/// Slot and position of a token.
fn owner(rows: &[(u32, u32, u32)], token: usize) -> (u32, u32) {
    let mut first = 0;
    for &(slot, context, tokens) in rows {
        if token < first + tokens as usize {
            return (slot, context + (token - first) as u32);
        }
        first += tokens as usize;
    }
    panic!("no token {token}");
}

#[test]
fn every_token_is_written_once_long_rows_in_stretches() {
    let mut pages = Pages::new(100);
    // Slot 1 stands around slot 0: its cache is in two pieces.
    pages.extend(Slot(1), 20).unwrap();
    pages.extend(Slot(0), 16).unwrap();
    pages.extend(Slot(1), 40).unwrap();
    pages.extend(Slot(2), 3).unwrap();
    pages.extend(Slot(3), 2).unwrap();
    let rows = [(2u32, 0u32, 3u32), (3, 0, 2), (1, 20, 40)];
    let mut packed = Packed::default();
    for (slot, context, tokens) in rows {
        packed.rows.push(PackedRow { slot: Slot(slot), context, tokens });
        packed.tokens.extend(0..tokens);
    }
    let plan = Plan::new(&packed, &pages, HEADS, Tuning::default()).unwrap();
    let places: Vec<usize> = plan.words[plan.places.clone()].iter().map(|&place| place as usize).collect();
    let copied = |tokens: Range<usize>| Write::Copy { place: places[tokens.start], tokens };
    assert_eq!(plan.writes, [Write::Scatter(0..5), copied(5..17), copied(17..45)]);
    for write in &plan.writes {
        if let Write::Copy { tokens, place } = write {
            assert!(tokens.clone().zip(*place..).all(|(token, place)| places[token] == place));
        }
    }
}
