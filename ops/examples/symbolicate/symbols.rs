//! A directory of symbol files: found by build id or file name, parsed once, kept for the next report.
//!
//! A file is found by the build id in its own note, wherever it lies, or by its place in a
//! `.build-id/ab/cdef.debug` tree. The index is made when the directory is opened. A module that it does not
//! know, or whose file has changed since, has the directory walked again; only new and changed files are
//! opened. So files can be added at any time; replace one by renaming another over it, as files in use are
//! mapped into memory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use object::{Object as _, ReadCache};

use crate::code::Code;
use crate::report::{BuildId, Module};
use crate::trace::SymbolicateError;

/// The most modules kept parsed; the one used longest ago goes first.
const MODULES_KEPT_MAX: usize = 16;
/// The most directories within directories that a walk enters.
const WALK_DEPTH_MAX: usize = 16;

/// The symbols that reports are looked up in; shared by threads.
pub(crate) struct Symbols {
    root: PathBuf,
    index: Mutex<Index>,
    /// Most recently used last.
    kept: Mutex<Vec<Arc<Found>>>,
}

/// What was found in the directory, by path relative to it.
#[derive(Default)]
struct Index {
    files: HashMap<PathBuf, SymbolFile>,
}

#[derive(Clone)]
struct SymbolFile {
    stamp: Stamp,
    /// None for a file that is no ELF file, which is only remembered.
    elf: Option<Elf>,
}

#[derive(Clone)]
struct Elf {
    build_id: Option<BuildId>,
    has_debug_info: bool,
}

/// Changes when the file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

/// The symbol file of a module.
pub(crate) struct Found {
    root: PathBuf,
    relative_path: PathBuf,
    stamp: Stamp,
    /// Loaded by the first that looks something up.
    code: Mutex<Option<Code>>,
}

impl Symbols {
    /// Opens the directory `root` and indexes it.
    pub(crate) fn open(root: &Path) -> Result<Self, SymbolicateError> {
        let symbols = Self { root: root.to_owned(), index: Mutex::default(), kept: Mutex::default() };
        symbols.refresh(&mut lock(&symbols.index))?;
        Ok(symbols)
    }

    /// The symbol file of `module`. A build id that is stated must match; a name alone must be the only one.
    pub(crate) fn find(&self, module: &Module) -> Result<Arc<Found>, SymbolicateError> {
        let mut index = lock(&self.index);
        if let Some(found) = index.find(module)?.filter(|found| self.is_current(found)) {
            return Ok(self.keep(found));
        }
        self.refresh(&mut index)?;
        let found =
            index.find(module)?.ok_or_else(|| SymbolicateError::UnknownModule { module: module.clone() })?;
        Ok(self.keep(found))
    }

    fn is_current(&self, (path, stamp): &(PathBuf, Stamp)) -> bool {
        fs::metadata(self.root.join(path)).is_ok_and(|metadata| Stamp::of(&metadata) == *stamp)
    }

    /// The kept entry for a file, made if there is none.
    fn keep(&self, (path, stamp): (PathBuf, Stamp)) -> Arc<Found> {
        let mut kept = lock(&self.kept);
        let place = kept.iter().position(|found| found.relative_path == path && found.stamp == stamp);
        let found = place.map(|place| kept.remove(place)).unwrap_or_else(|| {
            let root = self.root.clone();
            Arc::new(Found { root, relative_path: path, stamp, code: Mutex::default() })
        });
        if kept.len() >= MODULES_KEPT_MAX {
            kept.remove(0);
        }
        kept.push(Arc::clone(&found));
        found
    }

