//! The functions of a program, out of its table of symbols.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// `SHT_SYMTAB`.
const SYMBOLS: u64 = 2;

/// `STT_FUNC`, in the low half of a symbol's byte of information.
const FUNCTION: u64 = 2;

/// A program for x86-64 whose symbols were not stripped.
#[derive(Debug)]
pub(crate) struct Program {
    /// Where it is entered; as all addresses here, before it is moved to where it runs.
    pub(crate) entry: u64,
    functions: BTreeMap<u64, Vec<String>>,
}

impl Program {
    /// Reads a file of ELF.
    pub(crate) fn read(path: &Path) -> Self {
        let file = File(fs::read(path).expect("read the program"));
        assert!(file.0.starts_with(b"\x7fELF\x02\x01"), "{} is no program", path.display());
        let sections = file.number(0x28..0x30);
        let section = |index: u64| sections + index * file.number(0x3a..0x3c);
        let mut functions: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for index in 0..file.number(0x3c..0x3e) {
            let table = section(index);
            if file.at(table + 4, 4) != SYMBOLS {
                continue;
            }
            let names = file.at(section(file.at(table + 40, 4)) + 24, 8);
            let start = file.at(table + 24, 8);
            let size = file.at(table + 32, 8);
            for symbol in (start..start + size).step_by(24) {
                let (address, size) = (file.at(symbol + 8, 8), file.at(symbol + 16, 8));
                if file.at(symbol + 4, 1) & 0xf == FUNCTION && size > 0 {
                    let name = file.text(names + file.at(symbol, 4));
                    functions.entry(address).or_default().push(name);
                }
            }
        }
        assert!(!functions.is_empty(), "{} has no symbols", path.display());
        Self { entry: file.number(0x18..0x20), functions }
    }

    /// Where functions begin.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = u64> {
        self.functions.keys().copied()
    }

    /// What all functions are called.
    pub(crate) fn all_names(&self) -> impl Iterator<Item = &str> {
        self.functions.values().flatten().map(String::as_str)
    }

    /// What the function there is called: some have several names.
    pub(crate) fn names(&self, address: u64) -> impl Iterator<Item = &str> {
        self.functions.get(&address).into_iter().flatten().map(String::as_str)
    }
}

struct File(Vec<u8>);

impl File {
    fn number(&self, range: Range<usize>) -> u64 {
        let bytes = self.0.get(range).expect("the file is as long as it says");
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn at(&self, offset: u64, size: usize) -> u64 {
        let offset = usize::try_from(offset).expect("64 bits");
        self.number(offset..offset + size)
    }

    fn text(&self, offset: u64) -> String {
        let rest = &self.0[usize::try_from(offset).expect("64 bits")..];
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        String::from_utf8_lossy(&rest[..end]).into_owned()
    }
}
