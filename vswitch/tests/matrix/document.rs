//! Tables of docs/conformance.md that tests write.

use std::path::{Path, PathBuf};

/// A variable that has the document rewritten instead of compared.
const REWRITE: &str = "ENLIGHT_MATRIX_DOC";

/// Puts a table into the place of its name in the document, or tells how it differs.
pub(crate) fn publish(name: &str, table: &str) -> Result<(), String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates = ["docs", "../docs"].map(|docs| here.join(docs).join("conformance.md"));
    let file: PathBuf = candidates
        .into_iter()
        .find(|file| file.is_file())
        .ok_or("there is no docs/conformance.md")?;
    let told = |error: std::io::Error| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(&file).map_err(told)?;
    let (begin, end) = (
        format!("<!-- {name}: begin -->\n"),
        format!("<!-- {name}: end -->"),
    );
    let parts = text
        .split_once(&begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(&end)?)));
    let Some((before, (present, after))) = parts else {
        return Err(format!(
            "{} has no place for the table \"{name}\"",
            file.display()
        ));
    };
    if present == table {
        return Ok(());
    }
    if std::env::var_os(REWRITE).is_none() {
        return Err(format!(
            "docs/conformance.md has another table; {REWRITE}=1 writes this one:\n{table}"
        ));
    }
    std::fs::write(&file, [before, &begin, table, &end, after].concat()).map_err(told)
}
