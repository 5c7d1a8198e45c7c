//! The program from outside: real servers on free ports, raw bytes, real clients. One test binary, so that it links once.

mod auth;
mod cancel;
mod chat;
mod compatibility;
mod completions;
mod download;
mod drafting;
mod edges;
mod encoders;
mod fault_matrix;
mod faults;
mod fuzz;
mod gguf;
mod hostile;
#[path = "../../src/hub/tests/support/hub.rs"]
mod hub;
mod kernels;
mod live_config;
mod loading;
mod logs;
mod memory;
mod metrics;
mod overload;
mod reliability;
mod replay;
mod responses;
mod sdk;
mod secrets;
mod service;
mod shape;
mod signals;
mod soak;
mod support;
mod telemetry;
mod waiters;
