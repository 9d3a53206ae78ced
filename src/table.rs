//! Aligned columns.

/// Rows of cells under a heading, as text. Columns that hold numbers are aligned to the right.
pub struct Table {
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(heading: &[&str]) -> Self {
        Self { heading: heading.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Adds a row; a missing cell is empty.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The text, one line a row.
    pub fn text(&self) -> String {
        let cell = |row: &'_ [String], column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |s: &str| s.chars().count();
        let columns: Vec<(usize, bool)> = (0..self.heading.len())
            .map(|column| {
                let cells: Vec<String> = self.rows.iter().map(|row| cell(row, column)).collect();
                let widest =
                    cells.iter().map(|c| width(c)).max().unwrap_or(0).max(width(&self.heading[column]));
                let numbers = cells
                    .iter()
                    .all(|c| c.is_empty() || c.starts_with(|f: char| f.is_ascii_digit() || f == '-'));
                (widest, numbers)
            })
            .collect();
        let line = |cells: Vec<String>| {
            let padded: Vec<String> = cells
                .iter()
                .zip(&columns)
                .map(
                    |(cell, &(widest, numbers))| {
                        if numbers { format!("{cell:>widest$}") } else { format!("{cell:<widest$}") }
                    },
                )
                .collect();
            padded.join("  ").trim_end().to_owned() + "\n"
        };
        let mut text = line(self.heading.clone());
        for row in &self.rows {
            text += &line((0..self.heading.len()).map(|column| cell(row, column)).collect());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", "GB"]);
        table.row(vec!["a-long-name".into(), "8".into()]);
        table.row(vec!["b".into(), "141.5".into()]);
        assert_eq!(table.text(), "name            GB\na-long-name      8\nb            141.5\n");
    }
}
