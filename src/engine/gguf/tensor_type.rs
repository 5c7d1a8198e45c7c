//! The types that tensors are stored in: plain numbers, and ggml's blocks of quantised ones.

use std::fmt;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum TensorType {
    /// 32-bit floats.
    F32,
    /// Half precision.
    F16,
    /// Brain floats.
    BF16,
    /// 4 bits, a scale for 32.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32.
    Q4_1,
    /// 5 bits, a scale for 32.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32.
    Q5_1,
    /// 8 bits, a scale for 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minima for 16.
    Q2_K,
    /// 3 bits, 6-bit scales for 16.
    Q3_K,
    /// 4 bits, 6-bit scales and minima for 32.
    Q4_K,
    /// 5 bits, 6-bit scales and minima for 32.
    Q5_K,
    /// 6 bits, 8-bit scales for 16.
    Q6_K,
    /// 4 bits into a table of 16 values, a scale for 32.
    IQ4_NL,
    /// The same with 6-bit scales for 32.
    IQ4_XS,
    /// A type of ggml that is not read, by its number.
    Other(u32),
}

impl TensorType {
    /// The types that are read, for error messages.
    pub const READ: &'static str =
        "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS";

    /// The type that ggml numbers so.
    pub(super) fn of_id(id: u32) -> Self {
        match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2_K,
            11 => Self::Q3_K,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            20 => Self::IQ4_NL,
            23 => Self::IQ4_XS,
            30 => Self::BF16,
            other => Self::Other(other),
        }
    }

    /// Elements of a block, and the bytes it takes; `None` for types that are not read.
    pub fn block(self) -> Option<(usize, usize)> {
        Some(match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 | Self::IQ4_NL => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2_K => (256, 84),
            Self::Q3_K => (256, 110),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
            Self::IQ4_XS => (256, 136),
            Self::Other(_) => return None,
        })
    }

    /// The bytes of so many elements; `None` if they do not make whole blocks, or the type is not read.
    pub fn bytes(self, num_elements: usize) -> Option<usize> {
        let (len, bytes) = self.block()?;
        if !num_elements.is_multiple_of(len) {
            return None;
        }
        (num_elements / len).checked_mul(bytes)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Other(id) => match id {
                9 => "Q8_1",
                15 => "Q8_K",
                16 => "IQ2_XXS",
                17 => "IQ2_XS",
                18 => "IQ3_XXS",
                19 => "IQ1_S",
                21 => "IQ3_S",
                22 => "IQ2_S",
                24 => "I8",
                25 => "I16",
                26 => "I32",
                27 => "I64",
                28 => "F64",
                29 => "IQ1_M",
                34 => "TQ1_0",
                35 => "TQ2_0",
                39 => "MXFP4",
                id => return write!(f, "type {id} of ggml"),
            },
            known => return fmt::Debug::fmt(known, f),
        };
        f.write_str(name)
    }
}
