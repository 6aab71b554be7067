//! Logins: checked, kept for nobody else to read, looked up where docker and podman keep theirs, and told to the
//! registry that they are for.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use capstan_client::schema::{FAMILIAR_HOST, FAMILIAR_INDEX};
use capstan_integration::{
    Authority, DockerRegistry, FaultProxy, Guard, Host, PASSWORD, REFRESH_TOKEN, TokenServer,
    Trouble, USER,
};
use serde_json::{Value, json};

use crate::archive::digest_of;
use crate::distribution::{small, transfer_section};
use crate::terminal::Tmux;

/// Not the password.
const WRONG: &str = "canary-wrong-91b2";

/// A guarded registry with one image, and a daemon.
struct World {
    host: Host,
    registry: DockerRegistry,
    manifest: String,
    _open: DockerRegistry,
}

impl World {
    fn new(guard: &Guard<'_>) -> Self {
        let open = DockerRegistry::empty();
        let image = small(70);
        image.push_to(&open.address(), "app", "latest");
        let registry = DockerRegistry::guarded(open.storage(), guard);
        let mut host = Host::without_daemon(1024);
        host.configure(&transfer_section(&host.path("certs.d"), ""));
        host.start();
        Self { host, registry, manifest: image.manifest, _open: open }
    }

    fn name(&self) -> String {
        self.registry.reference("app")
    }

    /// `capstan login` with a password from stdin: exit code, stdout and stderr.
    fn login(&self, user: &str, password: &str, flags: &[&str]) -> (i32, String, String) {
        let address = self.registry.address();
        let mut args = vec!["login", "--user", user, "--password-stdin"];
        args.extend(flags);
        args.push(&address);
        let output = self.host.capstan_with_input(&args, password.as_bytes());
        assert_eq!((said(&output.stdout), said(&output.stderr)), (false, false), "{output:?}");
        (output.code, output.stdout, output.stderr)
    }

    /// Pulls the image anew with what is known for the registry.
    fn pull(&self) {
        self.host.ok(&["images", "pull", "--plain-http", "--no-unpack", &self.name()]);
        assert_eq!(digest_of(&self.host, &self.name()), self.manifest);
        self.forget();
    }

    fn forget(&self) {
        self.host.ok(&["images", "rm", &self.name()]);
        for digest in self.host.ids(&["content", "ls"]) {
            self.host.ok(&["content", "rm", &digest]);
        }
    }

    fn file(&self) -> PathBuf {
        self.host.path("auth.json")
    }

    fn assert_no_secret_is_logged(&self) {
        assert!(!said(&self.host.log()), "a secret is in the log");
    }
}

/// Whether a text repeats a secret.
fn said(text: &str) -> bool {
    let told = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    [PASSWORD, WRONG, REFRESH_TOKEN, &told].iter().any(|secret| text.contains(secret))
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_login_is_checked_kept_and_used_until_the_logout() {
    let world = World::new(&Guard::new().password());
    let (host, address, name) = (&world.host, world.registry.address(), world.name());
    let pull = ["images", "pull", "--plain-http", &name];
    host.fails(&pull, 8, "PermissionDenied", &[&format!("capstan login {address}")]);

    // What is wrong is not kept.
    let (code, _, why) = world.login(USER, WRONG, &["--plain-http"]);
    assert_eq!(code, 8, "{why}");
    assert!(why.contains(&address) && why.contains("check user and password"), "{why}");
    assert!(!world.file().exists());

    let (code, line, why) = world.login(USER, &format!("{PASSWORD}\n"), &["--plain-http"]);
    assert_eq!((code, &*why), (0, ""));
    assert!(line.contains(&address) && line.contains(USER), "{line}");
    let mode = fs::metadata(world.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    assert_eq!(read(&world.file()), json!({"auths": {&*address: {"auth": kept}}}));
    world.pull();

    // What is wrong does not replace what is right, nor does it if it is given to one pull.
    assert_eq!(world.login(USER, WRONG, &["--plain-http"]).0, 8);
    let wrong = format!("{USER}:{WRONG}");
    let wrong = ["images", "pull", "--plain-http", "--user", &wrong, &name];
    let output = host.fails(&wrong, 8, "PermissionDenied", &[USER, &address]);
    assert!(!said(&output.stderr), "{}", output.stderr);
    world.pull();

    // Pushes are as good.
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &name]);
    let other = world.registry.reference("other");
    host.ok(&["images", "push", "--plain-http", &other, &name]);
    world.forget();

    let gone = host.json(&["logout", &format!("http://{address}/")]);
    assert_eq!(gone["host"], *address);
    assert_eq!(read(&world.file()), json!({"auths": {}}));
    host.fails(&pull, 8, "PermissionDenied", &[&format!("capstan login {address}")]);
    host.fails(&["logout", &address], 3, "NotFound", &[&address]);
    world.assert_no_secret_is_logged();
}

