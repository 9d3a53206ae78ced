//! Opens the devices that settings name.

use candle_core::Device as Opened;

use crate::settings::Device;

/// A device that cannot be used. Whoever named it is at fault, or the machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// This build has no CUDA.
    #[error("device {device}: this program was built without CUDA; rebuild it with --features cuda")]
    NotBuilt {
        /// The device asked for.
        device: Device,
    },
    /// The driver refuses: no such device, or none at all.
    #[error("device {device}: cannot be opened: {source}")]
    Open {
        /// The device asked for.
        device: Device,
        /// What the driver says.
        source: candle_core::Error,
    },
}

/// Opens a device for [`TensorDecoder`](super::TensorDecoder).
///
/// # Errors
/// [`DeviceError`] when the build has no CUDA, or the driver has no such device.
pub fn open_device(device: &Device) -> Result<Opened, DeviceError> {
    match *device {
        Device::Cpu => Ok(Opened::Cpu),
        Device::Cuda(_) if !candle_core::utils::cuda_is_available() => {
            Err(DeviceError::NotBuilt { device: *device })
        }
        Device::Cuda(ordinal) => {
            Opened::new_cuda(ordinal as usize).map_err(|source| DeviceError::Open { device: *device, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_opens_and_cuda_without_its_feature_says_how_to_get_it() {
        assert!(matches!(open_device(&Device::Cpu), Ok(Opened::Cpu)));
        if candle_core::utils::cuda_is_available() {
            println!("built with CUDA: the message of a build without it is not shown");
            return;
        }
        let error = open_device(&Device::Cuda(1)).unwrap_err();
        insta::assert_snapshot!(error, @"device cuda:1: this program was built without CUDA; rebuild it with --features cuda");
    }
}
