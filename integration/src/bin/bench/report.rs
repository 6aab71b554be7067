//! Tables, for people and as JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::machine::Machine;

/// What a value is of; it says which of two is the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    Seconds,
    Megabytes,
    PerSecond,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Megabytes => "MB",
            Self::PerSecond => "/s",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds | Self::PerSecond => format!("{value:.1}"),
            Self::Seconds | Self::Megabytes => format!("{value:.2}"),
        }
    }

    /// Whether a value is as good as a limit.
    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::PerSecond => value >= limit,
            _ => value <= limit,
        }
    }

    fn sign(self) -> &'static str {
        if self == Self::PerSecond { ">=" } else { "<=" }
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Value(f64),
    /// With the reason.
    Failed(String),
    /// It is not measured.
    Absent,
}

impl Cell {
    fn value(&self) -> Option<f64> {
        match self {
            Self::Value(value) => Some(*value),
            _ => None,
        }
    }

    fn show(&self, unit: Unit) -> String {
        match self {
            Self::Value(value) => unit.show(*value),
            Self::Failed(_) => "FAILED".into(),
            Self::Absent => "-".into(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Value(value) => json!(value),
            Self::Failed(why) => json!({ "failed": why }),
            Self::Absent => Value::Null,
        }
    }
}

/// What section 10 of the design promises.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    None,
    /// In the row's unit.
    Value(f64),
    /// A multiple of one of the peers.
    Times {
        factor: f64,
        of: usize,
    },
}

/// A line of a table.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    n: usize,
    unit: Unit,
    ours: Cell,
    peers: Vec<Cell>,
    goal: Goal,
}

impl Row {
    pub(crate) fn new(what: &str, n: usize, unit: Unit, ours: Cell, peers: Vec<Cell>) -> Self {
        Self { what: what.into(), n, unit, ours, peers, goal: Goal::None }
    }

    pub(crate) fn goal(self, goal: Goal) -> Self {
        Self { goal, ..self }
    }

    /// Ours to the best peer's.
    fn ratio(&self) -> Option<f64> {
        let better = |a: f64, b: f64| if self.unit.holds(a, b) { a } else { b };
        let best = self.peers.iter().filter_map(Cell::value).reduce(better)?;
        Some(self.ours.value()? / best)
    }

    /// The goal in words, and whether it is met, if that can be said.
    fn verdict(&self, peers: &[&str]) -> (String, Option<bool>) {
        let sign = self.unit.sign();
        let (text, limit) = match self.goal {
            Goal::None => return (String::new(), None),
            Goal::Value(limit) => (format!("{sign} {limit} {}", self.unit.name()), Some(limit)),
            Goal::Times { factor, of } => (
                format!("{sign} {factor} x {}", peers[of]),
                self.peers[of].value().map(|value| value * factor),
            ),
        };
        let is_met =
            self.ours.value().zip(limit).map(|(value, limit)| self.unit.holds(value, limit));
        let word = match is_met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "not known",
        };
        (format!("{text}: {word}"), is_met)
    }

    fn cells(&self) -> impl Iterator<Item = &Cell> {
        std::iter::once(&self.ours).chain(&self.peers)
    }

    fn show(&self, peers: &[&str]) -> Vec<String> {
        let mut words = vec![self.what.clone(), self.n.to_string(), self.unit.name().into()];
        words.extend(self.cells().map(|cell| cell.show(self.unit)));
        words.push(self.ratio().map_or("-".into(), |ratio| format!("{ratio:.2}x")));
        words.push(self.verdict(peers).0);
        words
    }

    fn json(&self, peers: &[&str]) -> Value {
        let others = peers.iter().zip(&self.peers);
        let (goal, is_met) = self.verdict(peers);
        json!({
            "what": self.what, "n": self.n, "unit": self.unit.name(), "ours": self.ours.json(),
            "peers": others.map(|(name, cell)| ((*name).to_owned(), cell.json()))
                .collect::<serde_json::Map<_, _>>(),
            "ratio": self.ratio(), "goal": goal, "isMet": is_met,
        })
    }
}

/// Rows with the same columns.
#[derive(Debug)]
pub(crate) struct Table {
    title: &'static str,
    peers: &'static [&'static str],
    pub(crate) rows: Vec<Row>,
}

