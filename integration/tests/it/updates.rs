//! Updates of records by field, over the interface as any client has it.

use capstan_client::schema::container_capnp::{container, containers};
use capstan_client::schema::image_capnp::{image, images};
use capstan_client::schema::namespace_capnp::namespaces;
use capstan_client::schema::{Class, Labels, read_labels, write_labels, write_texts};
use capstan_client::{Client, Error, check};
use capstan_integration::{FakeRegistry, Host, Image, Layer};

type Result<T> = std::result::Result<T, Error>;

/// A container, as far as these tests look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    labels: Vec<(String, String)>,
    image: String,
    runtime: String,
    spec: Vec<u8>,
    rootfs: String,
    created: i64,
    updated: i64,
}

fn see(reader: container::Reader<'_>) -> Seen {
    Seen {
        labels: read_labels(reader.get_labels().unwrap()).unwrap().into_iter().collect(),
        image: reader.get_image().unwrap().to_string().unwrap(),
        runtime: reader.get_runtime().unwrap().to_string().unwrap(),
        spec: reader.get_spec().unwrap().to_vec(),
        rootfs: reader.get_rootfs().unwrap().to_string().unwrap(),
        created: reader.get_created_at_unix_ns(),
        updated: reader.get_updated_at_unix_ns(),
    }
}

fn map(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn list(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    map(pairs).into_iter().collect()
}

async fn get(client: &Client) -> Seen {
    let service: containers::Client = client.open("containers", "default");
    let mut request = service.get_request();
    request.get().set_id("c");
    let response = client.call(request.send().promise).await.unwrap();
    see(check!(response.get().unwrap()).unwrap().get_container().unwrap())
}

async fn update(client: &Client, wanted: &Seen, mask: &[&str]) -> Result<Seen> {
    let service: containers::Client = client.open("containers", "default");
    let mut request = service.update_request();
    let count = u32::try_from(mask.len()).unwrap();
    write_texts(mask, request.get().init_mask(count));
    let mut out = request.get().init_container();
    out.set_id("c");
    out.set_image(&wanted.image);
    out.set_runtime(&wanted.runtime);
    out.set_spec(&wanted.spec);
    out.set_rootfs(&wanted.rootfs);
    let labels: Labels = wanted.labels.iter().cloned().collect();
    write_labels(&labels, out.init_labels(u32::try_from(labels.len()).unwrap()));
    let response = client.call(request.send().promise).await?;
    Ok(see(check!(response.get()?)?.get_container()?))
}

fn with_container<F: Future<Output = ()>>(test: impl FnOnce(Client, String) -> F) {
    let registry = FakeRegistry::start();
    let reference = registry.offer("app", &Image::new(vec![Layer::new().busybox()]));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &reference]);
    let labels = ["--label", "a=1", "--label", "b=2"];
    let mut args = vec!["containers", "create"];
    args.extend(labels);
    args.extend(["c", &reference, "echo", "old"]);
    host.ok(&args);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        test(Client::connect(&host.address()).await.unwrap(), reference).await;
    });
    // It runs with what it was changed to.
    host.ok(&["tasks", "create", "c"]);
    host.remove("c");
    host.assert_no_container();
}

#[test]
fn container_update_mask() {
    with_container(|client, _| async move {
        let old = get(&client).await;
        let other = Seen { image: "i".into(), labels: list(&[("z", "9")]), ..Seen::default() };
        let new = update(&client, &other, &["image"]).await.unwrap();
        assert!(new.updated > old.updated);
        let want = Seen { image: "i".into(), updated: new.updated, ..old.clone() };
        assert_eq!(new, want);
        assert_eq!(get(&client).await, want);
        let new = update(&client, &other, &["labels"]).await.unwrap();
        let want = Seen { labels: other.labels.clone(), updated: new.updated, ..want };
        assert_eq!(new, want);
        // One label, whose key is the rest as it is.
        let other = Seen { labels: list(&[("x.y/z", "1"), ("more", "2")]), ..Seen::default() };
        let new = update(&client, &other, &["labels.x.y/z"]).await.unwrap();
        assert_eq!(new.labels, list(&[("x.y/z", "1"), ("z", "9")]));
        let new = update(&client, &Seen::default(), &["labels.z"]).await.unwrap();
        assert_eq!(new.labels, list(&[("x.y/z", "1")]));
        // A spec is a spec, and goes where the runtime finds things.
        let spec = String::from_utf8(old.spec.clone()).unwrap().replace("\"old\"", "\"new\"");
        let other = Seen { spec: spec.clone().into_bytes(), ..Seen::default() };
        let new = update(&client, &other, &["spec"]).await.unwrap();
        let text = String::from_utf8(new.spec.clone()).unwrap();
        assert!(text.contains("\"new\"") && !text.contains("\"old\""), "{text}");
        for bad in [
            "",
            "{}",
            "[]",
            &spec
                .replace("\"process\"", "\"hooks\":{\"prestart\":[{\"path\":\"/x\"}]},\"process\""),
        ] {
            let other = Seen { spec: bad.as_bytes().to_vec(), ..Seen::default() };
            let error = update(&client, &other, &["spec"]).await.unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument, "{bad}: {error}");
        }
        assert_eq!(get(&client).await, new);
    });
}

