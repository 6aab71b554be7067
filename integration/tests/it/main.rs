//! The tests against the real binaries.

mod first;
