//! Large blobs, which come by several ranges at once.

use super::*;

fn blob_bytes() -> Vec<u8> {
    (0..10_000_u32).flat_map(|number| number.to_le_bytes()).collect()
}

fn by_ranges() -> Config {
    Config { range_threshold_bytes: 10_000, range_bytes: 3_000, range_connections: 3, ..config() }
}

/// The first and the last byte that are asked for.
fn asked_range(asked: &Asked) -> Option<(usize, usize)> {
    let (first, last) = asked.header("range").strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn part(blob: &[u8], first: usize, last: usize) -> Reply {
    let range = format!("bytes {first}-{last}/{}", blob.len());
    Reply::new(206, &blob[first..=last]).with("Content-Range", &range)
}

async fn fetch(config: Config, fake: &Fake, start: usize) -> Result<Vec<u8>> {
    let blob = blob_bytes();
    let mut got = blob[..start].to_vec();
    repository_with(config, &fake.host, ":1")
        .download(&descriptor(OCI_LAYER, &blob), start as u64, async |bytes: Bytes| {
            got.extend_from_slice(&bytes);
            Ok(())
        })
        .await?;
    Ok(got)
}

#[tokio::test]
async fn ranges_come_in_order_and_each_byte_once() {
    for start in [0, 1, 2_999, 30_000] {
        let blob = blob_bytes();
        let served = blob.clone();
        let fake = Fake::serve(move |asked| {
            let (first, last) = asked_range(asked).expect("a closed range");
            part(&served, first, last).with("ETag", "\"one\"")
        })
        .await;
        assert!(fetch(by_ranges(), &fake, start).await.unwrap() == blob);
        let mut ranges: Vec<_> =
            fake.asked().iter().map(|asked| asked_range(asked).unwrap()).collect();
        assert_eq!(ranges.len(), (blob.len() - start).div_ceil(3_000));
        ranges.sort_unstable();
        let mut at = start;
        for (first, last) in ranges {
            assert_eq!(first, at);
            at = last + 1;
        }
        assert_eq!(at, blob.len());
    }
}

#[tokio::test]
async fn a_small_blob_or_one_connection_is_one_stream() {
    let blob = blob_bytes();
    let served = blob.clone();
    let fake = Fake::serve(move |asked| {
        assert_eq!(asked.header("range"), "");
        Reply::new(200, served.clone())
    })
    .await;
    let small = Config { range_threshold_bytes: 50_000, ..by_ranges() };
    assert!(fetch(small, &fake, 0).await.unwrap() == blob);
    let single = Config { range_connections: 1, ..by_ranges() };
    assert!(fetch(single, &fake, 0).await.unwrap() == blob);
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn a_registry_without_ranges_is_asked_once() {
    let blob = blob_bytes();
    let served = blob.clone();
    let fake = Fake::serve(move |_| Reply::new(200, served.clone())).await;
    assert!(fetch(by_ranges(), &fake, 0).await.unwrap() == blob);
    assert_eq!(fake.asked().len(), 1);
    assert!(fetch(by_ranges(), &fake, 5_000).await.unwrap() == blob);
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn a_range_that_breaks_goes_on() {
    let blob = blob_bytes();
    let served = blob.clone();
    // Each answer breaks off after a thousand bytes.
    let fake = Fake::serve(move |asked| {
        let (first, last) = asked_range(asked).unwrap();
        let reply = part(&served, first, last);
        if last - first >= 1_000 { reply.cut(1_000) } else { reply }
    })
    .await;
    assert!(fetch(by_ranges(), &fake, 0).await.unwrap() == blob);
}

#[tokio::test]
async fn ranges_of_two_versions_do_not_mix() {
    let served = blob_bytes();
    let fake = Fake::serve(move |asked| {
        let (first, last) = asked_range(asked).unwrap();
        let tag = if first < 9_000 { "\"one\"" } else { "\"two\"" };
        part(&served, first, last).with("ETag", tag)
    })
    .await;
    let error = fetch(by_ranges(), &fake, 0).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.message().contains("another one"), "{error}");
}

#[tokio::test]
async fn another_range_than_was_asked_for_is_refused() {
    let check = async |reply: fn(&[u8], usize, usize) -> Reply| {
        let served = blob_bytes();
        let fake = Fake::serve(move |asked| {
            let (first, last) = asked_range(asked).unwrap();
            if first < 6_000 { part(&served, first, last) } else { reply(&served, first, last) }
        })
        .await;
        class(fetch(by_ranges(), &fake, 0).await)
    };
    let shifted = check(|blob, first, last| part(blob, first - 1, last - 1)).await;
    assert_eq!(shifted, Some(Class::Corrupt));
    let short = check(|blob, first, last| part(blob, first, last - 1)).await;
    assert_eq!(short, Some(Class::Corrupt));
    let of_another = check(|blob, first, last| {
        let range = format!("bytes {first}-{last}/{}", blob.len() + 1);
        Reply::new(206, &blob[first..=last]).with("Content-Range", &range)
    });
    assert_eq!(of_another.await, Some(Class::Corrupt));
    let unnamed = check(|blob, first, last| Reply::new(206, &blob[first..=last])).await;
    assert_eq!(unnamed, Some(Class::Corrupt));
    let all = check(|blob, _, _| Reply::new(200, blob)).await;
    assert_eq!(all, Some(Class::Unavailable));
}
