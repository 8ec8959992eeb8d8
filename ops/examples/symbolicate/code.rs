//! The code of one symbol file: which functions, files and lines an address belongs to.

use std::fs::File;
use std::path::{Path, PathBuf};

use addr2line::{Loader, gimli};
use object::{Object as _, ObjectSegment as _, ReadCache};

use crate::report::Address;
use crate::symtab::SymbolTable;
use crate::trace::{Function, SymbolicateError};

/// The page size that segments are mapped by; the smallest there is, as larger ones only loosen alignment.
const PAGE_BYTES: u64 = 4096;

/// Debug information and symbol table of one file, with what is already parsed of them.
pub(crate) struct Code {
    path: PathBuf,
    loader: Loader,
    symbol_table: SymbolTable,
    /// The address, by the file's own count, of the start of its mapping: 0 unless it has a fixed place.
    base: u64,
}

impl Code {
    pub(crate) fn load(path: &Path) -> Result<Self, SymbolicateError> {
        let broken = |reason: String| SymbolicateError::BrokenSymbols { path: path.to_owned(), reason };
        let file = File::open(path)
            .map_err(|source| SymbolicateError::Unreadable { path: path.to_owned(), source })?;
        let cache = ReadCache::new(file);
        let elf = object::File::parse(&cache).map_err(|error| broken(error.to_string()))?;
        let base =
            elf.segments().map(|segment| segment.address()).min().unwrap_or(0) / PAGE_BYTES * PAGE_BYTES;
        let loader = Loader::new(path).map_err(|error| broken(error.to_string()))?;
        Ok(Self { path: path.to_owned(), loader, symbol_table: SymbolTable::read(&elf), base })
    }

    /// The address in this file of `address` in a process that loaded it at `load_address`.
    pub(crate) fn file_address(&self, address: Address, load_address: Address) -> Option<Address> {
        address.0.checked_sub(load_address.0)?.checked_add(self.base).map(Address)
    }

    /// The functions at `address`, innermost inlined one first; none if nothing is known of it.
    pub(crate) fn functions(&self, address: Address) -> Result<Vec<Function>, SymbolicateError> {
        self.described(address.0).map_err(|error| SymbolicateError::BrokenSymbols {
            path: self.path.clone(),
            reason: format!("at {:#x}: {error}", address.0),
        })
    }

    fn described(&self, address: u64) -> Result<Vec<Function>, Box<dyn std::error::Error>> {
        let mut functions = Vec::new();
        let mut last_is_linkage = false;
        let mut frames = self.loader.find_frames(address)?;
        while let Some(frame) = frames.next()? {
            let name = frame.function.as_ref().map(|function| function.raw_name()).transpose()?;
            last_is_linkage = match (&name, frame.function.as_ref().and_then(|function| function.language)) {
                (Some(name), language) => is_linkage_name(name, language),
                (None, _) => false,
            };
            let (file, line) = frame.location.map_or((None, None), |place| (place.file, place.line));
            functions.push(Function::new(name.as_deref(), file, line));
        }
        // Line tables alone name functions only where something is inlined, and may leave linkage names out.
        // The symbol table has them, for the function that has the machine code. One that is not mangled there
        // is named as well in the debug information, without the suffix of a split-off part.
        if !last_is_linkage
            && let Some(symbol) = self.symbol_table.find(address)
            && (functions.len() <= 1 || is_mangled(&symbol.name))
        {
            let (file, line) = functions.pop().map_or((None, None), |known| (known.file, known.line));
            functions.push(Function::new(
                Some(&symbol.name),
                file.as_deref().or(symbol.file.as_deref()),
                line,
            ));
        }
        Ok(functions)
    }
}

impl Function {
    /// Line 0 is DWARF's way to say that code has no line of its own.
    fn new(linkage_name: Option<&str>, file: Option<&str>, line: Option<u32>) -> Self {
        Self {
            function: linkage_name.map(str::to_owned),
            name: linkage_name.map(|name| format!("{:#}", rustc_demangle::demangle(name))),
            file: file.map(str::to_owned),
            line: line.filter(|line| *line != 0),
        }
    }
}

/// Whether a name in the debug information is what the linker knows the function by: it is mangled, or its
/// language does not mangle.
fn is_linkage_name(name: &str, language: Option<gimli::DwLang>) -> bool {
    let unmangled = [
        gimli::DW_LANG_C,
        gimli::DW_LANG_C89,
        gimli::DW_LANG_C99,
        gimli::DW_LANG_C11,
        gimli::DW_LANG_C17,
        gimli::DW_LANG_Mips_Assembler,
    ];
    is_mangled(name) || language.is_some_and(|of| unmangled.contains(&of))
}

/// Rust's and C++'s ways of mangling.
fn is_mangled(name: &str) -> bool {
    name.starts_with("_R") || name.starts_with("_Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_linkage_names_by_mangling_or_language() {
        let rust = Some(gimli::DW_LANG_Rust);
        assert!(is_linkage_name("_RNvCs1234_7mycrate3foo", rust));
        assert!(is_linkage_name("_ZN3foo3bar17h05af221e174051e9E", rust));
        assert!(!is_linkage_name("call_once<fn(), ()>", rust));
        assert!(is_linkage_name("strlen", Some(gimli::DW_LANG_C11)));
        assert!(!is_linkage_name("main", None));
    }

    #[test]
    fn line_zero_is_no_line_and_names_are_demangled_without_hash() {
        let function = Function::new(Some("_ZN3foo3bar17h05af221e174051e9E"), Some("a.rs"), Some(0));
        assert_eq!((function.name.as_deref(), function.line), (Some("foo::bar"), None));
    }

    #[test]
    fn a_file_that_is_no_program_is_broken_and_a_missing_one_may_come_back() {
        let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let broken = Code::load(Path::new(text)).err().expect("not a program");
        assert!(broken.is_permanent() && broken.to_string().contains("Cargo.toml"), "{broken}");
        let missing = Code::load(Path::new("/missing/program")).err().expect("missing");
        assert!(!missing.is_permanent(), "{missing}");
    }
}
