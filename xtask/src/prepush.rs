//! What has to pass before a push.

use anyhow::Result;

use crate::run::{cargo, run};
use crate::sizes;

/// Warnings count as errors. A module's introduction may name what is private in it: its readers have the source.
const RUSTDOC_FLAGS: &str = "-D warnings -A rustdoc::private_intra_doc_links";

/// Format, clippy, sizes, documentation, fast tests; stops at the first that fails.
pub(crate) fn prepush() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    sizes::check()?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo()
        .env("RUSTDOCFLAGS", RUSTDOC_FLAGS)
        .args(["doc", "--workspace", "--no-deps"]))?;
    run(cargo().args(["test", "--workspace", "--lib", "--bins"]))?;
    eprintln!("xtask prepush: all is well");
    Ok(())
}
