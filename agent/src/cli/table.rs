//! Columns of text.

use std::fmt::Write as _;

/// Space between columns of tables.
const GAP: usize = 3;
/// No column is narrower.
const NARROWEST: usize = 6;

/// A table that is written row by row; columns only grow, so that rows that come later stand below the earlier ones.
#[derive(Debug, Default)]
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// Make the columns wide enough for these rows.
    pub fn fit<'a>(&mut self, rows: impl IntoIterator<Item = &'a Vec<String>>) {
        for row in rows {
            for (index, cell) in row.iter().enumerate() {
                let width = (cell.chars().count() + GAP).max(NARROWEST);
                match self.widths.get_mut(index) {
                    Some(widest) => *widest = width.max(*widest),
                    None => self.widths.push(width),
                }
            }
        }
    }

    /// A row as a line. The last column is not padded.
    pub fn line(&self, row: &[String]) -> String {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            let width = self.widths.get(index).copied().unwrap_or(0);
            if index + 1 < row.len() {
                // Writing to a String cannot fail.
                let _ = write!(line, "{cell:<width$}");
            } else {
                line.push_str(cell);
            }
        }
        line.push('\n');
        line
    }
}

/// Put cells that end with a tab below each other: a column reaches over lines that follow each other and have it.
pub fn align(text: &str, gap: usize) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
    for row in 0..lines.len() {
        for column in 0..lines[row].len().saturating_sub(1) {
            if widths[row][column] != 0 {
                continue;
            }
            let end = (row..lines.len())
                .find(|other| lines[*other].len() < column + 2)
                .unwrap_or(lines.len());
            let widest = (row..end)
                .map(|other| lines[other][column].chars().count())
                .max()
                .unwrap_or(0);
            for width in &mut widths[row..end] {
                width[column] = widest + gap;
            }
        }
    }
    let mut aligned = String::new();
    for (cells, widths) in lines.iter().zip(&widths) {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}");
        }
        aligned.push_str(line.trim_end());
        aligned.push('\n');
    }
    aligned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            row(&["NAME", "AGE", "X"]),
            row(&["a-longer-name", "5s", "last"]),
            row(&["ü", "1m", ""]),
        ];
        let mut table = Table::default();
        table.fit(&rows);
        let text: String = rows.iter().map(|row| table.line(row)).collect();
        assert_eq!(
            text,
            "NAME            AGE   X\na-longer-name   5s    last\nü               1m    \n"
        );
    }

    #[test]
    fn later_rows_stand_below_earlier_ones() {
        let (first, second) = (row(&["a-longer-name", "b"]), row(&["a", "b"]));
        let mut table = Table::default();
        table.fit([&first]);
        table.fit([&second]);
        assert_eq!(table.line(&second), "a               b\n");
    }

    #[test]
    fn cells_are_aligned_within_their_block() {
        let text =
            "Name:\tweb\nNamespace:\tdefault\nContainers:\n  web:\n    Image:\tx\n    Container ID:\ty\n";
        assert_eq!(
            align(text, 2),
            "Name:       web\nNamespace:  default\nContainers:\n  web:\n    Image:         x\n    Container ID:  y\n"
        );
    }
}
