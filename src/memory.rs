//! How much memory is free for us: what the machine has, or what our container is allowed.

/// Taken where the system does not say.
const FALLBACK_BYTES: u64 = 2 << 30;

/// Bytes that can be used without pushing anything out.
pub fn available_bytes() -> u64 {
    let read = |path| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").as_deref().and_then(meminfo_available);
    let container = match (read("/sys/fs/cgroup/memory.max"), read("/sys/fs/cgroup/memory.current")) {
        (Some(max), Some(current)) => container_available(&max, &current),
        _ => None,
    };
    [machine, container].into_iter().flatten().min().unwrap_or(FALLBACK_BYTES)
}

/// The line `MemAvailable: 123 kB` of `/proc/meminfo` (proc(5)).
fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// What a control group (version 2) has left; `None` without a limit. Page cache counts as used, so this is cautious.
fn container_available(max: &str, current: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    Some(max.saturating_sub(current))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_own_words_are_read() {
        let text = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:   8000 kB\n";
        assert_eq!(meminfo_available(text), Some(8000 << 10));
        assert_eq!(meminfo_available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_container_without_a_limit_has_none() {
        assert_eq!(container_available("max\n", "5\n"), None);
        assert_eq!(container_available("100\n", "40\n"), Some(60));
        assert_eq!(container_available("40\n", "100\n"), Some(0));
    }
}
