//! Garbage goes: in batches, children first, by those who own it.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use capstan_sdk::contract::gc::{Removed, Report};
use capstan_sdk::contract::gc_policy::{Candidate, Judge, Verdict};
use capstan_sdk::contract::graph::{Collected, Resource};
use capstan_sdk::contract::{content, snapshotter};
use capstan_sdk::{Class, Digest, Namespace, Result, clock};

use crate::graph::Graph;
use crate::mark;
use crate::owners::{Look, Owners};

/// Things that an owner removes at a time; between two of these others have their turn.
const BATCH: usize = 32;

/// Collects what is in no namespace. No policy is asked: nobody can have a use for what has no name.
pub(crate) async fn collect_orphans(
    owners: &Owners,
    is_dry: bool,
    report: &mut Report,
) -> Result<()> {
    let orphans = owners.content.send(content::Orphans { is_removing: !is_dry }).await?;
    report.freed += orphans.iter().map(|node| node.size).sum::<u64>();
    report.removed.extend(orphans.into_iter().map(|node| Removed {
        namespace: None,
        resource: node.resource,
        size: node.size,
    }));
    Ok(())
}

/// Collects the garbage of one namespace.
pub(crate) async fn collect(
    owners: &Owners,
    namespace: &Namespace,
    is_dry: bool,
    report: &mut Report,
) -> Result<()> {
    let look = owners.look(namespace).await?;
    let is_marked = mark::reached(&look.graph);
    let white: Vec<usize> = (0..is_marked.len()).filter(|&index| !is_marked[index]).collect();
    report.kept += (is_marked.len() - white.len()) as u64;
    let going = judge(owners, &look.graph, &white).await?;
    report.spared += (white.len() - going.len()) as u64;
    if is_dry {
        let told = going.iter().map(|&index| removed(namespace, &look.graph, index));
        report.removed.extend(told);
        report.freed += going.iter().map(|&index| look.graph.nodes[index].size).sum::<u64>();
        return Ok(());
    }
    sweep(owners, namespace, &look, &going, report).await
}

fn removed(namespace: &Namespace, graph: &Graph, index: usize) -> Removed {
    let node = &graph.nodes[index];
    Removed { namespace: Some(namespace.clone()), resource: node.resource.clone(), size: node.size }
}

/// Asks the policies which garbage may go. Each may spare.
async fn judge(owners: &Owners, graph: &Graph, white: &[usize]) -> Result<Vec<usize>> {
    let mut going = white.to_vec();
    let total = white.iter().map(|&index| graph.nodes[index].size).sum();
    for policy in owners.policies()? {
        let candidate = |&index: &usize| {
            let node = &graph.nodes[index];
            Candidate {
                resource: node.resource.to_string(),
                size: node.size,
                last_used_unix_ns: node.used_at_unix_ns,
                labels: node.labels.clone(),
            }
        };
        let candidates: Vec<Candidate> = going.iter().map(candidate).collect();
        let now_unix_ns = clock::now_unix_ns();
        let verdicts = policy.send(Judge { candidates, now_unix_ns, total }).await?;
        let judged = going.into_iter().zip(verdicts);
        going = judged
            .filter(|(_, verdict)| *verdict == Verdict::Remove)
            .map(|(index, _)| index)
            .collect();
    }
    Ok(going)
}

async fn sweep(
    owners: &Owners,
    namespace: &Namespace,
    look: &Look,
    going: &[usize],
    report: &mut Report,
) -> Result<()> {
    let graph = &look.graph;
    let mut blobs: Vec<Digest> = Vec::new();
    let mut ingests = Vec::new();
    let mut snapshots: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for &index in &mark::children_first(graph, going) {
        match &graph.nodes[index].resource {
            Resource::Content(digest) => blobs.push(digest.clone()),
            Resource::Snapshot { snapshotter, key } => {
                snapshots.entry(snapshotter).or_default().push(key.clone());
            }
            Resource::Ingest(reference) => ingests.push((index, reference.clone())),
            // The others are roots.
            _ => {}
        }
    }
    let unused_since_unix_ns = look.began_at_unix_ns;
    // Snapshots first: they are what is made of blobs.
    for (name, keys) in snapshots {
        let link = owners.snapshotter(name)?;
        let resource = |key: &str| Resource::Snapshot { snapshotter: name.into(), key: key.into() };
        for batch in keys.chunks(BATCH) {
            let namespace_of = namespace.clone();
            let (keys, begun) = (batch.to_vec(), Instant::now());
            let message =
                snapshotter::Collect { namespace: namespace_of, keys, unused_since_unix_ns };
            let collected = link.send(message).await?;
            note(report, namespace, graph, &collected, begun.elapsed(), resource);
        }
    }
    for batch in blobs.chunks(BATCH) {
        let (digests, begun) = (batch.to_vec(), Instant::now());
        let message =
            content::Collect { namespace: namespace.clone(), digests, unused_since_unix_ns };
        let collected = owners.content.send(message).await?;
        let names: HashMap<String, Digest> =
            batch.iter().map(|digest| (digest.to_string(), digest.clone())).collect();
        note(report, namespace, graph, &collected, begun.elapsed(), |name| {
            Resource::Content(names[name].clone())
        });
    }
    for (index, reference) in ingests {
        let namespace_of = namespace.clone();
        match owners.content.send(content::Abort { namespace: namespace_of, reference }).await {
            Ok(()) => {
                report.freed += graph.nodes[index].size;
                report.removed.push(removed(namespace, graph, index));
            }
            // Somebody goes on with it, or is done with it.
            Err(error) if matches!(error.class(), Class::Unavailable | Class::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn note(
    report: &mut Report,
    namespace: &Namespace,
    graph: &Graph,
    collected: &Collected,
    took: Duration,
    resource: impl Fn(&str) -> Resource,
) {
    report.freed += collected.freed;
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    report.longest_pause_ns = report.longest_pause_ns.max(nanos);
    let found = collected.removed.iter().filter_map(|name| graph.find(&resource(name)));
    report.removed.extend(found.map(|index| removed(namespace, graph, index)));
}
