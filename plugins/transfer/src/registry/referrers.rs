//! What refers to a manifest, by the registry's list of it (OCI distribution-spec 1.1, "Listing Referrers").

use capstan_sdk::contract::transfer::Referrer;
use capstan_sdk::oci::Document;
use capstan_sdk::oci::media::{self, OCI_INDEX};
use capstan_sdk::{Class, Digest, Error, Labels, Result};
use hyper::header::{self, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::Repository;
use super::document::referrers_tag;
use super::endpoint::Endpoint;
use super::exchange::{Ask, send};
use super::hosts::Capability;
use super::pool::Answer;
use super::retry::{Failure, retry};
use super::url::{Url, encode};

/// Pages of one list, and referrers in all: a bound on what a registry can make us hold.
const MAX_PAGES: usize = 100;
const MAX_REFERRERS: usize = 10_000;

/// One page, and where the next one is.
struct Page {
    referrers: Vec<Referrer>,
    next: Option<Url>,
}

impl Repository {
    /// What refers to the manifest of this digest; an empty type = all. A registry that keeps no list may have one
    /// under a tag instead.
    ///
    /// # Errors
    /// As [`Repository::resolve`]. That nothing refers to it, or that it is not there, is none.
    pub(crate) async fn referrers(&self, to: &Digest, kind: &str) -> Result<Vec<Referrer>> {
        let (host, repository) = (self.reference.host(), self.reference.repository());
        let what = format!("referrers of {to} in {host}/{repository}");
        let mut found = match retry(self.config(), || self.try_referrers(&what, to, kind)).await {
            Err(error) if error.class() == Class::NotFound => self.tagged(&what, to).await?,
            found => found?,
        };
        // A registry need not filter, and may not have said so.
        found.retain(|referrer| kind.is_empty() || referrer.artifact_type == kind);
        Ok(found)
    }

    async fn try_referrers(
        &self,
        what: &str,
        to: &Digest,
        kind: &str,
    ) -> Result<Vec<Referrer>, Failure> {
        self.first(Capability::Referrers, |endpoint| async move {
            let path = format!("/v2/{}/referrers/{to}", self.reference.repository());
            let query = match kind {
                "" => String::new(),
                kind => format!("artifactType={}", encode(kind)),
            };
            let url = endpoint.url(&path).with_query(&query).expect("it is encoded");
            let mut page = self.page(what, &endpoint, url).await?;
            let mut found = page.referrers;
            for _ in 0..MAX_PAGES {
                let Some(next) = page.next.take() else { return Ok(found) };
                page = self.page(what, &endpoint, next).await?;
                found.append(&mut page.referrers);
                if found.len() > MAX_REFERRERS {
                    break;
                }
            }
            Err(Failure::from(Error::exhausted(format!(
                "{what}: they are more than {MAX_REFERRERS}, or on more than {MAX_PAGES} pages; ask for one type"
            ))))
        })
        .await
    }

    async fn page(&self, what: &str, endpoint: &Endpoint, url: Url) -> Result<Page, Failure> {
        let ask = Ask { url: url.clone(), accept: OCI_INDEX, ..Ask::get(what, endpoint, "/v2/") };
        let answer = send(&self.pool, &ask).await?;
        let next = next(&url, &answer.head.headers).map_err(|error| error.at(what))?;
        Ok(Page { referrers: self.list(what, answer).await?, next })
    }

    /// The list under the tag that stands for a digest.
    async fn tagged(&self, what: &str, to: &Digest) -> Result<Vec<Referrer>> {
        let tag = referrers_tag(to);
        let path = &format!("/v2/{}/manifests/{tag}", self.reference.repository());
        let attempt = || {
            self.first(Capability::Resolve, |endpoint| async move {
                let accept = media::ACCEPT_MANIFESTS;
                let ask = Ask { accept, ..Ask::get(what, &endpoint, path) };
                let answer = send(&self.pool, &ask).await?;
                Ok(self.list(what, answer).await?)
            })
        };
        match retry(self.config(), attempt).await {
            Err(error) if error.class() == Class::NotFound => Ok(Vec::new()),
            found => found,
        }
    }

    async fn list(&self, what: &str, answer: Answer) -> Result<Vec<Referrer>> {
        let limit = self.config().max_manifest_bytes;
        let bytes = answer.body.read(limit).await.map_err(|error| error.at(what))?;
        let bytes = bytes.ok_or_else(|| {
            Error::exhausted(format!("{what}: a list of them is larger than {limit} bytes"))
        })?;
        parse(&bytes).map_err(|error| error.at(what))
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Referrer>> {
    #[derive(Deserialize)]
    struct Raw {
        manifests: Vec<Entry>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        artifact_type: Option<String>,
        annotations: Option<Labels>,
    }
    let Document::Index(manifests) = Document::parse(OCI_INDEX, bytes)? else {
        return Err(Error::corrupt("the list is no index"));
    };
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|error| Error::corrupt(format!("the list is no index of OCI: {error}")))?;
    let referrer = |(manifest, entry): (_, Entry)| Referrer {
        manifest,
        artifact_type: entry.artifact_type.unwrap_or_default(),
        annotations: entry.annotations.unwrap_or_default(),
    };
    Ok(manifests.into_iter().zip(raw.manifests).map(referrer).collect())
}

/// Where the next page is: `Link: </v2/...>; rel="next"` (RFC 8288). It must be at the same host.
fn next(here: &Url, headers: &HeaderMap) -> Result<Option<Url>> {
    for value in headers.get_all(header::LINK) {
        let Some((target, parameters)) =
            value.to_str().ok().and_then(|text| text.trim().strip_prefix('<')?.split_once('>'))
        else {
            continue;
        };
        let is_next = |parameter: &str| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            name.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        };
        if !parameters.split(';').any(is_next) {
            continue;
        }
        let bad = || Error::precondition("the registry's next page is not at its own host");
        let target = HeaderValue::from_str(target).map_err(|_| bad())?;
        let url = here.follow(Some(&target)).map_err(|_| bad())?;
        return if url.is_same_origin(here) { Ok(Some(url)) } else { Err(bad()) };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_at_the_same_host() {
        let here = Url::parse("https://registry.example/v2/app/referrers/x").unwrap();
        let check = |link: &'static str, want: Option<Option<&str>>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, HeaderValue::from_static(link));
            let got = next(&here, &headers);
            let got = got.as_ref().map(|url| url.as_ref().map(|url| url.path.as_str()));
            assert_eq!(got.ok(), want, "{link}");
        };
        check("</v2/app/referrers/x?n=1>; rel=\"next\"", Some(Some("/v2/app/referrers/x?n=1")));
        check("</y>;rel=next", Some(Some("/y")));
        check("</y>; title=\"a\"; REL=Next", Some(Some("/y")));
        check("<https://registry.example:443/y>; rel=\"next\"", Some(Some("/y")));
        check("</y>; rel=\"prev\"", Some(None));
        check("</y>", Some(None));
        check("/y; rel=\"next\"", Some(None));
        check("<https://other.example/y>; rel=\"next\"", None);
        check("<http://registry.example/y>; rel=\"next\"", None);
        check("<y>; rel=\"next\"", None);
        assert_eq!(next(&here, &HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn lists_are_indexes() {
        let hex = "1".repeat(64);
        let entry = |more: &str| {
            format!(
                "{{\"mediaType\":\"{}\",\"digest\":\"sha256:{hex}\",\"size\":3{more}}}",
                media::OCI_MANIFEST
            )
        };
        let list = |entries: &[String]| {
            format!(
                "{{\"schemaVersion\":2,\"mediaType\":\"{OCI_INDEX}\",\"manifests\":[{}]}}",
                entries.join(",")
            )
        };
        assert_eq!(parse(list(&[]).as_bytes()).unwrap(), []);
        let full = entry(",\"artifactType\":\"a/b\",\"annotations\":{\"k\":\"v\"}");
        let found = parse(list(&[full, entry(""), entry(",\"annotations\":null")]).as_bytes());
        let found = found.unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(
            (found[0].artifact_type.as_str(), found[0].annotations["k"].as_str()),
            ("a/b", "v")
        );
        assert_eq!((found[1].artifact_type.as_str(), found[1].annotations.len()), ("", 0));
        let bad = [
            String::new(),
            "{}".into(),
            list(&["{}".into()]),
            list(&[entry(",\"annotations\":{\"k\":1}")]),
            list(&[entry(",\"artifactType\":1")]),
        ];
        for text in bad {
            assert_eq!(parse(text.as_bytes()).unwrap_err().class(), Class::Corrupt, "{text}");
        }
    }
}