    /// Brings the index up to date with the directory.
    fn refresh(&self, index: &mut Index) -> Result<(), SymbolicateError> {
        let mut files = HashMap::new();
        let mut directories = vec![(PathBuf::new(), 0)];
        while let Some((directory, depth)) = directories.pop() {
            let unreadable =
                |source| SymbolicateError::Unreadable { path: self.root.join(&directory), source };
            for entry in fs::read_dir(self.root.join(&directory)).map_err(unreadable)? {
                let entry = entry.map_err(unreadable)?;
                let path = directory.join(entry.file_name());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if depth < WALK_DEPTH_MAX {
                        directories.push((path, depth + 1));
                    }
                    continue;
                }
                // Symbolic links to files are followed, those to directories and to nothing passed over.
                let Some(stamp) =
                    fs::metadata(entry.path()).ok().filter(Metadata::is_file).as_ref().map(Stamp::of)
                else {
                    continue;
                };
                let file = match index.files.remove(&path) {
                    Some(known) if known.stamp == stamp => known,
                    _ => SymbolFile { stamp, elf: Elf::read(&entry.path(), &path) },
                };
                files.insert(path, file);
            }
        }
        index.files = files;
        Ok(())
    }
}

impl Index {
    fn find(&self, module: &Module) -> Result<Option<(PathBuf, Stamp)>, SymbolicateError> {
        let elves = self.files.iter().filter_map(|(path, file)| Some((path, file.stamp, file.elf.as_ref()?)));
        // Of a program and its separate debug file, the one that has the debug information.
        let best = |matching: Vec<(&PathBuf, Stamp, &Elf)>| {
            let best = matching.into_iter().max_by_key(|(path, _, elf)| (elf.has_debug_info, *path));
            best.map(|(path, stamp, _)| (path.clone(), stamp))
        };
        if let Some(id) = &module.build_id {
            return Ok(best(elves.filter(|(.., elf)| elf.build_id.as_ref() == Some(id)).collect()));
        }
        let Some(name) = module.file_name() else { return Ok(None) };
        let named: Vec<_> = elves.filter(|(path, ..)| path.file_name() == Some(OsStr::new(name))).collect();
        let one_program = named.iter().all(|(.., elf)| elf.build_id == named[0].2.build_id);
        if named.len() > 1 && !(one_program && named[0].2.build_id.is_some()) {
            return Err(SymbolicateError::AmbiguousName { name: name.to_owned(), count: named.len() });
        }
        Ok(best(named))
    }
}

impl Elf {
    /// Reads the headers and the build-id note only. `relative_path` tells the id where the note does not.
    fn read(path: &Path, relative_path: &Path) -> Option<Self> {
        let file = ReadCache::new(File::open(path).ok()?);
        let elf = object::File::parse(&file).ok()?;
        let noted = elf.build_id().ok().flatten().and_then(BuildId::from_bytes);
        let build_id = noted.or_else(|| build_id_of_path(relative_path));
        Some(Self { build_id, has_debug_info: elf.section_by_name(".debug_info").is_some() })
    }
}

