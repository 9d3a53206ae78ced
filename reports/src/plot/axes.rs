//! Axes: scales, ticks, grid and labels of one panel.

use super::theme::{Anchor, Canvas, Dash, Drawn, Failure, Paint, text_width};
use crate::numbers;

/// What the numbers on an axis are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    /// Plain numbers.
    Number,
    /// Shares, shown in percent.
    Share,
    /// Seconds, shown in the unit that fits.
    Seconds,
    /// Relative changes, shown in percent with a sign.
    Change,
}

impl Unit {
    fn label(self, value: f64) -> String {
        let trimmed = |text: String| {
            let (digits, unit) = text.split_once(' ').map_or((text.as_str(), ""), |(d, u)| (d, u));
            let digits = if digits.contains('.') {
                digits.trim_end_matches('0').trim_end_matches('.')
            } else {
                digits
            };
            if unit.is_empty() { digits.to_owned() } else { format!("{digits} {unit}") }
        };
        match self {
            // Ticks differ in digits that a value to be read does not need.
            Self::Number if value.abs() < 100.0 && value.abs() >= 0.001 => trimmed(format!("{value:.4}")),
            Self::Number => trimmed(numbers::number(value)),
            Self::Share => trimmed(numbers::share(value)),
            Self::Seconds if value == 0.0 => "0".into(),
            Self::Seconds => trimmed(numbers::seconds(value)),
            Self::Change if value == 0.0 => "0".into(),
            Self::Change => trimmed(format!("{:+.1} %", value * 100.0)),
        }
    }
}

/// One direction of a panel.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    unit: Unit,
    label: String,
    names: Vec<String>,
}

/// Longest name beside a row.
const NAME: usize = 30;

impl Axis {
    /// One row per name, the first at the top; row `i` is centred at [`Axis::row`].
    pub(crate) fn rows(names: impl Iterator<Item = String>) -> Self {
        let cut = |name: String| match name.char_indices().nth(NAME) {
            Some((end, _)) => format!("{}…", &name[..end]),
            None => name,
        };
        let names: Vec<String> = names.map(cut).collect();
        Self { names: names.clone(), ..Self::between(0.0, names.len() as f64, Unit::Number, "") }
    }

    /// Height of the middle of row `index`.
    pub(crate) fn row(&self, index: usize) -> f64 {
        self.high - 0.5 - index as f64
    }

    /// From 0 to a little above the largest value; 1 where there is none.
    pub(crate) fn from_zero(values: impl Iterator<Item = f64>, unit: Unit, label: &str) -> Self {
        let high = values.filter(|v| v.is_finite()).fold(0.0, f64::max);
        let high = if high > 0.0 { high * 1.06 } else { 1.0 };
        Self { low: 0.0, high, log: false, unit, label: label.into(), names: Vec::new() }
    }

    /// From `low` to `high`, which is above it.
    pub(crate) fn between(low: f64, high: f64, unit: Unit, label: &str) -> Self {
        Self {
            low,
            high: if high > low { high } else { low + 1.0 },
            log: false,
            unit,
            label: label.into(),
            names: Vec::new(),
        }
    }

    /// Logarithmic over all values above 0.
    pub(crate) fn log(values: impl Iterator<Item = f64>, unit: Unit, label: &str) -> Self {
        let range = values
            .filter(|v| *v > 0.0 && v.is_finite())
            .fold((f64::MAX, 0.0), |(l, h), v| (v.min(l), v.max(h)));
        let (low, high) = if range.1 > 0.0 { range } else { (1.0, 10.0) };
        // At least a third of a decade, so that ticks fit.
        let spare = (0.33 - (high / low).log10()).max(0.0) / 2.0 + 0.02;
        Self {
            low: low / 10f64.powf(spare),
            high: high * 10f64.powf(spare),
            log: true,
            unit,
            label: label.into(),
            names: Vec::new(),
        }
    }

    /// Where `value` lies, 0 at the low end and 1 at the high end; values outside stay at the ends.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let at = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        at.clamp(0.0, 1.0)
    }

    /// Round values in the range, at most about `most`.
    fn ticks(&self, most: usize) -> Vec<f64> {
        if most == 0 {
            return Vec::new();
        }
        if !self.log {
            let step = nice((self.high - self.low) / most as f64);
            let first = (self.low / step - 1e-9).ceil() as i64;
            let last = (self.high / step + 1e-9).floor() as i64;
            return (first..=last).map(|k| k as f64 * step).collect();
        }
        let decades = first_decade(self.low)..=first_decade(self.high) + 1;
        for digits in [&[1.0, 2.0, 3.0, 5.0, 7.0][..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]] {
            let inside = |v: &f64| *v >= self.low * 0.999 && *v <= self.high * 1.001;
            let each = |d: i32| digits.iter().map(move |digit| digit * 10f64.powi(d));
            let ticks: Vec<f64> = decades.clone().flat_map(each).filter(inside).collect();
            if ticks.len() <= most || digits.len() == 1 {
                let every = ticks.len().div_ceil(most).max(1);
                return ticks.into_iter().step_by(every).collect();
            }
        }
        Vec::new()
    }
}

