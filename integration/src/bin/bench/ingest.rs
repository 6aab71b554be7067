//! How long an ingest takes, until it is durable under its digest: one after the other, of four sizes. The peer's client
//! cannot be asked like this.

use std::time::Instant;

use capstan_client::schema::content_capnp::content;
use capstan_client::{Client, check};
use capstan_integration::noise;

use crate::args::Effort;
use crate::daemon::Daemon;
use crate::metadata::alone;
use crate::ours::Capstan;
use crate::report::{Cell, Goal, Row, Table, Unit};

pub(crate) fn measure(effort: Effort) -> Vec<Table> {
    let mut table = Table::new("content: ingests, each durable when it is answered; medians", &[]);
    let count = effort.pick(5, 50);
    for (what, size) in
        [("1 KiB", 1 << 10), ("4 KiB", 1 << 12), ("512 KiB", 1 << 19), ("1 MiB", 1 << 20)]
    {
        let cell = match look(size, count) {
            Ok(median) => Cell::Value(median),
            Err(why) => Cell::Failed(why),
        };
        table.rows.push(Row::new(what, count, Unit::Milliseconds, cell, vec![]).goal(Goal::None));
    }
    vec![table]
}

fn look(size: usize, count: usize) -> Result<f64, String> {
    let mut daemon = Daemon::new(&Capstan);
    daemon.start_until(|_| true)?;
    let address = daemon.address();
    let took = alone(ingest_all(&address, size, count));
    daemon.stop()?;
    let mut took = took?;
    took.sort_by(f64::total_cmp);
    Ok(took[took.len() / 2])
}

/// How long each took, in ms.
async fn ingest_all(address: &str, size: usize, count: usize) -> capstan_client::Result<Vec<f64>> {
    let client = Client::connect(address).await?;
    let service: content::Client = client.open("content", "default");
    let mut took = Vec::new();
    for number in 0..count {
        // No two are the same: what is here already is not written.
        let bytes = noise(size, u32::try_from(number).expect("they are few"));
        let begun = Instant::now();
        let mut request = service.ingest_request();
        request.get().set_ref(format!("{size}-{number}"));
        let response = client.call(request.send().promise).await?;
        let ingest = check!(response.get()?)?.get_ingest()?;
        let mut request = ingest.write_request();
        request.get().set_bytes(&bytes);
        let response = client.call(request.send().promise).await?;
        check!(response.get()?)?;
        let response = client.call(ingest.commit_request().send().promise).await?;
        check!(response.get()?)?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}
