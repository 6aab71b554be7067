//! `capstan version`.

use std::io::Write as _;

use capstan_client::schema::version_capnp::version;

use crate::args::Format;
use crate::exit::Outcome;
use crate::session::Session;

/// Prints the client's own version even if there is no daemon; that is then the error.
pub(crate) async fn run(address: &str, format: Format) -> Outcome {
    let mut out = std::io::stdout();
    let (own, revision) =
        (env!("CARGO_PKG_VERSION"), option_env!("CAPSTAN_REVISION").unwrap_or_default());
    let is_json = format == Format::Json;
    if !is_json {
        writeln!(out, "Client:\n  Version:  {own}\n  Revision: {revision}\n")?;
    }
    let session = Session::connect(address, String::new(), format).await?;
    let service: version::Client = session.open_global("version");
    let response = session.client.call(service.get_request().send().promise).await?;
    let server = response.get()?;
    let (version, server_revision) =
        (server.get_version()?.to_str()?, server.get_revision()?.to_str()?);
    if is_json {
        let value = serde_json::json!({
            "client": { "version": own, "revision": revision },
            "server": { "version": version, "revision": server_revision },
        });
        return Ok(writeln!(out, "{value:#}")?);
    }
    writeln!(out, "Server:\n  Version:  {version}\n  Revision: {server_revision}")?;
    if let Some(warning) = mismatch(own, version) {
        eprintln!("capstan: {warning}");
    }
    Ok(())
}

/// What is said where client and daemon do not belong together.
fn mismatch(own: &str, server: &str) -> Option<String> {
    (own != server).then(|| {
        format!(
            "warning: this client is of version {own}, the daemon of {server}; use those of one"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::mismatch;

    #[test]
    fn other_versions_are_told() {
        assert_eq!(mismatch("1.2.3", "1.2.3"), None);
        let warning = mismatch("1.2.3", "1.2.2").unwrap();
        assert!(warning.contains("1.2.3") && warning.contains("1.2.2"), "{warning}");
    }
}
