//! The symbol table of a file: what the linker calls the function at an address.
//!
//! It answers for code that has no debug information, such as the start-up code of the C library, and for
//! names that line tables leave out. Of the source file it knows what the table's file symbols say: for
//! Rust without debug information that is only the name of a codegen unit.

use std::collections::HashMap;
use std::sync::Arc;

use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, SectionIndex, SymbolKind, elf};

/// Every symbol in code, by address.
pub(crate) struct SymbolTable {
    /// Of symbols at one address the preferred one is last.
    symbols: Vec<Symbol>,
}

/// One symbol in code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    address: u64,
    /// How far it reaches: to the end of its section if the table does not say. A later symbol ends it anyway.
    bytes: u64,
    is_function: bool,
    pub(crate) name: String,
    pub(crate) file: Option<Arc<str>>,
}

impl SymbolTable {
    /// Reads the table of `elf`, or the dynamic linker's if the file was stripped of its own.
    pub(crate) fn read<'data>(elf: &impl Object<'data>) -> Self {
        let code: HashMap<SectionIndex, u64> = elf
            .sections()
            .filter(|section| is_executable(section.flags()))
            .map(|section| (section.index(), section.address().saturating_add(section.size())))
            .collect();
        let mut symbols = of_table(elf.symbols(), &code);
        if symbols.is_empty() {
            symbols = of_table(elf.dynamic_symbols(), &code);
        }
        // A function before a bare label; of two functions the shorter, and then the one named first.
        symbols.reverse();
        symbols.sort_by(|a, b| (a.address, a.is_function, b.bytes).cmp(&(b.address, b.is_function, a.bytes)));
        Self { symbols }
    }

    /// The symbol that `address` lies in.
    pub(crate) fn find(&self, address: u64) -> Option<&Symbol> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        let start = self.symbols[..after].last()?.address;
        self.symbols[..after]
            .iter()
            .rev()
            .take_while(|symbol| symbol.address == start)
            .find(|symbol| address - symbol.address < symbol.bytes)
    }
}

/// By its flags: a separate debug file has the section, but not the code, so that it looks like zeroed data.
fn is_executable(flags: SectionFlags) -> bool {
    matches!(flags, SectionFlags::Elf { sh_flags, .. } if (sh_flags & elf::SHF_EXECINSTR).0 != 0)
}

/// The symbols in the sections `code`, of which it has the ends, in the table's order.
///
/// The name of a source file stands before its local symbols; global ones come after those of all files. So
/// a global symbol's file is known only in a table of a single file.
fn of_table<'data, S: ObjectSymbol<'data>>(
    table: impl Iterator<Item = S>,
    code: &HashMap<SectionIndex, u64>,
) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    let mut file: Option<Arc<str>> = None;
    let (mut some_seen, mut many_files) = (false, false);
    for symbol in table {
        let Ok(name) = symbol.name() else { continue };
        if symbol.kind() == SymbolKind::File {
            many_files |= some_seen;
            file = Some(name.into());
            continue;
        }
        some_seen = true;
        let is_function = symbol.kind() == SymbolKind::Text;
        let is_label = matches!(symbol.kind(), SymbolKind::Unknown | SymbolKind::Label) && !name.is_empty();
        let section_end = symbol.section_index().and_then(|index| code.get(&index));
        let Some(section_end) = section_end.filter(|_| is_function || is_label) else { continue };
        let bytes = match symbol.size() {
            0 => section_end.saturating_sub(symbol.address()),
            stated => stated,
        };
        symbols.push(Symbol {
            address: symbol.address(),
            bytes,
            is_function,
            name: name.to_owned(),
            file: file.clone().filter(|_| symbol.is_local() || !many_files),
        });
    }
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(address: u64, bytes: u64, name: &str) -> Symbol {
        Symbol { address, bytes, is_function: true, name: name.to_owned(), file: None }
    }

    #[test]
    fn an_address_belongs_to_the_symbol_that_covers_it() {
        let table = SymbolTable {
            symbols: vec![
                symbol(16, 8, "long"),
                symbol(16, 4, "short"),
                symbol(32, 90, "open"),
                symbol(64, 1, "end"),
            ],
        };
        let name = |address| table.find(address).map(|symbol| symbol.name.as_str());
        assert_eq!([name(15), name(16), name(20), name(24)], [None, Some("short"), Some("long"), None]);
        assert_eq!([name(32), name(63), name(64), name(65)], [Some("open"), Some("open"), Some("end"), None]);
        assert!(SymbolTable { symbols: Vec::new() }.find(1).is_none());
    }

    #[test]
    fn this_program_has_its_own_functions() {
        let bytes = std::fs::read(std::env::current_exe().expect("own path")).expect("own file");
        let table = SymbolTable::read(&object::File::parse(&*bytes).expect("an ELF file"));
        let start = table.symbols.iter().find(|symbol| symbol.name == "_start").expect("_start");
        assert_eq!(table.find(start.address).map(|symbol| symbol.name.as_str()), Some("_start"));
    }
}
