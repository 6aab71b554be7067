//! The server: as much of HTTP as a scrape needs.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use capstan_sdk::Context;
use capstan_sdk::contract::metrics::{by_name, exposition};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use crate::collect;

/// Connections at the same time. A scraper has one; more wait until one of these ends.
const CONNECTIONS: usize = 16;

/// How long a request may take to arrive, from the first byte of a connection or the end of the one before.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it waits when the machine has no descriptor left for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes connections, for ever.
pub(crate) async fn run(listener: TcpListener, context: Context) {
    let mut open = FuturesUnordered::new();
    loop {
        let is_full = open.len() >= CONNECTIONS;
        tokio::select! {
            accepted = listener.accept(), if !is_full => match accepted {
                Ok((stream, _)) => open.push(connection(stream, context.clone()).boxed_local()),
                Err(error) => {
                    warn!(%error, "a connection for metrics could not be taken");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(()) = open.next(), if !open.is_empty() => {}
        }
    }
}

async fn connection(stream: TcpStream, context: Context) {
    let service = service_fn(move |request| answer(request, context.clone()));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "a connection for metrics broke");
    }
}

async fn answer(
    request: Request<Incoming>,
    context: Context,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status: StatusCode, body: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
        *response.status_mut() = status;
        response
    };
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = match (is_read, request.uri().path()) {
        (false, _) => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        (true, "/metrics") => {
            let samples = collect::all(&context).await;
            Response::new(Full::new(exposition(&by_name(samples)).into()))
        }
        (true, _) => plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
    };
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
