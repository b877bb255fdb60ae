//! The project's own build, test and check commands.

fn main() {}
