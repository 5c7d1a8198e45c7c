//! Packing: rows as a file has them → panels.

use std::io;
use std::ops::Range;

use half::{bf16, f16};

use super::blocks::{self, QUANTS};
use super::{EXACT_MAX, GROUP, Kind, PANEL, Packed, Panel};
use crate::kernels::pages::{Arena, HUGE, Region};
use crate::kernels::pool::{num_threads, share};
use crate::kernels::rows::SharedOutput;

/// Most pieces that are packed in one region of the thread pool: each is what begins in one huge page. So few that a model
/// that is serving meanwhile gets its turns, also where a file comes from a slow disk.
const REGION_PIECES_MAX: usize = 16;

/// How the rows of a matrix are stored: row-major, little-endian, as in a file.
#[derive(Clone, Copy)]
pub(crate) enum Stored<'a> {
    /// 32-bit floats.
    F32(&'a [u8]),
    /// Half precision.
    F16(&'a [u8]),
    /// Brain floats.
    Bf16(&'a [u8]),
    /// ggml's Q8_0 blocks: 32 weights, a scale in f16 and 32 signed bytes.
    Q8_0(&'a [u8]),
    /// ggml's Q4_0 blocks: 32 weights, a scale in f16 and 16 bytes of two.
    Q4_0(&'a [u8]),
    /// ggml's Q4_1 blocks: as Q4_0 with an offset in f16 after the scale.
    Q4_1(&'a [u8]),
    /// ggml's Q4_K blocks: 256 weights; scales and offsets of each 32 in six bits.
    Q4K(&'a [u8]),
    /// Anything else: a function that writes a row in `f32`. Called once for each row, from several threads.
    Rows(&'a (dyn Fn(usize, &mut [f32]) + Sync)),
}

/// A matrix to be packed: `rows` outputs over the inputs that all sources share.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// Number of outputs.
    pub(crate) rows: usize,
    /// The rows.
    pub(crate) stored: Stored<'a>,
    /// Output → the row that holds it, where a file has them in another order (llama.cpp's for rotated heads).
    pub(crate) order: Option<&'a (dyn Fn(usize) -> usize + Sync)>,
}

impl<'a> Source<'a> {
    /// Rows in their own order.
    #[cfg(test)]
    pub(crate) fn new(rows: usize, stored: Stored<'a>) -> Self {
        Self { rows, stored, order: None }
    }
}

/// How the outputs of several sources are laid together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// One after the other: a product gives all outputs of the first, then all of the second, …
    Joined,
    /// Panel by panel in turn, of two sources of as many outputs: a product gives pairs to
    /// [`Epilogue::gate`](super::Epilogue).
    Paired,
}

/// Packs matrices over `k` inputs into one. Shares the work over the pool that the caller is in. Fails if the system
/// refuses the memory.
///
/// # Panics
/// If the bytes of a source are not as many as its shape asks for, or blocks do not fill rows.
pub(crate) fn pack(
    kind: Kind,
    k: usize,
    sources: &[Source<'_>],
    packing: Packing,
    arena: &Arena,
) -> io::Result<Packed> {
    pack_in_regions(kind, k, sources, packing, arena, &|| {})
}

/// [`pack`], and calls `after_region` each time when a few megabytes are packed: the bytes that those were read from are
/// not read again soon.
pub(crate) fn pack_in_regions(
    kind: Kind,
    k: usize,
    sources: &[Source<'_>],
    packing: Packing,
    arena: &Arena,
    after_region: &dyn Fn(),
) -> io::Result<Packed> {
    for source in sources {
        check(source, k);
    }
    let paired = packing == Packing::Paired;
    assert!(!paired || (sources.len() == 2 && sources[0].rows == sources[1].rows), "pairs are of two alike");
    let mut panels: Vec<Panel> = Vec::new();
    for (source, Source { rows, .. }) in sources.iter().enumerate() {
        panels.extend((0..*rows).step_by(PANEL).map(|first| Panel {
            source,
            first,
            width: PANEL.min(rows - first),
        }));
    }
    if paired {
        panels.sort_by_key(|panel| (panel.first, panel.source));
    }
    let panel_bytes = kind.panel_bytes(k);
    let mut memory = arena.take(panels.len() * panel_bytes)?;
    fill(kind, k, sources, &panels, &mut memory, after_region);
    let outputs: Vec<usize> = sources.iter().map(|source| source.rows).collect();
    let exact = outputs.iter().sum::<usize>() * k <= EXACT_MAX;
    Ok(Packed { kind, k, panels, outputs, paired, exact, memory })
}

fn fill(
    kind: Kind,
    k: usize,
    sources: &[Source<'_>],
    panels: &[Panel],
    memory: &mut Region,
    after_region: &dyn Fn(),
) {
    let panel_bytes = kind.panel_bytes(k);
    let pieces = pieces(memory.as_slice().as_ptr() as usize, panel_bytes, panels.len());
    let memory = SharedOutput::new(memory.as_mut_slice());
    for region in pieces.chunks(num_threads().min(REGION_PIECES_MAX)) {
        share(region.len(), 1, |range| {
            let mut packer = Packer::new(kind, k);
            for index in region[range].iter().cloned().flatten() {
                // SAFETY: each panel is packed by the one thread that was given the piece that it is in.
                let bytes = unsafe { memory.slice(index * panel_bytes, panel_bytes) };
                packer.pack(&sources[panels[index].source], panels[index], bytes);
            }
        });
        after_region();
    }
}

/// Panels, cut where one begins in another huge page than the one before. The first write to a page has the system clear
/// it, and two threads that are the first at once have it cleared twice, one after the other where memory is dear.
fn pieces(start: usize, panel_bytes: usize, num_panels: usize) -> Vec<Range<usize>> {
    let page_of = |panel: usize| (start + panel * panel_bytes) / HUGE;
    let mut pieces = Vec::new();
    let mut first = 0;
    for next in 1..=num_panels {
        if next == num_panels || page_of(next) != page_of(first) {
            pieces.push(first..next);
            first = next;
        }
    }
    pieces
}

/// A source is as long as it says.
fn check(source: &Source<'_>, k: usize) {
    let (bytes, row_bytes) = match source.stored {
        Stored::F32(bytes) => (bytes, k * 4),
        Stored::F16(bytes) | Stored::Bf16(bytes) => (bytes, k * 2),
        Stored::Q8_0(bytes) => (bytes, blocks::row_bytes(k, QUANTS, blocks::Q8_0_BYTES)),
        Stored::Q4_0(bytes) => (bytes, blocks::row_bytes(k, QUANTS, blocks::Q4_0_BYTES)),
        Stored::Q4_1(bytes) => (bytes, blocks::row_bytes(k, QUANTS, blocks::Q4_1_BYTES)),
        Stored::Q4K(bytes) => (bytes, blocks::row_bytes(k, blocks::K_QUANTS, blocks::Q4_K_BYTES)),
        Stored::Rows(_) => return,
    };
    assert!(
        bytes.len() == source.rows * row_bytes,
        "{} rows of {row_bytes} bytes, not {} bytes",
        source.rows,
        bytes.len()
    );
}

/// Packs panels, with room for a row.
struct Packer {
    kind: Kind,
    k: usize,
    /// A row in `f32`.
    row: Vec<f32>,
    /// A row in groups of the kind's.
    groups: Vec<blocks::Group>,
}

impl Packer {
    fn new(kind: Kind, k: usize) -> Self {
        Self { kind, k, row: vec![0.0; k.next_multiple_of(GROUP)], groups: Vec::new() }
    }

    fn pack(&mut self, source: &Source<'_>, panel: Panel, out: &mut [u8]) {
        let row_of = |lane: usize| source.order.map_or(panel.first + lane, |order| order(panel.first + lane));
        if let (Kind::Bf16, Stored::Bf16(bytes)) = (self.kind, source.stored) {
            return pack_bf16(bytes, self.k, panel.width, row_of, out);
        }
        if matches!(self.kind, Kind::Q8 | Kind::Q4 | Kind::Q4Affine) {
            // Lanes without an output: quants of zero, by no scale.
            let empty = blocks::Group::zero(self.kind);
            for step in out.chunks_exact_mut(self.kind.step_bytes()) {
                (panel.width..PANEL).for_each(|lane| empty.put(self.kind, lane, step));
            }
        }
        if self.kind == Kind::Int8 {
            out.fill(128);
            let tail = out.len() - PANEL * 4;
            out[tail..].fill(0);
        }
        for lane in 0..panel.width {
            self.pack_lane(source.stored, row_of(lane), lane, out);
        }
    }

    fn pack_lane(&mut self, stored: Stored<'_>, row: usize, lane: usize, out: &mut [u8]) {
        let step_bytes = self.kind.step_bytes();
        match self.kind {
            Kind::Q8 | Kind::Q4 | Kind::Q4Affine => {
                self.groups.clear();
                if !blocks::take_row(self.kind, stored, row, self.k, &mut self.groups) {
                    self.decode(stored, row);
                    let groups = self.row.chunks_exact(GROUP).map(|x| blocks::Group::quantize(self.kind, x));
                    self.groups.extend(groups);
                }
                for (step, group) in out.chunks_exact_mut(step_bytes).zip(&self.groups) {
                    group.put(self.kind, lane, step);
                }
            }
            Kind::Int8 => {
                self.decode(stored, row);
                let (scale, inverse) = blocks::int8_scale(&self.row);
                for (step, x) in out.chunks_exact_mut(step_bytes).zip(self.row[..self.k].chunks(4)) {
                    for (i, x) in x.iter().enumerate() {
                        step[lane * 4 + i] = blocks::to_int8(*x, inverse).wrapping_add(-128) as u8;
                    }
                }
                let tail = out.len() - PANEL * 4 + lane * 4;
                out[tail..tail + 4].copy_from_slice(&scale.to_le_bytes());
            }
            Kind::F32 | Kind::F16 | Kind::Bf16 => {
                self.decode(stored, row);
                let kind = self.kind;
                let steps = out.chunks_exact_mut(step_bytes).zip(self.row[..self.k].chunks(kind.step()));
                for (step, x) in steps {
                    for (i, &x) in x.iter().enumerate() {
                        match kind {
                            Kind::F32 => step[lane * 4..][..4].copy_from_slice(&x.to_le_bytes()),
                            Kind::F16 => {
                                step[lane * 2..][..2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
                            }
                            _ => step[lane * 4 + i * 2..][..2]
                                .copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
                        }
                    }
                }
            }
        }
    }

    /// A row into `self.row`, in `f32`.
    fn decode(&mut self, stored: Stored<'_>, row: usize) {
        let out = &mut self.row[..self.k];
        let k = self.k;
        match stored {
            Stored::F32(bytes) => widen(&bytes[row * k * 4..], out, f32::from_le_bytes),
            Stored::F16(bytes) => {
                widen(&bytes[row * k * 2..], out, |bytes| f16::from_le_bytes(bytes).to_f32());
            }
            Stored::Bf16(bytes) => {
                widen(&bytes[row * k * 2..], out, |bytes| bf16::from_le_bytes(bytes).to_f32());
            }
            Stored::Rows(write) => write(row, out),
            Stored::Q8_0(_) | Stored::Q4_0(_) | Stored::Q4_1(_) | Stored::Q4K(_) => {
                blocks::decode_row(stored, row, out);
            }
        }
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    out.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(out, bytes)| *out = convert(*bytes));
}

/// The usual case, moved two weights at a time, a stretch of `k` after the other so that what is written stays near.
fn pack_bf16(bytes: &[u8], k: usize, width: usize, row_of: impl Fn(usize) -> usize, out: &mut [u8]) {
    /// Steps of a stretch: 8 KiB of a panel.
    const STRETCH: usize = 64;
    let step_bytes = Kind::Bf16.step_bytes();
    for (stretch, out) in out.chunks_mut(STRETCH * step_bytes).enumerate() {
        for lane in 0..width {
            let row = &bytes[row_of(lane) * k * 2..][..k * 2];
            let row = &row[stretch * STRETCH * 4..];
            let (pairs, rest) = row.as_chunks::<4>();
            let mut steps = out.chunks_exact_mut(step_bytes);
            for (pair, step) in pairs.iter().zip(steps.by_ref()) {
                step[lane * 4..][..4].copy_from_slice(pair);
            }
            if let ([low, high], Some(step)) = (rest, steps.next()) {
                step[lane * 4..][..4].copy_from_slice(&[*low, *high, 0, 0]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_begin_in_huge_pages_of_their_own_and_leave_no_panel_out() {
        for (start, panel_bytes, num_panels) in
            [(0, 57 << 10, 1000), (HUGE / 2, 57 << 10, 77), (128, 3 * HUGE, 5), (0, 64, 1)]
        {
            let pieces = pieces(start, panel_bytes, num_panels);
            assert_eq!(
                pieces.iter().cloned().flatten().collect::<Vec<_>>(),
                (0..num_panels).collect::<Vec<_>>()
            );
            let pages: Vec<_> =
                pieces.iter().map(|piece| (start + piece.start * panel_bytes) / HUGE).collect();
            assert!(pages.windows(2).all(|pair| pair[0] < pair[1]), "{pages:?}");
        }
    }
}
