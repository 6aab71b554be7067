//! `capstan leases`.

use std::io::Write as _;
use std::time::Duration;

use capstan_client::schema::leases_capnp::leases;
use capstan_client::schema::{Labels, write_labels};
use clap::Subcommand;

use crate::args::{duration, pair};
use crate::exit::{Outcome, each};
use crate::print::{self, Listing};
use crate::session::{Session, call};

#[derive(Debug, Subcommand)]
pub(crate) enum Leases {
    /// Make a lease and print its id; what is added to it is kept from garbage collection
    Create {
        /// Its id [default: a random one]
        #[arg(long)]
        id: Option<String>,
        /// When it ends by itself, from now [default: never]
        #[arg(long, value_name = "DUR", value_parser = duration)]
        expire: Option<Duration>,
        /// Labels
        #[arg(value_name = "K=V", value_parser = pair)]
        labels: Vec<(String, String)>,
    },
    /// List leases
    Ls {
        /// Print only the ids
        #[arg(short, long)]
        quiet: bool,
    },
    /// End leases, also those after one that fails; what only they kept goes with the next collection
    Rm {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Have a lease keep something: content/DIGEST, snapshot/SNAPSHOTTER/KEY or image/NAME
    Add { id: String, resource: String },
    /// Print what a lease keeps
    Resources { id: String },
}

impl Leases {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: leases::Client = session.open("leases");
        match self {
            Self::Create { id, expire, labels } => {
                let labels: Labels = labels.into_iter().collect();
                let mut request = service.create_request();
                let mut params = request.get();
                params.set_id(id.as_deref().unwrap_or_default());
                let nanos = expire.map_or(0, |expire| expire.as_nanos());
                params.set_expires_in_ns(i64::try_from(nanos).unwrap_or(i64::MAX));
                let count = u32::try_from(labels.len()).unwrap_or(u32::MAX);
                write_labels(&labels, params.init_labels(count));
                let response = call!(session, request);
                let lease = response.get()?.get_lease()?;
                if session.is_json() {
                    return print::json(lease);
                }
                Ok(writeln!(std::io::stdout(), "{}", lease.get_id()?.to_str()?)?)
            }
            Self::Ls { quiet } => list(session, &service, quiet).await,
            Self::Rm { ids } => {
                let remove = async |id: &str| {
                    let mut request = service.delete_request();
                    request.get().set_id(id);
                    call!(session, request);
                    Ok(())
                };
                each(ids, remove).await
            }
            Self::Add { id, resource } => {
                let mut request = service.add_request();
                request.get().set_id(&id);
                request.get().set_resource(&resource);
                call!(session, request);
                Ok(())
            }
            Self::Resources { id } => {
                let mut request = service.resources_request();
                request.get().set_id(&id);
                let response = call!(session, request);
                let mut names = Vec::new();
                for name in response.get()?.get_resources()? {
                    names.push(name?.to_string()?);
                }
                let mut out = std::io::stdout();
                if session.is_json() {
                    return Ok(writeln!(out, "{:#}", serde_json::json!(names))?);
                }
                names.iter().try_for_each(|name| writeln!(out, "{name}"))?;
                Ok(())
            }
        }
    }
}

async fn list(session: &Session, service: &leases::Client, quiet: bool) -> Outcome {
    let mut list = Listing::new(session.is_json(), quiet, &["ID", "CREATED", "EXPIRES"]);
    let mut after = String::new();
    loop {
        let mut request = service.list_request();
        request.get().init_page().set_after(&after);
        let response = call!(session, request);
        let reply = response.get()?;
        for item in reply.get_leases()? {
            list.item(item, item.get_id(), |id| {
                let expires = match item.get_expires_at_unix_ns() {
                    0 => "never".to_owned(),
                    at => print::time(at),
                };
                Ok([id.to_owned(), print::time(item.get_created_at_unix_ns()), expires])
            })?;
        }
        after = reply.get_next()?.to_string()?;
        if after.is_empty() {
            return list.print();
        }
    }
}
