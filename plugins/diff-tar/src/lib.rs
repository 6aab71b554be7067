//! differ.tar: layer archives (OCI image-spec, layer.md) in and out of trees.
//!
//! It never leaves the tree: every path is opened beneath a root descriptor, by the kernel's own
//! rules, and no link is ever followed out of it. It never guesses: a record that is malformed, or
//! that two well-known readers read in two ways, refuses the layer. It runs no other program, and
//! changes nothing that belongs to the whole process, such as the umask.
//!
//! How the pieces fit, in the order in which the bytes pass:
//!
//! | module | owns |
//! | --- | --- |
//! | `media_type` | which compression a layer must have |
//! | `stream` | decompression, the digest of what comes out, limits on bytes and ratio |
//! | `pipe` | the stream on a thread of its own |
//! | `archive`, `header`, `pax`, `sparse` | the tar format: from bytes to entries |
//! | `name` | names of an archive: cleaned, whiteouts told from files |
//! | `apply`, `form` | what an entry does to a tree, in either form of deletions |
//! | `beneath` | directories below the root, opened and kept; removal |
//! | `attributes` | owner, mode, times, extended attributes |
//! | `settle`, `parents` | what a layer takes from its parents; those, as they show |
//! | `upper` | which directory has the changes of a tree |
//! | `changes` | what a tree has and its parent has not |
//! | `diff` | changes as entries of an archive; files with several names |
//! | `writer`, `pack` | from entries to bytes, and to compressed ones |
//! | `verify`, `compare` | in what a tree is not as its layers have it |
//! | `repair` | something new in the place of something damaged |
//! | `plugin`, `config` | the actor and its limits |
//!
//! Invariant: `beneath` and `attributes` alone name files; all else works on what they opened.

#[cfg(test)]
mod agreement;
mod ahead;
mod apply;
mod archive;
mod attributes;
mod beneath;
mod changes;
mod compare;
mod config;
mod diff;
mod error;
mod form;
mod gzip;
mod header;
mod media_type;
mod name;
mod pack;
mod parents;
mod pax;
mod pipe;
mod plinks;
mod plugin;
mod repair;
mod settle;
mod sparse;
mod stream;
mod upper;
mod verify;
mod writer;

pub use apply::apply;
pub use changes::Shape;
pub use config::Config;
pub use diff::diff;
pub use parents::Parents;
pub use plugin::TarDiffer;
pub use settle::settle;
pub use verify::verify;
