//! Enlight: a hypervisor and virtual switch that explain what introspection costs.

fn main() {}
