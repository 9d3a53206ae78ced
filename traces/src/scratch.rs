//! What tests of traces are made in and of.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use specrouter_routing::profile::{ModelKind, ModelSpec, Precision};

use crate::manifest::Member;

/// A folder that goes away with the test.
pub(crate) struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("specrouter-traces-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// An error's text with the folder's own name taken out.
    pub fn text(&self, error: &impl std::fmt::Display) -> String {
        error.to_string().replace(&self.0.display().to_string(), "DIR")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A model of no size.
pub(crate) fn member(name: &str) -> Member {
    let spec = ModelSpec {
        name: name.to_owned(),
        source: "this test".to_owned(),
        kind: ModelKind::Model,
        family: "toy".to_owned(),
        layers: 1,
        hidden: 8,
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        intermediate: 8,
        vocab: 16,
        tied_embeddings: true,
        context: 64,
        precision: Precision::Bf16,
        kv_bytes: 2,
    };
    Member { spec, weights_fnv1a: None }
}
