//! `capstan namespaces`.

use capstan_client::schema::namespace_capnp::namespaces;
use capstan_client::schema::{Labels, read_labels, write_labels};
use clap::Subcommand;

use crate::args::pair;
use crate::cmd::filter::Ls;
use crate::exit::{Outcome, each};
use crate::print::Listing;
use crate::session::{Session, call};

#[derive(Debug, Subcommand)]
pub(crate) enum Namespaces {
    /// List namespaces
    Ls(Ls),
    /// Make a namespace
    Create {
        name: String,
        /// Labels
        #[arg(value_name = "K=V", value_parser = pair)]
        labels: Vec<(String, String)>,
    },
    /// Set labels; an empty value removes one
    Label {
        name: String,
        #[arg(value_name = "K=V", value_parser = pair, required = true)]
        labels: Vec<(String, String)>,
    },
    /// Remove empty namespaces; those after one that fails, too
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl Namespaces {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: namespaces::Client = session.open_global("namespaces");
        match self {
            Self::Ls(ls) => list(session, &service, &ls).await,
            Self::Create { name, labels } => {
                let labels: Labels = labels.into_iter().collect();
                let mut request = service.create_request();
                request.get().set_name(&name);
                let count = u32::try_from(labels.len()).unwrap_or(u32::MAX);
                write_labels(&labels, request.get().init_labels(count));
                call!(session, request);
                Ok(())
            }
            Self::Label { name, labels } => {
                let labels: Labels = labels.into_iter().collect();
                let mut request = service.label_request();
                request.get().set_name(&name);
                let count = u32::try_from(labels.len()).unwrap_or(u32::MAX);
                write_labels(&labels, request.get().init_labels(count));
                call!(session, request);
                Ok(())
            }
            Self::Rm { names } => {
                let remove = async |name: &str| {
                    let mut request = service.delete_request();
                    request.get().set_name(name);
                    call!(session, request);
                    Ok(())
                };
                each(names, remove).await
            }
        }
    }
}

/// Labels in one cell: `a=1,b=2`.
pub(crate) fn cell(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

async fn list(session: &Session, service: &namespaces::Client, ls: &Ls) -> Outcome {
    let mut list = Listing::new(session.is_json(), ls.quiet, &["NAME", "LABELS"]);
    let mut after = String::new();
    loop {
        let mut request = service.list_request();
        ls.page(&after, request.get().init_page());
        let response = call!(session, request);
        let reply = response.get()?;
        for item in reply.get_namespaces()? {
            list.item(item, item.get_name(), |name| {
                Ok([name.to_owned(), cell(&read_labels(item.get_labels()?)?)])
            })?;
        }
        after = reply.get_next()?.to_string()?;
        if after.is_empty() {
            return list.print();
        }
    }
}
