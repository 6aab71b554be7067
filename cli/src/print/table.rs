//! Tables: one header line in capitals, columns as wide as they must be.

use std::io::Write as _;

use crate::exit::Outcome;

/// A table that is filled row by row and printed at the end.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // A name with control characters must not move the cursor.
                let cell: String =
                    cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
                line.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    pub(crate) fn print(&self) -> Outcome {
        Ok(std::io::stdout().write_all(self.render().as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let mut table = Table::new(&["ID", "STATE"]);
        table.row(["a-long-id".into(), "up".into()]);
        table.row(["b".into(), "\u{1b}[31m".into()]);
        let want = "ID         STATE\na-long-id  up\nb          \u{fffd}[31m\n";
        assert_eq!(table.render(), want);
    }
}
