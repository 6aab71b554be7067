//! `capstan gc` and `capstan system`: what is stored, what keeps it, and whether it is whole.

use std::io::Write as _;

use capstan_client::Error;
use capstan_client::schema::gc_capnp::{Flaw, finding, gc};
use clap::{Args, Subcommand};

use super::registry::Reach;
use crate::exit::Outcome;
use crate::print::{self, Listing, Table};
use crate::session::{Session, call};

/// Removes content and snapshots that no image, container, lease, ingest or active snapshot keeps, in all
/// namespaces. What a pull or another operation uses just now is kept.
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Print what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum System {
    /// Compare all that is stored with itself; prints nothing if all is well, else exits with 10
    Audit {
        /// Read everything: hash all blobs, and compare unpacked layers with their blobs. A damaged blob is put aside
        #[arg(long)]
        full: bool,
    },
    /// Repair what an audit finds: fetch blobs again, put files of layers back, remove orphans
    Heal {
        /// Read everything first, as `audit --full`
        #[arg(long)]
        full: bool,
    },
    /// Print what keeps something, one line for each way from a root to it
    Why {
        /// content/DIGEST, snapshot/SNAPSHOTTER/KEY, image/NAME, container/ID, lease/ID, ingest/REF; or just the name
        resource: String,
    },
    /// Print what takes how much room, and how much of it a collection would give back
    Df,
}

impl Gc {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: gc::Client = session.open_global("gc");
        let mut request = service.collect_request();
        request.get().set_dry_run(self.dry_run);
        let response = call!(session, request);
        let report = response.get()?.get_report()?;
        if session.is_json() {
            return print::json(report);
        }
        let mut table = Table::new(&["NAMESPACE", "RESOURCE", "SIZE"]);
        let mut count = 0;
        for removed in report.get_removed()? {
            count += 1;
            table.row([
                namespace(removed.get_namespace()?)?,
                removed.get_resource()?.to_string()?,
                print::size(removed.get_size_bytes()),
            ]);
        }
        if count > 0 {
            table.print()?;
        }
        let (freed, spared) = (print::size(report.get_freed_bytes()), report.get_spared());
        let verb = if self.dry_run { "would go" } else { "went" };
        let spared = if spared > 0 { format!(", {spared} spared") } else { String::new() };
        eprintln!("{count} {verb}, {freed} of disk{spared}");
        Ok(())
    }
}

fn flaw(finding: finding::Reader<'_>) -> Outcome<&'static str> {
    Ok(match finding.get_flaw()? {
        Flaw::Missing => "missing",
        Flaw::Damaged => "damaged",
        Flaw::Orphan => "orphan",
        Flaw::Leftover => "leftover",
    })
}

/// As it is in tables.
fn namespace(name: capnp::text::Reader<'_>) -> Outcome<String> {
    Ok(match name.to_str()? {
        "" => "-".to_owned(),
        name => name.to_owned(),
    })
}

/// Namespace, what and flaw, as they are in tables.
fn cells(finding: finding::Reader<'_>) -> Outcome<[String; 3]> {
    let namespace = namespace(finding.get_namespace()?)?;
    Ok([namespace, finding.get_what()?.to_string()?, flaw(finding)?.to_owned()])
}

impl System {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: gc::Client = session.open_global("gc");
        match self {
            Self::Audit { full } => audit(session, &service, full).await,
            Self::Heal { full } => heal(session, &service, full).await,
            Self::Why { resource } => why(session, &service, &resource).await,
            Self::Df => df(session, &service).await,
        }
    }
}

async fn audit(session: &Session, service: &gc::Client, full: bool) -> Outcome {
    let mut request = service.audit_request();
    request.get().set_full(full);
    let response = call!(session, request);
    let findings = response.get()?.get_findings()?;
    let header = ["NAMESPACE", "WHAT", "FLAW", "DETAIL"];
    let mut list = Listing::new(session.is_json(), false, &header);
    for finding in findings {
        list.item(finding, finding.get_what(), |_| {
            let [namespace, what, flaw] = cells(finding)?;
            Ok([namespace, what, flaw, finding.get_detail()?.to_string()?])
        })?;
    }
    if !findings.is_empty() || session.is_json() {
        list.print()?;
    }
    match findings.len() {
        0 => Ok(()),
        count => Err(Error::corrupt(format!(
            "{count} things are not as they should be; `capstan system heal` mends what it can"
        ))
        .into()),
    }
}

async fn heal(session: &Session, service: &gc::Client, full: bool) -> Outcome {
    let mut request = service.heal_request();
    request.get().set_full(full);
    Reach::default().write_for_all(request.get().init_access());
    let response = call!(session, request);
    let all = response.get()?.get_healed()?;
    let header = ["NAMESPACE", "WHAT", "FLAW", "OUTCOME"];
    let mut list = Listing::new(session.is_json(), false, &header);
    let mut left = 0;
    for healed in all {
        left += u32::from(!healed.get_is_healed());
        let finding = healed.get_finding()?;
        list.item(healed, finding.get_what(), |_| {
            let [namespace, what, flaw] = cells(finding)?;
            let outcome = match healed.get_is_healed() {
                true => healed.get_outcome()?.to_string()?,
                false => format!(
                    "NOT healed: {} ({})",
                    healed.get_outcome()?.to_str()?,
                    finding.get_detail()?.to_str()?
                ),
            };
            Ok([namespace, what, flaw, outcome])
        })?;
    }
    if !all.is_empty() || session.is_json() {
        list.print()?;
    }
    match left {
        0 => Ok(()),
        left => {
            Err(Error::corrupt(format!("{left} of {} things are not healed", all.len())).into())
        }
    }
}

async fn why(session: &Session, service: &gc::Client, resource: &str) -> Outcome {
    let mut request = service.why_request();
    request.get().set_namespace(&session.namespace);
    request.get().set_resource(resource);
    let response = call!(session, request);
    let chains = response.get()?.get_chains()?;
    if session.is_json() {
        let mut list = Listing::new(true, false, &[]);
        for chain in chains {
            list.item(chain, chain.get_root(), |_| Ok([]))?;
        }
        return list.print();
    }
    let mut out = std::io::stdout();
    if chains.is_empty() {
        eprintln!("nothing keeps it: the next collection removes it, as far as the policy lets it");
    }
    for chain in chains {
        let mut links = Vec::new();
        for link in chain.get_links()? {
            links.push(link?.to_string()?);
        }
        writeln!(out, "{} ({})", links.join(" -> "), chain.get_root()?.to_str()?)?;
    }
    Ok(())
}

async fn df(session: &Session, service: &gc::Client) -> Outcome {
    let response = call!(session, service.usage_request());
    let header = ["TYPE", "COUNT", "SIZE", "RECLAIMABLE"];
    let mut list = Listing::new(session.is_json(), false, &header);
    for room in response.get()?.get_rooms()? {
        list.item(room, room.get_kind(), |kind| {
            Ok([
                kind.to_owned(),
                room.get_count().to_string(),
                print::size(room.get_size_bytes()),
                print::size(room.get_reclaimable_bytes()),
            ])
        })?;
    }
    list.print()
}
