//! Every policy that a scenario can name.

use schemars::JsonSchema;
use serde::de::value::{Error as ValueError, MapDeserializer};
use serde::{Deserialize, Serialize};

use super::recipe::{Builder, PolicyEntry, PolicyError, PolicyPool, Recipe};
use super::target_only::TargetOnlyConfig;
use super::*;
use crate::policy::Policy;

/// One line for each policy; from it follow the enumeration that scenarios are read into, the
/// catalog, labels and building.
macro_rules! library {
    ($($(#[$doc:meta])* $variant:ident($config:ty),)*) => {
        /// A policy and its parameters.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum PolicyConfig {
            /// Plain decoding.
            TargetOnly,
            $($(#[$doc])* $variant($config),)*
        }

        /// Every policy, in the order in which people meet them.
        const ENTRIES: &[PolicyEntry] = &[TargetOnlyConfig::ENTRY, $(<$config>::ENTRY,)*];

        impl PolicyConfig {
            /// The policy with every parameter at its default; `None` for an unknown name or a policy
            /// that needs a parameter.
            pub fn by_name(name: &str) -> Option<Self> {
                $(if name == <$config>::ENTRY.name {
                    return with_defaults().map(Self::$variant);
                })*
                (name == TargetOnlyConfig::ENTRY.name).then_some(Self::TargetOnly)
            }

            /// Its name.
            pub const fn name(&self) -> &'static str {
                match self {
                    Self::TargetOnly => TargetOnlyConfig::ENTRY.name,
                    $(Self::$variant(_) => <$config>::ENTRY.name,)*
                }
            }

            /// What tells it from others of its name; may be empty.
            fn details(&self) -> String {
                match self {
                    Self::TargetOnly => String::new(),
                    $(Self::$variant(config) => config.label(),)*
                }
            }

            /// Builds the policy for one replica. `fixed_model` is plain decoding over a pool of one,
            /// which its caller has seen to.
            ///
            /// # Errors
            /// [`PolicyError`], naming the parameter.
            pub fn build(&self, pool: &PolicyPool<'_>) -> Result<Box<dyn Policy>, PolicyError> {
                let builder = Builder { pool, policy: self.name() };
                match self {
                    Self::TargetOnly => TargetOnlyConfig.build(&builder),
                    $(Self::$variant(config) => config.build(&builder),)*
                }
            }
        }
    };
}

library! {
    /// Another, smaller model answers instead of the target: other output.
    FixedModel(FixedModelConfig),
    /// One chain with fixed windows.
    Static(StaticConfig),
    /// Window by batch size.
    BatchTable(BatchTableConfig),
    /// Window by batch size from offline latencies and acceptance rates.
    LatencyTable(LatencyTableConfig),
    /// The fastest of a few plans, by measuring them.
    Probe(ProbeConfig),
    /// TurboSpec.
    Goodput(GoodputConfig),
    /// SGLang's tiers by accepted length.
    AcceptanceTiers(AcceptanceTiersConfig),
    /// A draft length that probes after drafts kept whole.
    CensoredEma(CensoredEmaConfig),
    /// Stops drafting where the draft model is unsure.
    ConfidenceStop(ConfidenceStopConfig),
    /// AdaEDL and SVIP.
    EntropyStop(EntropyStopConfig),
    /// DSpark's adaptive verification, from histories.
    AdaptiveVerification(AdaptiveVerificationConfig),
    /// AdaServe over chains.
    SloAware(SloAwareConfig),
    /// UCBSpec.
    Ucb(UcbConfig),
    /// EXP3Spec.
    Exp3(Exp3Config),
    /// Thompson sampling.
    Thompson(ThompsonConfig),
    /// HedgeSpec.
    Hedge(HedgeConfig),
    /// The SpecRouter paper's scheduler.
    Specrouter(SpecRouterConfig),
    /// Ours: exact pricing, windows by marginal gain.
    ChainRouter(ChainRouterConfig),
    /// Rules in YAML.
    DecisionTable(DecisionTableConfig),
}

impl PolicyConfig {
    /// Its name with what tells it from others of the name: `static llama-68m>llama-3.1-8b (4)`.
    pub fn label(&self) -> String {
        let details = self.details();
        if details.is_empty() { self.name().to_owned() } else { format!("{} {details}", self.name()) }
    }
}

/// Every policy.
pub const fn catalog() -> &'static [PolicyEntry] {
    ENTRIES
}

/// Parameters all at their defaults; `None` when one is required.
fn with_defaults<T: for<'de> Deserialize<'de>>() -> Option<T> {
    let nothing = std::iter::empty::<(&str, &str)>();
    T::deserialize(MapDeserializer::<_, ValueError>::new(nothing)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luck::{Luck, Stream};
    use crate::policy::price::Candidates;

    fn pool<'a>(names: &'a [String], classes: &'a [String]) -> PolicyPool<'a> {
        let draws = Luck::new(1).stream(Stream::Policy);
        PolicyPool { names, candidates: Candidates::all(names.len()), classes, max_block: 32, draws }
    }

    /// What a name alone stands for, and what stands in the catalog as its example.
    fn configs(entry: &PolicyEntry) -> Vec<PolicyConfig> {
        let example = serde_json::from_str(entry.example).unwrap();
        PolicyConfig::by_name(entry.name).into_iter().chain([example]).collect()
    }

    #[test]
    fn a_name_stands_for_its_defaults_where_nothing_is_required() {
        for entry in catalog() {
            let required = entry.parameters.iter().any(|parameter| parameter.1 == "required");
            let by_name = PolicyConfig::by_name(entry.name);
            assert_eq!(by_name.is_none(), required, "{}", entry.name);
        }
        assert_eq!(PolicyConfig::by_name("nobody"), None);
    }

    #[test]
    fn the_catalog_lists_every_parameter_of_a_policy() {
        for entry in catalog() {
            let listed: Vec<&str> = entry.parameters.iter().map(|parameter| parameter.0).collect();
            for config in configs(entry) {
                let value = serde_json::to_value(&config).unwrap();
                let fields = value.get(entry.name).and_then(|fields| fields.as_object());
                let unlisted = fields.and_then(|f| f.keys().find(|field| !listed.contains(&field.as_str())));
                assert_eq!(unlisted, None, "{}", entry.name);
            }
        }
    }

    #[test]
    fn every_policy_is_named_as_scenarios_write_it_and_builds() {
        let names = ["small", "medium", "large"].map(String::from);
        let classes = ["chat", "code"].map(String::from);
        for entry in catalog() {
            for config in configs(entry) {
                let written = serde_json::to_value(&config).unwrap();
                let name = written.as_str().or_else(|| Some(written.as_object()?.keys().next()?));
                assert_eq!((name, config.name()), (Some(entry.name), entry.name));
                let built = config.build(&pool(&names, &classes)).unwrap();
                assert_eq!(built.name(), entry.name);
                assert_eq!(serde_json::from_value::<PolicyConfig>(written).unwrap(), config);
            }
        }
    }
}
