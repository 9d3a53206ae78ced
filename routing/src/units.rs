//! Numbers with a unit or a range. The constructor is the only door.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number that is not in the range its type stands for. The user's fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{what} must be {expected}, got {value}")]
pub struct OutOfRange {
    /// What the number is, as a user would call it.
    pub what: &'static str,
    /// The range, in words.
    pub expected: &'static str,
    /// What came.
    pub value: f64,
}

/// A moment of a run, in nanoseconds since the run began.
///
/// Integer, so equal times are equal and every pair is ordered. Virtual in the simulator,
/// measured in the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(u64);

/// A length of time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span(u64);

impl Time {
    /// The beginning of a run.
    pub const ZERO: Self = Self(0);
    /// Later than every event.
    pub const NEVER: Self = Self(u64::MAX);

    /// `nanos` nanoseconds after the beginning.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the beginning.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Seconds since the beginning, for reports; nothing is ordered by it.
    pub fn seconds(self) -> f64 {
        self.0 as f64 * 1e-9
    }

    /// `seconds` after the beginning.
    ///
    /// # Errors
    /// [`OutOfRange`] for NaN, negative and infinite values and for moments past 584 years.
    pub fn from_seconds(seconds: f64) -> Result<Self, OutOfRange> {
        Span::from_seconds(seconds).map(|span| Self(span.0)).map_err(|e| OutOfRange { what: "time", ..e })
    }

    /// The span from `earlier` to here; `None` when `earlier` is later.
    pub fn since(self, earlier: Self) -> Option<Span> {
        self.0.checked_sub(earlier.0).map(Span)
    }

    /// `self + span`, or `None` past the end of time.
    pub fn checked_add(self, span: Span) -> Option<Self> {
        self.0.checked_add(span.0).map(Self)
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of `nanos` nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Seconds, for reports and estimates.
    pub fn seconds(self) -> f64 {
        self.0 as f64 * 1e-9
    }

    /// A span of `seconds`, rounded to the nearest nanosecond.
    ///
    /// # Errors
    /// [`OutOfRange`] for NaN, negative and infinite values and for spans past 584 years.
    pub fn from_seconds(seconds: f64) -> Result<Self, OutOfRange> {
        let nanos = seconds * 1e9;
        if nanos >= 0.0 && nanos < u64::MAX as f64 {
            Ok(Self((nanos + 0.5) as u64))
        } else {
            Err(OutOfRange {
                what: "span",
                expected: "a finite number of seconds, 0 or more",
                value: seconds,
            })
        }
    }
}

// Overflow of either is a run of 584 years: `overflow-checks` stops it, in release builds too.
impl Add<Span> for Time {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0 + span.0)
    }
}

impl AddAssign<Span> for Time {
    fn add_assign(&mut self, span: Span) {
        self.0 += span.0;
    }
}

impl Sub for Time {
    type Output = Span;
    fn sub(self, earlier: Self) -> Span {
        Span(self.0 - earlier.0)
    }
}

impl Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Span {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl std::iter::Sum for Span {
    fn sum<I: Iterator<Item = Self>>(spans: I) -> Self {
        spans.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} s", self.seconds())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} s", self.seconds())
    }
}

/// Defines a checked `f64` newtype that serde reads through its constructor.
macro_rules! ranged {
    ($(#[$doc:meta])* $name:ident, $what:literal, $expected:literal, |$v:ident| $ok:expr, $schema:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "f64", into = "f64")]
        #[schemars(with = "f64", description = $schema)]
        pub struct $name(f64);

        #[allow(clippy::manual_range_contains, reason = "`contains` is not const")]
        impl $name {
            /// Accepts finite values of the range; NaN is in no range.
            ///
            /// # Errors
            /// [`OutOfRange`], naming the range and what came.
            pub fn new($v: f64) -> Result<Self, OutOfRange> {
                if $ok { Ok(Self($v)) } else { Err(OutOfRange { what: $what, expected: $expected, value: $v }) }
            }

            /// A number of this range that stands in the code.
            ///
            /// # Panics
            /// For a number out of range, which no caller's is.
            #[allow(dead_code, reason = "not every range has a default")]
            pub(crate) const fn constant($v: f64) -> Self {
                assert!($ok);
                Self($v)
            }

            /// The bare number.
            pub const fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = OutOfRange;
            fn try_from(value: f64) -> Result<Self, OutOfRange> {
                Self::new(value)
            }
        }

        impl From<$name> for f64 {
            fn from(value: $name) -> f64 {
                value.0
            }
        }
    };
}

ranged!(
    /// A probability in `[0, 1]`.
    Probability, "probability", "between 0 and 1", |v| v >= 0.0 && v <= 1.0, "a probability, 0 to 1"
);
ranged!(
    /// A finite number above 0, in the unit its field's name states.
    Positive, "value", "a finite number above 0", |v| v > 0.0 && v.is_finite(), "a finite number above 0"
);
ranged!(
    /// A finite number, 0 or above, in the unit its field's name states.
    NonNegative, "value", "a finite number, 0 or above", |v| v >= 0.0 && v.is_finite(), "a finite number, 0 or above"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_named() {
        insta::assert_snapshot!(Probability::new(f64::NAN).unwrap_err(), @"probability must be between 0 and 1, got NaN");
        insta::assert_snapshot!(Positive::new(0.0).unwrap_err(), @"value must be a finite number above 0, got 0");
        insta::assert_snapshot!(Span::from_seconds(-1.0).unwrap_err(), @"span must be a finite number of seconds, 0 or more, got -1");
        assert!(Span::from_seconds(f64::INFINITY).is_err());
        assert!(Span::from_seconds(1e12).is_err());
    }

    #[test]
    fn seconds_round_to_the_nearest_nanosecond() {
        assert_eq!(Span::from_seconds(1.5e-9).unwrap(), Span::from_nanos(2));
        assert_eq!(Time::from_seconds(2.0).unwrap() - Time::from_nanos(5), Span::from_nanos(1_999_999_995));
        assert_eq!(Time::ZERO.since(Time::from_nanos(1)), None);
    }
}
