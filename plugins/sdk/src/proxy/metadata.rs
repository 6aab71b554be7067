//! Kind `metadata`, from `Metadata` of metadata.capnp.

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::{Error, Namespace, Result, metadata_capnp as wire};
use tokio::sync::watch;

use super::events::write_new_events;
use super::write_page;
use crate::contract::Metadata;
use crate::contract::graph::Finding;
use crate::contract::metadata::{
    Audit, Commit, Expect, Get, Key, LogPage, ReadLog, Scan, ScanAll, Step, TrimLog, WatchLog,
};
use crate::outside::{Far, Proxy, call};
use crate::rpc::length;
use crate::rpc::metadata::{read_key, write_key};

type Client = wire::metadata::Client;
type This = Proxy<Metadata>;

fn write_step(step: &Step, mut out: wire::step::Builder<'_>) {
    match step {
        Step::Guard { key, expect, error } => {
            write_key(key, out.reborrow().init_key());
            match expect {
                Expect::Absent => error.write(out.init_absent()),
                Expect::Present => error.write(out.init_present()),
                Expect::Equals(value) => {
                    let mut out = out.init_equals();
                    out.set_value(value);
                    error.write(out.init_error());
                }
            }
        }
        Step::GuardEmpty(namespace) => {
            out.reborrow().init_key().set_namespace(namespace.as_str());
            out.set_empty_namespace(());
        }
        Step::Put { key, value } => {
            write_key(key, out.reborrow().init_key());
            out.set_put(value);
        }
        Step::Delete(key) => {
            write_key(key, out.reborrow().init_key());
            out.set_delete(());
        }
    }
}

fn read_rows(
    list: capnp::struct_list::Reader<'_, wire::row::Owned>,
) -> Result<Vec<(Key, Vec<u8>)>> {
    list.iter().map(|row| Ok((read_key(row.get_key()?)?, row.get_value()?.to_vec()))).collect()
}

impl Handler<Commit> for This {
    type Result = ResponseFuture<Result<u64>>;
    fn handle(&mut self, commit: Commit, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            let mut request = client.commit_request();
            let mut params = request.get();
            let mut steps = params.reborrow().init_steps(length(&commit.steps));
            for (index, step) in (0..).zip(&commit.steps) {
                write_step(step, steps.reborrow().get(index));
            }
            write_new_events(&commit.events, params.init_events(length(&commit.events)));
            drop(commit);
            call!(far, request, |results| Ok(results.get_cursor()))
        })
    }
}

impl Handler<Get> for This {
    type Result = ResponseFuture<Result<Option<Vec<u8>>>>;
    fn handle(&mut self, Get(key): Get, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            let mut request = client.get_request();
            write_key(&key, request.get().init_key());
            call!(far, request, |results| match results.get_found() {
                true => Ok(Some(results.get_value()?.to_vec())),
                false => Ok(None),
            })
        })
    }
}

impl Handler<Scan> for This {
    type Result = ResponseFuture<Result<Vec<(String, Vec<u8>)>>>;
    fn handle(&mut self, scan: Scan, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            let limit = scan.page.limit;
            let (mut scan, mut found) = (scan, Vec::new());
            while found.len() < limit {
                scan.page.limit = limit - found.len();
                let rows = read_some(&far, &client, &scan).await?;
                let Some((last, _)) = rows.last() else { break };
                scan.page.after.clone_from(last);
                found.extend(rows);
            }
            Ok(found)
        })
    }
}

async fn read_some(far: &Far, client: &Client, scan: &Scan) -> Result<Vec<(String, Vec<u8>)>> {
    let mut request = client.scan_request();
    let mut params = request.get();
    params.set_bucket(&scan.bucket);
    params.set_namespace(scan.namespace.as_ref().map(Namespace::as_str).unwrap_or_default());
    write_page(&scan.page, params.init_page());
    call!(far, request, |results| {
        let rows = read_rows(results.get_rows()?)?;
        Ok(rows.into_iter().map(|(key, value)| (key.name, value)).collect())
    })
}

impl Handler<ScanAll> for This {
    type Result = ResponseFuture<Result<Vec<(Key, Vec<u8>)>>>;
    fn handle(&mut self, ScanAll(bucket): ScanAll, _: &mut Cell<Self>) -> Self::Result {
        let far = self.far.clone();
        Box::pin(async move {
            let client: Client = far.open(None).await?;
            let mut found: Vec<(Key, Vec<u8>)> = Vec::new();
            loop {
                let mut request = client.scan_all_request();
                let mut params = request.get();
                params.set_bucket(&bucket);
                if let Some((last, _)) = found.last() {
                    write_key(last, params.init_after());
                }
                let (rows, is_more) = call!(far, request, |results| {
                    Ok((read_rows(results.get_rows()?)?, results.get_more()))
                })?;
                // "More" without a row would never come to an end.
                let is_more = is_more && !rows.is_empty();
                found.extend(rows);
                if !is_more {
                    return Ok(found);
                }
            }
        })
    }
}

