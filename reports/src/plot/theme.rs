//! One look for all plots: colours by name, drawn with plotters, adapted to light and dark.
//!
//! plotters knows no CSS, so a colour is drawn as a sentinel (`#01020x` and such) that is replaced
//! by `var(--name)` in the finished SVG; the page, or [`standalone`], says what the names mean.
//! Drawing is on a grid [`SCALE`] times finer than a CSS pixel, since plotters rounds to integers.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::ReportError;

/// Plot units per CSS pixel.
const SCALE: f64 = 4.0;
/// Width of every plot in CSS pixels.
pub(crate) const WIDTH: f64 = 960.0;
/// Colours for policies; the baseline has one of its own.
pub(crate) const SERIES: usize = 8;
/// Colours for models and chains.
const MODELS: usize = 8;

/// A colour by its role.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Paint {
    /// Text and axes.
    Ink,
    /// Secondary text.
    Muted,
    /// Grid lines.
    Grid,
    /// Background.
    Paper,
    /// The baseline policy.
    Baseline,
    /// The n-th other policy.
    Series(usize),
    /// The n-th model or chain.
    Model(usize),
}

impl Paint {
    fn sentinel(self) -> RGBColor {
        match self {
            Self::Ink => RGBColor(1, 2, 0),
            Self::Muted => RGBColor(1, 2, 1),
            Self::Grid => RGBColor(1, 2, 2),
            Self::Paper => RGBColor(1, 2, 3),
            Self::Baseline => RGBColor(1, 2, 4),
            Self::Series(n) => RGBColor(1, 3, (n % SERIES) as u8),
            Self::Model(n) => RGBColor(1, 4, (n % MODELS) as u8),
        }
    }

    pub(crate) fn variable(self) -> String {
        match self {
            Self::Ink => "var(--ink)".into(),
            Self::Muted => "var(--muted)".into(),
            Self::Grid => "var(--grid)".into(),
            Self::Paper => "var(--paper)".into(),
            Self::Baseline => "var(--base)".into(),
            Self::Series(n) => format!("var(--s{})", n % SERIES),
            Self::Model(n) => format!("var(--m{})", n % MODELS),
        }
    }
}

/// The variables in both modes. Policies: Okabe and Ito's palette, darkened or lightened where the
/// background asks for it. Models: Tol's, in an order that keeps neighbours apart.
pub(crate) const VARIABLES: &str = "\
:root{color-scheme:light dark;--ink:#1c2128;--muted:#5b6470;--grid:#e3e6ea;--paper:#ffffff;--base:#4a5160;
--s0:#0072b2;--s1:#d55e00;--s2:#00875f;--s3:#b8588f;--s4:#b97a00;--s5:#2f9fd8;--s6:#7a4fc0;--s7:#8a6b3d;
--m0:#56aede;--m1:#3a9f8c;--m2:#3f2f9c;--m3:#ddcc77;--m4:#cc6677;--m5:#882255;--m6:#117733;--m7:#999933}
@media(prefers-color-scheme:dark){:root{--ink:#e7eaee;--muted:#9aa4b1;--grid:#2c333c;--paper:#14181d;--base:#c2c9d4;
--s0:#4fa8e0;--s1:#ff8a3d;--s2:#2fc795;--s3:#e38fc0;--s4:#f0b63c;--s5:#8fd3f7;--s6:#b497f0;--s7:#cbab7a;
--m0:#88ccee;--m1:#44aa99;--m2:#8f86e0;--m3:#ddcc77;--m4:#e07f8e;--m5:#c05c93;--m6:#4fb26b;--m7:#b9b95a}}
";

/// How a line is broken; with the colour it tells policies apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Dash {
    Solid,
    Long,
    Short,
}

/// Where a text stands relative to its point.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    Left,
    Middle,
    Right,
}

/// Why a drawing failed.
pub(crate) type Failure = DrawingAreaErrorKind<std::io::Error>;
/// What drawing answers with.
pub(crate) type Drawn = Result<(), Failure>;

/// A drawing area in CSS pixels, origin at the top left.
pub(crate) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

/// Draws a plot of [`WIDTH`] by `height` CSS pixels and gives its colours their names.
pub(crate) fn draw(
    plot: &'static str,
    height: f64,
    body: impl FnOnce(&Canvas<'_>) -> Drawn,
) -> Result<String, ReportError> {
    let mut svg = String::new();
    let fine = |v: f64| (v * SCALE).round() as u32;
    let size = (fine(WIDTH), fine(height));
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let canvas = Canvas { area };
        let failed = |e: Failure| ReportError::Plot { plot, reason: e.to_string() };
        body(&canvas).map_err(failed)?;
        canvas.area.present().map_err(failed)?;
    }
    Ok(named(&svg, size, height))
}

