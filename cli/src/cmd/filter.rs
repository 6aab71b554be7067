//! What all lists have in common: which part of them, and how.

use capstan_client::schema::common_capnp::page;
use capstan_client::schema::write_texts;
use clap::Args;

/// Flags and words of `ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Print only the names
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Only those that any of these lets through: 'labels.env==prod,name~=^web'
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
}

impl Ls {
    /// Asks for the page behind `after`.
    pub(crate) fn page(&self, after: &str, mut page: page::Builder<'_>) {
        page.set_after(after);
        let count = u32::try_from(self.filters.len()).unwrap_or(u32::MAX);
        write_texts(&self.filters, page.init_filters(count));
    }
}
