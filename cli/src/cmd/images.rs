//! `capstan images`.

use std::io::Write as _;

use capstan_client::schema::image_capnp::{image, images};
use capstan_client::schema::transfer_capnp::transfer;
use capstan_client::schema::{Labels, Platform, Reference, write_labels};
use capstan_client::{Class, Error};
use clap::Subcommand;
use serde_json::{Value, json};

use super::archive::{Export, Import};
use super::copy::Copy;
use super::image_mount::{MountImage, UnmountImage};
use super::pull::Pull;
use super::push::Push;
use super::referrers::Referrers;
use crate::args::pair;
use crate::cmd::filter::Ls;
use crate::exit::{Outcome, each};
use crate::print::{self, Listing, Table};
use crate::session::{Session, call};

#[derive(Debug, Subcommand)]
pub(crate) enum Images {
    /// Pull an image from a registry and unpack it
    Pull(Pull),
    /// Send an image to a registry
    Push(Push),
    Copy(Copy),
    /// List what refers to an image in its registry, such as signatures
    Referrers(Referrers),
    /// List images
    Ls(Ls),
    /// Remove names, also those after one that fails; content and snapshots stay until garbage collection
    Rm {
        #[arg(required = true, value_name = "REF")]
        names: Vec<String>,
    },
    /// Show an image with its manifest and configuration, as JSON
    Inspect {
        #[arg(value_name = "REF")]
        name: String,
        /// os/arch[/variant] [default: the host's]
        #[arg(long)]
        platform: Option<String>,
    },
    Import(Import),
    Export(Export),
    Mount(MountImage),
    Umount(UnmountImage),
    /// Give an image another name
    ///
    /// Verifiers are asked whether it may have it. They see the signatures that the image came with; those that are in a
    /// registry are looked for by a pull only.
    Tag {
        #[arg(value_name = "SRC")]
        source: String,
        #[arg(value_name = "DST")]
        name: String,
    },
    /// Set labels; an empty value removes one
    Label {
        #[arg(value_name = "REF")]
        name: String,
        #[arg(value_name = "K=V", value_parser = pair, required = true)]
        labels: Vec<(String, String)>,
    },
    /// Look whether all that images need is there; exit code 6 if it is not
    Check {
        /// All images if none is named
        #[arg(value_name = "REF")]
        name: Option<String>,
    },
    /// Make the snapshots of an image that is present
    Unpack {
        #[arg(value_name = "REF")]
        name: String,
        /// os/arch[/variant] [default: the host's]
        #[arg(long)]
        platform: Option<String>,
        /// The snapshotter to unpack for
        #[arg(long)]
        snapshotter: Option<String>,
    },
}

impl Images {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: images::Client = session.open("images");
        match self {
            Self::Pull(pull) => pull.pull(session, false).await.map(drop),
            Self::Push(push) => push.run(session).await,
            Self::Copy(copy) => copy.run(session).await,
            Self::Referrers(referrers) => referrers.run(session).await,
            Self::Ls(ls) => list(session, &service, &ls).await,
            Self::Rm { names } => {
                let remove = async |name: &str| {
                    let mut request = service.delete_request();
                    request.get().set_name(full_name(name));
                    call!(session, request);
                    Ok(())
                };
                each(names, remove).await
            }
            Self::Inspect { name, platform } => {
                inspect(session, &service, &full_name(&name), platform.as_deref()).await
            }
            Self::Import(import) => import.run(session).await,
            Self::Export(export) => export.run(session).await,
            Self::Mount(mount) => mount.run(session).await,
            Self::Umount(umount) => umount.run(session).await,
            Self::Tag { source, name } => {
                let mut request = service.tag_request();
                request.get().set_source(full_name(&source));
                request.get().set_name(full_name(&name));
                let response = call!(session, request);
                show(session, response.get()?.get_image()?)
            }
            Self::Label { name, labels } => {
                let labels: Labels = labels.into_iter().collect();
                let mut request = service.label_request();
                request.get().set_name(full_name(&name));
                let count = u32::try_from(labels.len()).unwrap_or(u32::MAX);
                write_labels(&labels, request.get().init_labels(count));
                let response = call!(session, request);
                show(session, response.get()?.get_image()?)
            }
            Self::Check { name } => check(session, &service, name).await,
            Self::Unpack { name, platform, snapshotter } => {
                let service: transfer::Client = session.open("transfer");
                let mut request = service.unpack_request();
                request.get().set_image(full_name(&name));
                request.get().set_platform(platform.as_deref().unwrap_or_default());
                request.get().set_snapshotter(snapshotter.as_deref().unwrap_or_default());
                let response = call!(session, request);
                if session.is_json() {
                    return print::json(response.get()?);
                }
                let chain_id = response.get()?.get_chain_id()?.to_str()?;
                Ok(writeln!(std::io::stdout(), "{chain_id}")?)
            }
        }
    }
}

