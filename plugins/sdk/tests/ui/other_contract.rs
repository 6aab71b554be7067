//! A message is sent on the link of another contract.
//!
//! says: the contract `Differ` has no message
//! says: a `Link<C>` carries the messages of the contract `C`

use capstan_sdk::Link;
use capstan_sdk::contract::Differ;
use capstan_sdk::contract::metrics::Collect;

fn ask(link: &Link<Differ>) {
    let _ = link.send(Collect);
}

fn main() {}