impl Table {
    pub(crate) fn new(title: &'static str, peers: &'static [&'static str]) -> Self {
        Self { title, peers, rows: Vec::new() }
    }

    /// Each once: what failed has failed in several rows.
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for row in &self.rows {
            for (name, cell) in std::iter::once(&"ours").chain(self.peers).zip(row.cells()) {
                if let Cell::Failed(why) = cell {
                    failures.push(format!("{name}: {why}"));
                }
            }
        }
        failures.sort();
        failures.dedup();
        failures
    }

    fn show(&self) -> String {
        let mut head = vec![self.title, "n", "unit", "ours"];
        head.extend(self.peers);
        head.extend(["ratio", "goal"]);
        let mut lines = vec![head.into_iter().map(str::to_owned).collect()];
        lines.extend(self.rows.iter().map(|row| row.show(self.peers)));
        let mut text = align(&lines);
        for failure in self.failures() {
            let _ = writeln!(text, "  FAILED {failure}");
        }
        text
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(|row| row.json(self.peers)).collect();
        json!({ "title": self.title, "rows": rows })
    }
}

/// First and last column to the left, numbers to the right.
fn align(lines: &[Vec<String>]) -> String {
    // Tables below each other look best with the same first column.
    let width = |column: usize| {
        let longest = lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        if column == 0 { longest.max(46) } else { longest.max(5) }
    };
    let mut text = String::new();
    for line in lines {
        let last = line.len() - 1;
        let mut row = format!("{:<width$}", line[0], width = width(0));
        for (column, word) in line.iter().enumerate().skip(1) {
            let _ = match column == last {
                true => write!(row, "  {word}"),
                false => write!(row, "  {word:>width$}", width = width(column)),
            };
        }
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

/// All of it. A table is printed when it is known: a run takes minutes.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Machine,
    tables: Vec<Table>,
}

impl Report {
    pub(crate) fn new(machine: Machine) -> Self {
        let width = machine.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in &machine.0 {
            print(&format!("{name:<width$}  {value}\n"));
        }
        Self { machine, tables: Vec::new() }
    }

    pub(crate) fn add(&mut self, tables: Vec<Table>) {
        for table in tables {
            print(&format!("\n{}", table.show()));
            self.tables.push(table);
        }
    }

    /// Writes the JSON; failure if any figure could not be measured. A goal that is not met is none.
    pub(crate) fn finish(&self, json: Option<&Path>) -> ExitCode {
        if let Some(path) = json {
            let machine: serde_json::Map<_, _> =
                self.machine.0.iter().map(|(name, value)| ((*name).into(), json!(value))).collect();
            let tables: Vec<Value> = self.tables.iter().map(Table::json).collect();
            let text = format!("{:#}\n", json!({ "machine": machine, "tables": tables }));
            if let Err(error) = std::fs::write(path, text) {
                eprintln!("capstan-bench: write {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
        match self.tables.iter().all(|table| table.failures().is_empty()) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

fn print(text: &str) {
    let mut out = std::io::stdout();
    // Nobody may be reading any more.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(unit: Unit, ours: Cell, peers: &[Cell], goal: Goal) -> (Option<f64>, Option<bool>) {
        let row = Row::new("row", 1, unit, ours, peers.to_vec()).goal(goal);
        (row.ratio(), row.verdict(&["a", "b"]).1)
    }

    #[test]
    fn a_row_is_compared_with_the_best_peer_and_judged_by_its_goal() {
        let failed = || Cell::Failed("why".into());
        let peers = [Cell::Value(20.0), Cell::Value(10.0)];
        let times = |factor| Goal::Times { factor, of: 1 };
        let check = |unit, peers: &[Cell], goal, expected| {
            assert_eq!(row(unit, Cell::Value(5.0), peers, goal), expected);
        };
        check(Unit::Milliseconds, &peers, times(0.5), (Some(0.5), Some(true)));
        check(Unit::Milliseconds, &peers, times(0.4), (Some(0.5), Some(false)));
        check(Unit::Milliseconds, &peers, Goal::Value(4.0), (Some(0.5), Some(false)));
        check(Unit::PerSecond, &peers, times(0.4), (Some(0.25), Some(true)));
        check(Unit::PerSecond, &peers, times(1.0), (Some(0.25), Some(false)));
        check(Unit::Seconds, &[Cell::Value(20.0), failed()], times(1.0), (Some(0.25), None));
        check(Unit::Seconds, &[failed(), Cell::Absent], Goal::None, (None, None));
        let ours_failed = row(Unit::Seconds, failed(), &peers, Goal::Value(4.0));
        assert_eq!(ours_failed, (None, None));
    }
}
