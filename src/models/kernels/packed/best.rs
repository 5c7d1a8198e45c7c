//! The largest output of each row, found while outputs are computed: where nothing else is asked of a head, its logits need
//! not pass through memory.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::PANEL;
use crate::kernels::lanes::{Kernel, Lanes, dispatch};

/// The largest output of a row so far, for threads that each look at some of the outputs. Of equals the first counts,
/// whoever sees it first.
///
/// The upper half is the output in an order of whole numbers, the lower the complement of its index: the larger of two is
/// the one to keep, so that they may come in any order.
#[derive(Debug, Default)]
pub(super) struct Best(AtomicU64);

/// The largest output of a row: which, and what it is. `None` for a row with an output that is no number.
pub(crate) type BestOutput = Option<(u32, f32)>;

/// What outputs that are no numbers leave: more than any output.
const NO_NUMBER: u64 = u64::MAX;

impl Best {
    /// Looks at the first `width` sums of a panel, whose first output is `first`.
    #[inline]
    pub(super) fn see(&self, sums: &[f32; PANEL], bias: Option<&[f32]>, first: usize, width: usize) {
        dispatch(See { best: self, sums, bias, first, width });
    }

    /// Which output it is, and what it is; `None` if one was no number, or there was none.
    pub(super) fn into_output(self) -> BestOutput {
        match self.0.into_inner() {
            0 | NO_NUMBER => None,
            best => Some((!(best as u32), from_order((best >> 32) as u32 as i32 ^ i32::MIN))),
        }
    }
}

struct See<'a> {
    best: &'a Best,
    sums: &'a [f32; PANEL],
    bias: Option<&'a [f32]>,
    first: usize,
    width: usize,
}

impl Kernel for See<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let mut outputs = *self.sums;
        super::product::add(&mut outputs, self.bias);
        if self.width < PANEL {
            outputs[self.width..].fill(f32::NEG_INFINITY);
        }
        let (mut orders, mut largest, mut size) = ([0; PANEL], i32::MIN, 0);
        for (order, output) in orders.iter_mut().zip(&outputs) {
            // Zeros are equal, whatever their sign.
            *order = to_order(output + 0.0);
            largest = largest.max(*order);
            size = size.max(output.abs().to_bits());
        }
        if size > f32::INFINITY.to_bits() {
            self.best.0.store(NO_NUMBER, Relaxed);
            return;
        }
        let upper = u64::from((largest ^ i32::MIN) as u32) << 32;
        let before = self.best.0.load(Relaxed);
        if upper < before & !u64::from(u32::MAX) {
            return;
        }
        let lane = orders.iter().position(|order| *order == largest).unwrap_or(0);
        let index = (self.first.wrapping_add(lane)) as u32;
        self.best.0.fetch_max(upper | u64::from(!index), Relaxed);
    }
}

/// Numbers as whole numbers of the same order.
#[inline(always)]
fn to_order(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ (bits >> 31) & i32::MAX
}

/// The number of a place in the order.
fn from_order(order: i32) -> f32 {
    f32::from_bits((order ^ (order >> 31) & i32::MAX) as u32)
}