fn first_decade(value: f64) -> i32 {
    value.log10().floor() as i32
}

/// The next of 1, 2, 2.5, 5 times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let digit = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|d| d * power >= step * 0.999);
    digit.unwrap_or(10.0) * power
}

/// A rectangle of a plot with its axes; `place` maps values to pixels.
pub(crate) struct Panel<'c, 'a> {
    canvas: &'c Canvas<'a>,
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
    /// Across.
    pub x: Axis,
    /// Up.
    pub y: Axis,
}

/// Sizes in pixels of what stands around a panel.
const TITLE: f64 = 26.0;
const BELOW: f64 = 46.0;
const BESIDE: f64 = 66.0;
const SIZE: f64 = 11.5;

impl<'c, 'a> Panel<'c, 'a> {
    /// Draws title, grid, ticks and labels into the frame `(left, top, width, height)`.
    pub(crate) fn new(
        canvas: &'c Canvas<'a>,
        frame: (f64, f64, f64, f64),
        title: &str,
        x: Axis,
        y: Axis,
    ) -> Result<Self, Failure> {
        let (left, top, width, height) = frame;
        let longest = y.names.iter().map(|n| text_width(n, SIZE)).fold(0.0, f64::max);
        let panel = Self {
            canvas,
            left: left + if y.names.is_empty() { BESIDE } else { longest + 20.0 },
            top: top + TITLE,
            right: left + width - 22.0,
            bottom: top + height - BELOW,
            x,
            y,
        };
        canvas.heading(title, (panel.left, top + 12.0), 13.5)?;
        for (index, name) in panel.y.names.iter().enumerate() {
            let (_, at) = panel.place(panel.x.low, panel.y.row(index));
            canvas.text(name, (panel.left - 7.0, at), SIZE, Paint::Ink, Anchor::Right)?;
        }
        let most = if panel.y.names.is_empty() { ((panel.bottom - panel.top) / 34.0) as usize } else { 0 };
        for tick in panel.y.ticks(most) {
            let (_, at) = panel.place(panel.x.low, tick);
            canvas.line(&[(panel.left, at), (panel.right, at)], Paint::Grid, 1.0, Dash::Solid)?;
            canvas.text(
                &panel.y.unit.label(tick),
                (panel.left - 7.0, at),
                SIZE,
                Paint::Muted,
                Anchor::Right,
            )?;
        }
        let room = if panel.x.unit == Unit::Number { 32.0 } else { 52.0 };
        for tick in panel.x.ticks(((panel.right - panel.left) / room) as usize) {
            let (at, _) = panel.place(tick, panel.y.low);
            canvas.line(&[(at, panel.top), (at, panel.bottom)], Paint::Grid, 1.0, Dash::Solid)?;
            canvas.text(
                &panel.x.unit.label(tick),
                (at, panel.bottom + 13.0),
                SIZE,
                Paint::Muted,
                Anchor::Middle,
            )?;
        }
        canvas.line(
            &[(panel.left, panel.bottom), (panel.right, panel.bottom)],
            Paint::Muted,
            1.0,
            Dash::Solid,
        )?;
        let middle = ((panel.left + panel.right) / 2.0, panel.bottom + 32.0);
        canvas.text(&panel.x.label, middle, SIZE + 0.5, Paint::Ink, Anchor::Middle)?;
        canvas.upwards(
            &panel.y.label,
            (left + 11.0, (panel.top + panel.bottom) / 2.0),
            SIZE + 0.5,
            Paint::Ink,
        )?;
        Ok(panel)
    }

    /// Pixels of a point.
    pub(crate) fn place(&self, x: f64, y: f64) -> (f64, f64) {
        (
            self.left + (self.right - self.left) * self.x.place(x),
            self.bottom - (self.bottom - self.top) * self.y.place(y),
        )
    }

    /// A line through points in the panel's units.
    pub(crate) fn line(&self, points: &[(f64, f64)], paint: Paint, dash: Dash) -> Drawn {
        let at: Vec<(f64, f64)> = points.iter().map(|&(x, y)| self.place(x, y)).collect();
        if at.len() > 1 { self.canvas.line(&at, paint, 2.0, dash) } else { Ok(()) }
    }

    /// A thin line between two points: the extent of an interval.
    pub(crate) fn whisker(&self, from: (f64, f64), to: (f64, f64), paint: Paint) -> Drawn {
        self.canvas.line(&[self.place(from.0, from.1), self.place(to.0, to.1)], paint, 1.4, Dash::Solid)
    }

