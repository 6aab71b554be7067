//! The tests against the real binaries. One module per theme.

mod bad_input;
mod checkpoint;
mod churn;
mod cli;
mod corpus;
mod matrix;
mod outside;
mod plugins;
mod pull;
mod python;
mod replace;
mod resources;
mod restart;
mod run;
mod security;
mod spec;
mod streams;
mod survival;
mod tasks;
mod terminal;