/// Shows an image with its manifest and configuration; of what is no image there is only the former.
async fn inspect(
    session: &Session,
    service: &images::Client,
    name: &str,
    platform: Option<&str>,
) -> Outcome {
    let mut request = service.resolve_request();
    request.get().set_name(name);
    request.get().set_platform(platform.unwrap_or_default());
    let response = session.client.call(request.send().promise).await?;
    match capstan_client::check!(response.get()?) {
        Err(error) if error.class() == Class::FailedPrecondition && platform.is_none() => {}
        checked => {
            checked?;
            return print::json(response.get()?);
        }
    }
    let mut request = service.get_request();
    request.get().set_name(name);
    let response = call!(session, request);
    print::json(response.get()?)
}

/// Prints an image that was changed.
fn show(session: &Session, image: image::Reader<'_>) -> Outcome {
    if session.is_json() {
        return print::json(image);
    }
    Ok(writeln!(std::io::stdout(), "{}", image.get_name()?.to_str()?)?)
}

/// The names of all images.
async fn all_names(session: &Session, service: &images::Client) -> Outcome<Vec<String>> {
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let mut request = service.list_request();
        request.get().init_page().set_after(&after);
        let response = call!(session, request);
        let reply = response.get()?;
        for item in reply.get_images()? {
            names.push(item.get_name()?.to_string()?);
        }
        after = reply.get_next()?.to_string()?;
        if after.is_empty() {
            return Ok(names);
        }
    }
}

async fn check(session: &Session, service: &images::Client, name: Option<String>) -> Outcome {
    let names = match name {
        Some(name) => vec![full_name(&name)],
        None => all_names(session, service).await?,
    };
    let mut table = Table::new(&["REF", "STATUS", "SIZE", "MISSING"]);
    let mut array = Vec::new();
    let mut gaps = Vec::new();
    for name in names {
        let mut request = service.check_request();
        request.get().set_name(&name);
        let response = call!(session, request);
        let reply = response.get()?;
        let mut missing = Vec::new();
        for item in reply.get_missing()? {
            let digest = item.get_descriptor()?.get_digest()?.to_string()?;
            missing.push((digest, item.get_reason()?.to_string()?));
        }
        let status = if reply.get_complete() { "complete" } else { "incomplete" };
        let text: Vec<String> = missing
            .iter()
            .map(|(digest, reason)| match reason.as_str() {
                "missing" => digest.clone(),
                reason => format!("{digest} ({reason})"),
            })
            .collect();
        let cell = if text.is_empty() { "-".into() } else { text.join(",") };
        table.row([name.clone(), status.into(), print::size(reply.get_size()), cell]);
        let missing: Vec<Value> = missing
            .into_iter()
            .map(|(digest, reason)| json!({ "digest": digest, "reason": reason }))
            .collect();
        array.push(json!({
            "name": name, "status": status, "size": reply.get_size(), "missing": missing,
        }));
        if !reply.get_complete() {
            gaps.push(name);
        }
    }
    if session.is_json() {
        print::json_value(&Value::Array(array))?;
    } else {
        table.print()?;
    }
    match gaps.is_empty() {
        true => Ok(()),
        false => Err(Error::precondition(format!(
            "not all is there of {}: pull them again",
            gaps.join(", ")
        ))
        .into()),
    }
}

fn platforms(image: image::Reader<'_>) -> Outcome<String> {
    let mut names = Vec::new();
    for platform in image.get_platforms()? {
        let name = Platform::read(platform)?.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match names.is_empty() {
        true => Ok("-".into()),
        false => Ok(names.join(",")),
    }
}

async fn list(session: &Session, service: &images::Client, ls: &Ls) -> Outcome {
    let mut list =
        Listing::new(session.is_json(), ls.quiet, &["REF", "DIGEST", "SIZE", "PLATFORMS"]);
    let mut after = String::new();
    loop {
        let mut request = service.list_request();
        ls.page(&after, request.get().init_page());
        let response = call!(session, request);
        let reply = response.get()?;
        for item in reply.get_images()? {
            list.item(item, item.get_name(), |name| {
                Ok([
                    name.to_owned(),
                    item.get_target()?.get_digest()?.to_string()?,
                    print::size(item.get_size()),
                    platforms(item)?,
                ])
            })?;
        }
        after = reply.get_next()?.to_string()?;
        if after.is_empty() {
            return list.print();
        }
    }
}

/// The name under which an image that a person named is stored: `busybox` gets the default domain, path
/// and tag (schema, reference.rs). What is no reference is a name as it is.
pub(crate) fn full_name(text: &str) -> String {
    Reference::parse_familiar(text).map_or_else(|_| text.to_owned(), |name| name.to_string())
}