    /// A dot.
    pub(crate) fn dot(&self, at: (f64, f64), radius: f64, paint: Paint) -> Drawn {
        self.canvas.dot(self.place(at.0, at.1), radius, paint)
    }

    /// A filled box from corner to corner.
    pub(crate) fn bar(&self, from: (f64, f64), to: (f64, f64), paint: Paint, opacity: f64) -> Drawn {
        self.canvas.bar(self.place(from.0, from.1), self.place(to.0, to.1), paint, opacity)
    }

    /// A line with a dot at every point.
    pub(crate) fn dotted(&self, points: &[(f64, f64)], paint: Paint, dash: Dash) -> Drawn {
        self.line(points, paint, dash)?;
        points.iter().try_for_each(|&at| self.dot(at, 3.0, paint))
    }

    /// A staircase through `(x, y)`: y holds from its x on. For distributions.
    pub(crate) fn stairs(&self, points: &[(f64, f64)], paint: Paint, dash: Dash) -> Drawn {
        let mut steps = Vec::with_capacity(points.len() * 2);
        let mut below = 0.0;
        for &(x, y) in points {
            steps.push((x, below));
            steps.push((x, y));
            below = y;
        }
        self.line(&steps, paint, dash)
    }

    /// The area between two lines over the same x.
    pub(crate) fn band(&self, xs: &[f64], low: &[f64], high: &[f64], paint: Paint) -> Drawn {
        let up = xs.iter().zip(low).map(|(&x, &y)| self.place(x, y));
        let back = xs.iter().zip(high).rev().map(|(&x, &y)| self.place(x, y));
        let outline: Vec<(f64, f64)> = up.chain(back).collect();
        if xs.len() > 1 { self.canvas.polygon(&outline, paint, 0.9) } else { Ok(()) }
    }

    /// A line across at height `y`.
    pub(crate) fn level(&self, y: f64) -> Drawn {
        self.canvas.line(
            &[self.place(self.x.low, y), self.place(self.x.high, y)],
            Paint::Muted,
            1.2,
            Dash::Short,
        )
    }

    /// A line up at `x`.
    pub(crate) fn upright(&self, x: f64) -> Drawn {
        self.canvas.line(
            &[self.place(x, self.y.low), self.place(x, self.y.high)],
            Paint::Muted,
            1.2,
            Dash::Short,
        )
    }
}

/// Frames of `count` panels in `columns` columns below `top`, each `height` high, and their foot.
pub(crate) fn grid(count: usize, columns: usize, top: f64, height: f64) -> (Vec<(f64, f64, f64, f64)>, f64) {
    let columns = columns.clamp(1, count.max(1));
    let width = super::theme::WIDTH / columns as f64;
    let frame = |i: usize| ((i % columns) as f64 * width, top + (i / columns) as f64 * height, width, height);
    ((0..count).map(frame).collect(), top + count.div_ceil(columns) as f64 * height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let linear = Axis::between(0.0, 9.3, Unit::Number, "");
        assert_eq!(linear.ticks(5), [0.0, 2.0, 4.0, 6.0, 8.0]);
        let log = Axis::log([0.003, 0.4].into_iter(), Unit::Seconds, "");
        let ticks = log.ticks(6);
        assert!(ticks.len() >= 2 && ticks.len() <= 6, "{ticks:?}");
        assert!(ticks.iter().all(|t| *t >= log.low * 0.99 && *t <= log.high * 1.01), "{ticks:?}");
        assert_eq!(
            [Unit::Seconds.label(0.02), Unit::Share.label(0.25), Unit::Number.label(1500.0)],
            ["20 ms", "25 %", "1,500"]
        );
        assert_eq!(
            [Unit::Change.label(-0.2), Unit::Number.label(100.0), Unit::Seconds.label(0.5)],
            ["-20 %", "100", "500 ms"]
        );
    }

    #[test]
    fn places_run_from_low_to_high_and_never_leave() {
        for axis in
            [Axis::between(2.0, 4.0, Unit::Number, ""), Axis::log([0.1, 10.0].into_iter(), Unit::Number, "")]
        {
            assert!(axis.place(axis.low).abs() < 1e-12 && (axis.place(axis.high) - 1.0).abs() < 1e-12);
            assert_eq!((axis.place(-5.0), axis.place(1e9)), (0.0, 1.0));
        }
        // Nothing to show is still a drawable axis.
        assert!(!Axis::log(std::iter::empty(), Unit::Seconds, "").ticks(5).is_empty());
        assert!(Axis::from_zero(std::iter::empty(), Unit::Number, "").high > 0.0);
    }
}
