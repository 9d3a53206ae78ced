//! The models of a pool, opened as the settings say.

use std::path::Path;

use specrouter_routing::profile::ModelSpec;

use crate::config::{Architecture, DecoderConfig, Rope, RopeScaling};
use crate::decoder::{Decoder, DecoderOptions};
use crate::level::LevelModel;
use crate::load::{Checkpoint, Dummy, LoadError};
use crate::settings::{Device, Dtype, EngineConfig};
use crate::tensor::{DeviceError, TensorDecoder, TensorError, TensorOptions, open_device};
use crate::weights::WeightSource;

/// A model that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its folder is at fault.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its weights cannot be put on the device.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The device cannot be used, or not by this build.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Opens the Hugging Face folder `dir` as the model `name`, with `kv_tokens` tokens of KV memory.
///
/// # Errors
/// [`OpenError`], naming the file or the device.
pub fn open(
    dir: &Path,
    name: &str,
    settings: &EngineConfig,
    kv_tokens: u64,
) -> Result<Box<dyn LevelModel>, OpenError> {
    let mut checkpoint = Checkpoint::open(dir, name)?;
    let model = load(checkpoint.config().clone(), &mut checkpoint, settings, kv_tokens)?;
    checkpoint.check_all_taken()?;
    Ok(model)
}

/// A model of `spec`'s shapes with random weights: a Llama, in bfloat16 unless the settings say f32.
///
/// # Errors
/// [`OpenError`], naming the device.
pub fn dummy(
    spec: &ModelSpec,
    settings: &EngineConfig,
    kv_tokens: u64,
) -> Result<Box<dyn LevelModel>, OpenError> {
    let config = DecoderConfig {
        spec: spec.clone(),
        architecture: Architecture::Llama,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        norm_epsilon: 1e-5,
    };
    let weights = Dummy::new(0);
    let mut weights = if settings.dtype == Dtype::F32 { weights } else { weights.bf16() };
    load(config, &mut weights, settings, kv_tokens)
}

/// The decoder that fits the device.
fn load(
    config: DecoderConfig,
    source: &mut dyn WeightSource,
    settings: &EngineConfig,
    kv_tokens: u64,
) -> Result<Box<dyn LevelModel>, OpenError> {
    let dtype = settings.dtype;
    match settings.device {
        Device::Cpu => {
            let options = DecoderOptions { dtype, ..DecoderOptions::new(kv_tokens) };
            Ok(Box::new(Decoder::load(config, source, options)?))
        }
        device @ Device::Cuda(_) => {
            let options = TensorOptions { dtype, ..TensorOptions::new(kv_tokens) };
            Ok(Box::new(TensorDecoder::load(config, source, options, &open_device(&device)?)?))
        }
    }
}

/// Decides how many threads share the kernels' work, the caller's among them, for the rest of the
/// process; all cores when `None`. Called once, before anything runs; later calls change nothing.
pub fn share_work(threads: Option<std::num::NonZeroU32>) -> usize {
    let threads = threads.map_or(0, |threads| threads.get() as usize);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread();
    // The second call fails, and the first one's pool stays.
    let _ = pool.build_global();
    rayon::current_num_threads()
}
