//! Lists: as a table, as ids alone (`-q`), or as one JSON array.

use std::io::Write as _;

use capnp::dynamic_value::Reader;
use serde_json::Value;

use super::{Table, json};
use crate::exit::Outcome;

/// A list that is filled item by item, page by page, and printed at the end.
pub(crate) enum Listing {
    Table(Table),
    Ids(Vec<String>),
    Json(Vec<Value>),
}

impl Listing {
    pub(crate) fn new(is_json: bool, is_quiet: bool, header: &[&str]) -> Self {
        match (is_json, is_quiet) {
            (true, _) => Self::Json(Vec::new()),
            (false, true) => Self::Ids(Vec::new()),
            (false, false) => Self::Table(Table::new(header)),
        }
    }

    /// Adds an item: `reader` for JSON, `id` for `-q`, `cells` for the table.
    pub(crate) fn item<'a, const N: usize>(
        &mut self,
        reader: impl Into<Reader<'a>>,
        id: capnp::Result<capnp::text::Reader<'_>>,
        cells: impl FnOnce(&str) -> Outcome<[String; N]>,
    ) -> Outcome {
        let id = id?.to_str()?;
        match self {
            Self::Table(table) => table.row(cells(id)?),
            Self::Ids(ids) => ids.push(id.to_owned()),
            Self::Json(array) => array.push(json::value(reader.into())?),
        }
        Ok(())
    }

    pub(crate) fn print(self) -> Outcome {
        match self {
            Self::Table(table) => table.print(),
            Self::Ids(ids) => {
                let mut out = std::io::stdout();
                ids.iter().try_for_each(|id| writeln!(out, "{id}"))?;
                Ok(())
            }
            Self::Json(array) => json::print(&Value::Array(array)),
        }
    }
}
