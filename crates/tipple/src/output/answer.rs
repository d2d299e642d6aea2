//! Answers to questions (`list`, `doctor`, `prune`, `--dry-run`) on standard output: for people, or as JSON.

use serde::Serialize;

use crate::error::CliError;
use crate::output::{Output, print};

/// Rows of a name and what there is to say about it.
#[derive(Default)]
pub(crate) struct Answer {
    rows: Vec<(String, String)>,
}

impl Answer {
    pub(crate) fn row(&mut self, name: impl Into<String>, text: impl Into<String>) -> &mut Self {
        self.rows.push((name.into(), text.into()));
        self
    }

    /// Under each other, names padded to one width.
    pub(crate) fn text(&self) -> String {
        let width = self
            .rows
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        let line = |(name, text): &(String, String)| {
            let text = text.replace(char::is_control, "\u{FFFD}");
            format!("{name:width$}  {text}").trim_end().to_owned() + "\n"
        };
        self.rows.iter().map(line).collect()
    }

    /// The rows, or with `--json` one report line of `value`.
    pub(crate) fn print(&self, output: &Output, value: &impl Serialize) -> Result<(), CliError> {
        match output.is_json() {
            true => output.json_report(value, 0),
            false => print(&self.text())?,
        }
        Ok(())
    }
}

/// Columns, the first to the left and all others to the right.
pub(crate) fn print_table(head: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column {
                0 => format!("{cell:width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    print(&text)
}
