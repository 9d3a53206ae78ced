//! A page about fits: facts, then sections of words, tables and plots. What was fitted is its maker's
//! business; how it looks is the report's.

use crate::html::{columns, drawing, escape, list, section, shell};
use crate::plot::{fit, standalone};
use crate::{ReportError, table};

/// Everything the page shows.
#[derive(Clone, Debug, Default)]
pub struct FitReport {
    /// The headline.
    pub title: String,
    /// What was fitted: `(what, value)`.
    pub facts: Vec<(String, String)>,
    /// In order.
    pub sections: Vec<FitSection>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// The command that makes the page again.
    pub command: String,
}

/// One subject.
#[derive(Clone, Debug, Default)]
pub struct FitSection {
    /// Its name.
    pub title: String,
    /// How to read it; may be empty.
    pub words: String,
    /// Its numbers.
    pub tables: Vec<FitTable>,
    /// Its plots.
    pub plots: Vec<FitPlot>,
}

/// Numbers in rows; cells are plain text.
#[derive(Clone, Debug, Default)]
pub struct FitTable {
    /// Names of the columns.
    pub head: Vec<String>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<String>>,
    /// Columns from the left that hold words.
    pub words: usize,
}

/// Panels that belong together.
#[derive(Clone, Debug, Default)]
pub struct FitPlot {
    /// Name of its file, without ending; unique on the page.
    pub stem: String,
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub caption: String,
    /// Side by side, two in a row.
    pub panels: Vec<FitPanel>,
}

/// One pair of axes.
#[derive(Clone, Debug)]
pub struct FitPanel {
    /// What tells it from the others.
    pub title: String,
    /// Across.
    pub x: FitAxis,
    /// Up.
    pub y: FitAxis,
    /// Draws the line on which both axes are equal.
    pub diagonal: bool,
    /// What is drawn, in this order.
    pub curves: Vec<FitCurve>,
}

/// One direction.
#[derive(Clone, Debug)]
pub struct FitAxis {
    /// What it is, with its unit.
    pub label: String,
    /// How its numbers are shown.
    pub scale: Scale,
}

/// The numbers of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Plain, over what is drawn.
    Plain,
    /// Logarithmic, over what is drawn that is above 0.
    Log,
    /// Seconds, logarithmic.
    Seconds,
    /// From 0 to 1.
    Unit,
}

/// Points that belong together.
#[derive(Clone, Debug)]
pub struct FitCurve {
    /// Its name in the legend; empty for none.
    pub name: String,
    /// How it is drawn.
    pub look: Look,
    /// Its colour, by number: curves of one thing share it over panels.
    pub color: usize,
    /// The points.
    pub points: Vec<FitPoint>,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Small dots.
    Dots,
    /// Dots on a line.
    Dotted,
    /// A line.
    Line,
    /// A broken line: what was fitted, beside what was measured.
    Dashed,
    /// A staircase: a distribution.
    Stairs,
}

/// A point, with its interval where it has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitPoint {
    /// Across.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// Interval of `y`.
    pub interval: Option<(f64, f64)>,
}

impl From<(f64, f64)> for FitPoint {
    fn from((x, y): (f64, f64)) -> Self {
        Self { x, y, interval: None }
    }
}

impl FitReport {
    /// The self-contained page: styles and plots inline, nothing loaded.
    ///
    /// # Errors
    /// A plot that cannot be drawn: a bug.
    pub fn html(&self) -> Result<String, ReportError> {
        let mut body =
            format!("<header>\n<h1>{}</h1>\n{}</header>\n", escape(&self.title), list(&self.facts));
        for part in &self.sections {
            let mut inner = String::new();
            if !part.words.is_empty() {
                inner += &format!("<p>{}</p>\n", escape(&part.words));
            }
            for table in part.tables.iter().filter(|table| !table.rows.is_empty()) {
                let cells = |row: &Vec<String>| row.iter().map(|cell| escape(cell)).collect::<Vec<_>>();
                let rows: Vec<Vec<String>> = table.rows.iter().map(cells).collect();
                inner += &columns(&cells(&table.head), &rows, table.words);
            }
            for plot in &part.plots {
                inner += &drawing(&plot.stem, &plot.title, &fit::svg(plot)?, &plot.caption);
            }
            body += &section(&part.title, &inner);
        }
        let items: String = self.notes.iter().map(|n| format!("<li>{}</li>\n", escape(n))).collect();
        if !items.is_empty() {
            body += &section("Notes", &format!("<ul>\n{items}</ul>\n"));
        }
        let command = format!("<pre class=\"command\">{}</pre>\n", escape(&self.command));
        Ok(shell(&self.title, &(body + &section("Run it again", &command))))
    }

