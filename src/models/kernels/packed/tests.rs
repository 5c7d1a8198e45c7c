//! Every kind on every level of this machine against sums in double precision, and bit equality.

use half::{bf16, f16};
use proptest::prelude::*;

use super::pack::{Packing, Source, Stored, pack};
use super::{EXACT_MAX, Epilogue, Kind, Norm, Packed};
use crate::kernels::activation::Activation;
use crate::kernels::level::Level;
use crate::kernels::level::tests::on_every_level;
use crate::kernels::pages::Arena;
use crate::kernels::pool::Pool;
use crate::kernels::tests::noise;

fn packed(kind: Kind, weights: &[f32], k: usize) -> Packed {
    let write = |row: usize, out: &mut [f32]| out.copy_from_slice(&weights[row * k..][..k]);
    let source = Source::new(weights.len() / k, Stored::Rows(&write));
    let packed = pack(kind, k, &[source], Packing::Joined, &Arena::default()).unwrap();
    // As if all were large, so that every kernel is tested.
    Packed { exact: false, ..packed }
}

/// The weights as they were kept, read back output by output.
fn kept(packed: &Packed) -> Vec<f32> {
    let mut out = vec![0.0; packed.num_out() * packed.num_in()];
    for (output, row) in out.chunks_exact_mut(packed.num_in()).enumerate() {
        packed.row(output, row);
    }
    out
}

fn product(packed: &Packed, level: Level, x: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / packed.num_in() * packed.num_out()];
    packed.multiply_on(level, x, None, Epilogue::default(), &mut out);
    out
}

/// The product of rows with kept weights in double precision.
fn exact(x: &[f32], weights: &[f32], k: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
    x.chunks_exact(k).flat_map(|x| weights.chunks_exact(k).map(move |w| dot(x, w))).collect()
}

/// How far a product may be off for activations in ±1 and weights in ±1.
fn tolerance(kind: Kind, level: Level, k: usize) -> f64 {
    let rounding = match (kind, level) {
        #[cfg(target_arch = "x86_64")]
        (Kind::Bf16, Level::Avx512Bf16) => 2.0f64.powi(-9),
        #[cfg(target_arch = "aarch64")]
        (Kind::Bf16, Level::NeonBf16) => 2.0f64.powi(-9),
        (Kind::F32 | Kind::F16 | Kind::Bf16, _) => 1e-6,
        _ => 0.5 / 127.0,
    };
    // Roundings are as often up as down: four standard deviations of a sum of k products.
    4.0 * rounding * (k as f64).sqrt() + 1e-6
}

/// Against double precision, and each row alone against all of them together.
fn check(kind: Kind, m: usize, k: usize, n: usize) {
    let x = noise(1, m * k);
    let packed = packed(kind, &noise(2, n * k), k);
    let exact = exact(&x, &kept(&packed), k);
    for level in Level::available() {
        let found = product(&packed, level, &x);
        for (found, exact) in found.iter().zip(&exact) {
            let off = (f64::from(*found) - exact).abs();
            assert!(off < tolerance(kind, level, k), "{kind:?} {level:?} {m} {k} {n}: {found}, not {exact}");
        }
        let alone: Vec<f32> = x.chunks_exact(k).flat_map(|x| product(&packed, level, x)).collect();
        assert!(found == alone, "{kind:?} {level:?} {m} {k} {n}: rows together and alone");
    }
}

#[test]
fn every_kind_on_every_level_is_the_product() {
    for kind in Kind::ALL {
        for m in 1..=14 {
            check(kind, m, 51, 54);
        }
        for (m, k, n) in
            [(70, 300, 131), (1, 4864, 65), (33, 16, 1), (8, 1, 5), (3, 896, 200), (60, 1999, 40)]
        {
            check(kind, m, k, n);
        }
    }
}

