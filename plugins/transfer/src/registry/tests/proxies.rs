//! Registries behind proxies.

use super::super::proxy::Proxies;
use super::*;

fn by(proxy: &str) -> Config {
    Config { proxies: Proxies::new(proxy, |_| None), ..config() }
}

#[tokio::test]
async fn a_proxy_passes_requests_on() {
    let proxy = Fake::serve(|_| manifest()).await;
    let config = by(&format!("http://me:p%40ss@{}", proxy.host));
    repository_with(config, "registry.example:5000", ":1").resolve().await.unwrap();
    let [asked] = proxy.asked().try_into().unwrap();
    assert_eq!(asked.path, "http://registry.example:5000/v2/a/app/manifests/1");
    assert_eq!(asked.header("host"), "registry.example:5000");
    assert_eq!(asked.header("proxy-authorization"), "Basic bWU6cEBzcw==");
    assert_eq!(asked.header("authorization"), "");
}

#[tokio::test]
async fn hosts_that_need_no_proxy_get_none() {
    let proxy = Fake::serve(|_| Reply::new(500, "")).await;
    let fake = Fake::serve(|_| manifest()).await;
    // This machine never.
    repository_with(by(&proxy.host), &fake.host, ":1").resolve().await.unwrap();
    let host = fake.host.replace("127.0.0.1", "localhost");
    repository_with(by(&proxy.host), &host, ":1").resolve().await.unwrap();
    // A name that does not resolve shows that nobody was asked to.
    let proxies = Proxies::new(&proxy.host, |name| (name == "NO_PROXY").then(|| ".invalid".into()));
    let config = Config { proxies, attempts: 1, ..config() };
    let error = repository_with(config, "registry.invalid", ":1").resolve().await.unwrap_err();
    assert!(error.message().contains("the name does not resolve"), "{error}");
    assert_eq!(proxy.asked().len(), 0);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    let https = Access::default();
    let check = async |says: &'static str, class: Class, want: &str| {
        let proxy = Fake::tunnel("127.0.0.1:1", Some(says)).await;
        let config = Config { attempts: 1, ..by(&format!("me:SECRET@{}", proxy.host)) };
        let repository = repository_by(config, "registry.example", ":1", &https);
        let error = repository.resolve().await.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        let want = format!("proxy: http://{} to registry.example: {want}", proxy.host);
        assert!(error.message().contains(&want), "{error}");
        assert!(!error.message().contains("SECRET"), "{error}");
        assert_eq!(proxy.asked()[0].path, "registry.example:443");
        assert_eq!(proxy.asked()[0].header("proxy-authorization"), "Basic bWU6U0VDUkVU");
    };
    let denied = Class::PermissionDenied;
    check("HTTP/1.1 407 No\r\n\r\n", denied, "it wants credentials").await;
    check("HTTP/1.1 403 No\r\n\r\n", denied, "it refuses").await;
    check("HTTP/1.1 502 No\r\n\r\n", Class::Unavailable, "it cannot connect").await;
    check("HTTP/1.1 400 No\r\n\r\n", Class::FailedPrecondition, "it is no proxy").await;
    check("SSH-2.0-x\r\n\r\n", Class::FailedPrecondition, "it is no proxy").await;
    check("HTTP/1.1 200", Class::Unavailable, "it broke off").await;
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let config = Config { attempts: 1, ..by(&host) };
    let error = repository_with(config, "registry.example", ":1").resolve().await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(
        error.message().contains(&format!("proxy: registry {host}: Connection refused")),
        "{error}"
    );
}
