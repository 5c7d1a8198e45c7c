//! How much memory there is for us, and how much of it is used: what the machine has, what our container and its parents are
//! allowed, what the shell that started us allows, and what our own settings do. Everything that is read here is Linux's; where
//! there is no such file, that limit is not known and nothing is refused for it.

use std::path::{Path, PathBuf};

use candlewick_actors::{Memory, MemoryUse};

use crate::allocator::give_back;

/// Taken where the system does not say.
const FALLBACK_BYTES: u64 = 2 << 30;

/// From here on, version 1 of control groups means "no limit".
const NO_LIMIT_BYTES: u64 = 1 << 62;

/// The limits that hold for this process.
#[derive(Debug, Clone)]
pub struct SystemMemory {
    /// `/proc`.
    proc: PathBuf,
    /// `/sys/fs/cgroup`.
    cgroup: PathBuf,
    /// Our own limit on what is resident.
    limit_bytes: Option<u64>,
}

impl SystemMemory {
    /// This process on this machine, which may itself be told to keep below a limit.
    pub fn new(limit_bytes: Option<u64>) -> Self {
        Self { proc: "/proc".into(), cgroup: "/sys/fs/cgroup".into(), limit_bytes }
    }

    /// Bytes that can be used without pushing anything out.
    pub fn available_bytes(&self) -> u64 {
        self.read().iter().map(MemoryUse::free_bytes).min().unwrap_or(FALLBACK_BYTES)
    }

    /// What is ours and what is left: others may use the rest of the machine.
    fn machine(&self, resident: Option<u64>) -> Option<MemoryUse> {
        let available = kilobytes(&read(&self.proc.join("meminfo"))?, "MemAvailable:")?;
        let used_bytes = resident.unwrap_or(0);
        Some(MemoryUse { whose: "this machine", limit_bytes: used_bytes + available, used_bytes })
    }

    fn own(&self, resident: Option<u64>) -> Option<MemoryUse> {
        Some(MemoryUse { whose: "--memory-limit", limit_bytes: self.limit_bytes?, used_bytes: resident? })
    }

    /// The limits of `ulimit -v` and `ulimit -d`, which count what is reserved and not only what is resident.
    fn shell(&self, status: &str) -> Vec<MemoryUse> {
        let limits = read(&self.proc.join("self/limits")).unwrap_or_default();
        let rows = [
            ("Max address space", "VmSize:", "the limit on addresses (ulimit -v)"),
            ("Max data size", "VmData:", "the limit on data (ulimit -d)"),
        ];
        let row = |(row, field, whose): (&str, &str, &'static str)| {
            let limit = limits.lines().find_map(|line| line.strip_prefix(row))?.split_whitespace().next()?;
            Some(MemoryUse { whose, limit_bytes: limit.parse().ok()?, used_bytes: kilobytes(status, field)? })
        };
        rows.into_iter().filter_map(row).collect()
    }

    /// The limits of our control group and of those that it is in, of either version.
    fn containers(&self) -> Vec<MemoryUse> {
        let groups = read(&self.proc.join("self/cgroup")).unwrap_or_default();
        let mut uses = Vec::new();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let (root, files) = match controllers {
                "" => (self.cgroup.clone(), &VERSION_2),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    (self.cgroup.join("memory"), &VERSION_1)
                }
                _ => continue,
            };
            // Within a container the path may be one of the host's; its own group is then the root that it sees.
            for path in Path::new(path.trim_start_matches('/')).ancestors() {
                uses.extend(files.read(&root.join(path)));
            }
        }
        uses
    }
}

impl Memory for SystemMemory {
    fn read(&self) -> Vec<MemoryUse> {
        let status = read(&self.proc.join("self/status")).unwrap_or_default();
        let resident = kilobytes(&status, "VmRSS:");
        let mut uses = self.containers();
        uses.extend(self.shell(&status));
        uses.extend(self.own(resident));
        uses.extend(self.machine(resident));
        uses
    }

    fn give_back(&self) {
        give_back();
    }
}

/// How one version of control groups names its files.
struct GroupFiles {
    limit: &'static str,
    usage: &'static str,
    /// The fields of `memory.stat` that count pages of files: they go when room is needed.
    reclaimable: [&'static str; 2],
}

const VERSION_1: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: ["total_inactive_file ", "total_active_file "],
};
const VERSION_2: GroupFiles = GroupFiles {
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: ["inactive_file ", "active_file "],
};

