//! `enlight vm pause` and `enlight vm resume`.

use anyhow::Result;

use super::super::say;
use super::machine::Place;
use crate::vm_control::api::Done;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The machine
    name: String,

    #[command(flatten)]
    place: Place,
}

pub(super) fn pause(args: &Args) -> Result<()> {
    let Done {} = args
        .place
        .machine(&args.name)?
        .post("/v1/pause", &Done::default())?;
    say(&format!("{} stands still", args.name))
}

pub(super) fn resume(args: &Args) -> Result<()> {
    let Done {} = args
        .place
        .machine(&args.name)?
        .post("/v1/resume", &Done::default())?;
    say(&format!("{} goes on", args.name))
}
