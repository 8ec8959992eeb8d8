//! What the program knows of itself before it crashes: path, build id and load address.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use object::{Object as _, ReadCache};

/// The running program as a module.
pub(crate) struct Itself {
    path: PathBuf,
    build_id: Option<Vec<u8>>,
    load_address: u64,
}

impl Itself {
    pub(crate) fn read() -> io::Result<Self> {
        let path = fs::read_link("/proc/self/exe")?;
        let file = ReadCache::new(File::open("/proc/self/exe")?);
        let elf = object::File::parse(&file).map_err(io::Error::other)?;
        let build_id = elf.build_id().map_err(io::Error::other)?.map(<[u8]>::to_vec);
        let maps = fs::read_to_string("/proc/self/maps")?;
        let load_address = path
            .to_str()
            .and_then(|path| load_address(&maps, path))
            .ok_or_else(|| io::Error::other("no mapping of the program in /proc/self/maps"))?;
        Ok(Self { path, build_id, load_address })
    }

    /// The report up to where the handler goes on: everything that is known before the crash.
    pub(crate) fn report_head(&self, seed: u64) -> String {
        let build_id = self
            .build_id
            .as_ref()
            .map(|id| id.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")));
        let module = serde_json::json!({ "build_id": build_id, "path": self.path });
        format!(r#"{{"module":{module},"load_address":"{:#x}","seed":{seed},"#, self.load_address)
    }
}

/// Where the start of the file at `path` is mapped.
fn load_address(maps: &str, path: &str) -> Option<u64> {
    // 55d0c0a00000-55d0c0a2f000 r--p 00000000 fe:01 1234    /usr/bin/program
    let line = maps.lines().find(|line| {
        let mapped = line.find('/').map(|at| &line[at..]);
        mapped == Some(path) && line.split_whitespace().nth(2) == Some("00000000")
    })?;
    u64::from_str_radix(line.split_once('-')?.0, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_address_is_the_mapping_of_offset_zero() {
        let maps = "7f00-7f10 r--p 00000000 fe:01 1 /opt/bin/program\n\
                    55d0c0a30000-55d0c0a40000 r-xp 0002f000 fe:01 2 /bin/program\n\
                    55d0c0a00000-55d0c0a2f000 r--p 00000000 fe:01 2 /bin/program\n";
        assert_eq!(load_address(maps, "/bin/program"), Some(0x55d0_c0a0_0000));
        assert_eq!(load_address(maps, "/bin/other"), None);
    }
}