impl GroupFiles {
    /// The limit of a group and its use; `None` without a limit.
    fn read(&self, group: &Path) -> Option<MemoryUse> {
        let bytes = |name: &str| read(&group.join(name))?.trim().parse::<u64>().ok();
        let limit_bytes = bytes(self.limit).filter(|limit| *limit < NO_LIMIT_BYTES)?;
        let stat = read(&group.join("memory.stat")).unwrap_or_default();
        let field = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
        let reclaimable: u64 = self.reclaimable.into_iter().filter_map(field).sum();
        let used_bytes = bytes(self.usage)?.saturating_sub(reclaimable);
        Some(MemoryUse { whose: "the container", limit_bytes, used_bytes })
    }
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// A field like `MemAvailable: 123 kB` of a file of `/proc` (proc(5)), in bytes.
fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system of these files, below one folder.
    fn system(files: &[(&str, &str)], limit_bytes: Option<u64>) -> (tempfile::TempDir, SystemMemory) {
        let root = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("within the folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let memory =
            SystemMemory { proc: root.path().join("proc"), cgroup: root.path().join("cgroup"), limit_bytes };
        (root, memory)
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], limit_bytes: Option<u64>, expected: &[(&str, u64, u64)]) {
        let (_root, memory) = system(files, limit_bytes);
        let uses = memory.read();
        let found: Vec<_> = uses.iter().map(|one| (one.whose, one.limit_bytes, one.used_bytes)).collect();
        assert_eq!(found, expected);
    }

    const STATUS: (&str, &str) = ("proc/self/status", "VmSize:  4000 kB\nVmRSS:  1000 kB\nVmData: 3000 kB\n");

    #[test]
    fn of_the_machine_what_is_ours_and_what_is_left_counts() {
        let meminfo = ("proc/meminfo", "MemTotal: 16000 kB\nMemFree: 1 kB\nMemAvailable:   8000 kB\n");
        check(&[STATUS, meminfo], None, &[("this machine", 9000 << 10, 1000 << 10)]);
        let (_root, memory) = system(&[STATUS, meminfo], Some(1500 << 10));
        assert_eq!(memory.available_bytes(), 500 << 10, "our own limit is the tightest");
    }

    #[test]
    fn a_container_is_held_to_its_own_limit_and_to_those_around_it() {
        let files = [
            ("proc/self/cgroup", "0::/outer/inner\n"),
            ("cgroup/outer/inner/memory.max", "max\n"),
            ("cgroup/outer/inner/memory.current", "7\n"),
            ("cgroup/outer/memory.max", "100\n"),
            ("cgroup/outer/memory.current", "60\n"),
            ("cgroup/outer/memory.stat", "anon 1\ninactive_file 15\nactive_file 5\n"),
        ];
        check(&files, None, &[("the container", 100, 40)]);
    }

    #[test]
    fn groups_of_the_first_version_are_read_also_where_the_path_is_the_host_s() {
        let files = [
            ("proc/self/cgroup", "5:cpu:/docker/c\n4:memory:/docker/c\n0::/\n"),
            ("cgroup/memory/memory.limit_in_bytes", "200\n"),
            ("cgroup/memory/memory.usage_in_bytes", "150\n"),
            ("cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 30\ntotal_active_file 20\n"),
        ];
        check(&files, None, &[("the container", 200, 100)]);
        let endless = [files[0], ("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"), files[2]];
        check(&endless, None, &[]);
    }

    #[test]
    fn the_shell_s_limits_are_on_what_is_reserved() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax data size             unlimited            unlimited  bytes\n\
                      Max address space         8192000              8192000    bytes\n";
        let address = ("the limit on addresses (ulimit -v)", 8_192_000, 4000 << 10);
        check(&[STATUS, ("proc/self/limits", limits)], None, &[address]);
    }

    #[test]
    fn where_nothing_is_known_a_guess_is_made() {
        let (_root, memory) = system(&[], Some(7));
        assert_eq!(memory.read(), []);
        assert_eq!(memory.available_bytes(), FALLBACK_BYTES);
    }
}
