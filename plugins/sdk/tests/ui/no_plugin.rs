//! A type that is no plugin is exported.

struct Plain;

capstan_sdk::export_plugin!(Plain);

fn main() {}
