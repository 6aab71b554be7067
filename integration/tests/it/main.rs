//! The tests against the real binaries. One module per theme.

mod bad_input;
mod churn;
mod cli;
mod matrix;
mod outside;
mod plugins;
mod pull;
mod python;
mod replace;
mod run;
mod security;
mod survival;
mod tasks;