/// Replaces sentinels by variables and the size by one that fits its column.
fn named(svg: &str, size: (u32, u32), height: f64) -> String {
    let outer = format!("<svg width=\"{}\" height=\"{}\"", size.0, size.1);
    let mut out =
        svg.replacen(&outer, &format!("<svg width=\"{WIDTH}\" height=\"{height}\" role=\"img\""), 1);
    out = out.replace("opacity=\"1\" ", "").replace("font-family=\"sans-serif\" ", "");
    let roles = [Paint::Ink, Paint::Muted, Paint::Grid, Paint::Paper, Paint::Baseline];
    let families = (0..SERIES).map(Paint::Series).chain((0..MODELS).map(Paint::Model));
    for paint in roles.into_iter().chain(families) {
        let RGBColor(r, g, b) = paint.sentinel();
        out = out.replace(&format!("\"#{r:02X}{g:02X}{b:02X}\""), &format!("\"{}\"", paint.variable()));
    }
    out
}

/// The same SVG with the variables inside, for a file of its own.
pub(crate) fn standalone(svg: &str) -> String {
    let style = format!("<style>{VARIABLES}svg{{background:var(--paper);font-family:{FONT}}}</style>");
    svg.find('>').map_or_else(|| svg.to_owned(), |end| format!("{}{style}{}", &svg[..=end], &svg[end + 1..]))
}

/// System fonts, so that nothing is loaded.
pub(crate) const FONT: &str = "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif";

fn fine((x, y): (f64, f64)) -> (i32, i32) {
    ((x * SCALE).round() as i32, (y * SCALE).round() as i32)
}

impl Canvas<'_> {
    /// A line through `points`, `width` pixels wide.
    pub(crate) fn line(&self, points: &[(f64, f64)], paint: Paint, width: f64, dash: Dash) -> Drawn {
        let style = paint.sentinel().stroke_width((width * SCALE) as u32);
        match dash {
            Dash::Solid => {
                self.area.draw(&PathElement::new(points.iter().map(|&p| fine(p)).collect::<Vec<_>>(), style))
            }
            Dash::Long => self.dashes(points, style, 9.0, 4.0),
            Dash::Short => self.dashes(points, style, 3.0, 3.0),
        }
    }

    fn dashes(&self, points: &[(f64, f64)], style: ShapeStyle, on: f64, off: f64) -> Drawn {
        for piece in pieces(points, on, off) {
            self.area.draw(&PathElement::new(piece.into_iter().map(fine).collect::<Vec<_>>(), style))?;
        }
        Ok(())
    }

    /// A filled polygon.
    pub(crate) fn polygon(&self, points: &[(f64, f64)], paint: Paint, opacity: f64) -> Drawn {
        let style = paint.sentinel().mix(opacity).filled();
        self.area.draw(&Polygon::new(points.iter().map(|&p| fine(p)).collect::<Vec<_>>(), style))
    }

    /// A filled rectangle from corner to corner.
    pub(crate) fn bar(&self, from: (f64, f64), to: (f64, f64), paint: Paint, opacity: f64) -> Drawn {
        self.area.draw(&Rectangle::new([fine(from), fine(to)], paint.sentinel().mix(opacity).filled()))
    }

    /// A filled dot.
    pub(crate) fn dot(&self, at: (f64, f64), radius: f64, paint: Paint) -> Drawn {
        self.area.draw(&Circle::new(fine(at), (radius * SCALE) as i32, paint.sentinel().filled()))
    }

    /// A text of `size` pixels, its middle at the height of `at`.
    pub(crate) fn text(&self, text: &str, at: (f64, f64), size: f64, paint: Paint, anchor: Anchor) -> Drawn {
        self.write(text, at, size, paint, anchor, FontTransform::None, FontStyle::Normal)
    }

    /// A bold text, left-aligned.
    pub(crate) fn heading(&self, text: &str, at: (f64, f64), size: f64) -> Drawn {
        self.write(text, at, size, Paint::Ink, Anchor::Left, FontTransform::None, FontStyle::Bold)
    }

    /// A text that runs upwards, centred at `at`.
    pub(crate) fn upwards(&self, text: &str, at: (f64, f64), size: f64, paint: Paint) -> Drawn {
        self.write(text, at, size, paint, Anchor::Middle, FontTransform::Rotate270, FontStyle::Normal)
    }

    #[allow(clippy::too_many_arguments)] // Private; the three callers above name them.
    fn write(
        &self,
        text: &str,
        at: (f64, f64),
        size: f64,
        paint: Paint,
        anchor: Anchor,
        turn: FontTransform,
        style: FontStyle,
    ) -> Drawn {
        let h = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::Right => HPos::Right,
        };
        // The SVG backend divides by 1.24.
        let font = FontDesc::new(FontFamily::SansSerif, size * SCALE * 1.24, style).transform(turn);
        let style = font.color(&paint.sentinel()).pos(Pos::new(h, VPos::Center));
        self.area.draw(&Text::new(text.to_owned(), fine(at), style))
    }
}

