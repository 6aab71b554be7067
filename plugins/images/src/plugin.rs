//! The plugin.

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::images::{
    Check, Checked, Delete, Get, Image, ImagesAddr, Label, List, Manifest, Presence, Put, Resolve,
    ResolveTarget, Survey, Update,
};
use capstan_sdk::contract::metadata::{self, Commit, Step};
use capstan_sdk::contract::{Content, Images, Listed, Metadata};
use capstan_sdk::{
    Class, Context, Error, Exports, Info, Labels, Link, Namespace, Plugin, Result, clock,
    export_plugin, rpc,
};

use crate::record;
use crate::resolve::Reader;

/// images.local.
#[derive(Clone, Debug)]
pub struct LocalImages {
    pub(crate) metadata: Link<Metadata>,
    content: Link<Content>,
}

export_plugin!(LocalImages);

/// It has none.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

impl Plugin for LocalImages {
    const INFO: Info = Info {
        id: "images.local",
        version: env!("CARGO_PKG_VERSION"),
        about: "names for descriptors, manifests by platform",
        requires: &["metadata", "content"],
        rank: 0,
    };
    type Config = Config;

    async fn build(_config: Config, context: Context) -> Result<Self> {
        Ok(Self { metadata: context.link::<Metadata>()?, content: context.link::<Content>()? })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Images>(ImagesAddr::from(addr));
        let link = context.link_self::<Images>();
        exports.service(move |_peer, namespace| rpc::images::serve(link.clone(), namespace));
    }
}

impl Actor for LocalImages {
    type Context = Cell<Self>;
}

fn missing(name: &str) -> Error {
    Error::not_found(format!("image {name:?} is not here; pull it, or see `capstan images ls`"))
}

impl LocalImages {
    fn reader(&self, namespace: &Namespace) -> Reader {
        Reader { content: self.content.clone(), namespace: namespace.clone() }
    }

    pub(crate) async fn stored(
        &self,
        namespace: &Namespace,
        name: &str,
    ) -> Result<(Image, Vec<u8>)> {
        if name.is_empty() {
            return Err(Error::invalid("which image? the name is empty"));
        }
        let bytes = self.metadata.send(metadata::Get(record::key(namespace, name))).await?;
        let bytes = bytes.ok_or_else(|| missing(name))?;
        Ok((record::read(name, &bytes).map_err(|error| error.at(name))?, bytes))
    }

    async fn put(self, put: Put) -> Result<Image> {
        let Put { namespace, name, target } = put;
        loop {
            let now = clock::now_unix_ns();
            let fresh = Image {
                name: name.clone(),
                target: target.clone(),
                created_at_unix_ns: now,
                updated_at_unix_ns: now,
                labels: Labels::new(),
            };
            let key = record::key(&namespace, &name);
            let (stored, guard, topic) = match self.stored(&namespace, &name).await {
                Ok((old, bytes)) => {
                    let stored = Image {
                        created_at_unix_ns: old.created_at_unix_ns,
                        labels: old.labels,
                        ..fresh
                    };
                    (stored, Step::unchanged(key.clone(), bytes), "/images/update")
                }
                Err(error) if error.class() == Class::NotFound => {
                    let raced = Error::aborted("the image was made meanwhile");
                    (fresh, Step::absent(key.clone(), raced), "/images/create")
                }
                Err(error) => return Err(error),
            };
            let event =
                NewEvent::new(&namespace, topic).with("name", &name).with("digest", &target.digest);
            let steps = vec![guard, Step::Put { key, value: record::write(&stored) }];
            match self.metadata.send(Commit { steps, events: vec![event] }).await {
                // Somebody else put the name between our look and our change: look again.
                Err(error) if error.class() == Class::Aborted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(stored),
            }
        }
    }