/// F-064, D04, D05: a container of which little is said has what the daemon fills in; one of which nothing is said is refused,
/// and neither costs more than the call.
#[test]
fn container_create_minimal() {
    let registry = FakeRegistry::start();
    let reference = registry.offer("app", &Image::new(vec![Layer::new().busybox()]));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &reference]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let service: containers::Client = client.open("containers", "default");
        let create = async |id: &str, image: &str, has_spec: bool| {
            let mut request = service.create_request();
            request.get().set_id(id);
            if has_spec {
                request.get().init_spec().set_image(image);
            }
            let response = client.call(request.send().promise).await?;
            Ok::<_, Error>(see(check!(response.get()?)?.get_container()?))
        };
        for has_spec in [false, true] {
            let error = create("none", "", has_spec).await.unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument, "{error}");
        }
        let made = create("c", &reference, true).await.unwrap();
        assert!(!made.runtime.is_empty() && !made.spec.is_empty(), "{made:?}");
        assert!(made.created > 0 && made.updated >= made.created);
        assert_eq!(get(&client).await, made);
        assert_eq!(create("c", &reference, true).await.unwrap_err().class(), Class::AlreadyExists);
        assert_eq!(get(&client).await, made, "what is there stays as it is");
        // An update of which nothing is said, either.
        let service: containers::Client = client.open("containers", "default");
        let response = client.call(service.update_request().send().promise).await.unwrap();
        let refused = check!(response.get().unwrap()).err().unwrap();
        assert_eq!(refused.class(), Class::InvalidArgument, "{refused}");
    });
    host.ok(&["tasks", "create", "c"]);
    host.remove("c");
    host.assert_no_container();
}

#[test]
fn container_update_bad_path() {
    with_container(|client, _| async move {
        let old = get(&client).await;
        for mask in [&["createdat"][..], &["labels."], &["image", "id"], &[""], &["spec.process"]] {
            let error = update(&client, &old, mask).await.unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument, "{mask:?}");
            let text = error.message();
            assert!(text.contains("cannot update") && text.contains("field"), "{text}");
        }
        for rootfs in ["relative", "/does/not/exist"] {
            let other = Seen { rootfs: rootfs.into(), ..Seen::default() };
            let error = update(&client, &other, &["rootfs"]).await.unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument, "{rootfs}");
        }
        assert_eq!(get(&client).await, old);
    });
}

/// No mask: all that can be changed is replaced, and maps are not merged.
#[test]
fn container_replace_maps() {
    with_container(|client, reference| async move {
        let old = get(&client).await;
        let other = Seen { labels: list(&[("only", "this")]), image: reference, ..old.clone() };
        let new = update(&client, &other, &[]).await.unwrap();
        assert_eq!(new, Seen { updated: new.updated, ..other });
        assert_eq!(new.created, old.created);
    });
}

