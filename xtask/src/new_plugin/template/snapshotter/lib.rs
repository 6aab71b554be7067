//! __KIND__.__NAME__: file trees by copying.
//!
//! A driver makes and removes directories and says what to mount; the SDK makes the plugin of it, keeps the records
//! of snapshots, and has the rules.
//!
//! ```text
//! <root>/__KIND__.__NAME__/snapshots/<id>    a whole tree
//! ```

mod copy;
mod trees;

pub use trees::{Config, Trees};

/// __KIND__.__NAME__.
pub type __TYPE__ = capstan_sdk::snapshots::DriverPlugin<Trees>;

capstan_sdk::export_plugin!(__TYPE__);
