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
   the program the kernel maps 64 KiB around each page that is touched, and more where it reads more at once. A name that is not there any more does
   nothing, and a new function is among the others until this is made again. */
";

/// What comes behind the functions of boot and has no names of functions: the entry of a program, what is run before `main` to
/// register something (inventory), and what is marked as cold, of which boot uses a little.
const NAMELESS: &str = "    *crt*.o(.text)\n    *(.text.startup .text.startup.*)\n    *(.text.unlikely .text.unlikely.*)\n";

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
        for pattern in patterns {
            let _ = writeln!(script, "    *({pattern})");
        }
        if *part == PARTS[0] {
            script.push_str(NAMELESS);
        }
        script.push_str("  }\n");
    }
    script.push_str("} INSERT BEFORE .text;\n");
    script
}
