//! The linker script.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::functions::Program;
use crate::pattern::{pattern, shortened};
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

/// What is run before `main` to register something (inventory): its sections have no names of functions.
const REGISTERS: &str = "    *(.text.startup .text.startup.*)\n";

/// What is marked as cold. A little of it is used, and the rest would be mapped with that if all of it were scattered.
const COLD: &str = "  .text.cold : {\n    *(.text.unlikely .text.unlikely.*)\n  }\n";

/// Writes it.
pub(crate) fn script(program: &Program, hits: &[Hit]) -> String {
    let mut others: BTreeSet<String> = program.all_names().map(pattern).collect();
    let parts = PARTS.iter().enumerate().map(|(phase, _)| {
        let hits = hits.iter().filter(|hit| hit.phase == phase);
        let names = hits.flat_map(|hit| program.names(hit.function));
        names.map(pattern).filter(|pattern| others.remove(pattern)).collect()
    });
    let parts: Vec<BTreeSet<String>> = parts.collect();
    let mut script = format!("{HEAD}SECTIONS {{\n");
    for (part, names) in PARTS.iter().zip(&parts) {
        let patterns = shortened(names, &others);
        eprintln!("{part}: {} functions, {} patterns", names.len(), patterns.len());
        let _ = writeln!(script, "  .text.{part} : {{");
        if *part == PARTS[0] {
            script.push_str(REGISTERS);
        }
        for pattern in patterns {
            let _ = writeln!(script, "    *({pattern})");
        }
        script.push_str("  }\n");
    }
    script.push_str(COLD);
    script.push_str("} INSERT BEFORE .text;\n");
    script
}
