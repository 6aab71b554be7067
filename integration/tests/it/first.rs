use capstan_integration::{DockerRegistry, Host};
#[test]
fn first() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let out = host.ok(&["run", "--rm", "--plain-http", &registry.reference("busybox"), "--", "echo", "hi"]);
    assert_eq!(out, "hi\n");
    host.assert_no_container();
}
