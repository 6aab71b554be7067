//! The plugin.

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::events::NewEvent;
use capstan_sdk::contract::graph::{Finding, Flaw, Node, Resource};
use capstan_sdk::contract::images::{
    Audit, Check, Checked, Delete, Get, Image, ImagesAddr, Label, Leave, List, Manifest, Nodes,
    Permit, Permitted, Presence, Put, Resolve, ResolveTarget, Survey, Tag, Update,
};
use capstan_sdk::contract::metadata::{self, Commit, Expect, Key, Scan, Step};
use capstan_sdk::contract::verifier::Evidence;
use capstan_sdk::contract::{Content, Images, Listed, Metadata, Page};
use capstan_sdk::revise::{Revision, revise};
use capstan_sdk::{
    Class, Context, Descriptor, Error, Exports, Info, Labels, Link, Namespace, Plugin, Result,
    clock, export_plugin, rpc,
};

use crate::resolve::Reader;
use crate::verify::Verifiers;
use crate::{Config, record};

/// images.local.
#[derive(Clone, Debug)]
pub struct LocalImages {
    pub(crate) metadata: Link<Metadata>,
    content: Link<Content>,
    verifiers: Verifiers,
}

export_plugin!(LocalImages);

impl Plugin for LocalImages {
    const INFO: Info = Info {
        id: "images.local",
        version: env!("CARGO_PKG_VERSION"),
        about: "names for descriptors, manifests by platform",
        requires: &["metadata", "content"],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, context: Context) -> Result<Self> {
        Ok(Self {
            metadata: context.link::<Metadata>()?,
            content: context.link::<Content>()?,
            verifiers: Verifiers::new(context, &config),
        })
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

pub(crate) fn missing(name: &str) -> Error {
    Error::not_found(format!("image {name:?} is not here; pull it, or see `capstan images ls`"))
}

pub(crate) fn named(namespace: &Namespace, name: &str) -> Result<Key> {
    if name.is_empty() {
        return Err(Error::invalid("which image? the name is empty"));
    }
    Ok(record::key(namespace, name))
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
        let bytes = self.metadata.send(metadata::Get(named(namespace, name)?)).await?;
        let bytes = bytes.ok_or_else(|| missing(name))?;
        Ok((record::read(name, &bytes).map_err(|error| error.at(name))?, bytes))
    }

    async fn put(self, put: Put) -> Result<Image> {
        let Put { namespace, name, target, leave } = put;
        let evidence = match leave {
            Leave::Granted(evidence) => evidence,
            Leave::Unasked => {
                self.permit(&namespace, &name, &target, Vec::new()).await?;
                Vec::new()
            }
        };
        self.point(&namespace, &name, &target, &evidence, None).await
    }

    /// Asks whether what is here may have a name, unless it has it.
    ///
    /// # Errors
    /// It may not, or that cannot be known.
    pub(crate) async fn permit(
        &self,
        namespace: &Namespace,
        name: &str,
        target: &Descriptor,
        evidence: Vec<Evidence>,
    ) -> Result<()> {
        match self.stored(namespace, name).await {
            Ok((image, _)) if image.target == *target => return Ok(()),
            Err(error) if error.class() != Class::NotFound => return Err(error),
            _ => {}
        }
        let document = async || self.reader(namespace).document(target).await;
        let asked = self.verifiers.permit_stored((namespace, name), target, evidence, document);
        asked.await.map_err(|error| error.at(format_args!("image {name}")))
    }

    /// Makes a name, or moves it; `guard` has to hold at that moment.
    async fn point(
        &self,
        namespace: &Namespace,
        name: &str,
        target: &Descriptor,
        evidence: &[Evidence],
        guard: Option<Step>,
    ) -> Result<Image> {
        if name.is_empty() {
            return Err(Error::invalid("an image needs a name"));
        }
        revise(&self.metadata, &record::key(namespace, name), |old| {
            let now = clock::now_unix_ns();
            let mut image = Image {
                name: name.to_owned(),
                target: target.clone(),
                created_at_unix_ns: now,
                updated_at_unix_ns: now,
                labels: Labels::new(),
            };
            let mut kept = evidence.to_vec();
            let topic = match old {
                Some(bytes) => {
                    let old = record::read(name, bytes).map_err(|error| error.at(name))?;
                    image.created_at_unix_ns = old.created_at_unix_ns;
                    image.labels = old.labels;
                    if kept.is_empty() && old.target.digest == target.digest {
                        kept = record::evidence(bytes).map_err(|error| error.at(name))?;
                    }
                    "/images/update"
                }
                None => "/images/create",
            };
            let event =
                NewEvent::new(namespace, topic).with("name", name).with("digest", &target.digest);
            let mut revision = Revision::write(record::write(&image, &kept), image).with(event);
            revision.steps.extend(guard.clone());
            Ok(revision)
        })
        .await
    }

    /// Its target has this name too, from one moment to the next: a collection never finds it without one.
    async fn tag(self, tag: Tag) -> Result<Image> {
        let Tag { namespace, name, new_name } = tag;
        let (image, bytes) = self.stored(&namespace, &name).await?;
        let key = record::key(&namespace, &name);
        let evidence = record::evidence(&bytes).map_err(|error| error.at(&name))?;
        let permitted = self.permit(&namespace, &new_name, &image.target, evidence.clone()).await;
        permitted.map_err(|error| error.at(format_args!("tag {name}, asking no registry")))?;
        let changed =
            Error::unavailable(format!("image {name:?} was changed meanwhile; try again"));
        let guard = Step::Guard { key, expect: Expect::Equals(bytes), error: changed };
        self.point(&namespace, &new_name, &image.target, &evidence, Some(guard)).await
    }

    /// All images of a namespace.
    async fn all(&self, namespace: &Namespace) -> Result<Vec<Image>> {
        let (bucket, page) = (record::BUCKET.into(), Page::all());
        let scan = Scan { bucket, namespace: Some(namespace.clone()), page };
        let rows = self.metadata.send(scan).await?;
        Ok(Listed::decode(&rows, usize::MAX, record::read)?.items)
    }

    async fn nodes(self, namespace: Namespace) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for image in self.all(&namespace).await? {
            let closure = self.reader(&namespace).closure(&image.target).await?;
            let mut references: Vec<Resource> =
                closure.content.into_iter().map(Resource::Content).collect();
            references.extend(closure.chain_ids.into_iter().map(|chain_id| Resource::Snapshot {
                snapshotter: "*".into(),
                key: chain_id.to_string(),
            }));
            nodes.push(Node {
                resource: Resource::Image(image.name),
                references,
                root: "it is an image".into(),
                size: 0,
                created_at_unix_ns: image.created_at_unix_ns,
                used_at_unix_ns: image.updated_at_unix_ns,
                labels: image.labels,
            });
        }
        Ok(nodes)
    }

