//! sink.file: the event log as lines of JSON in a file, for people with `tail` and programs that ship logs.
//!
//! Off unless the configuration enables it. An event is on disk before it is answered, and a batch
//! that comes again gives no line twice: the last line says how far the file is. A line that a crash
//! tore is cut off. The file is renamed when it is full, and a few old ones are kept.
//!
//! Invariant: lines are in the order of their cursors, over all files.

mod config;
mod journal;
mod line;
mod plugin;

pub use config::Config;
pub use plugin::FileSink;
