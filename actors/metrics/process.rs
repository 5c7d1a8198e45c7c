//! What is told of the process, under the names that Prometheus' own clients use.

use prometheus::Registry;

use super::maker::Maker;

/// Has the process told. What it uses is read from the system at each question, which Linux alone answers.
pub fn tell_process(registry: &Registry, make: &Maker<'_>) {
    let build = make.table("candlewick_build_info", "Which build this is; the value is 1.", &["version"]);
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
    #[cfg(target_os = "linux")]
    {
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("nobody else tells of the process");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = registry;
}
