//! `capstan snapshots`.

use std::collections::BTreeMap;
use std::io::Write as _;

use capnp::struct_list;
use capstan_client::schema::common_capnp::mount;
use capstan_client::schema::snapshot_capnp::{SnapshotKind, snapshotter};
use capstan_client::schema::{Labels, Mount, write_labels};
use clap::{Args, Subcommand};

use super::layers::{Apply, Diff};
use crate::args::pair;
use crate::cmd::filter::Ls;
use crate::exit::{Outcome, each};
use crate::print::{self, Listing};
use crate::session::{Session, call};

#[derive(Debug, Args)]
pub(crate) struct Snapshots {
    /// Which snapshotter [default: the preferred one]
    #[arg(long, global = true, value_name = "NAME")]
    snapshotter: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List snapshots
    Ls(Ls),
    /// Show snapshots below their parents
    Tree,
    /// Make a writable snapshot and print its mounts
    Prepare {
        key: String,
        parent: Option<String>,
        /// Labels; capstan/size=10g limits what it takes
        #[arg(short, long, value_name = "K=V", value_parser = pair)]
        label: Vec<(String, String)>,
    },
    /// Make a read-only snapshot and print its mounts
    View {
        key: String,
        parent: Option<String>,
    },
    /// Make an active snapshot immutable under a name
    Commit {
        name: String,
        key: String,
    },
    /// Print the mounts of an active snapshot
    Mounts {
        key: String,
    },
    /// Set labels of a snapshot; an empty value removes one
    Label {
        key: String,
        #[arg(value_name = "K=V", value_parser = pair, required = true)]
        labels: Vec<(String, String)>,
    },
    /// Remove snapshots; those after one that fails, too
    Rm {
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Show what is known of a snapshot
    Inspect {
        key: String,
    },
    Diff(Diff),
    Apply(Apply),
    /// Measure snapshots; all of them if none is named
    Usage {
        keys: Vec<String>,
    },
}

/// A snapshot, as far as lists and trees need it.
struct Row {
    key: String,
    parent: String,
    kind: &'static str,
}

impl Snapshots {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let name = match &self.snapshotter {
            Some(name) => format!("snapshotter.{name}"),
            None => "snapshotter".to_owned(),
        };
        let service: snapshotter::Client = session.open(&name);
        match self.command {
            Command::Ls(ls) => {
                let header = ["KEY", "PARENT", "KIND"];
                let mut list = Listing::new(session.is_json(), ls.quiet, &header);
                rows(session, &service, Some((&mut list, &ls))).await?;
                list.print()
            }
            Command::Tree => tree(&rows(session, &service, None).await?),
            Command::Prepare { key, parent, label } => {
                let mut request = service.prepare_request();
                let labels: Labels = label.into_iter().collect();
                let count = u32::try_from(labels.len()).unwrap_or(u32::MAX);
                write_labels(&labels, request.get().init_labels(count));
                request.get().set_key(&key);
                request.get().set_parent(parent.as_deref().unwrap_or_default());
                let response = call!(session, request);
                mounts(session, response.get()?.get_mounts()?)
            }
            Command::View { key, parent } => {
                let mut request = service.view_request();
                request.get().set_key(&key);
                request.get().set_parent(parent.as_deref().unwrap_or_default());
                let response = call!(session, request);
                mounts(session, response.get()?.get_mounts()?)
            }
            Command::Commit { name, key } => {
                let mut request = service.commit_request();
                request.get().set_name(&name);
                request.get().set_key(&key);
                call!(session, request);
                Ok(())
            }
            Command::Mounts { key } => {
                let mut request = service.mounts_request();
                request.get().set_key(&key);
                let response = call!(session, request);
                mounts(session, response.get()?.get_mounts()?)
            }
            Command::Rm { keys } => {
                let remove = async |key: &str| {
                    let mut request = service.remove_request();
                    request.get().set_key(key);
                    call!(session, request);
                    Ok(())
                };
                each(keys, remove).await
            }
            Command::Label { key, labels } => {
                let labels: Labels = labels.into_iter().collect();
                let mut request = service.label_request();
                request.get().set_key(&key);
                let count = u32::try_from(labels.len()).unwrap_or(u32::MAX);
                write_labels(&labels, request.get().init_labels(count));
                call!(session, request);
                Ok(())
            }
            Command::Inspect { key } => {
                let mut request = service.stat_request();
                request.get().set_key(&key);
                let response = call!(session, request);
                print::json(response.get()?.get_info()?)
            }
            Command::Diff(diff) => diff.run(session, self.snapshotter.as_deref()).await,
            Command::Apply(apply) => apply.run(session, self.snapshotter.as_deref()).await,
            Command::Usage { keys } => usage(session, &service, keys).await,
        }
    }
}

