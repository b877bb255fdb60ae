//! `enlight diagnose`: why connections in a capture stood still.

mod fragments;
mod html;
mod read;
mod report;
mod stations;
mod text;

pub use html::render as to_html;
pub use read::{Capture, CaptureError};
pub use report::{CauseTotal, Report};
pub use text::render as to_text;

#[cfg(test)]
mod tests;
