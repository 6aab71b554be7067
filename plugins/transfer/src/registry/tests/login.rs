//! Whether a registry lets somebody in.

use capstan_sdk::contract::access::{Login, Secret};

use super::auth::{by_token, challenge, guarded, knowing, me, of, told};
use super::*;

fn wrong() -> Login {
    Login { secret: Secret::new("CANARY2"), ..me() }
}

#[tokio::test]
async fn a_registry_says_who_is_let_in() {
    let fake = Fake::serve(|asked| {
        assert_eq!(asked.path, "/v2/");
        guarded(asked, &told(), challenge("Basic realm=\"x\""))
    })
    .await;
    let (access, hosts) = knowing(Some(me()));
    of(&fake, &access).check_login().await.unwrap();
    assert_eq!(*hosts.lock().unwrap(), std::slice::from_ref(&fake.host));

    let check = async |login: Option<Login>, want: &str| {
        let error = of(&fake, &knowing(login).0).check_login().await.unwrap_err();
        assert_eq!(error.class(), Class::PermissionDenied, "{error}");
        let text = error.message().replace(&fake.host, "HOST");
        assert_eq!(text, want);
    };
    check(
        Some(wrong()),
        "login to HOST: the registry does not accept the credentials of user \"me\" \
         (401 Unauthorized); check user and password",
    )
    .await;
    check(
        None,
        "login to HOST: the registry wants credentials (401 Unauthorized); check user and password",
    )
    .await;
}

#[tokio::test]
async fn a_token_server_says_who_is_let_in() {
    let tokens =
        Fake::serve(|asked| match asked.text().split('&').any(|pair| pair == "password=CANARY") {
            true => Reply::new(200, r#"{"token":"1"}"#),
            false => Reply::new(401, ""),
        })
        .await;
    let fake = by_token(&tokens, |asked, token| {
        assert_eq!(asked.path, "/v2/");
        token == "1"
    })
    .await;
    of(&fake, &knowing(Some(me())).0).check_login().await.unwrap();
    let error = of(&fake, &knowing(Some(wrong())).0).check_login().await.unwrap_err();
    assert_eq!(error.class(), Class::PermissionDenied);
    assert!(error.message().ends_with("; check user and password"), "{error}");
    assert!(!error.message().contains("CANARY"), "{error}");
}

/// A token for anybody is no proof that a login is right.
#[tokio::test]
async fn a_registry_that_does_not_ask_proves_nothing() {
    let open = Fake::serve(|_| Reply::new(200, "{}")).await;
    let error = of(&open, &knowing(Some(me())).0).check_login().await.unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(error.message().contains("lets everybody in"), "{error}");
    assert_eq!(open.asked()[0].header("authorization"), "");
}

#[tokio::test]
async fn what_is_no_registry_lets_nobody_in() {
    let check = async |reply: Reply, want: Class| {
        let fake = Fake::serve(move |_| reply.clone()).await;
        let error = of(&fake, &knowing(Some(me())).0).check_login().await.unwrap_err();
        assert_eq!(error.class(), want, "{error}");
        assert!(error.message().contains(&format!("login to {}: ", fake.host)), "{error}");
    };
    check(Reply::new(404, ""), Class::FailedPrecondition).await;
    check(Reply::new(403, ""), Class::PermissionDenied).await;
    check(Reply::new(503, ""), Class::Unavailable).await;
    check(Reply::nothing(), Class::Unavailable).await;
}
