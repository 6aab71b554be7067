//! `Images` of image.capnp.

use std::rc::Rc;

use capnp::capability::Client;
use capstan_schema::{
    Descriptor, Digest, Namespace, Platform, Result, image_capnp as wire, read_labels, read_texts,
    write_labels,
};

use super::{answer, length, page, text};
use crate::Link;
use crate::contract::Images;
use crate::contract::images::{
    Check, Delete, Get, Image, Label, List, Manifest, Presence, Resolve, Survey, Tag, Update,
};

struct Server {
    link: Link<Images>,
    namespace: Namespace,
}

/// The interface for one peer, bound to a namespace.
pub fn serve(link: Link<Images>, namespace: Namespace) -> Client {
    capnp_rpc::new_client::<wire::images::Client, _>(Server { link, namespace }).client
}

/// Writes an image; `transfer` answers with one too.
pub(super) fn write_image(image: &Image, presence: &Presence, mut out: wire::image::Builder<'_>) {
    out.set_name(&image.name);
    image.target.write(out.reborrow().init_target());
    out.set_created_at_unix_ns(image.created_at_unix_ns);
    out.set_updated_at_unix_ns(image.updated_at_unix_ns);
    out.set_size(presence.size);
    let count = u32::try_from(image.labels.len()).expect("labels are few");
    write_labels(&image.labels, out.reborrow().init_labels(count));
    let mut platforms = out.init_platforms(length(&presence.platforms));
    for (index, platform) in (0..).zip(&presence.platforms) {
        platform.write(platforms.reborrow().get(index));
    }
}

fn write_manifest(manifest: &Manifest, mut out: wire::manifest::Builder<'_>) {
    manifest.descriptor.write(out.reborrow().init_descriptor());
    manifest.config.write(out.reborrow().init_config());
    out.set_chain_id(manifest.top_chain_id().map(Digest::as_str).unwrap_or_default());
    out.set_config_json(&manifest.config_json);
    out.set_manifest_json(&manifest.manifest_json);
    let mut layers = out.reborrow().init_layers(length(&manifest.layers));
    for (index, layer) in (0..).zip(&manifest.layers) {
        layer.write(layers.reborrow().get(index));
    }
    let mut diff_ids = out.init_diff_ids(length(&manifest.diff_ids));
    for (index, digest) in (0..).zip(&manifest.diff_ids) {
        diff_ids.set(index, digest.as_str());
    }
}

impl Server {
    async fn survey(&self, image: &Image) -> Result<Presence> {
        let target = image.target.clone();
        self.link.send(Survey { namespace: self.namespace.clone(), target }).await
    }
}

impl wire::images::Server for Server {
    async fn get(
        self: Rc<Self>,
        params: wire::images::GetParams,
        mut results: wire::images::GetResults,
    ) -> capnp::Result<()> {
        let work = async {
            let name = text(params.get()?.get_name())?;
            let image = self.link.send(Get { namespace: self.namespace.clone(), name }).await?;
            let presence = self.survey(&image).await?;
            Ok((image, presence))
        };
        answer!(results, work, |out, (image, presence)| {
            write_image(&image, &presence, out.init_image());
        })
    }

    async fn list(
        self: Rc<Self>,
        params: wire::images::ListParams,
        mut results: wire::images::ListResults,
    ) -> capnp::Result<()> {
        let work = async {
            let page = page(params.get()?.get_page())?;
            self.link.send(List { namespace: self.namespace.clone(), page }).await
        };
        answer!(results, work, |out, listed| {
            out.set_next(&listed.next);
            let mut list = out.init_images(length(&listed.items));
            for (index, (image, presence)) in (0..).zip(&listed.items) {
                write_image(image, presence, list.reborrow().get(index));
            }
        })
    }

    async fn delete(
        self: Rc<Self>,
        params: wire::images::DeleteParams,
        mut results: wire::images::DeleteResults,
    ) -> capnp::Result<()> {
        let work = async {
            let name = text(params.get()?.get_name())?;
            self.link.send(Delete { namespace: self.namespace.clone(), name }).await
        };
        answer!(results, work)
    }

    async fn resolve(
        self: Rc<Self>,
        params: wire::images::ResolveParams,
        mut results: wire::images::ResolveResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Resolve {
                namespace: self.namespace.clone(),
                name: text(params.get_name())?,
                platform: Platform::parse(&text(params.get_platform())?)?,
            };
            let (image, manifest) = self.link.send(message).await?;
            let presence = self.survey(&image).await?;
            Ok((image, presence, manifest))
        };
        answer!(results, work, |out, (image, presence, manifest)| {
            write_image(&image, &presence, out.reborrow().init_image());
            write_manifest(&manifest, out.init_manifest());
        })
    }

    async fn label(
        self: Rc<Self>,
        params: wire::images::LabelParams,
        mut results: wire::images::LabelResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let message = Label {
                namespace: self.namespace.clone(),
                name: text(params.get_name())?,
                labels: read_labels(params.get_labels()?)?,
            };
            let image = self.link.send(message).await?;
            let presence = self.survey(&image).await?;
            Ok((image, presence))
        };
        answer!(results, work, |out, (image, presence)| {
            write_image(&image, &presence, out.init_image());
        })
    }

    async fn update(
        self: Rc<Self>,
        params: wire::images::UpdateParams,
        mut results: wire::images::UpdateResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let image = params.get_image()?;
            let message = Update {
                namespace: self.namespace.clone(),
                name: text(image.get_name())?,
                labels: read_labels(image.get_labels()?)?,
                target: match image.has_target() {
                    true => Some(Descriptor::read(image.get_target()?)?),
                    false => None,
                },
                mask: read_texts(params.get_mask()?)?,
            };
            let image = self.link.send(message).await?;
            let presence = self.survey(&image).await?;
            Ok((image, presence))
        };
        answer!(results, work, |out, (image, presence)| {
            write_image(&image, &presence, out.init_image());
        })
    }

    async fn tag(
        self: Rc<Self>,
        params: wire::images::TagParams,
        mut results: wire::images::TagResults,
    ) -> capnp::Result<()> {
        let work = async {
            let params = params.get()?;
            let tag = Tag {
                namespace: self.namespace.clone(),
                name: text(params.get_source())?,
                new_name: text(params.get_name())?,
            };
            let image = self.link.send(tag).await?;
            let presence = self.survey(&image).await?;
            Ok((image, presence))
        };
        answer!(results, work, |out, (image, presence)| {
            write_image(&image, &presence, out.init_image());
        })
    }

    async fn check(
        self: Rc<Self>,
        params: wire::images::CheckParams,
        mut results: wire::images::CheckResults,
    ) -> capnp::Result<()> {
        let work = async {
            let name = text(params.get()?.get_name())?;
            self.link.send(Check { namespace: self.namespace.clone(), name }).await
        };
        answer!(results, work, |out, checked| {
            out.set_complete(checked.missing.is_empty());
            out.set_size(checked.size);
            let mut list = out.init_missing(length(&checked.missing));
            for (index, (descriptor, reason)) in (0..).zip(&checked.missing) {
                let mut item = list.reborrow().get(index);
                item.set_reason(reason);
                descriptor.write(item.init_descriptor());
            }
        })
    }
}