#[test]
fn what_cannot_be_checked_is_not_kept() {
    let world = World::new(&Guard::new());
    let (host, address) = (&world.host, world.registry.address());
    let check = |flags: &[&str], password: &str, want: i32, part: &str| {
        let (code, _, why) = world.login(USER, password, flags);
        assert_eq!(code, want, "{why}");
        assert!(why.contains(part), "{why}");
        assert!(!world.file().exists());
    };
    // It lets everybody in, with the wrong password too.
    check(&["--plain-http"], WRONG, 6, "--no-check");
    check(&[], PASSWORD, 6, "TLS");
    check(&["--plain-http"], "", 5, "a password");
    check(&["--plain-http"], "canary\n\n", 5, "one line");
    check(&["--plain-http"], &"x".repeat(100_000), 5, "65536");
    check(&["--no-check", "--plain-http"], PASSWORD, 2, "cannot be used with");
    let (code, _, why) = world.login("a:b", PASSWORD, &["--plain-http"]);
    assert_eq!(code, 5, "{why}");

    let login = |host: &str| ["login", "-u", "me", "--password-stdin", host].map(str::to_owned);
    for bad in ["registry.example/app", "https://me:canary@registry.example", "a b", ""] {
        let args = login(bad);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let output = host.fails(&args, 5, "InvalidArgument", &["write HOST[:PORT]"]);
        assert!(!output.stderr.contains("canary"), "{}", output.stderr);
        host.fails(&["logout", bad], 5, "InvalidArgument", &["write HOST[:PORT]"]);
    }
    // Nobody answers there; there is nobody to ask; there is no place to keep it.
    let away = ["--timeout", "20s", "login", "-u", "me", "--password-stdin", "127.0.0.1:1"];
    let output = host.capstan_with_input(&away, b"x");
    assert_eq!(output.code, 7, "{}", output.stderr);
    let mut alone = Command::new("setsid");
    alone.arg("--wait").arg(host.command(&[]).get_program());
    alone.args(["login", "--plain-http", &address]).env("CAPSTAN_ADDRESS", host.address());
    let output = alone.output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(6) && why.contains("give --user"), "{why}");
    let mut homeless = host.command(&["logout", &address]);
    homeless.env_remove("CAPSTAN_AUTH_FILE").env_remove("HOME").env_remove("XDG_CONFIG_HOME");
    let output = homeless.output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(6) && why.contains("CAPSTAN_AUTH_FILE"), "{why}");

    // Others may read the file: it is not used, and nothing secret is put into it.
    write(&world.file(), "{}", 0o644);
    for flags in [["--plain-http"], ["--no-check"]] {
        let (code, _, why) = world.login(USER, PASSWORD, &flags);
        assert_eq!(code, 6, "{why}");
        assert!(why.contains("chmod it to 600"), "{why}");
    }
    assert_eq!(fs::read_to_string(world.file()).unwrap(), "{}");

    // Without a check it takes no daemon.
    fs::remove_file(world.file()).unwrap();
    let args = ["login", "-u", USER, "--password-stdin", "--no-check", FAMILIAR_HOST];
    let args = ["--address", "unix:///nowhere/capstan.sock"].iter().chain(&args);
    let output = host.capstan_with_input(&args.copied().collect::<Vec<_>>(), PASSWORD.as_bytes());
    assert_eq!(output.code, 0, "{}", output.stderr);
    let auths = &read(&world.file())["auths"];
    assert!(auths[format!("https://{FAMILIAR_INDEX}/v1/")]["auth"].is_string(), "{auths}");
    world.assert_no_secret_is_logged();
}

#[test]
fn a_certificate_counts_before_the_password_is_told() {
    let authority = Authority::new();
    let world = World::new(&Guard::new().https(&authority).password());
    let (code, _, why) = world.login(USER, PASSWORD, &[]);
    assert_ne!(code, 0, "{why}");
    assert!(why.contains("certificate"), "{why}");
    assert!(!world.file().exists());
    assert_eq!(world.login(USER, WRONG, &["--skip-verify"]).0, 8);
    assert_eq!(world.login(USER, PASSWORD, &["--skip-verify"]).0, 0);
    let name = world.name();
    world.host.ok(&["images", "pull", "--skip-verify", "--no-unpack", &name]);
    world.assert_no_secret_is_logged();
}

