//! How results look: tables for people, JSON for programs, and units.

mod json;
mod listing;
mod progress;
mod table;
mod unit;

pub(crate) use json::{json, json_line, print as json_value};
pub(crate) use listing::Listing;
pub(crate) use progress::TransferProgress;
pub(crate) use table::Table;
pub(crate) use unit::{age, size, time};
