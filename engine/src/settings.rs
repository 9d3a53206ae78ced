//! How a scenario asks for real execution: `engine: {device: cpu, mode: exact}`.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Where passes run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// A CUDA device, by its ordinal.
    Cuda(u32),
}

/// What is promised of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Greedy and coupled output equals the target's alone, bit for bit, for any chain, window and
    /// batch. Processor only.
    #[default]
    Exact,
    /// Equal in distribution; the rate of greedy flips is measured.
    Fast,
}

/// Format of the weights in memory. On the processor arithmetic is f32 whichever it is, though its sums
/// may be in another order (see `kernels`); on other devices it is the weights'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// As the weights are stored.
    #[default]
    Auto,
    /// IEEE single.
    F32,
    /// bfloat16.
    Bf16,
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// The folders that the pool names.
    #[default]
    Stored,
    /// Random, in the shapes of the pool's models: for timing. The text is noise.
    Dummy,
}

/// How passes are run for real.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Where passes run: `cpu` or `cuda:N`.
    #[serde(default)]
    pub device: Device,
    /// What is promised of the output.
    #[serde(default)]
    pub mode: Mode,
    /// Format of the weights in memory.
    #[serde(default)]
    pub dtype: Dtype,
    /// Where weights come from: `stored` or `dummy`.
    #[serde(default)]
    pub weights: Weights,
    /// Threads of the kernels; all cores by default. Results do not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroU32>,
}

/// Settings that cannot be run. The scenario's author is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No device of ours.
    #[error("device must be cpu or cuda:N with N a whole number, got {got:?}")]
    Device {
        /// What came.
        got: String,
    },
    /// `exact` is a promise of the processor's kernels.
    #[error("mode exact needs device cpu, got {device}; use mode fast there")]
    Exact {
        /// The device.
        device: Device,
    },
}

impl EngineConfig {
    /// Checks that the settings fit one another.
    ///
    /// # Errors
    /// [`SettingsError::Exact`] for `exact` off the processor.
    pub fn check(&self) -> Result<(), SettingsError> {
        match (self.mode, self.device) {
            (Mode::Exact, Device::Cuda(_)) => Err(SettingsError::Exact { device: self.device }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for Device {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        if text == "cpu" {
            return Ok(Self::Cpu);
        }
        // `parse` alone would take "+1".
        let digits = |n: &&str| n.bytes().all(|b| b.is_ascii_digit());
        let ordinal = text.strip_prefix("cuda:").filter(digits).and_then(|n| n.parse().ok());
        ordinal.map(Self::Cuda).ok_or_else(|| SettingsError::Device { got: text.to_owned() })
    }
}

impl TryFrom<String> for Device {
    type Error = SettingsError;

    fn try_from(text: String) -> Result<Self, SettingsError> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl JsonSchema for Device {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(cpu|cuda:[0-9]+)$", "description": "cpu or cuda:N" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_as_they_are_written() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(17)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for bad in ["", "CPU", "cuda", "cuda:", "cuda:-1", "cuda:+1", "cuda:99999999999", "gpu:0"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
        insta::assert_snapshot!("cuda".parse::<Device>().unwrap_err(), @r#"device must be cpu or cuda:N with N a whole number, got "cuda""#);
    }

    #[test]
    fn settings_default_to_exact_on_the_processor() {
        let read: EngineConfig = serde_json::from_str("{}").unwrap();
        assert_eq!((read.device, read.mode, read.dtype), (Device::Cpu, Mode::Exact, Dtype::Auto));
        let text = r#"{"device": "cuda:1", "mode": "fast", "dtype": "bf16"}"#;
        let read: EngineConfig = serde_json::from_str(text).unwrap();
        assert_eq!(
            read,
            EngineConfig {
                device: Device::Cuda(1),
                mode: Mode::Fast,
                dtype: Dtype::Bf16,
                ..EngineConfig::default()
            }
        );
        assert_eq!(read.check(), Ok(()));
        assert!(serde_json::from_str::<EngineConfig>(r#"{"devise": "cpu"}"#).is_err());
    }

    #[test]
    fn exact_is_refused_off_the_processor() {
        let settings = EngineConfig { device: Device::Cuda(0), ..EngineConfig::default() };
        insta::assert_snapshot!(settings.check().unwrap_err(), @"mode exact needs device cpu, got cuda:0; use mode fast there");
    }

    #[test]
    fn the_schema_lists_every_setting() {
        let schema = serde_json::to_value(schemars::schema_for!(EngineConfig)).unwrap();
        let names: Vec<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["device", "dtype", "mode", "threads", "weights"]);
        assert_eq!(schema["properties"]["device"]["pattern"], "^(cpu|cuda:[0-9]+)$");
    }
}
