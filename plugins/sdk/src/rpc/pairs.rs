//! Lists of keys and values whose order counts. (Labels are a map: `read_labels` of the schema.)

use capnp::struct_list;
use capstan_schema::{Result, common_capnp::label};

use super::text;

/// Reads them in order.
pub(crate) fn read_pairs(
    list: struct_list::Reader<'_, label::Owned>,
) -> Result<Vec<(String, String)>> {
    list.iter().map(|pair| Ok((text(pair.get_key())?, text(pair.get_value())?))).collect()
}

/// Fills a list that was made as long as `pairs`.
pub(crate) fn write_pairs(
    pairs: &[(String, String)],
    mut list: struct_list::Builder<'_, label::Owned>,
) {
    for (index, (key, value)) in (0..).zip(pairs) {
        let mut pair = list.reborrow().get(index);
        pair.set_key(key);
        pair.set_value(value);
    }
}
