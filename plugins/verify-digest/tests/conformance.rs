//! verifier.digest passes the suite of its kind, and lets in what its rules list.

use std::path::Path;

use capstan_sdk::conformance::verifier;
use capstan_sdk::contract::Verifier;
use capstan_sdk::contract::verifier::{Verdict, Verify};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Algorithm, Class, Descriptor, Digest, Error, Link, Namespace};
use capstan_verify_digest::DigestVerifier;

fn digest(number: u8) -> Digest {
    Digest::from_hash(Algorithm::Sha256, &[number; 32])
}

fn section(dir: &Path) -> String {
    format!(
        "[[rules]]\nimages = \"registry.example/app:free\"\ndigests = [\"{}\", \"{}\"]\n\
         [[rules]]\nimages = \"registry.example/**\"\nfile = {:?}\ndigests = [\"{}\"]\n",
        digest(7),
        digest(1),
        dir.join("list"),
        digest(2),
    )
}

async fn verify(link: &Link<Verifier>, name: &str, number: u8) -> Result<Verdict, Error> {
    let target = Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        digest: digest(number),
        size: 2,
        platform: None,
    };
    let namespace = Namespace::parse("default").unwrap();
    let question =
        Verify { namespace, name: name.into(), target, document: b"{}".to_vec(), evidence: vec![] };
    link.send(question).await
}

#[test]
fn conformance() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("list"), digest(7).as_str()).unwrap();
    run(|| async {
        for section in ["", "default = \"refuse\"", &section(dir.path())] {
            let mut bench = Bench::new();
            bench.start::<DigestVerifier>(section).await.unwrap();
            verifier::run(&bench.link("verifier")).await;
        }
    });
}

#[test]
fn the_first_rule_that_is_about_a_name_decides() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    std::fs::write(&list, format!("{}\n", digest(3))).unwrap();
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<DigestVerifier>(&section(dir.path())).await.unwrap();
        let link = bench.link("verifier");
        let check = async |name: &str, number: u8, is_good: bool| {
            let verdict = verify(&link, name, number).await.unwrap();
            match verdict {
                Verdict::Accepted => assert!(is_good, "{name} {number}"),
                Verdict::Refused(reason) => {
                    assert!(!is_good && reason.contains(digest(number).as_str()), "{reason}");
                }
            }
        };
        check("registry.example/app:free", 1, true).await;
        check("registry.example/app:free", 2, false).await;
        check("registry.example/app:free", 3, false).await;
        check("registry.example/app:1", 1, false).await;
        check("registry.example/app:1", 2, true).await;
        check("registry.example/a/b", 3, true).await;
        check("other.example/app:1", 9, true).await;
        // The file is read anew.
        std::fs::write(&list, format!("{}\n", digest(4))).unwrap();
        check("registry.example/a/b", 3, false).await;
        check("registry.example/a/b", 4, true).await;
        // Without it nobody knows.
        std::fs::remove_file(&list).unwrap();
        let error = verify(&link, "registry.example/a/b", 4).await.unwrap_err();
        assert!(error.message().contains("list"), "{error}");
        check("registry.example/a/b", 2, true).await;
        assert_eq!(verify(&link, "App", 2).await.unwrap_err().class(), Class::InvalidArgument);
    });
}

#[test]
fn rules_that_mean_nothing_do_not_start() {
    run(|| async {
        for section in [
            "[[rules]]\nimages = \"app\"\n",
            "[[rules]]\nimages = \"registry.example/app\"\ndigests = [\"sha256:12\"]\n",
            "[[rules]]\nimages = \"registry.example/app\"\nfile = \"list\"\n",
            "[[rules]]\ndigests = []\n",
            "default = \"maybe\"\n",
        ] {
            let started = Bench::new().start::<DigestVerifier>(section).await;
            assert_eq!(started.unwrap_err().class(), Class::InvalidArgument, "{section}");
        }
    });
}
