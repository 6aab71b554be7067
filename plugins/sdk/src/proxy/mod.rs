//! Adapters from Cap'n Proto interfaces to contracts: one module per kind, each with the handlers of
//! [`Proxy`](crate::outside::Proxy) for the messages of its contract. The other direction is [`rpc`](crate::rpc).

mod content;
mod differ;
mod events;
mod gc_policy;
mod graph;
mod metadata;
mod metrics;
mod runtime;
mod sink;
mod snapshotter;
mod verifier;

use capstan_schema::Result;
use capstan_schema::common_capnp::{label, mount, page};
use capstan_schema::{Labels, Mount, write_labels, write_texts};

use crate::contract::{Listed, Page};

fn write_page(page: &Page, mut out: page::Builder<'_>) {
    out.set_after(&page.after);
    out.set_limit(u32::try_from(page.limit.min(Page::MAX_LIMIT)).expect("at most a thousand"));
    let filters = page.filters.texts();
    let count = u32::try_from(filters.len()).expect("filters are few");
    write_texts(filters, out.init_filters(count));
}

/// Reads on until a page is full: what is inside the daemon may ask for more than a peer may.
async fn all_pages<T, F>(page: Page, read: impl Fn(Page) -> F) -> Result<Listed<T>>
where
    F: Future<Output = Result<Listed<T>>>,
{
    let mut listed = read(page.clone()).await?;
    while !listed.next.is_empty() && listed.items.len() < page.limit {
        let rest = Page {
            after: listed.next,
            limit: page.limit - listed.items.len(),
            filters: page.filters.clone(),
        };
        let more = read(rest).await?;
        listed.items.extend(more.items);
        listed.next = more.next;
    }
    Ok(listed)
}

fn labels<'b>(
    labels: &Labels,
    init: impl FnOnce(u32) -> capnp::struct_list::Builder<'b, label::Owned>,
) {
    write_labels(labels, init(u32::try_from(labels.len()).expect("labels are few")));
}

pub(crate) fn mounts(
    list: capnp::Result<capnp::struct_list::Reader<'_, mount::Owned>>,
) -> Result<Vec<Mount>> {
    list?.iter().map(Mount::read).collect()
}