#[test]
fn levels_without_a_bf16_product_agree_to_the_last_bits_of_f32() {
    // Integer sums are exact, so levels differ by the rounding of a few multiply-adds.
    let (m, k, n) = (7, 320, 70);
    let x = noise(5, m * k);
    for kind in [Kind::Int8, Kind::Q8, Kind::Q4, Kind::Q4Affine, Kind::F32, Kind::F16] {
        let packed = packed(kind, &noise(6, n * k), k);
        let portable = product(&packed, Level::Portable, &x);
        for level in Level::available() {
            for (found, expected) in product(&packed, level, &x).iter().zip(&portable) {
                assert!((found - expected).abs() < 2e-5, "{kind:?} {level:?}: {found}, not {expected}");
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
#[test]
fn neon_gives_the_bits_of_the_portable_kernels_for_floats() {
    let (m, k, n) = (7, 333, 70);
    let x = noise(5, m * k);
    for kind in [Kind::F32, Kind::F16, Kind::Bf16] {
        let packed = packed(kind, &noise(6, n * k), k);
        let portable = product(&packed, Level::Portable, &x);
        for level in [Level::Neon, Level::NeonDotprod] {
            if Level::available().contains(&level) {
                assert!(product(&packed, level, &x) == portable, "{kind:?} {level:?}");
            }
        }
    }
}

#[test]
fn activations_are_rounded_for_large_matrices_alone() {
    let k = 64;
    let x = noise(3, k);
    let small = Packed { exact: true, ..packed(Kind::Bf16, &noise(4, 40 * k), k) };
    let exact = exact(&x, &kept(&small), k);
    for level in Level::available() {
        for (found, exact) in product(&small, level, &x).iter().zip(&exact) {
            assert!((f64::from(*found) - exact).abs() < 1e-5, "{level:?}: {found}, not {exact}");
        }
    }
    let large = noise(4, EXACT_MAX / k * k + 32 * k);
    let write = |row: usize, out: &mut [f32]| out.copy_from_slice(&large[row * k..][..k]);
    let source = Source::new(large.len() / k, Stored::Rows(&write));
    assert!(!pack(Kind::Bf16, k, &[source], Packing::Joined, &Arena::default()).unwrap().exact);
}

#[test]
fn threads_change_no_bit() {
    let (m, k, n) = (9, 333, 777);
    let x = noise(1, m * k);
    for kind in Kind::ALL {
        let packed = packed(kind, &noise(2, n * k), k);
        let on = |threads| Pool::new(threads).unwrap().install(|| product(&packed, Level::chosen(), &x));
        let one = on(1);
        assert!(one == on(2) && one == on(5), "{kind:?}");
    }
}

#[test]
fn panels_in_parts_change_no_bit() {
    // Rows enough, and inputs enough, for panels to be taken in parts; alone they are not.
    let (m, k, n) = (64, 3000, 33);
    let x = noise(1, m * k);
    for kind in [Kind::F32, Kind::F16, Kind::Bf16] {
        let packed = packed(kind, &noise(2, n * k), k);
        for level in Level::available() {
            let alone: Vec<f32> = x.chunks_exact(k).flat_map(|x| product(&packed, level, x)).collect();
            assert!(product(&packed, level, &x) == alone, "{kind:?} {level:?}");
        }
    }
}

#[test]
fn zeros_large_numbers_and_what_is_no_number_come_through() {
    let (k, n) = (70, 40);
    for kind in Kind::ALL {
        let zeros = packed(kind, &vec![0.0; n * k], k);
        let ones = packed(kind, &vec![1.0; n * k], k);
        for level in Level::available() {
            let at = format!("{kind:?} {level:?}");
            assert!(product(&zeros, level, &noise(1, k)).iter().all(|&x| x == 0.0), "{at}: weights of zero");
            assert!(product(&ones, level, &vec![0.0; k]).iter().all(|&x| x == 0.0), "{at}: inputs of zero");
            let large = product(&ones, level, &vec![1e30; k]);
            assert!(large.iter().all(|x| (x / 7e31 - 1.0).abs() < 0.01), "{at}: {large:?}");
            for bad in [f32::NAN, f32::INFINITY] {
                let mut x = vec![0.5; 2 * k];
                x[k + 3] = bad;
                let found = product(&ones, level, &x);
                assert!(found[..n].iter().all(|x| x.is_finite()), "{at}: the row beside {bad}");
                assert!(found[n..].iter().all(|x| !x.is_finite()), "{at}: the row with {bad}");
            }
        }
    }
}

/// Of equals the first; a NaN is passed over.
fn argmax(outputs: &[f32]) -> (u32, f32) {
    let best = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (outputs.iter().position(|output| *output == best).unwrap() as u32, best)
}

#[test]
fn the_best_output_is_that_of_the_product() {
    let (m, k) = (9, 96);
    let x = noise(1, m * k);
    for kind in Kind::ALL {
        for n in [1, 31, 32, 1000] {
            let packed = packed(kind, &noise(2, n * k), k);
            // Noise alone, and such that all outputs are far below zero, where lanes without an output have zero.
            for bias in [noise(3, n), vec![-1e6; n]] {
                for level in Level::available() {
                    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
                    let mut outputs = vec![0.0; m * n];
                    packed.multiply_on(level, &x, None, epilogue, &mut outputs);
                    let expected: Vec<_> = outputs.chunks_exact(n).map(|row| Some(argmax(row))).collect();
                    let pool = Pool::new(3).unwrap();
                    let found = pool.install(|| packed.best_on(level, &x, None, Some(&bias)));
                    assert!(found == expected, "{kind:?} {level:?} {n}: {found:?}, not {expected:?}");
                }
            }
        }
    }
}

#[test]
fn of_equal_outputs_the_first_is_the_best_and_no_number_is_none() {
    let (k, n) = (64, 500);
    let packed = packed(Kind::F32, &vec![0.0; n * k], k);
    let best = |bias: &[f32]| {
        let pool = Pool::new(2).unwrap();
        pool.install(|| packed.best(&vec![1.0; k], None, Some(bias)))[0]
    };
    let of = |places: &[(usize, f32)], rest: f32| {
        let mut bias = vec![rest; n];
        places.iter().for_each(|(place, output)| bias[*place] = *output);
        best(&bias)
    };
    assert_eq!(of(&[], 0.0), Some((0, 0.0)));
    assert_eq!(of(&[(499, 2.0), (70, 2.0), (33, 1.0)], 0.0), Some((70, 2.0)));
    assert_eq!(of(&[(64, -1.5), (65, -1.5)], -2.0), Some((64, -1.5)));
    assert_eq!(of(&[(200, 0.0), (100, -0.0)], -1.0).map(|(index, _)| index), Some(100), "zeros are equal");
    assert_eq!(of(&[(7, f32::INFINITY), (6, 3e38)], 0.0), Some((7, f32::INFINITY)));
    assert_eq!(of(&[], f32::NEG_INFINITY), Some((0, f32::NEG_INFINITY)));
    for nan in [f32::NAN, -f32::NAN] {
        assert_eq!(of(&[(300, nan), (20, 5.0), (400, 9.0)], 0.0), None);
    }
}

#[test]
fn sources_are_joined_or_paired() {
    on_every_level(|| {
        let (m, k) = (5, 64);
        let x = noise(1, m * k);
        for kind in Kind::ALL {
            let (one, other) = (noise(2, 40 * k), noise(3, 40 * k));
            let write_one = |row: usize, out: &mut [f32]| out.copy_from_slice(&one[row * k..][..k]);
            let write_other = |row: usize, out: &mut [f32]| out.copy_from_slice(&other[row * k..][..k]);
            let sources =
                [Source::new(40, Stored::Rows(&write_one)), Source::new(40, Stored::Rows(&write_other))];
            let level = Level::chosen();
            let first = product(&packed(kind, &one, k), level, &x);
            let second = product(&packed(kind, &other, k), level, &x);

            let mut joined = pack(kind, k, &sources, Packing::Joined, &Arena::default()).unwrap();
            joined.exact = false;
            for (row, out) in product(&joined, level, &x).chunks_exact(80).enumerate() {
                assert_eq!(out[..40], first[row * 40..][..40], "{kind:?}");
                assert_eq!(out[40..], second[row * 40..][..40], "{kind:?}");
            }

            let mut paired = pack(kind, k, &sources, Packing::Paired, &Arena::default()).unwrap();
            paired.exact = false;
            let mut out = vec![f32::NAN; m * 40];
            let (bias, residual) = (noise(4, 80), noise(5, m * 40));
            let gate = Some(Activation::Silu);
            let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual), gate };
            paired.multiply_on(level, &x, None, epilogue, &mut out);
            for (index, found) in out.iter().enumerate() {
                let (gate, up) = (first[index] + bias[index % 40], second[index] + bias[40 + index % 40]);
                let expected = gate / (1.0 + (-gate).exp()) * up + residual[index];
                assert!((found - expected).abs() < 1e-5, "{kind:?}: {found}, not {expected}");
            }
        }
    });
}

#[test]
fn a_norm_before_is_the_norm_and_then_the_product() {
    on_every_level(|| {
        let (m, k, n) = (6, 100, 33);
        let (x, weight) = (noise(1, m * k), noise(2, k));
        let mut normed = vec![0.0; m * k];
        crate::kernels::norm::rms_norm(&x, &weight, 1e-5, &mut normed);
        for kind in Kind::ALL {
            let packed = packed(kind, &noise(3, n * k), k);
            let mut out = vec![f32::NAN; m * n];
            let norm = Norm { weight: &weight, epsilon: 1e-5 };
            packed.multiply(&x, Some(norm), Epilogue::default(), &mut out);
            assert_eq!(out, product(&packed, Level::chosen(), &normed), "{kind:?}");
        }
    });
}

/// Bytes of a tensor as a file has them.
fn stored<const N: usize>(x: &[f32], narrow: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    x.iter().flat_map(|&x| narrow(x)).collect()
}

#[test]
fn files_are_packed_as_they_are() {
    for (n, k) in [(70, 129), (33, 64), (1, 1)] {
        let x = noise(1, n * k);
        let (single, half, brain) = (
            stored(&x, f32::to_le_bytes),
            stored(&x, |x| f16::from_f32(x).to_le_bytes()),
            stored(&x, |x| bf16::from_f32(x).to_le_bytes()),
        );
        for (kind, of, expected) in [
            (Kind::F32, Stored::F32(&single), x.clone()),
            (Kind::F16, Stored::F16(&half), x.iter().map(|&x| f16::from_f32(x).to_f32()).collect()),
            (Kind::Bf16, Stored::Bf16(&brain), x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()),
            (Kind::Bf16, Stored::F32(&single), x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()),
        ] {
            let packed = pack(kind, k, &[Source::new(n, of)], Packing::Joined, &Arena::default()).unwrap();
            assert_eq!(kept(&packed), expected, "{kind:?}");
        }
        let reversed = |row: usize| n - 1 - row;
        let source = Source { order: Some(&reversed), ..Source::new(n, Stored::Bf16(&brain)) };
        let packed = pack(Kind::Bf16, k, &[source], Packing::Joined, &Arena::default()).unwrap();
        let mut last = vec![0.0; k];
        packed.row(n - 1, &mut last);
        assert!(last.iter().zip(&x).all(|(found, x)| *found == bf16::from_f32(*x).to_f32()));
    }
}

#[test]
fn blocks_of_ggml_keep_every_bit() {
    let half = |x: f32| f16::from_f32(x).to_le_bytes();
    let (n, k) = (35, 64);
    let bytes =
        |len: usize, seed| noise(seed, len).iter().map(|x| (x * 127.0) as i8 as u8).collect::<Vec<_>>();
    let scales = noise(9, n * k / 32);

    let mut q8_0 = Vec::new();
    let mut expected = Vec::new();
    for (block, scale) in bytes(n * k, 1).chunks_exact(32).zip(&scales) {
        q8_0.extend(half(*scale));
        q8_0.extend(block);
        expected.extend(block.iter().map(|&q| f16::from_f32(*scale).to_f32() * f32::from(q as i8)));
    }
    let source = Source::new(n, Stored::Q8_0(&q8_0));
    let packed = pack(Kind::Q8, k, &[source], Packing::Joined, &Arena::default()).unwrap();
    assert_eq!(kept(&packed), expected);
    let widened = pack(Kind::F32, k, &[source], Packing::Joined, &Arena::default()).unwrap();
    assert_eq!(kept(&widened), expected, "as another kind, through f32");

    let (mut q4_0, mut q4_1) = (Vec::new(), Vec::new());
    let (mut expected_0, mut expected_1) = (Vec::new(), Vec::new());
    for (block, scale) in bytes(n * k / 2, 2).chunks_exact(16).zip(&scales) {
        q4_0.extend(half(*scale));
        q4_0.extend(block);
        q4_1.extend(half(*scale));
        q4_1.extend(half(-0.25));
        q4_1.extend(block);
        let nibbles = block.iter().map(|byte| byte & 15).chain(block.iter().map(|byte| byte >> 4));
        for nibble in nibbles {
            let (scale, q) = (f16::from_f32(*scale).to_f32(), f32::from(nibble));
            expected_0.push(scale * (q - 8.0));
            expected_1.push(scale * q - 0.25);
        }
    }
    let source = Source::new(n, Stored::Q4_0(&q4_0));
    let packed = pack(Kind::Q4, k, &[source], Packing::Joined, &Arena::default()).unwrap();
    assert_eq!(kept(&packed), expected_0);
    let source = Source::new(n, Stored::Q4_1(&q4_1));
    let packed = pack(Kind::Q4Affine, k, &[source], Packing::Joined, &Arena::default()).unwrap();
    assert_eq!(kept(&packed), expected_1);
}

#[test]
fn super_blocks_are_read_as_candle_reads_them() {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    let (n, k) = (33, 512);
    let x = Tensor::from_vec(noise(7, n * k), (n, k), &Device::Cpu).unwrap();
    for (dtype, kind, loss) in [(GgmlDType::Q4K, Kind::Q4Affine, 2e-3), (GgmlDType::Q8_0, Kind::Q8, 0.0)] {
        let quantized = QTensor::quantize(&x, dtype).unwrap();
        let expected: Vec<f32> =
            quantized.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let data = quantized.data().unwrap();
        let of = if kind == Kind::Q8 { Stored::Q8_0(&data) } else { Stored::Q4K(&data) };
        let source = Source::new(n, of);
        let wide = pack(Kind::F32, k, &[source], Packing::Joined, &Arena::default()).unwrap();
        assert_eq!(kept(&wide), expected, "{dtype:?} in f32");
        let packed = pack(kind, k, &[source], Packing::Joined, &Arena::default()).unwrap();
        for (found, expected) in kept(&packed).iter().zip(&expected) {
            assert!((found - expected).abs() <= loss, "{dtype:?}: {found}, not {expected}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_shape(kind in 0usize..7, m in 1usize..70, k in 1usize..200, n in 1usize..90) {
        check(Kind::ALL[kind], m, k, n);
    }
}

#[test]
fn bytes_are_rounded_to_the_nearest_and_ties_to_even() {
    let halves = (-254..=254).map(|halves| halves as f32 / 2.0);
    let near_halves = halves.clone().flat_map(|half| [half.next_up(), half.next_down()]);
    for x in halves.chain(near_halves) {
        assert_eq!(f32::from(super::blocks::to_int8(x, 1.0)), x.round_ties_even(), "{x}");
    }
}