    async fn list(self, list: List) -> Result<Listed<(Image, Presence)>> {
        let List { namespace, page } = list;
        let of = Some(namespace.clone());
        let stored = Listed::scan(&self.metadata, record::BUCKET, of, page, record::read).await?;
        let mut items = Vec::with_capacity(stored.items.len());
        for image in stored.items {
            let presence = self.reader(&namespace).survey(&image.target).await?;
            items.push((image, presence));
        }
        Ok(Listed { items, next: stored.next })
    }

    async fn delete(self, delete: Delete) -> Result<()> {
        let key = record::key(&delete.namespace, &delete.name);
        let steps = vec![Step::present(key.clone(), missing(&delete.name)), Step::Delete(key)];
        let event = NewEvent::new(&delete.namespace, "/images/delete").with("name", &delete.name);
        self.metadata.send(Commit { steps, events: vec![event] }).await.map(drop)
    }

    async fn resolve(self, resolve: Resolve) -> Result<(Image, Manifest)> {
        let (stored, _) = self.stored(&resolve.namespace, &resolve.name).await?;
        let manifest = self
            .reader(&resolve.namespace)
            .manifest(&stored.target, &resolve.platform)
            .await
            .map_err(|error| error.at(format!("image {}", resolve.name)))?;
        Ok((stored, manifest))
    }
}

impl Handler<Put> for LocalImages {
    type Result = ResponseFuture<Result<Image>>;
    fn handle(&mut self, put: Put, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().put(put))
    }
}

impl Handler<Get> for LocalImages {
    type Result = ResponseFuture<Result<Image>>;
    fn handle(&mut self, get: Get, _: &mut Cell<Self>) -> Self::Result {
        let images = self.clone();
        Box::pin(async move { Ok(images.stored(&get.namespace, &get.name).await?.0) })
    }
}

impl Handler<List> for LocalImages {
    type Result = ResponseFuture<Result<Listed<(Image, Presence)>>>;
    fn handle(&mut self, list: List, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().list(list))
    }
}

impl Handler<Delete> for LocalImages {
    type Result = ResponseFuture<Result<()>>;
    fn handle(&mut self, delete: Delete, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().delete(delete))
    }
}

impl Handler<Resolve> for LocalImages {
    type Result = ResponseFuture<Result<(Image, Manifest)>>;
    fn handle(&mut self, resolve: Resolve, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().resolve(resolve))
    }
}

impl Handler<ResolveTarget> for LocalImages {
    type Result = ResponseFuture<Result<Manifest>>;
    fn handle(&mut self, resolve: ResolveTarget, _: &mut Cell<Self>) -> Self::Result {
        let reader = self.reader(&resolve.namespace);
        Box::pin(async move { reader.manifest(&resolve.target, &resolve.platform).await })
    }
}

impl Handler<Survey> for LocalImages {
    type Result = ResponseFuture<Result<Presence>>;
    fn handle(&mut self, survey: Survey, _: &mut Cell<Self>) -> Self::Result {
        let reader = self.reader(&survey.namespace);
        Box::pin(async move { reader.survey(&survey.target).await })
    }
}

impl Handler<Label> for LocalImages {
    type Result = ResponseFuture<Result<Image>>;
    fn handle(&mut self, label: Label, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().label(label))
    }
}

impl Handler<Update> for LocalImages {
    type Result = ResponseFuture<Result<Image>>;
    fn handle(&mut self, update: Update, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().update(update))
    }
}

impl Handler<Check> for LocalImages {
    type Result = ResponseFuture<Result<Checked>>;
    fn handle(&mut self, check: Check, _: &mut Cell<Self>) -> Self::Result {
        let images = self.clone();
        Box::pin(async move {
            let (image, _) = images.stored(&check.namespace, &check.name).await?;
            images.reader(&check.namespace).check(&image.target).await
        })
    }
}

capstan_sdk::not_yet!({} LocalImages:
    capstan_sdk::contract::images::Nodes => Vec<capstan_sdk::contract::graph::Node>,
    capstan_sdk::contract::images::Audit => Vec<capstan_sdk::contract::graph::Finding>,
);
