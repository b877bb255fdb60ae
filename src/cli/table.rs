//! Plain tables for terminals and for scripts that read columns.

/// Rows below a heading, in columns that are as wide as they need to be, two spaces apart.
pub(crate) fn render(heading: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = heading
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            cells.chain([title.chars().count()]).max().unwrap_or_default()
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut text = line(&mut heading.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// A number of microseconds or such, short: three significant digits.
pub(super) fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["v0".to_owned(), "1".to_owned()],
            vec!["uplink".to_owned(), "20".to_owned()],
        ];
        assert_eq!(
            render(&["PORT", "N"], &rows),
            "PORT    N\nv0      1\nuplink  20\n"
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [short(0.123), short(12.34), short(1234.5)],
            ["0.12", "12.3", "1234"]
        );
    }
}