/// The build id in `.build-id/ab/cdef.debug`.
fn build_id_of_path(path: &Path) -> Option<BuildId> {
    let directory = path.parent()?;
    if path.extension()? != "debug" || directory.parent()?.file_name()? != ".build-id" {
        return None;
    }
    BuildId::from_hex(&format!("{}{}", directory.file_name()?.to_str()?, path.file_stem()?.to_str()?))
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Found {
    pub(crate) fn relative_path(&self) -> &Path {
        &self.relative_path
    }

    /// Runs `look_up` on the code of the file, which is loaded if this is the first use.
    pub(crate) fn with_code<T>(
        &self,
        look_up: impl FnOnce(&Code) -> Result<T, SymbolicateError>,
    ) -> Result<T, SymbolicateError> {
        let mut place = lock(&self.code);
        let code = match &mut *place {
            Some(code) => code,
            empty => empty.insert(Code::load(&self.root.join(&self.relative_path))?),
        };
        look_up(code)
    }
}

/// What these locks guard stays whole when a holder panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test program itself: an ELF file with a build id and debug information.
    fn own() -> (PathBuf, BuildId) {
        let path = std::env::current_exe().expect("own path");
        let elf = Elf::read(&path, Path::new("own")).expect("an ELF file");
        assert!(elf.has_debug_info);
        (path, elf.build_id.expect("a build id"))
    }

    fn by_id(id: &BuildId) -> Module {
        Module { build_id: Some(id.clone()), path: Some("/gone/elsewhere".to_owned()) }
    }

    fn by_path(path: &str) -> Module {
        Module { build_id: None, path: Some(path.to_owned()) }
    }

    #[test]
    fn a_file_added_later_is_found_by_its_build_id_and_by_its_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let symbols = Symbols::open(directory.path()).expect("symbols");
        let (path, id) = own();
        let error = symbols.find(&by_id(&id)).err().expect("not there yet");
        assert_eq!(
            error.to_string(),
            format!("unknown module: no debug information here for /gone/elsewhere (build id {id})")
        );
        fs::create_dir(directory.path().join("deep")).expect("a directory");
        fs::hard_link(&path, directory.path().join("deep/program"))
            .or_else(|_| fs::copy(&path, directory.path().join("deep/program")).map(drop))
            .expect("a symbol file");
        let found = symbols.find(&by_id(&id)).expect("found by id");
        assert_eq!(found.relative_path(), Path::new("deep/program"));
        let same = symbols.find(&by_path("/opt/program")).expect("found by name");
        assert!(Arc::ptr_eq(&found, &same), "one entry for one file");
        assert!(symbols.find(&by_path("/opt/other")).is_err());
        let other = BuildId::from_hex("ab01").expect("a build id");
        let renamed = Module { build_id: Some(other), path: Some("/opt/program".to_owned()) };
        assert!(symbols.find(&renamed).is_err(), "a stated build id must match");
    }

    #[test]
    fn a_name_that_two_programs_bear_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        for (place, machine) in [("a", 62_u16), ("b", 183)] {
            fs::create_dir(directory.path().join(place)).expect("a directory");
            fs::write(directory.path().join(place).join("program"), bare_elf(machine)).expect("a file");
        }
        fs::write(directory.path().join("notes.txt"), "no program").expect("a file");
        let symbols = Symbols::open(directory.path()).expect("symbols");
        let error = symbols.find(&by_path("program")).err().expect("ambiguous");
        assert!(error.is_permanent() && error.to_string().contains("2 files are called program"), "{error}");
        let error = symbols.find(&by_path("notes.txt")).err().expect("not a program");
        assert!(matches!(error, SymbolicateError::UnknownModule { .. }), "{error}");
    }

    #[test]
    fn the_build_id_tree_names_files_whose_note_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let tree = directory.path().join(".build-id/ab");
        fs::create_dir_all(&tree).expect("a directory");
        fs::write(tree.join("cdef.debug"), bare_elf(62)).expect("a file");
        let symbols = Symbols::open(directory.path()).expect("symbols");
        let found = symbols.find(&by_id(&BuildId::from_hex("abcdef").expect("a build id"))).expect("found");
        assert_eq!(found.relative_path(), Path::new(".build-id/ab/cdef.debug"));
        assert_eq!(build_id_of_path(Path::new("other/ab/cdef.debug")), None);
    }

    #[test]
    fn the_modules_kept_are_bounded_and_the_one_used_longest_ago_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        for number in 0..=MODULES_KEPT_MAX {
            fs::write(directory.path().join(format!("p{number}")), bare_elf(62)).expect("a file");
        }
        let symbols = Symbols::open(directory.path()).expect("symbols");
        let find = |number: usize| symbols.find(&by_path(&format!("p{number}"))).expect("found");
        let (first, second) = (find(0), find(1));
        for number in 2..MODULES_KEPT_MAX {
            find(number);
        }
        assert!(Arc::ptr_eq(&first, &find(0)));
        find(MODULES_KEPT_MAX);
        assert_eq!(lock(&symbols.kept).len(), MODULES_KEPT_MAX);
        assert!(Arc::ptr_eq(&first, &find(0)), "used since");
        assert!(!Arc::ptr_eq(&second, &find(1)), "used longest ago");
    }

    #[test]
    fn threads_share_the_symbols() {
        fn shared<T: Send + Sync>() {}
        shared::<Symbols>();
    }

    /// The header of an ELF file that has no sections.
    fn bare_elf(machine: u16) -> Vec<u8> {
        let mut header = vec![0; 64];
        header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        header[16] = 3;
        header[18..20].copy_from_slice(&machine.to_le_bytes());
        header[20] = 1;
        header[52] = 64;
        header
    }
}