/// Twenty clients change different labels by mask, at once: none is lost.
#[test]
fn updates_at_once_lose_nothing() {
    with_container(|client, _| async move {
        let client = &client;
        let one = |number: usize| async move {
            let key = format!("n{number}");
            let other = Seen { labels: vec![(key.clone(), "x".into())], ..Seen::default() };
            update(client, &other, &[&format!("labels.{key}")]).await.unwrap();
        };
        let mut all: Vec<_> = (0..20).map(|number| Box::pin(one(number))).collect();
        std::future::poll_fn(|context| {
            all.retain_mut(|one| one.as_mut().poll(context).is_pending());
            if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        assert_eq!(get(client).await.labels.len(), 22);
    });
}

#[test]
fn image_labels() {
    let registry = FakeRegistry::start();
    let one = registry.offer("one", &Image::new(vec![Layer::new().busybox()]));
    let two = registry.offer("two", &Image::new(vec![Layer::new().file("f", 0o644, b"x")]));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &one]);
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &two]);
    let target = |name: &str| host.json(&["images", "inspect", name])["image"]["target"].clone();
    let (first, second) = (target(&one), target(&two));
    assert_ne!(first, second);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let service: images::Client = client.open("images", "default");
        let update = async |name: &str, labels: &Labels, mask: &[&str]| -> Result<Labels> {
            let mut request = service.update_request();
            write_texts(mask, request.get().init_mask(u32::try_from(mask.len()).unwrap()));
            let mut out: image::Builder<'_> = request.get().init_image();
            out.set_name(name);
            let mut descriptor = out.reborrow().init_target();
            descriptor.set_media_type(second["mediaType"].as_str().unwrap());
            descriptor.set_digest(second["digest"].as_str().unwrap());
            descriptor.set_size(second["size"].as_u64().unwrap());
            write_labels(labels, out.init_labels(u32::try_from(labels.len()).unwrap()));
            let response = client.call(request.send().promise).await?;
            read_labels(check!(response.get()?)?.get_image()?.get_labels()?)
        };
        let labels = map(&[("a", "1"), ("b", "2")]);
        assert_eq!(update(&one, &labels, &["labels"]).await.unwrap(), labels);
        assert_eq!(target(&one), first);
        let only = map(&[("c", "3")]);
        assert_eq!(update(&one, &only, &["labels.c"]).await.unwrap().len(), 3);
        assert_eq!(update(&one, &only, &["labels"]).await.unwrap(), only);
        assert_eq!(update(&one, &labels, &["target"]).await.unwrap(), only);
        assert_eq!(target(&one), second);
        let error = update(&one, &labels, &["name"]).await.unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
        let error = update("nothing", &labels, &["labels"]).await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
    });
}

#[test]
fn namespace_label_mask() {
    let host = Host::new();
    host.ok(&["namespaces", "create", "n", "a=1", "b=2"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = Client::connect(&host.address()).await.unwrap();
        let service: namespaces::Client = client.open("namespaces", "");
        let update = async |name: &str, given: &Labels, mask: &[&str]| -> Result<Labels> {
            let mut request = service.update_request();
            write_texts(mask, request.get().init_mask(u32::try_from(mask.len()).unwrap()));
            let mut out = request.get().init_namespace();
            out.set_name(name);
            write_labels(given, out.init_labels(u32::try_from(given.len()).unwrap()));
            let response = client.call(request.send().promise).await?;
            read_labels(check!(response.get()?)?.get_namespace()?.get_labels()?)
        };
        let given = map(&[("x.y/z", "1"), ("labels.b", "3"), ("more", "2")]);
        // One label, whose key is the rest as it is: dots, slashes, and the word itself.
        let new = update("n", &given, &["labels.x.y/z"]).await.unwrap();
        assert_eq!(new, map(&[("a", "1"), ("b", "2"), ("x.y/z", "1")]));
        let new = update("n", &given, &["labels.labels.b", "labels.a"]).await.unwrap();
        assert_eq!(new, map(&[("b", "2"), ("labels.b", "3"), ("x.y/z", "1")]));
        // All are replaced, not merged; no mask is the same.
        let new = update("n", &map(&[("c", "4")]), &["labels"]).await.unwrap();
        assert_eq!(new, map(&[("c", "4")]));
        let new = update("n", &map(&[("d", "5"), ("e", "")]), &[]).await.unwrap();
        assert_eq!(new, map(&[("d", "5")]));
        for mask in ["name", "labels.", "", "createdAtUnixNs"] {
            let error = update("n", &given, &[mask]).await.unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument, "{mask}: {error}");
            assert!(error.message().contains("cannot update"), "{error}");
        }
        let error = update("nothing", &given, &["labels"]).await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
    });
    assert!(host.ok(&["namespaces", "ls"]).contains("d=5"));
}
