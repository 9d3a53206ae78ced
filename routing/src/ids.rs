//! Names of things, as small integers.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl $name {
            /// As an index into a table of such things.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A request: its place in the order of arrival.
    RequestId(u64)
);
id!(
    /// A model: its index in the pool, cheapest first.
    ModelId(u8)
);
id!(
    /// A request class: its index in the scenario.
    ClassId(u16)
);
id!(
    /// A replica: one copy of the pool on its own devices.
    ReplicaId(u32)
);
id!(
    /// A running sequence's place in its replica. Reused after the sequence ends.
    Slot(u32)
);
