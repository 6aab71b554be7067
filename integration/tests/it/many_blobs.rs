//! A list that is longer than any page.

use std::collections::BTreeSet;

use capstan_client::schema::content_capnp::content;
use capstan_client::{Client, Error, check};
use capstan_integration::{Host, digest};

/// As many as the seed's own test has.
const BLOBS: usize = 4096;
/// Ingests under way at once, so that they share syncs.
const LANES: usize = 64;
/// What the server gives where nothing is said.
const PAGE: usize = 100;

fn bytes(number: usize) -> Vec<u8> {
    format!("blob {number}").into_bytes()
}

async fn ingest(client: &Client, number: usize) -> Result<(), Error> {
    let service: content::Client = client.open("content", "default");
    let mut request = service.ingest_request();
    request.get().set_ref(format!("blob-{number}"));
    let response = client.call(request.send().promise).await?;
    let ingest = check!(response.get()?)?.get_ingest()?;
    let mut request = ingest.write_request();
    request.get().set_bytes(&bytes(number));
    let response = client.call(request.send().promise).await?;
    check!(response.get()?)?;
    let response = client.call(ingest.commit_request().send().promise).await?;
    check!(response.get()?).map(drop)
}

#[test]
fn a_walk_of_4096_blobs_is_complete() {
    let host = Host::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let mut lanes = tokio::task::JoinSet::new();
        let client = std::rc::Rc::new(client);
        for lane in 0..LANES {
            let client = std::rc::Rc::clone(&client);
            lanes.spawn_local(async move {
                for number in (lane..BLOBS).step_by(LANES) {
                    ingest(&client, number).await.unwrap();
                }
            });
        }
        while let Some(lane) = lanes.join_next().await {
            lane.unwrap();
        }

        // Page by page: each is full but the last, in order, and none is there twice.
        let service: content::Client = client.open("content", "default");
        let (mut seen, mut pages, mut after) = (Vec::new(), Vec::new(), String::new());
        loop {
            let mut request = service.list_request();
            request.get().init_page().set_after(&after);
            let response = client.call(request.send().promise).await.unwrap();
            let reply = check!(response.get().unwrap()).unwrap();
            let blobs = reply.get_blobs().unwrap();
            pages.push(usize::try_from(blobs.len()).unwrap());
            seen.extend(blobs.iter().map(|blob| blob.get_digest().unwrap().to_string().unwrap()));
            after = reply.get_next().unwrap().to_string().unwrap();
            if after.is_empty() {
                break;
            }
        }
        let last = pages.pop().unwrap();
        assert!(pages.iter().all(|&count| count == PAGE), "{pages:?}");
        assert_eq!((pages.len(), last), (BLOBS / PAGE, BLOBS % PAGE));
        let want: BTreeSet<String> = (0..BLOBS).map(|number| digest(&bytes(number))).collect();
        assert!(seen.is_sorted());
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), want);
    });
    assert_eq!(host.ids(&["content", "ls"]).len(), BLOBS);
}
