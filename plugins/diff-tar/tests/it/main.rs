//! The public face: layers in, trees out. Needs root, as the daemon does.

mod bytes;
mod changes;
mod conformance;
mod diff;
mod forms;
mod fuzz;
mod gnu_tar;
mod hostile;
mod layer;
mod limits;
mod mutate;
mod plugin;
mod settle;
mod things;
mod tree;
mod verify;
mod whiteouts;
