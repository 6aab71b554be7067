//! `capstan content`.

use std::io::Write as _;

use capstan_client::schema::content_capnp::{content, ingest};
use capstan_client::schema::{Labels, MAX_CHUNK_BYTES, read_labels, write_labels, write_texts};
use capstan_client::{Class, Error};
use clap::Subcommand;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::args::pair;
use crate::cmd::edit::Edit;
use crate::cmd::filter::Ls;
use crate::cmd::namespaces::cell;
use crate::cmd::objects::{FetchObject, PushObject};
use crate::cmd::pull::Fetch;
use crate::exit::{Outcome, each};
use crate::print::{self, Listing};
use crate::session::{Session, call};

#[derive(Debug, Subcommand)]
pub(crate) enum Content {
    /// List blobs
    Ls(Ls),
    /// Write a blob to stdout
    Get {
        digest: String,
    },
    /// Store stdin as a blob and print its digest
    Ingest {
        /// What it must hash to
        #[arg(long)]
        expected_digest: Option<String>,
        /// How many bytes it must have
        #[arg(long)]
        expected_size: Option<u64>,
        /// How it is hashed: sha256, sha384 or sha512 [default: as expected, or as the store is configured]
        #[arg(long)]
        algorithm: Option<String>,
        /// The name of the ingest until it is a blob
        #[arg(value_name = "REF")]
        reference: String,
    },
    /// Write what a registry has, a document or a blob, to stdout; nothing is stored
    FetchObject(FetchObject),
    /// Send one blob or document that is here to a registry
    PushObject(PushObject),
    /// Fetch an image with all its platforms and name it, without unpacking it
    Fetch(Fetch),
    Edit(Edit),
    /// Show what is known of a blob
    Inspect {
        digest: String,
    },
    /// List ingests
    Active(Ls),
    /// Drop an ingest and its bytes
    Abort {
        #[arg(value_name = "REF")]
        reference: String,
    },
    /// Set labels of a blob; an empty value removes one
    Label {
        digest: String,
        #[arg(value_name = "K=V", value_parser = pair, required = true)]
        labels: Vec<(String, String)>,
    },
    /// Remove blobs; those after one that fails, too
    Rm {
        #[arg(required = true)]
        digests: Vec<String>,
    },
}

impl Content {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: content::Client = session.open("content");
        match self {
            Self::Ls(ls) => list(session, &service, &ls).await,
            Self::Get { digest } => get(session, &service, &digest).await,
            Self::FetchObject(fetch) => fetch.run(session).await,
            Self::PushObject(push) => push.run(session).await,
            Self::Ingest { expected_digest, expected_size, algorithm, reference } => {
                let wanted = Wanted {
                    reference,
                    digest: expected_digest.unwrap_or_default(),
                    size: expected_size.unwrap_or(0),
                    algorithm: algorithm.unwrap_or_default(),
                };
                ingest(session, &service, &wanted).await
            }
            Self::Edit(edit) => edit.run(session, &service).await,
            Self::Inspect { digest } => {
                let mut request = service.info_request();
                request.get().set_digest(&digest);
                let response = call!(session, request);
                print::json(response.get()?.get_info()?)
            }
            Self::Fetch(fetch) => fetch.run(session).await,
            Self::Active(ls) => active(session, &service, &ls).await,
            Self::Abort { reference } => {
                let mut request = service.abort_request();
                request.get().set_ref(&reference);
                call!(session, request);
                Ok(())
            }
            Self::Rm { digests } => {
                let remove = async |digest: &str| {
                    let mut request = service.delete_request();
                    request.get().set_digest(digest);
                    call!(session, request);
                    Ok(())
                };
                each(digests, remove).await
            }
            Self::Label { digest, labels } => {
                let labels: Labels = labels.into_iter().collect();
                let mut request = service.label_request();
                request.get().set_digest(&digest);
                let count = u32::try_from(labels.len()).unwrap_or(u32::MAX);
                write_labels(&labels, request.get().init_labels(count));
                call!(session, request);
                Ok(())
            }
        }
    }
}

async fn list(session: &Session, service: &content::Client, ls: &Ls) -> Outcome {
    let mut list = Listing::new(session.is_json(), ls.quiet, &["DIGEST", "SIZE", "AGE", "LABELS"]);
    let mut after = String::new();
    loop {
        let mut request = service.list_request();
        ls.page(&after, request.get().init_page());
        let response = call!(session, request);
        let reply = response.get()?;
        for item in reply.get_blobs()? {
            list.item(item, item.get_digest(), |digest| {
                Ok([
                    digest.to_owned(),
                    print::size(item.get_size()),
                    print::age(item.get_created_at_unix_ns()),
                    cell(&read_labels(item.get_labels()?)?),
                ])
            })?;
        }
        after = reply.get_next()?.to_string()?;
        if after.is_empty() {
            return list.print();
        }
    }
}

