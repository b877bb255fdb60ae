//! What `--out` writes.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::html;
use super::report::LabReport;
use super::session::Measured;
use super::tap;

/// Makes the directory, so that a path that cannot be written is known before anything is measured.
pub(super) fn prepare(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making the directory {}", dir.display()))?;
    let probe = tempfile::NamedTempFile::new_in(dir)
        .with_context(|| format!("writing to the directory {}", dir.display()))?;
    probe
        .close()
        .with_context(|| format!("writing to the directory {}", dir.display()))
}

/// Writes the page, the data and the frames.
pub(super) fn write(dir: &Path, report: &LabReport, measured: &[Measured]) -> Result<()> {
    let file = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))
    };
    file("report.html", html::render(report).as_bytes())?;
    let json = serde_json::to_vec_pretty(report).context("writing the report as JSON")?;
    file("report.json", &json)?;
    let frames = measured.iter().flat_map(|measured| &measured.frames);
    file("capture.pcapng", &tap::pcapng(frames))
}
