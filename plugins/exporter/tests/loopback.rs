//! exporter.prometheus, asked over a real connection.

use std::cell::Cell as Count;
use std::collections::BTreeMap;
use std::time::Duration;

use actix::{Actor, Addr, Context as Cell, Handler};
use capstan_exporter::PrometheusExporter;
use capstan_sdk::contract::Metrics;
use capstan_sdk::contract::metrics::{Collect, MetricsAddr, Sample};
use capstan_sdk::testing::{Bench, run};
use capstan_sdk::{Context, Exports, Info, Plugin, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Counts how often it is asked.
#[derive(Default)]
struct Asked(Count<u32>);

impl Plugin for Asked {
    const INFO: Info = Info {
        id: "metrics.asked",
        version: env!("CARGO_PKG_VERSION"),
        about: "how often it is asked",
        requires: &[],
        rank: 0,
    };
    type Config = BTreeMap<String, String>;

    async fn build(_: Self::Config, _: Context) -> Result<Self> {
        Ok(Self::default())
    }

    fn export(addr: &Addr<Self>, _: &Context, exports: &mut Exports) {
        exports.contract::<Metrics>(MetricsAddr::from(addr));
    }
}

impl Actor for Asked {
    type Context = Cell<Self>;
}

impl Handler<Collect> for Asked {
    type Result = Result<Vec<Sample>>;
    fn handle(&mut self, _: Collect, _: &mut Cell<Self>) -> Self::Result {
        self.0.set(self.0.get() + 1);
        let count = f64::from(self.0.get());
        Ok(vec![Sample::counter("asked_total", "How often it was asked.", count)])
    }
}

/// Sends bytes; answers what comes until the other end hangs up.
async fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
    read.await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_scrape_collects_and_nothing_else_does() {
    run(|| async {
        let mut bench = Bench::new();
        bench.start::<Asked>("").await.unwrap();
        // A port that was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        bench.start::<PrometheusExporter>(&format!("address = {address:?}")).await.unwrap();
        let request =
            |what: &str| format!("{what} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");

        let answer = ask(&address, &request("GET /metrics")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("# TYPE asked_total counter\nasked_total 1\n"), "{answer}");
        assert!(
            answer.contains("capstan_plugin_calls_total{plugin=\"metrics.asked\"}"),
            "{answer}"
        );
        assert!(ask(&address, &request("GET /metrics")).await.contains("asked_total 2\n"));
        for (what, status) in [("GET /", "404"), ("POST /metrics", "405"), ("nonsense", "400")] {
            let answer = ask(&address, &request(what)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {answer}");
        }
        // Connections that say nothing do not keep others out.
        let mut idle = Vec::new();
        for _ in 0..8 {
            idle.push(TcpStream::connect(&address).await.unwrap());
        }
        assert!(ask(&address, &request("GET /metrics")).await.contains("asked_total 3\n"));
        bench.stop::<PrometheusExporter>().await;
        assert!(TcpStream::connect(&address).await.is_err(), "it still listens");
    });
}

#[test]
fn an_address_that_is_none_is_refused_and_an_empty_one_is_fine() {
    run(|| async {
        let mut bench = Bench::new();
        let error = bench.start::<PrometheusExporter>("address = \"nowhere\"").await.unwrap_err();
        assert!(error.message().contains("exporter.prometheus"), "{error}");
        bench.start::<PrometheusExporter>("").await.unwrap();
    });
}