    async fn audit(self, namespace: Namespace) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for image in self.all(&namespace).await? {
            let checked = self.reader(&namespace).check(&image.target).await?;
            findings.extend(checked.missing.into_iter().map(|(part, reason)| Finding {
                namespace: Some(namespace.clone()),
                what: Resource::Content(part.digest).to_string(),
                flaw: Flaw::Missing,
                detail: format!("image {} needs it: {reason}; pull it again, or heal", image.name),
            }));
        }
        Ok(findings)
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

impl Handler<Permit> for LocalImages {
    type Result = ResponseFuture<Result<Permitted>>;
    fn handle(&mut self, permit: Permit, _: &mut Cell<Self>) -> Self::Result {
        let verifiers = self.verifiers.clone();
        Box::pin(async move { verifiers.permit(permit).await })
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

impl Handler<Tag> for LocalImages {
    type Result = ResponseFuture<Result<Image>>;
    fn handle(&mut self, tag: Tag, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().tag(tag))
    }
}

impl Handler<Nodes> for LocalImages {
    type Result = ResponseFuture<Result<Vec<Node>>>;
    fn handle(&mut self, Nodes(namespace): Nodes, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().nodes(namespace))
    }
}

impl Handler<Audit> for LocalImages {
    type Result = ResponseFuture<Result<Vec<Finding>>>;
    fn handle(&mut self, Audit(namespace): Audit, _: &mut Cell<Self>) -> Self::Result {
        Box::pin(self.clone().audit(namespace))
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
