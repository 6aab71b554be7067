//! A type that is no plugin is exported.
//!
//! says: `Plain` is no plugin: it does not implement `capstan_sdk::Plugin`
//! says: a plugin is an actor: implement `actix::Actor` with `type Context = actix::Context<Self>`, and `capstan_sdk::Plugin`

struct Plain;

capstan_sdk::export_plugin!(Plain);

fn main() {}
