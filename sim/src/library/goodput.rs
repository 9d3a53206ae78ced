//! `goodput` speculates where passes are cheap and stops where they are full.

use super::*;

#[test]
fn goodput_shortens_its_drafts_with_load() {
    let goodput = policy(r#"{"goodput": {"draft": "small"}}"#);
    let windows = |users| {
        let world = World { users: Some(users), requests: u64::from(users) * 2 + 20, ..World::default() };
        let outcome = world.run(&goodput);
        let all: u32 = outcome.decisions.iter().map(|d| d.2.block()).sum();
        f64::from(all) / outcome.decisions.len() as f64
    };
    let (alone, crowd) = (windows(1), windows(200));
    assert!(alone > 2.5 && crowd < 0.6, "mean drafts of {alone} alone, {crowd} in a crowd of 200");
}
