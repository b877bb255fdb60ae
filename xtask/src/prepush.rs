//! What has to pass before a push.

use anyhow::Result;

use crate::run::{cargo, run};
use crate::sizes;

/// Format, clippy, sizes, documentation, fast tests; stops at the first that fails.
pub(crate) fn prepush() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    sizes::check()?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo().env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]))?;
    run(cargo().args(["test", "--workspace", "--lib", "--bins"]))?;
    eprintln!("xtask prepush: all is well");
    Ok(())
}