    /// Every plot as `(file stem, stand-alone SVG)`.
    ///
    /// # Errors
    /// A plot that cannot be drawn: a bug.
    pub fn plots(&self) -> Result<Vec<(String, String)>, ReportError> {
        let all = self.sections.iter().flat_map(|part| &part.plots);
        all.map(|plot| Ok((plot.stem.clone(), standalone(&fit::svg(plot)?)))).collect()
    }

    /// The tables for a terminal, and the notes.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for part in &self.sections {
            let tables = part.tables.iter().filter(|table| !table.rows.is_empty());
            for (index, table) in tables.enumerate() {
                if index == 0 {
                    out += &format!("{}\n", part.title);
                }
                let rows: Vec<Vec<String>> =
                    std::iter::once(&table.head).chain(&table.rows).cloned().collect();
                out += &table::aligned(&rows, &(0..table.words).collect::<Vec<_>>());
                out.push('\n');
            }
        }
        self.notes.iter().for_each(|note| out += &format!("note: {note}\n"));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> FitAxis {
        FitAxis { label: "x < y".into(), scale }
    }

    fn report() -> FitReport {
        let curve = |name: &str, look, color| FitCurve {
            name: name.into(),
            look,
            color,
            points: vec![
                (0.1, 0.2).into(),
                FitPoint { x: 0.5, y: 0.6, interval: Some((0.5, 0.7)) },
                (0.9, 0.8).into(),
            ],
        };
        let looks = [Look::Dots, Look::Dotted, Look::Line, Look::Dashed, Look::Stairs];
        let curves = |_: usize| looks.iter().enumerate().map(|(i, &look)| curve("a & b", look, i)).collect();
        let panel = |index: usize, scale| FitPanel {
            title: "<m>".into(),
            x: axis(scale),
            y: axis(scale),
            diagonal: true,
            curves: curves(index),
        };
        let scales = [Scale::Plain, Scale::Log, Scale::Seconds, Scale::Unit];
        FitReport {
            title: "Fits".into(),
            facts: vec![("device".into(), "<b>cpu</b>".into())],
            sections: vec![FitSection {
                title: "Costs".into(),
                words: "words & such".into(),
                tables: vec![FitTable {
                    head: vec!["model".into(), "error".into()],
                    rows: vec![vec!["<i>".into(), "1.0 %".into()]],
                    words: 1,
                }],
                plots: vec![FitPlot {
                    stem: "costs".into(),
                    title: "Costs".into(),
                    caption: "read".into(),
                    panels: scales.iter().enumerate().map(|(i, &scale)| panel(i, scale)).collect(),
                }],
            }],
            notes: vec!["a note".into()],
            command: "specrouter calibrate x && y".into(),
        }
    }

    #[test]
    fn the_page_is_self_contained_and_what_came_is_text() {
        let page = report().html().unwrap();
        for outside in
            ["src=", "href=", "url(", "@import", "<script", "<link", "<img", "<b>cpu", "<i>", "<m>"]
        {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("&lt;b&gt;cpu&lt;/b&gt;") && page.contains("x &amp;&amp; y"));
        assert_eq!(page.matches("<svg").count(), 1);
        for tag in ["section", "table", "tr", "figure", "p", "ul", "dl", "div"] {
            let opened =
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert_eq!(page, report().html().unwrap());
    }

    #[test]
    fn plots_stand_alone_and_tables_line_up() {
        let plots = report().plots().unwrap();
        assert!(plots[0].0 == "costs" && plots[0].1.contains("<style>"));
        insta::assert_snapshot!(report().text(), @r"
        Costs
        model  error
        <i>    1.0 %

        note: a note
        ");
    }

    #[test]
    fn nothing_to_draw_is_drawn() {
        let mut empty = report();
        empty.sections[0].plots[0].panels.iter_mut().for_each(|panel| panel.curves.clear());
        assert!(empty.html().is_ok());
    }
}
