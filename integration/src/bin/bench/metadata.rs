//! Mutations per second: labels are set on namespaces by so many callers at once, each waiting for its answer, which
//! comes once the change is on disk; and how long reads take meanwhile. The peer's client cannot be asked like this.

use std::time::{Duration, Instant};

use capstan_client::schema::namespace_capnp::namespaces;
use capstan_client::{Client, check};

use crate::args::Effort;
use crate::daemon::Daemon;
use crate::ours::Capstan;
use crate::report::{Cell, Goal, Row, Table, Unit};

/// Callers that share a connection.
const PER_CONNECTION: usize = 16;

/// What was measured with so many callers.
struct Figures {
    /// Mutations per second.
    rate: f64,
    /// Of reads meanwhile, in ms: the median and the 99th percentile.
    reads: [f64; 2],
}

pub(crate) fn measure(effort: Effort) -> Vec<Table> {
    let time = Duration::from_secs(effort.pick(2, 10));
    let mut table = Table::new("metadata: mutations, each durable when it is answered", &[]);
    for callers in [0, 1, 16, 256] {
        let figures = look(callers, time);
        let cell = |figure: fn(&Figures) -> f64| match &figures {
            Ok(figures) => Cell::Value(figure(figures)),
            Err(why) => Cell::Failed(why.clone()),
        };
        let mut row = |what: &str, unit: Unit, cell: Cell| {
            table.rows.push(Row::new(what, 1, unit, cell, vec![]).goal(Goal::None));
        };
        if callers > 0 {
            row(&format!("{callers} callers"), Unit::PerSecond, cell(|figures| figures.rate));
        }
        let what = |kind: &str| match callers {
            0 => format!("a read, {kind}, nobody writes"),
            _ => format!("a read, {kind}, meanwhile"),
        };
        row(&what("median"), Unit::Milliseconds, cell(|figures| figures.reads[0]));
        row(&what("p99"), Unit::Milliseconds, cell(|figures| figures.reads[1]));
    }
    vec![table]
}

fn look(callers: usize, time: Duration) -> Result<Figures, String> {
    let mut daemon = Daemon::new(&Capstan);
    daemon.start_until(|_| true)?;
    let address = daemon.address();
    let end = Instant::now() + time;
    // Each on a thread of its own: a reader that queued behind callers in here would say nothing of the daemon.
    let (count, reads) = std::thread::scope(|scope| {
        let reads = scope.spawn(|| alone(read(&address, end)));
        let count = alone(mutate_all(&address, callers, end));
        (count, reads.join().expect("the reader does not panic"))
    });
    daemon.stop()?;
    #[allow(clippy::cast_precision_loss, reason = "a count is small")]
    let rate = count? as f64 / time.as_secs_f64();
    Ok(Figures { rate, reads: reads? })
}

/// Does one client's work on this thread.
pub(crate) fn alone<T>(work: impl Future<Output = capstan_client::Result<T>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    tokio::task::LocalSet::new().block_on(&runtime, work).map_err(|error| error.to_string())
}

/// How many changes all callers make until the end.
async fn mutate_all(address: &str, callers: usize, end: Instant) -> capstan_client::Result<usize> {
    let mut work = Vec::new();
    for first in (0..callers).step_by(PER_CONNECTION) {
        let client = std::rc::Rc::new(Client::connect(address).await?);
        for caller in first..callers.min(first + PER_CONNECTION) {
            work.push(tokio::task::spawn_local(mutate(client.clone(), caller, end)));
        }
    }
    let mut count = 0;
    for one in work {
        count += one.await.expect("a caller does not panic")?;
    }
    Ok(count)
}

/// How many changes one caller makes until the end.
async fn mutate(
    client: std::rc::Rc<Client>,
    caller: usize,
    end: Instant,
) -> capstan_client::Result<usize> {
    let service: namespaces::Client = client.open("namespaces", "");
    let name = format!("ns-{caller}");
    let mut request = service.create_request();
    request.get().set_name(&name);
    let response = client.call(request.send().promise).await?;
    check!(response.get()?)?;
    let mut count = 0;
    while Instant::now() < end {
        let mut request = service.label_request();
        request.get().set_name(&name);
        let mut label = request.get().init_labels(1).get(0);
        label.set_key("count");
        label.set_value(count.to_string());
        let response = client.call(request.send().promise).await?;
        check!(response.get()?)?;
        count += 1;
    }
    Ok(count)
}

/// How long reads take until the end.
async fn read(address: &str, end: Instant) -> capstan_client::Result<[f64; 2]> {
    let client = Client::connect(address).await?;
    let service: namespaces::Client = client.open("namespaces", "");
    let mut request = service.create_request();
    request.get().set_name("read");
    let response = client.call(request.send().promise).await?;
    check!(response.get()?)?;
    let mut took = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        let mut request = service.get_request();
        request.get().set_name("read");
        let response = client.call(request.send().promise).await?;
        check!(response.get()?)?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    took.sort_by(f64::total_cmp);
    Ok([took[took.len() / 2], took[took.len() * 99 / 100]])
}
