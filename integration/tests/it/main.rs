//! The tests against the real binaries. One module per theme.

mod archive;
mod bad_input;
mod checkpoint;
mod churn;
mod cli;
mod damage_metadata;
mod disk_full;
mod gc;
mod lists;
mod matrix;
mod outside;
mod plugins;
mod powercut;
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
mod updates;
