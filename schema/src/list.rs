//! Lists of texts, in and out of messages.

use crate::Result;

/// All texts of a list.
///
/// # Errors
/// `InvalidArgument` if one is not UTF-8; what Cap'n Proto finds wrong with the list.
pub fn read_texts(list: capnp::text_list::Reader<'_>) -> Result<Vec<String>> {
    list.iter().map(|text| Ok(text?.to_str()?.to_owned())).collect()
}

/// Fills a list that was made as long as `texts`.
pub fn write_texts<T: AsRef<str>>(texts: &[T], mut list: capnp::text_list::Builder<'_>) {
    for (index, text) in (0..).zip(texts) {
        list.set(index, text.as_ref());
    }
}
