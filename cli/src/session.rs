//! What every command is given: the connection, the namespace, and how to print.

use capnp::capability::FromClientHook;
use capstan_client::{Client, Result};

use crate::args::Format;

/// A connection with the global flags.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) format: Format,
}

impl Session {
    pub(crate) async fn connect(address: &str, namespace: String, format: Format) -> Result<Self> {
        Ok(Self { client: Client::connect(address).await?, namespace, format })
    }

    /// Opens a service in the namespace of the session.
    pub(crate) fn open<T: FromClientHook>(&self, service: &str) -> T {
        self.client.open(service, &self.namespace)
    }

    /// Opens a service that has no namespace.
    pub(crate) fn open_global<T: FromClientHook>(&self, service: &str) -> T {
        self.client.open(service, "")
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }
}

/// Sends a request and waits for its results, as a response whose `error` was looked at.
macro_rules! call {
    ($session:expr, $request:expr) => {{
        let response = $session.client.call($request.send().promise).await?;
        capstan_client::check!(response.get()?)?;
        response
    }};
}
pub(crate) use call;
