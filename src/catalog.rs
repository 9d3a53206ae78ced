//! What comes inside the binary: scenarios, and the catalogs of hardware and models. A path
//! overrides a name.

use std::io::Read;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use specrouter_routing::profile::ModelSpec;
use specrouter_sim::cost::HardwareSpec;

use crate::nearest::hint;
use crate::yaml::{Document, YamlError};

static SCENARIOS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/scenarios");

/// Most bytes read of one YAML file; `yaml.rs` refuses what is longer and says so.
const MOST_BYTES: u64 = (1 << 20) + 1;

/// A file or a name that leads nowhere. The user's fault.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A name that is not in the catalog.
    #[error("unknown {kind} `{name}`{hint}")]
    Unknown {
        /// What was asked for.
        kind: &'static str,
        /// The name that came.
        name: String,
        /// The nearest name, or all of them.
        hint: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {kind} {}: {source}", path.display())]
    Read {
        /// What was asked for.
        kind: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that says what cannot be.
    #[error(transparent)]
    Yaml(#[from] YamlError),
}

/// A YAML file, from the binary or from disk.
#[derive(Clone, Debug)]
pub struct Source {
    /// What errors call it: the path as it was given, or `name (embedded)`.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
    /// The folder that relative paths inside it start from; `None` for embedded files that the current
    /// folder has no `scenarios` of: their paths start from it.
    pub folder: Option<PathBuf>,
}

impl Source {
    /// The content as a document.
    ///
    /// # Errors
    /// [`YamlError`] for what is no YAML.
    pub fn document(&self) -> Result<Document, YamlError> {
        Document::parse(&self.name, &self.bytes)
    }

    /// The comment the file opens with, without its marks; empty when there is none.
    pub fn opening_comment(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines =
            text.trim_start_matches('\u{feff}').lines().map_while(|line| line.trim_end().strip_prefix('#'));
        lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    }
}

/// Is `text` the path of a file or folder, not a name? It has a separator or ends like a file.
pub fn is_path(text: &str) -> bool {
    text.contains(['/', '\\'])
        || [".yaml", ".yml", ".json", ".csv"].iter().any(|end| text.ends_with(end))
        || text == "."
        || text == ".."
}

/// Names of the embedded scenarios, in alphabetical order.
pub fn scenario_names() -> Vec<&'static str> {
    names("")
}

/// The scenario of that name, or the file at that path.
///
/// # Errors
/// [`CatalogError`] for unknown names and files that cannot be read.
pub fn scenario(name: &str) -> Result<Source, CatalogError> {
    source("scenario", "", name)
}

/// The catalog's models in alphabetical order.
///
/// # Errors
/// [`CatalogError::Yaml`] for a broken file, which a test keeps from being shipped.
pub fn models() -> Result<Vec<ModelSpec>, CatalogError> {
    names("catalog/models").into_iter().map(model).collect()
}

/// The model of that name, or the file at that path.
///
/// # Errors
/// [`CatalogError`] for unknown names, files that cannot be read, and descriptions that are none.
pub fn model(name: &str) -> Result<ModelSpec, CatalogError> {
    checked(&source("model", "catalog/models", name)?)
}

/// The model that the YAML file at `path` describes.
///
/// # Errors
/// [`CatalogError`] for files that cannot be read and descriptions that are none.
pub fn model_file(path: &Path) -> Result<ModelSpec, CatalogError> {
    checked(&file("model", path)?)
}

fn checked(source: &Source) -> Result<ModelSpec, CatalogError> {
    let document = source.document()?;
    let spec: ModelSpec = document.read()?;
    // The message names the model and the field.
    spec.check().map_err(|e| document.error("", e))?;
    Ok(spec)
}

/// The catalog's hardware, by name, in alphabetical order.
///
/// # Errors
/// [`CatalogError::Yaml`] for a broken file, which a test keeps from being shipped.
pub fn all_hardware() -> Result<Vec<HardwareSpec>, CatalogError> {
    names("catalog/hardware").into_iter().map(hardware).collect()
}

/// The hardware of that name, or the file at that path.
///
/// # Errors
/// [`CatalogError`] for unknown names, files that cannot be read, and descriptions that are none.
pub fn hardware(name: &str) -> Result<HardwareSpec, CatalogError> {
    Ok(source("hardware", "catalog/hardware", name)?.document()?.read()?)
}

/// The hardware that the YAML file at `path` describes.
///
/// # Errors
/// [`CatalogError`] for files that cannot be read and descriptions that are none.
pub fn hardware_file(path: &Path) -> Result<HardwareSpec, CatalogError> {
    Ok(file("hardware", path)?.document()?.read()?)
}

/// Reads a whole YAML file, or as much of it as shows that it is too long.
///
/// # Errors
/// [`CatalogError::Read`].
pub fn file(kind: &'static str, path: &Path) -> Result<Source, CatalogError> {
    let failed = |source| CatalogError::Read { kind, path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes))
        .map_err(failed)?;
    Ok(Source { name: path.display().to_string(), bytes, folder: path.parent().map(Path::to_owned) })
}

