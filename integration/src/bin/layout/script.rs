//! The linker script.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::functions::Program;
use crate::pattern::pattern;
use crate::trace::Hit;

/// The parts, in the order in which they are in the program: used by boot, and used by what comes after.
pub(crate) const PARTS: [&str; 2] = ["boot", "work"];

/// What the script says of itself.
const HEAD: &str = "\
/* Made by `cargo xtask layout`. Do not edit.

   The functions that the daemon uses when it boots, and those that it uses in everyday work, side by side: of
   the program the kernel maps 64 KiB around each page that is touched. A name that is not there any more does
   nothing, and a new function is among the others until this is made again. */
";

/// Writes it.
pub(crate) fn script(program: &Program, hits: &[Hit]) -> String {
    let mut script = String::from(HEAD);
    script.push_str("SECTIONS {\n");
    let mut known = BTreeSet::new();
    for (phase, part) in PARTS.iter().enumerate() {
        let hits = hits.iter().filter(|hit| hit.phase == phase);
        let names = hits.flat_map(|hit| program.names(hit.function));
        let patterns: BTreeSet<String> = names.filter_map(pattern).collect();
        let _ = writeln!(script, "  .text.{part} : {{");
        for pattern in &patterns {
            if !known.contains(pattern) {
                let _ = writeln!(script, "    *({pattern})");
            }
        }
        script.push_str("  }\n");
        eprintln!("{part}: {} functions", patterns.len());
        known.extend(patterns);
    }
    script.push_str("} INSERT BEFORE .text;\n");
    script
}