async fn rows(
    session: &Session,
    service: &snapshotter::Client,
    mut list: Option<(&mut Listing, &Ls)>,
) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    let mut after = String::new();
    loop {
        let mut request = service.list_request();
        let mut page = request.get().init_page();
        match &list {
            Some((_, ls)) => ls.page(&after, page),
            None => page.set_after(&after),
        }
        let response = call!(session, request);
        let reply = response.get()?;
        for item in reply.get_snapshots()? {
            let kind = match item.get_kind()? {
                SnapshotKind::Active => "active",
                SnapshotKind::View => "view",
                SnapshotKind::Committed => "committed",
            };
            let (key, parent) = (item.get_key()?.to_string()?, item.get_parent()?.to_string()?);
            if let Some((list, _)) = list.as_mut() {
                list.item(item, item.get_key(), |key| {
                    let parent = if parent.is_empty() { "-" } else { parent.as_str() };
                    Ok([key.to_owned(), parent.to_owned(), kind.to_owned()])
                })?;
            }
            rows.push(Row { key, parent, kind });
        }
        after = reply.get_next()?.to_string()?;
        if after.is_empty() {
            return Ok(rows);
        }
    }
}

fn tree(rows: &[Row]) -> Outcome {
    let mut children: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        children.entry(row.parent.as_str()).or_default().push(row);
    }
    let mut out = std::io::stdout();
    // A stack instead of recursion: chains are as deep as images have layers.
    let mut stack: Vec<(usize, &Row)> = Vec::new();
    let roots = children.get("").map(Vec::as_slice).unwrap_or_default();
    stack.extend(roots.iter().rev().map(|&row| (0, row)));
    while let Some((depth, row)) = stack.pop() {
        let lead =
            if depth == 0 { String::new() } else { format!("{}\\_ ", "   ".repeat(depth - 1)) };
        writeln!(out, "{lead}{} ({})", row.key, row.kind)?;
        let below = children.get(row.key.as_str()).map(Vec::as_slice).unwrap_or_default();
        stack.extend(below.iter().rev().map(|&row| (depth + 1, row)));
    }
    Ok(())
}

/// Mounts as commands for a shell, as ctr prints them.
fn mounts(session: &Session, mounts: struct_list::Reader<'_, mount::Owned>) -> Outcome {
    if session.is_json() {
        let mut list = Listing::new(true, false, &[]);
        for mount in mounts {
            list.item(mount, mount.get_source(), |_| Ok([]))?;
        }
        return list.print();
    }
    let mut out = std::io::stdout();
    for mount in mounts {
        let mount = Mount::read(mount)?;
        let options = mount.options.join(",");
        writeln!(out, "mount -t {} {} TARGET -o {options}", mount.kind, mount.source)?;
    }
    Ok(())
}

async fn usage(session: &Session, service: &snapshotter::Client, keys: Vec<String>) -> Outcome {
    let keys = match keys.is_empty() {
        false => keys,
        true => rows(session, service, None).await?.into_iter().map(|row| row.key).collect(),
    };
    let mut table = print::Table::new(&["KEY", "SIZE", "INODES"]);
    let mut array = Vec::new();
    for key in keys {
        let mut request = service.usage_request();
        request.get().set_key(&key);
        let response = call!(session, request);
        let (size, inodes) = (response.get()?.get_size(), response.get()?.get_inodes());
        if session.is_json() {
            array.push(serde_json::json!({ "key": key, "size": size, "inodes": inodes }));
        } else {
            table.row([key, print::size(size), inodes.to_string()]);
        }
    }
    if session.is_json() {
        return Ok(writeln!(std::io::stdout(), "{:#}", serde_json::Value::Array(array))?);
    }
    table.print()
}