pub(crate) async fn get(session: &Session, service: &content::Client, digest: &str) -> Outcome {
    get_into(session, service, digest, &mut std::io::stdout()).await
}

/// Reads ahead by one chunk, so that the daemon reads while we write.
pub(crate) async fn get_into(
    session: &Session,
    service: &content::Client,
    digest: &str,
    out: &mut dyn std::io::Write,
) -> Outcome {
    let mut request = service.open_request();
    request.get().set_digest(digest);
    let response = call!(session, request);
    let (blob, size) = (response.get()?.get_blob()?, response.get()?.get_size());
    let ask = |offset: u64| {
        let mut request = blob.read_request();
        request.get().set_offset(offset);
        request.get().set_length(MAX_CHUNK_BYTES);
        request.send().promise
    };
    let mut offset = 0;
    let mut next = ask(0);
    while offset < size {
        let response = session.client.call(next).await?;
        let bytes = capstan_client::check!(response.get()?)?.get_bytes()?;
        offset += bytes.len() as u64;
        next = ask(offset);
        out.write_all(bytes)?;
    }
    Ok(())
}

/// What is to become of stdin.
struct Wanted {
    reference: String,
    /// Empty: whatever it hashes to.
    digest: String,
    /// In bytes; 0: however many there are.
    size: u64,
    /// Empty: as expected, or as the store is configured.
    algorithm: String,
}

impl Wanted {
    /// Opens the ingest. `None`: the blob is here.
    async fn open(
        &self,
        session: &Session,
        service: &content::Client,
    ) -> Outcome<Option<(ingest::Client, u64)>> {
        let mut request = service.ingest_request();
        let mut params = request.get();
        params.set_ref(&self.reference);
        params.set_expected(&self.digest);
        params.set_total(self.size);
        params.set_algorithm(&self.algorithm);
        let response = session.client.call(request.send().promise).await?;
        match capstan_client::check!(response.get()?) {
            Err(error) if error.class() == Class::AlreadyExists => Ok(None),
            reply => {
                let reply = reply?;
                Ok(Some((reply.get_ingest()?, reply.get_info()?.get_offset())))
            }
        }
    }
}

async fn ingest(session: &Session, service: &content::Client, wanted: &Wanted) -> Outcome {
    let Some((mut ingest, offset)) = wanted.open(session, service).await? else {
        return present(session, service, wanted).await;
    };
    if offset > 0 {
        // What an earlier try left may be of another stdin, and stdin starts at its first byte anyway.
        call!(session, ingest.abort_request());
        let Some((fresh, _)) = wanted.open(session, service).await? else {
            return present(session, service, wanted).await;
        };
        ingest = fresh;
    }
    let mut offset = 0;
    let mut input = tokio::io::stdin();
    let mut buffer = vec![0; MAX_CHUNK_BYTES as usize];
    loop {
        let got = input.read(&mut buffer).await?;
        if got == 0 {
            break;
        }
        let mut request = ingest.write_request();
        request.get().set_offset(offset);
        request.get().set_bytes(&buffer[..got]);
        let response = call!(session, request);
        offset = response.get()?.get_offset();
    }
    let mut request = ingest.commit_request();
    request.get().set_expected(&wanted.digest);
    request.get().set_total(wanted.size);
    let response = call!(session, request);
    if session.is_json() {
        return print::json(response.get()?);
    }
    Ok(writeln!(std::io::stdout(), "{}", response.get()?.get_digest()?.to_str()?)?)
}

/// What is here need not be read again.
async fn present(session: &Session, service: &content::Client, wanted: &Wanted) -> Outcome {
    let mut request = service.info_request();
    request.get().set_digest(&wanted.digest);
    let response = call!(session, request);
    let info = response.get()?.get_info()?;
    let (digest, size) = (info.get_digest()?.to_str()?, info.get_size());
    if wanted.size > 0 && wanted.size != size {
        let error = format!("{digest} has {size} bytes, want {}", wanted.size);
        return Err(Error::corrupt(error).into());
    }
    if session.is_json() {
        return print::json_value(&json!({ "digest": digest, "size": size }));
    }
    Ok(writeln!(std::io::stdout(), "{digest}")?)
}

async fn active(session: &Session, service: &content::Client, ls: &Ls) -> Outcome {
    let mut list = Listing::new(session.is_json(), ls.quiet, &["REF", "SIZE", "AGE"]);
    let mut request = service.ingests_request();
    let count = u32::try_from(ls.filters.len()).unwrap_or(u32::MAX);
    write_texts(&ls.filters, request.get().init_filters(count));
    let response = call!(session, request);
    for item in response.get()?.get_ingests()? {
        list.item(item, item.get_ref(), |reference| {
            Ok([
                reference.to_owned(),
                print::size(item.get_offset()),
                print::age(item.get_started_at_unix_ns()),
            ])
        })?;
    }
    list.print()
}
