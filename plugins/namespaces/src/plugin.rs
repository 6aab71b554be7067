//! The plugin.

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::metadata::{self, Commit, Key, Step};
use capstan_sdk::contract::namespaces::{
    Create, Delete, Get, Label, List, NamespaceInfo, NamespacesAddr, Update,
};
use capstan_sdk::contract::{Listed, Metadata, Namespaces};
use capstan_sdk::revise::{Revision, revise};
use capstan_sdk::{
    Context, Error, Exports, Info, Labels, Link, Namespace, Plugin, Result, clock, export_plugin,
    merge_labels, rpc,
};

use crate::record;

/// Shared with the metadata plugin, which makes namespaces that come into being by use.
const BUCKET: &str = "namespaces";

/// namespaces.local.
#[derive(Debug)]
pub struct LocalNamespaces {
    metadata: Link<Metadata>,
}

export_plugin!(LocalNamespaces);

/// It has none.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

impl Plugin for LocalNamespaces {
    const INFO: Info = Info {
        id: "namespaces.local",
        version: env!("CARGO_PKG_VERSION"),
        about: "the tenants",
        requires: &["metadata"],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, context: Context) -> Result<Self> {
        Ok(Self { metadata: context.link::<Metadata>()? })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Namespaces>(NamespacesAddr::from(addr));
        let link = context.link_self::<Namespaces>();
        exports.global_service(move |_peer| rpc::namespaces::serve(link.clone()));
    }
}

impl Actor for LocalNamespaces {
    type Context = Cell<Self>;
}

fn key(name: &Namespace) -> Key {
    Key::global(BUCKET, name.as_str())
}

fn missing(name: &Namespace) -> Error {
    Error::not_found(format!("namespace {name} does not exist; see `capstan namespaces ls`"))
}

fn event(name: &Namespace, topic: &str, labels: &Labels) -> NewEvent {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    NewEvent::new(name, topic).with("name", name).with("labels", labels.join(","))
}

async fn create(metadata: Link<Metadata>, create: Create) -> Result<NamespaceInfo> {
    let mut labels = create.labels;
    labels.retain(|_, value| !value.is_empty());
    let info =
        NamespaceInfo { name: create.name, labels, created_at_unix_ns: clock::now_unix_ns() };
    let taken = Error::already_exists(format!("namespace {} exists", info.name));
    let steps = vec![
        Step::absent(key(&info.name), taken),
        Step::Put { key: key(&info.name), value: record::write(&info) },
    ];
    let events = vec![event(&info.name, "/namespaces/create", &info.labels)];
    metadata.send(Commit { steps, events }).await?;
    Ok(info)
}

async fn read(metadata: &Link<Metadata>, name: &Namespace) -> Result<NamespaceInfo> {
    let bytes = metadata.send(metadata::Get(key(name))).await?.ok_or_else(|| missing(name))?;
    record::read(name.clone(), &bytes)
}

async fn label(metadata: Link<Metadata>, label: Label) -> Result<NamespaceInfo> {
    let change = |labels: &mut Labels| {
        merge_labels(labels, &label.labels);
        Ok(())
    };
    change_labels(metadata, &label.name, change).await
}

async fn update(metadata: Link<Metadata>, update: Update) -> Result<NamespaceInfo> {
    let given = &update.labels;
    let change_field = |labels: &mut Labels, field: &str| match field.strip_prefix("labels.") {
        Some(key) if !key.is_empty() => {
            let value = given.get(key).cloned().unwrap_or_default();
            merge_labels(labels, &Labels::from([(key.into(), value)]));
            Ok(())
        }
        None if field == "labels" => {
            labels.clone_from(given);
            labels.retain(|_, value| !value.is_empty());
            Ok(())
        }
        _ => Err(Error::invalid(format!(
            "cannot update {field:?} field of a namespace: name labels or labels.KEY"
        ))),
    };
    let change = |labels: &mut Labels| match update.mask.is_empty() {
        true => change_field(labels, "labels"),
        false => update.mask.iter().try_for_each(|field| change_field(labels, field)),
    };
    change_labels(metadata, &update.name, change).await
}

async fn change_labels(
    metadata: Link<Metadata>,
    name: &Namespace,
    change: impl Fn(&mut Labels) -> Result<()>,
) -> Result<NamespaceInfo> {
    revise(&metadata, &key(name), |old| {
        let mut info = record::read(name.clone(), old.ok_or_else(|| missing(name))?)?;
        change(&mut info.labels)?;
        let event = event(&info.name, "/namespaces/update", &info.labels);
        Ok(Revision::write(record::write(&info), info).with(event))
    })
    .await
}

async fn delete(metadata: Link<Metadata>, name: Namespace) -> Result<()> {
    let steps = vec![
        Step::present(key(&name), missing(&name)),
        Step::GuardEmpty(name.clone()),
        Step::Delete(key(&name)),
    ];
    let events = vec![NewEvent::new(&name, "/namespaces/delete").with("name", &name)];
    metadata.send(Commit { steps, events }).await.map(drop)
}

impl Handler<Create> for LocalNamespaces {
    type Result = ResponseFuture<Result<NamespaceInfo>>;
    fn handle(&mut self, message: Create, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(create(self.metadata.clone(), message))
    }
}

impl Handler<Get> for LocalNamespaces {
    type Result = ResponseFuture<Result<NamespaceInfo>>;
    fn handle(&mut self, Get(name): Get, _: &mut Cell<Self>) -> Self::Result {
        let metadata = self.metadata.clone();
        Box::pin(async move { read(&metadata, &name).await })
    }
}

impl Handler<List> for LocalNamespaces {
    type Result = ResponseFuture<Result<Listed<NamespaceInfo>>>;
    fn handle(&mut self, List(page): List, _: &mut Cell<Self>) -> Self::Result {
        let metadata = self.metadata.clone();
        Box::pin(async move {
            let decode = |name: &str, bytes: &[u8]| record::read(Namespace::parse(name)?, bytes);
            Listed::scan(&metadata, BUCKET, None, page, decode).await
        })
    }
}

impl Handler<Label> for LocalNamespaces {
    type Result = ResponseFuture<Result<NamespaceInfo>>;
    fn handle(&mut self, message: Label, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(label(self.metadata.clone(), message))
    }
}

impl Handler<Update> for LocalNamespaces {
    type Result = ResponseFuture<Result<NamespaceInfo>>;
    fn handle(&mut self, message: Update, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(update(self.metadata.clone(), message))
    }
}

impl Handler<Delete> for LocalNamespaces {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, Delete(name): Delete, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(delete(self.metadata.clone(), name))
    }
}