/// Width of a text in pixels, guessed from its characters: good enough for legends.
pub(crate) fn text_width(text: &str, size: f64) -> f64 {
    let width = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | '|' | '(' | ')' | ' ' => 0.34,
        'f' | 'r' | 't' | '-' | '/' => 0.4,
        'm' | 'w' | 'M' | 'W' | '%' | '…' => 0.92,
        '_' => 0.5,
        c if c.is_uppercase() => 0.7,
        _ => 0.61,
    };
    text.chars().map(width).sum::<f64>() * size
}

/// Cuts a line into dashes of length `on`, `off` apart.
fn pieces(points: &[(f64, f64)], on: f64, off: f64) -> Vec<Vec<(f64, f64)>> {
    let (mut out, mut current) = (Vec::new(), Vec::new());
    let (mut drawing, mut left) = (true, on);
    for pair in points.windows(2) {
        let (mut from, to) = (pair[0], pair[1]);
        loop {
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            if drawing && current.is_empty() {
                current.push(from);
            }
            if length <= left {
                left -= length;
                if drawing {
                    current.push(to);
                }
                break;
            }
            let t = left / length;
            from = (from.0 + (to.0 - from.0) * t, from.1 + (to.1 - from.1) * t);
            if drawing {
                current.push(from);
                out.push(std::mem::take(&mut current));
            }
            drawing = !drawing;
            left = if drawing { on } else { off };
        }
    }
    if current.len() > 1 {
        out.push(current);
    }
    out
}

/// A legend entry.
pub(crate) struct Key {
    /// Colour.
    pub paint: Paint,
    /// Opacity of a box; `None` draws a line sample instead.
    pub fill: Option<f64>,
    /// Break of a line sample.
    pub dash: Dash,
    /// What it means.
    pub text: String,
}

const KEY_SIZE: f64 = 12.5;
const KEY_LINE: f64 = 20.0;

fn places(keys: &[Key]) -> (Vec<(f64, f64)>, f64) {
    let (mut x, mut y, mut at) = (0.0, 0.0, Vec::new());
    for key in keys {
        let width = 30.0 + text_width(&key.text, KEY_SIZE) + 18.0;
        if x > 0.0 && x + width > WIDTH - 20.0 {
            (x, y) = (0.0, y + KEY_LINE);
        }
        at.push((x, y));
        x += width;
    }
    (at, if keys.is_empty() { 0.0 } else { y + KEY_LINE + 6.0 })
}

/// Height that a legend takes.
pub(crate) fn legend_height(keys: &[Key]) -> f64 {
    places(keys).1
}

/// Draws a legend at the top of a plot.
pub(crate) fn legend(canvas: &Canvas<'_>, keys: &[Key]) -> Drawn {
    for (key, (x, y)) in keys.iter().zip(places(keys).0) {
        let (x, y) = (x + 10.0, y + 12.0);
        match key.fill {
            Some(opacity) => canvas.bar((x, y - 6.0), (x + 20.0, y + 6.0), key.paint, opacity)?,
            None => canvas.line(&[(x, y), (x + 22.0, y)], key.paint, 3.0, key.dash)?,
        }
        canvas.text(&key.text, (x + 28.0, y), KEY_SIZE, Paint::Ink, Anchor::Left)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_variables_and_text_is_escaped() {
        let svg = draw("test", 40.0, |canvas| {
            canvas.line(&[(0.0, 0.0), (10.0, 10.0)], Paint::Series(9), 1.0, Dash::Solid)?;
            canvas.bar((0.0, 0.0), (5.0, 5.0), Paint::Model(1), 0.5)?;
            canvas.text("a < b & c", (1.0, 1.0), 10.0, Paint::Ink, Anchor::Left)
        })
        .unwrap();
        assert!(svg.contains("stroke=\"var(--s1)\"") && svg.contains("fill=\"var(--m1)\""), "{svg}");
        assert!(
            svg.contains("a &lt; b &amp; c") && !svg.contains("#0102") && !svg.contains("#0103"),
            "{svg}"
        );
        assert!(svg.starts_with("<svg width=\"960\" height=\"40\""), "{svg}");
        assert!(standalone(&svg).contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn dashes_cover_their_share_of_the_line() {
        let dashes = pieces(&[(0.0, 0.0), (50.0, 0.0), (100.0, 0.0)], 6.0, 4.0);
        let drawn: f64 = dashes.iter().flat_map(|d| d.windows(2)).map(|w| w[1].0 - w[0].0).sum();
        assert!((drawn - 60.0).abs() < 1e-9, "{drawn}");
    }
}