/// The token server tells whether a password is right, or an identity token.
#[test]
fn tokens_are_logins_too() {
    let tokens = TokenServer::start();
    let world = World::new(&Guard::new().tokens(&tokens));
    assert_eq!(world.login(USER, WRONG, &["--plain-http"]).0, 8);
    assert_eq!(world.login("<token>", WRONG, &["--plain-http"]).0, 8);
    assert!(!world.file().exists());
    // The token server gives an identity token for the password: that is what is kept.
    let address = world.registry.address();
    let (code, line, why) = world.login(USER, PASSWORD, &["--plain-http"]);
    assert_eq!(code, 0, "{why}");
    assert!(line.contains("identity token"), "{line}");
    assert_eq!(read(&world.file())["auths"][&*address], json!({"identitytoken": REFRESH_TOKEN}));
    world.pull();
    assert_eq!(tokens.asked().last().unwrap().grant, "refresh_token");

    let (code, _, why) = world.login("<token>", REFRESH_TOKEN, &["--plain-http"]);
    assert_eq!(code, 0, "{why}");
    assert_eq!(read(&world.file())["auths"][&*address], json!({"identitytoken": REFRESH_TOKEN}));
    world.pull();
    assert_eq!(tokens.asked().last().unwrap().grant, "refresh_token");

    world.host.ok(&["logout", &address]);
    let name = world.name();
    let pull = |token| ["images", "pull", "--plain-http", "--no-unpack", "--refresh", token, &name];
    world.host.ok(&pull(REFRESH_TOKEN));
    world.forget();
    let output = world.host.fails(&pull(WRONG), 8, "PermissionDenied", &["capstan login"]);
    assert!(!said(&output.stderr), "{}", output.stderr);
    world.assert_no_secret_is_logged();
}

/// docker's own file, and the programs that it names.
#[test]
fn what_docker_knows_is_known() {
    let world = World::new(&Guard::new().password());
    let (host, address, name) = (&world.host, world.registry.address(), world.name());
    let docker = host.path("docker/config.json");
    let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let file = json!({"auths": {&*address: {"auth": auth}}, "currentContext": "x"});
    write(&docker, &file.to_string(), 0o600);
    world.pull();
    host.fails(&["logout", &address], 3, "NotFound", &[&address]);

    // With a login of our own, which is wrong and comes first; the logout says which one is used then.
    let args = ["login", "-u", USER, "--password-stdin", "--no-check", &*address];
    assert_eq!(host.capstan_with_input(&args, WRONG.as_bytes()).code, 0);
    let pull = ["images", "pull", "--plain-http", "--no-unpack", &*name];
    host.fails(&pull, 8, "PermissionDenied", &[USER]);
    let output = host.capstan(&["logout", &address]);
    assert_eq!(output.code, 0);
    assert!(output.stderr.contains("docker/config.json"), "{}", output.stderr);
    world.pull();

    // A helper: for this host, and for all.
    let bin = host.path("bin");
    let log = host.path("helper.log");
    let program = bin.join("docker-credential-canary");
    let with_helper = |body: &str, file: &Value| {
        let text =
            format!("#!/bin/sh\nread host\necho \"$# $* $host\" >> {}\n{body}\n", log.display());
        write(&program, &text, 0o755);
        write(&docker, &file.to_string(), 0o600);
        let mut command = host.command(&pull);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", bin.display()));
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said(&stderr), "{stderr}");
        (output.status.code().unwrap(), stderr)
    };
    let good =
        format!(r#"echo '{{"ServerURL": "x", "Username": "{USER}", "Secret": "{PASSWORD}"}}'"#);
    let one = json!({"credHelpers": {&*address: "canary"}});
    let all = json!({"auths": {&*address: {}}, "credsStore": "canary"});
    for file in [&one, &all] {
        let (code, why) = with_helper(&good, file);
        assert_eq!(code, 0, "{why}");
        world.forget();
    }
    assert_eq!(fs::read_to_string(&log).unwrap(), format!("1 get {address}\n").repeat(2));
    let (code, why) = with_helper("echo the safe is locked >&2; exit 1", &one);
    assert_eq!(code, 6, "{why}");
    assert!(
        why.contains("docker-credential-canary") && why.contains("the safe is locked"),
        "{why}"
    );
    let (code, why) = with_helper(&format!("echo '{PASSWORD}'"), &one);
    assert_eq!(code, 6, "{why}");
    let (code, why) = with_helper("echo credentials not found in native keychain; exit 1", &all);
    assert_eq!(code, 8, "{why}");
    fs::remove_file(&program).unwrap();
    host.fails(&pull, 6, "FailedPrecondition", &["docker-credential-canary cannot be started"]);
    world.assert_no_secret_is_logged();
}

