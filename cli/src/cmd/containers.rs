//! `capstan containers` and `capstan oci`.

use std::io::Write as _;

use capstan_client::schema::container_capnp::containers;
use capstan_client::schema::{Labels, write_labels, write_texts};
use clap::{Args, Subcommand};

use crate::args::pair;
use crate::cmd::filter::Ls;
use crate::cmd::images::full_name;
use crate::cmd::spec::{SpecFlags, storage};
use crate::exit::{Outcome, each};
use crate::print::{self, Listing};
use crate::session::{Session, call};

#[derive(Debug, Subcommand)]
pub(crate) enum Containers {
    /// Make a container without running anything
    Create(Box<Create>),
    /// List containers
    Ls(Ls),
    /// Show a container's record, as JSON
    Inspect { id: String },
    /// Remove containers that have no task; those after one that fails, too
    Rm {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Set labels; an empty value removes one
    Label {
        id: String,
        #[arg(value_name = "K=V", value_parser = pair, required = true)]
        labels: Vec<(String, String)>,
    },
    /// Change what a container may take, at once
    Update {
        id: String,
        /// size=BYTES of the writable layer of a container that was made with a limit, or size=none
        #[arg(long, value_name = "size=BYTES", required = true)]
        storage_opt: String,
    },
    /// Print a container's OCI runtime spec
    Spec { id: String },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    spec: SpecFlags,
    id: String,
    /// The image; with --rootfs the first word of the command
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Oci {
    /// Print the runtime spec that `run` would use
    Spec(Box<OciSpec>),
}

#[derive(Debug, Args)]
pub(crate) struct OciSpec {
    #[command(flatten)]
    spec: SpecFlags,
    /// The image; with --rootfs the first word of the command
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// The image and the command: with `--rootfs` there is no image, and all words are the command.
pub(crate) fn image_and_command(
    spec: &SpecFlags,
    image: Option<String>,
    command: Vec<String>,
) -> Outcome<(String, Vec<String>)> {
    match (spec.has_rootfs(), image) {
        (true, first) => Ok((String::new(), first.into_iter().chain(command).collect())),
        (false, Some(image)) => Ok((full_name(&image), command)),
        (false, None) => {
            Err(capstan_client::Error::invalid("which image? name one, or use --rootfs DIR").into())
        }
    }
}

impl Containers {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: containers::Client = session.open("containers");
        match self {
            Self::Create(create) => {
                let (image, command) =
                    image_and_command(&create.spec, create.image, create.command)?;
                let mut request = service.create_request();
                request.get().set_id(&create.id);
                create.spec.write(&image, &command, request.get().init_spec())?;
                let response = call!(session, request);
                if session.is_json() {
                    return print::json(response.get()?.get_container()?);
                }
                Ok(writeln!(std::io::stdout(), "{}", create.id)?)
            }
            Self::Ls(ls) => list(session, &service, &ls).await,
            Self::Inspect { id } => {
                let mut request = service.get_request();
                request.get().set_id(&id);
                let response = call!(session, request);
                print::json(response.get()?.get_container()?)
            }
            Self::Rm { ids } => {
                let remove = async |id: &str| {
                    let mut request = service.delete_request();
                    request.get().set_id(id);
                    call!(session, request);
                    Ok(())
                };
                each(ids, remove).await
            }
            Self::Label { id, labels } => {
                let labels: Labels = labels.into_iter().collect();
                let mut request = service.label_request();
                request.get().set_id(&id);
                let count = u32::try_from(labels.len()).unwrap_or(u32::MAX);
                write_labels(&labels, request.get().init_labels(count));
                let response = call!(session, request);
                if session.is_json() {
                    return print::json(response.get()?.get_container()?);
                }
                Ok(writeln!(std::io::stdout(), "{id}")?)
            }
            Self::Update { id, storage_opt } => {
                let size = match storage_opt.as_str() {
                    "size=none" => 0,
                    option => storage(option)?,
                };
                let mut request = service.update_request();
                write_texts(&["storageBytes"], request.get().init_mask(1));
                let mut container = request.get().init_container();
                container.set_id(&id);
                container.set_storage_bytes(size);
                let response = call!(session, request);
                if session.is_json() {
                    return print::json(response.get()?.get_container()?);
                }
                Ok(writeln!(std::io::stdout(), "{id}")?)
            }
            Self::Spec { id } => {
                let mut request = service.get_request();
                request.get().set_id(&id);
                let response = call!(session, request);
                document(response.get()?.get_container()?.get_spec()?)
            }
        }
    }
}

impl Oci {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let Self::Spec(flags) = self;
        let (image, command) = image_and_command(&flags.spec, flags.image, flags.command)?;
        let service: containers::Client = session.open("containers");
        let mut request = service.oci_spec_request();
        request.get().set_id("container");
        flags.spec.write(&image, &command, request.get().init_spec())?;
        let response = call!(session, request);
        document(response.get()?.get_oci_spec()?)
    }
}

fn document(bytes: &[u8]) -> Outcome {
    let mut out = std::io::stdout();
    out.write_all(bytes)?;
    Ok(writeln!(out)?)
}

async fn list(session: &Session, service: &containers::Client, ls: &Ls) -> Outcome {
    let mut list = Listing::new(session.is_json(), ls.quiet, &["ID", "IMAGE", "RUNTIME"]);
    let mut after = String::new();
    loop {
        let mut request = service.list_request();
        ls.page(&after, request.get().init_page());
        let response = call!(session, request);
        let reply = response.get()?;
        for item in reply.get_containers()? {
            list.item(item, item.get_id(), |id| {
                let image = item.get_image()?.to_str()?;
                let image = if image.is_empty() { "-" } else { image };
                Ok([id.to_owned(), image.to_owned(), item.get_runtime()?.to_string()?])
            })?;
        }
        after = reply.get_next()?.to_string()?;
        if after.is_empty() {
            return list.print();
        }
    }
}