fn source(kind: &'static str, folder: &'static str, name: &str) -> Result<Source, CatalogError> {
    if is_path(name) {
        return file(kind, Path::new(name));
    }
    let path = Path::new(folder).join(format!("{name}.yaml"));
    match SCENARIOS.get_file(&path) {
        Some(file) => {
            let bytes = file.contents().to_vec();
            // In a clone the file of a scenario is there, and with it the models and prompts beside it.
            let clone = Path::new("scenarios").join(&path);
            let same = || clone.is_file() && self::file(kind, &clone).is_ok_and(|f| f.bytes == bytes);
            let folder = if folder.is_empty() && same() { clone.parent().map(Path::to_owned) } else { None };
            Ok(Source { name: format!("{name} (embedded)"), bytes, folder })
        }
        None => Err(CatalogError::Unknown { kind, name: name.to_owned(), hint: hint(name, names(folder)) }),
    }
}

/// Stems of the YAML files directly in an embedded folder. (`include_dir` sorts them.)
fn names(folder: &str) -> Vec<&'static str> {
    let dir = if folder.is_empty() { Some(&SCENARIOS) } else { SCENARIOS.get_dir(folder) };
    dir.into_iter()
        .flat_map(|dir| dir.files())
        .filter(|file| file.path().extension().is_some_and(|e| e == "yaml"))
        .filter_map(|file| file.path().file_stem()?.to_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_catalog_file_loads_under_its_own_name() {
        let models: Vec<String> = models().unwrap().into_iter().map(|model| model.name).collect();
        assert_eq!(models, names("catalog/models"));
        assert!(models.len() >= 19, "the issue names 19 models");
        let hardware: Vec<String> = all_hardware().unwrap().into_iter().map(|spec| spec.name).collect();
        assert_eq!(hardware, names("catalog/hardware"));
        assert!(hardware.len() >= 8, "the issue names 8 devices");
    }

    #[test]
    fn every_head_names_a_model_of_the_catalog() {
        use specrouter_routing::profile::ModelKind;
        for spec in models().unwrap() {
            if let ModelKind::Head { of } = &spec.kind {
                assert_eq!(model(of).unwrap().family, spec.family, "{}", spec.name);
            }
        }
    }

    #[test]
    fn a_path_is_told_from_a_name() {
        assert!(["./h100", "a/b", "x.yaml", "../x.json"].iter().all(|text| is_path(text)));
        assert!(["h100-sxm", "llama-3.1-8b", "quickstart"].iter().all(|text| !is_path(text)));
    }

    #[test]
    fn what_is_not_there_is_named() {
        insta::assert_snapshot!(scenario("quickstrat").unwrap_err(), @"unknown scenario `quickstrat`; did you mean `quickstart`?");
        insta::assert_snapshot!(model("llama-3.1-8").unwrap_err(), @"unknown model `llama-3.1-8`; did you mean `llama-3.1-8b`?");
        insta::assert_snapshot!(scenario("no/such.yaml").unwrap_err(), @"cannot read scenario no/such.yaml: No such file or directory (os error 2)");
    }

    #[test]
    fn the_opening_comment_ends_with_the_first_other_line() {
        let source =
            Source { name: "x".into(), bytes: b"# One.\n#\n#   two\nseed: 1\n# no\n".to_vec(), folder: None };
        assert_eq!(source.opening_comment(), "One.\n\n  two");
    }
}
