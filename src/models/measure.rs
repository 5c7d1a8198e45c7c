//! Times of kernels alone, for `benches/kernels.rs`, and what the machine could give them: kernels are private to this room.

mod limits;

use std::time::Instant;

use crate::kernels::packed::pack::{Packing, Source, Stored, pack};
use crate::kernels::packed::{Epilogue, Kind, Packed};
use crate::kernels::pages::Arena;
use crate::kernels::pool::Pool;

pub use limits::{Limits, limits};

/// How long one product took.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What the weights are kept as.
    pub kind: String,
    /// Rows of activations.
    pub rows: usize,
    /// The middle of all runs.
    pub seconds: f64,
    /// Bytes of weights.
    pub bytes: usize,
    /// Multiply-adds.
    pub products: usize,
}

/// Times products of `n` outputs by `k` inputs on all cores, for each kind of weights and number of rows; several
/// matrices of together `total_bytes` at least take turns.
///
/// # Panics
/// If the system refuses memory or threads.
pub fn kernels(n: usize, k: usize, total_bytes: usize, rows: &[usize], num_runs: usize) -> Vec<Kernel> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(threads).expect("the threads start");
    let mut measured = Vec::new();
    for kind in [Kind::F32, Kind::F16, Kind::Bf16, Kind::Int8, Kind::Q8, Kind::Q4, Kind::Q4Affine] {
        let copies = total_bytes.div_ceil(kind.panel_bytes(k) * n.div_ceil(32)).max(1);
        let matrices: Vec<Packed> = pool.install(|| (0..copies).map(|_| matrix(kind, n, k)).collect());
        let bytes = matrices[0].num_bytes();
        for &rows in rows {
            let x: Vec<f32> = (0..rows * k).map(|index| (index % 89) as f32 / 89.0 - 0.5).collect();
            let mut out = vec![0.0; rows * n];
            let mut turn = matrices.iter().cycle();
            let mut seconds: Vec<f64> = (0..num_runs + 1)
                .map(|_| {
                    let matrix = turn.next().expect("there is one matrix at least");
                    let started = Instant::now();
                    pool.install(|| matrix.multiply(&x, None, Epilogue::default(), &mut out));
                    started.elapsed().as_secs_f64()
                })
                .skip(1)
                .collect();
            seconds.sort_by(f64::total_cmp);
            let seconds = seconds[seconds.len() / 2];
            measured.push(Kernel { kind: format!("{kind:?}"), rows, seconds, bytes, products: rows * n * k });
        }
    }
    measured
}

fn matrix(kind: Kind, n: usize, k: usize) -> Packed {
    let write = |row: usize, out: &mut [f32]| {
        for (index, out) in out.iter_mut().enumerate() {
            *out = ((row * 31 + index) % 97) as f32 / 97.0 - 0.5;
        }
    };
    let source = Source { rows: n, stored: Stored::Rows(&write), order: None };
    pack(kind, k, &[source], Packing::Joined, &Arena::default()).expect("the memory can be had")
}