/// The log is with the events: a plugin that needs it requires those.
fn no_log<T>() -> Result<T> {
    Err(Error::unimplemented(
        "the event log is not reached through metadata from outside: use the contract events",
    ))
}

impl Handler<ReadLog> for This {
    type Result = Result<LogPage>;
    fn handle(&mut self, _: ReadLog, _: &mut Cell<Self>) -> Self::Result {
        no_log()
    }
}

impl Handler<TrimLog> for This {
    type Result = Result<()>;
    fn handle(&mut self, _: TrimLog, _: &mut Cell<Self>) -> Self::Result {
        no_log()
    }
}

impl Handler<WatchLog> for This {
    type Result = Result<watch::Receiver<u64>>;
    fn handle(&mut self, _: WatchLog, _: &mut Cell<Self>) -> Self::Result {
        no_log()
    }
}

impl Handler<Audit> for This {
    type Result = Result<Vec<Finding>>;
    fn handle(&mut self, _: Audit, _: &mut Cell<Self>) -> Self::Result {
        Err(Error::denied("the files of the metadata are looked at by plugins of the daemon only"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use actix::Actor;
    use capstan_schema::Class;

    use super::*;
    use crate::Link;
    use crate::contract::Page;
    use crate::contract::events::NewEvent;
    use crate::contract::metadata::MetadataAddr;
    use crate::outside::across;

    /// Records in memory. Guards are looked at, events are not.
    #[derive(Default)]
    struct Store(BTreeMap<Key, Vec<u8>>);

    impl Actor for Store {
        type Context = Cell<Self>;
    }

    impl Handler<Commit> for Store {
        type Result = Result<u64>;
        fn handle(&mut self, commit: Commit, _: &mut Cell<Self>) -> Self::Result {
            for step in commit.steps {
                match step {
                    Step::Guard { key, expect, error } => {
                        let is_met = match (expect, self.0.get(&key)) {
                            (Expect::Absent, found) => found.is_none(),
                            (Expect::Present, found) => found.is_some(),
                            (Expect::Equals(want), found) => found == Some(&want),
                        };
                        if !is_met {
                            return Err(error);
                        }
                    }
                    Step::GuardEmpty(namespace) => {
                        if self.0.keys().any(|key| key.namespace.as_ref() == Some(&namespace)) {
                            return Err(Error::precondition("not empty"));
                        }
                    }
                    Step::Put { key, value } => drop(self.0.insert(key, value)),
                    Step::Delete(key) => drop(self.0.remove(&key)),
                }
            }
            Ok(commit.events.len() as u64)
        }
    }

    impl Handler<Get> for Store {
        type Result = Result<Option<Vec<u8>>>;
        fn handle(&mut self, Get(key): Get, _: &mut Cell<Self>) -> Self::Result {
            Ok(self.0.get(&key).cloned())
        }
    }

    impl Handler<Scan> for Store {
        type Result = Result<Vec<(String, Vec<u8>)>>;
        fn handle(&mut self, scan: Scan, _: &mut Cell<Self>) -> Self::Result {
            let is_in = |key: &&Key| {
                key.bucket == scan.bucket
                    && key.namespace == scan.namespace
                    && key.name > scan.page.after
            };
            let keys = self.0.keys().filter(is_in).take(scan.page.limit);
            Ok(keys.map(|key| (key.name.clone(), self.0[key].clone())).collect())
        }
    }

    impl Handler<ScanAll> for Store {
        type Result = Result<Vec<(Key, Vec<u8>)>>;
        fn handle(&mut self, ScanAll(bucket): ScanAll, _: &mut Cell<Self>) -> Self::Result {
            let rows = self.0.iter().filter(|(key, _)| key.bucket == bucket);
            Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
        }
    }

    macro_rules! no_log {
        ($($message:ty => $reply:ty;)*) => {$(
            impl Handler<$message> for Store {
                type Result = Result<$reply>;
                fn handle(&mut self, _: $message, _: &mut Cell<Self>) -> Self::Result {
                    Err(Error::internal("the log was asked for"))
                }
            }
        )*};
    }

    no_log! {
        ReadLog => LogPage;
        TrimLog => ();
        WatchLog => watch::Receiver<u64>;
        Audit => Vec<Finding>;
    }

    fn run<F: Future<Output = ()>>(id: &str, test: impl FnOnce(Link<Metadata>) -> F) {
        actix_rt::System::new().block_on(async {
            let store = Store::default().start();
            test(across(MetadataAddr::from(&store), Some(id))).await;
        });
    }

    fn key(name: &str) -> Key {
        Key::new("content", &Namespace::parse("a").unwrap(), name)
    }

    fn put(key: Key, size: usize) -> Step {
        Step::Put { key, value: vec![7; size] }
    }

    async fn commit(link: &Link<Metadata>, steps: Vec<Step>) -> Result<u64> {
        link.send(Commit { steps, events: Vec::new() }).await
    }

    #[test]
    fn errors_of_guards_come_back_as_they_were() {
        run("content.local", async |link| {
            let namespace = Namespace::parse("a").unwrap();
            let fails = async |step: Step, error: Error| {
                assert_eq!(commit(&link, vec![step]).await.unwrap_err(), error);
            };
            commit(&link, vec![Step::GuardEmpty(namespace.clone()), put(key("x"), 1)])
                .await
                .unwrap();
            for class in Class::ALL {
                let error = Error::new(class, format!("{class:?} of a guard"));
                fails(Step::absent(key("x"), error.clone()), error.clone()).await;
                fails(Step::present(key("y"), error.clone()), error.clone()).await;
                let expect = Expect::Equals(vec![8]);
                fails(Step::Guard { key: key("x"), expect, error: error.clone() }, error).await;
            }
            fails(Step::GuardEmpty(namespace), Error::precondition("not empty")).await;
            let same = Step::unchanged(key("x"), vec![7]);
            commit(&link, vec![same, Step::Delete(key("x"))]).await.unwrap();
            assert_eq!(link.send(Get(key("x"))).await.unwrap(), None);
        });
    }

    #[test]
    fn scans_read_on_until_all_is_there() {
        run("content.local", async |link| {
            // More than a page by number, then more than two by size, then one that is more alone.
            let names: Vec<String> = (0..2500).map(|number| format!("{number:04}")).collect();
            commit(&link, names.iter().map(|name| put(key(name), 1)).collect()).await.unwrap();
            for number in 0..9 {
                commit(&link, vec![put(key(&format!("b{number}")), 1 << 20)]).await.unwrap();
            }
            commit(&link, vec![put(key("c"), 5 << 20), put(Key::global("content", "g"), 0)])
                .await
                .unwrap();
            let scan = async |limit| {
                let page = Page { after: "0009".into(), limit, ..Page::default() };
                let namespace = Some(Namespace::parse("a").unwrap());
                link.send(Scan { bucket: "content".into(), namespace, page }).await.unwrap()
            };
            for (limit, expected) in [(usize::MAX, 2500), (2495, 2495), (1000, 1000), (0, 0)] {
                let rows = scan(limit).await;
                assert_eq!(rows.len(), expected, "a scan for {limit}");
                assert!(rows.is_sorted());
            }
            assert_eq!(scan(usize::MAX).await[2499].1.len(), 5 << 20);
            let all = link.send(ScanAll("content".into())).await.unwrap();
            assert_eq!((all.len(), all[0].0.namespace.as_ref()), (2511, None));
            assert!(all.is_sorted());
        });
    }

    #[test]
    fn a_plugin_reaches_what_is_its_own() {
        run("snapshotter.x", async |link| {
            let denied = |error: Error| {
                assert_eq!(error.class(), Class::PermissionDenied, "{error}");
                assert!(error.message().contains("snapshotter.x"), "{error}");
            };
            denied(commit(&link, vec![Step::Delete(key("x"))]).await.unwrap_err());
            denied(link.send(Get(key("x"))).await.unwrap_err());
            denied(link.send(ScanAll("content".into())).await.unwrap_err());
            let page = Page::all();
            let scan = Scan { bucket: "content".into(), namespace: None, page: page.clone() };
            denied(link.send(scan).await.unwrap_err());
            let scan = Scan { bucket: "namespaces".into(), namespace: None, page };
            assert!(link.send(scan).await.unwrap().is_empty());
            let own = Key::global("snapshotter.x/more", "x");
            let namespace = Namespace::parse("a").unwrap();
            let with = |topic: &str| Commit {
                steps: vec![put(own.clone(), 1)],
                events: vec![NewEvent::new(&namespace, topic).with("key", "x")],
            };
            denied(link.send(with("/content/create")).await.unwrap_err());
            assert_eq!(link.send(Get(own.clone())).await.unwrap(), None);
            assert_eq!(link.send(with("/snapshot/prepare")).await.unwrap(), 1);
            assert_eq!(link.send(Get(own.clone())).await.unwrap(), Some(vec![7]));
            let error = link.send(WatchLog).await.unwrap_err();
            assert_eq!(error.class(), Class::Unimplemented);
        });
    }
}