/// What is given for a registry is not told to a mirror, which has its own login.
#[test]
fn a_mirror_is_not_told_the_login_of_the_registry() {
    let world = World::new(&Guard::new().password());
    let (host, address, name) = (&world.host, world.registry.address(), world.name());
    let mirror = FaultProxy::before(&address);
    let dir = host.path("certs.d").join(&address);
    fs::create_dir_all(&dir).unwrap();
    let text = format!("server = \"http://{address}\"\n[host.\"http://{}\"]\n", mirror.address());
    fs::write(dir.join("hosts.toml"), text).unwrap();
    let user = format!("{USER}:{PASSWORD}");
    host.ok(&["images", "pull", "--no-unpack", "--user", &user, &name]);
    assert_eq!(digest_of(host, &name), world.manifest);
    let asked = mirror.exchanges();
    assert!(!asked.is_empty() && asked.iter().all(|one| one.authorization.is_none()), "{asked:?}");
    world.forget();

    // Nor is the mirror asked whether a login to the registry is right.
    mirror.forget();
    assert_eq!(world.login(USER, PASSWORD, &[]).0, 0);
    assert_eq!(mirror.exchanges().len(), 0);
    let args = ["login", "-u", USER, "--password-stdin", "--plain-http", &mirror.address()];
    let output = host.capstan_with_input(&args, PASSWORD.as_bytes());
    assert_eq!(output.code, 0, "{}", output.stderr);
    mirror.forget();
    host.ok(&["images", "pull", "--no-unpack", &name]);
    assert!(mirror.exchanges().iter().any(|one| one.authorization.is_some()));

    // A registry that is another one by the settings gets no login that is for this one.
    let text = format!("server = \"http://{}\"\n", mirror.address());
    fs::write(dir.join("hosts.toml"), text).unwrap();
    mirror.forget();
    let (code, _, why) = world.login(USER, PASSWORD, &[]);
    assert_eq!(code, 6, "{why}");
    assert!(why.contains(&format!("log in to {}", mirror.address())), "{why}");
    assert!(mirror.exchanges().iter().all(|one| one.authorization.is_none()));
    mirror.make(usize::MAX, "", "", Trouble::Reset);
    assert_eq!(world.login(USER, PASSWORD, &["--skip-verify"]).0, 7);
    world.assert_no_secret_is_logged();
}

/// A command with a user and without a password asks for it on the terminal, and nowhere else (F-155).
#[test]
fn a_pull_asks_for_the_password_of_its_user() {
    let world = World::new(&Guard::new().password());
    let (host, name) = (&world.host, world.name());
    let pull = ["images", "pull", "--plain-http", "--no-unpack", "--user", USER, &name];
    let output = host.capstan_with_input(&pull, b"");
    assert_ne!(output.code, 0, "{}", output.stdout);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);

    let tmux = Tmux::new(host, "pull");
    let capstan = host.command(&[]).get_program().to_string_lossy().into_owned();
    tmux.type_line(&format!("{capstan} {}; echo code $?", pull.join(" ")));
    tmux.sees(host, &format!("Password of {USER} for {}:", world.registry.address()));
    tmux.type_line(PASSWORD);
    tmux.sees(host, "code 0");
    let screen = tmux.screen();
    assert!(!said(&screen), "{screen}");
    assert_eq!(digest_of(host, &name), world.manifest);
    assert!(!world.file().exists(), "nobody asked for it to be kept");
    world.assert_no_secret_is_logged();
}

#[test]
fn a_password_that_is_typed_is_not_seen() {
    let world = World::new(&Guard::new().password());
    let (host, address) = (&world.host, world.registry.address());
    let tmux = Tmux::new(host, "login");
    let capstan = host.command(&[]).get_program().to_string_lossy().into_owned();
    let file = world.file();
    let login = format!(
        "CAPSTAN_AUTH_FILE={} {capstan} login --plain-http {address}; echo code $?",
        file.display()
    );
    let asks = |question: &str| tmux.sees(host, question);
    let question = format!("Password of {USER} for {address}:");

    // Interrupted: nothing is kept, and the terminal shows again what is typed.
    tmux.type_line(&login);
    asks(&format!("User for {address}:"));
    tmux.type_line(USER);
    asks(&question);
    tmux.run(&["send-keys", "-l", PASSWORD]);
    tmux.run(&["send-keys", "C-c"]);
    tmux.sees(host, "code 11");
    tmux.type_line("clear; echo visible");
    tmux.sees(host, "visible");
    assert!(!file.exists());

    tmux.type_line(&login);
    asks(&format!("User for {address}:"));
    tmux.type_line(USER);
    asks(&question);
    tmux.type_line(PASSWORD);
    tmux.sees(host, "code 0");
    let screen = tmux.screen();
    assert!(!said(&screen), "{screen}");
    assert!(file.exists());
    world.assert_no_secret_is_logged();
}
