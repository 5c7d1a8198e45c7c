//! The types that settings are written in: durations, sizes, choices, lists. Each reads from text, so that a file, an
//! environment variable and a flag are read by one rule, and each writes itself the way it is read.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use candlewick_engine::{Kernels, KvDType, Quantization};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

/// Any scalar of a file as its text, so that `port = 8000` and `CANDLEWICK_PORT=8000` are one thing.
pub struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyScalar;
        impl Visitor<'_> for AnyScalar {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.trim().into()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
        }
        deserializer.deserialize_any(AnyScalar)
    }
}

/// Serde for a type that reads from and writes to text.
macro_rules! as_text {
    ($name:ty) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Scalar::deserialize(deserializer)?.0.parse().map_err(de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// A length of time: `90s`, `5m`, `1h`, `250ms`; a bare number counts seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A length of time that may be without end: `never`, zero and negative numbers mean that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Option<Duration>);

/// Bytes: `4GiB`, `500MB`; a bare number counts bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// A value, or `auto`: Candlewick decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auto<T>(pub Option<T>);

/// A list of texts; one text is split at commas. Empty entries are kept: a list of keys must not lose one in silence.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TextList(pub Vec<String>);

/// A table of values; a text is read as a JSON object.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct JsonTable(pub Map<String, Value>);

as_text!(Span);
as_text!(Limit);
as_text!(ByteSize);

/// The word that leaves a choice to the program.
pub const AUTO: &str = "auto";

const TIME_UNITS: &[(&str, f64)] =
    &[("ms", 1e-3), ("s", 1.0), ("sec", 1.0), ("m", 60.0), ("min", 60.0), ("h", 3600.0), ("d", 86400.0)];

const SIZE_UNITS: &[(&str, u64)] = &[
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// The number a text begins with, and what follows it.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '-' | '+')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

/// Seconds; the error says what a length of time looks like.
fn parse_seconds(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is no length of time; write one like `90s`, `5m`, `1h` or `250ms`");
    let (number, unit) = split_number(text.trim()).ok_or_else(wrong)?;
    if unit.is_empty() {
        return Ok(number);
    }
    let (_, seconds) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    Ok(number * seconds)
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = parse_seconds(text)?;
        Duration::try_from_secs_f64(seconds)
            .map(Self)
            .map_err(|_| format!("`{text}` is no length of time that can pass; write one like `90s` or `5m`"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_millis())
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "never" {
            return Ok(Self(None));
        }
        if parse_seconds(text).map_err(|why| format!("{why}, or `never`"))? <= 0.0 {
            return Ok(Self(None));
        }
        text.parse::<Span>().map(|span| Self(Some(span.0)))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(duration) => Span(duration).fmt(f),
            None => f.write_str("never"),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size; write one like `512MiB`, `4GiB` or a number of bytes");
        let (number, unit) = split_number(text.trim()).ok_or_else(wrong)?;
        let unit = if unit.is_empty() { "b".into() } else { unit.to_ascii_lowercase() };
        let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let size = number * *bytes as f64;
        if !(0.0..u64::MAX as f64).contains(&size) {
            return Err(wrong());
        }
        Ok(Self(size as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match whole.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A type that can say what its values look like.
pub trait Look {
    /// With an article and an example.
    const LOOK: &'static str;
}

impl Look for usize {
    const LOOK: &'static str = "a whole number of at least 0, such as `8`";
}

impl Look for u64 {
    const LOOK: &'static str = "a whole number of at least 0, such as `8`";
}

impl Look for bool {
    const LOOK: &'static str = "one of `true` and `false`";
}

impl Look for ByteSize {
    const LOOK: &'static str = "a size, such as `512MiB` or `4GiB`";
}

impl<T: FromStr + Look> FromStr for Auto<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(None));
        }
        let value = text.parse().map_err(|_| format!("`{text}` is neither `auto` nor {}", T::LOOK))?;
        Ok(Self(Some(value)))
    }
}

impl<T: fmt::Display> fmt::Display for Auto<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("auto"),
        }
    }
}

impl<'de, T: FromStr + Look> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Scalar::deserialize(deserializer)?.0.parse().map_err(de::Error::custom)
    }
}

impl<T: fmt::Display> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TextList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            List(Vec<String>),
            Text(String),
        }
        let list = match Either::deserialize(deserializer)
            .map_err(|_| de::Error::custom("expected a list of texts"))?
        {
            Either::List(list) => list,
            Either::Text(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
        };
        Ok(Self(list))
    }
}

impl<'de> Deserialize<'de> for JsonTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = |why: &str| {
            de::Error::custom(format!("expected a table or a JSON object such as {{\"a\": 1}}: {why}"))
        };
        match Value::deserialize(deserializer)? {
            Value::Object(table) => Ok(Self(table)),
            Value::String(text) if text.trim().is_empty() => Ok(Self::default()),
            Value::String(text) => serde_json::from_str(&text)
                .map(Self)
                .map_err(|error| wrong(&format!("`{text}` is none ({error})"))),
            other => Err(wrong(&format!("`{other}` is none"))),
        }
    }
}

/// A setting that is one of a few words. The first word of a value is the one that is written.
macro_rules! choices {
    ($(#[$meta:meta])* $name:ident { $($(#[$value_meta:meta])* $value:ident = $first:literal $(| $other:literal)*),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$value_meta])* $value),+ }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($first $(| $other)* => Ok(Self::$value),)+
                    _ => Err(format!("`{text}` is none of {}", [$(concat!("`", $first, "`")),+].join(", "))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$value => $first),+ })
            }
        }

        as_text!($name);
    };
}

choices! {
    /// Under which names chat answers tell reasoning.
    ReasoningField {
        /// Under both.
        Both = "both",
        /// The newer one.
        Reasoning = "reasoning",
        /// The older one.
        ReasoningContent = "reasoning_content",
    }
}

choices! {
    /// Whether models that can reason are asked to.
    Reasoning {
        /// As the model's template has it.
        Auto = "auto",
        /// `enable_thinking` is true.
        On = "on",
        /// `enable_thinking` is false.
        Off = "off",
    }
}

choices! {
    /// Precision of the weights, under the names that checkpoints use.
    WeightType {
        /// As they are in the checkpoint.
        Auto = "auto",
        /// 32-bit floats.
        Float32 = "float32" | "f32" | "float",
        /// Half precision.
        Float16 = "float16" | "f16" | "half",
        /// Brain floats.
        Bfloat16 = "bfloat16" | "bf16",
    }
}

choices! {
    /// What the KV cache keeps of keys and values.
    KvCacheType {
        /// As the weights are.
        Auto = "auto",
        /// 32-bit floats.
        Float32 = "float32" | "f32" | "float",
        /// Half precision.
        Float16 = "float16" | "f16" | "half",
        /// Brain floats.
        Bfloat16 = "bfloat16" | "bf16",
        /// Bytes, with a scale for each token and head.
        Int8 = "int8" | "q8_0",
    }
}

impl KvCacheType {
    /// What it is for the engine; `None` goes by the weights.
    pub fn dtype(self) -> Option<KvDType> {
        match self {
            Self::Auto => None,
            Self::Float32 => Some(KvDType::F32),
            Self::Float16 => Some(KvDType::F16),
            Self::Bfloat16 => Some(KvDType::Bf16),
            Self::Int8 => Some(KvDType::Int8),
        }
    }
}

choices! {
    /// What computes: kernels of ours for what the machine can do, or for less than that, or plain candle.
    KernelChoice {
        /// The best that the machine can do.
        Auto = "auto",
        /// Plain candle, on the same weights.
        Reference = "reference",
        /// What every machine can do.
        Portable = "portable",
        /// AVX2 with FMA and F16C.
        Avx2 = "avx2",
        /// The same with dot products of bytes.
        AvxVnni = "avx-vnni",
        /// AVX-512 with F, BW, VL and DQ.
        Avx512 = "avx512",
        /// The same with dot products of bytes.
        Avx512Vnni = "avx512-vnni",
        /// The same with dot products of bf16.
        Avx512Bf16 = "avx512-bf16",
        /// NEON, on 64-bit Arm.
        Neon = "neon",
        /// The same with dot products of bytes.
        NeonDotprod = "neon-dotprod",
        /// The same with dot products of bf16.
        NeonBf16 = "neon-bf16",
    }
}

impl KernelChoice {
    /// What it is for the engine.
    pub fn kernels(self) -> Kernels {
        if self == Self::Reference { Kernels::Reference } else { Kernels::Packed }
    }

    /// The level of instructions that is asked for, by its name; `None` is the best there is.
    pub fn level(self) -> Option<String> {
        (!matches!(self, Self::Auto | Self::Reference)).then(|| self.to_string())
    }
}

choices! {
    /// How the engine guesses what a sequence says next.
    SpeculationMode {
        /// By what followed the same tokens before, in prompt and output.
        Ngram = "ngram" | "prompt-lookup",
        /// Not at all.
        Off = "off" | "none",
    }
}

choices! {
    /// What weights are quantised to as they are loaded, under our names and those of other tools.
    WeightQuantization {
        /// Not at all.
        None = "none" | "off",
        /// 8 bits, a scale for each output.
        Int8 = "int8",
        /// 8 bits, a scale for each 32 weights.
        Q8_0 = "q8_0" | "q8",
        /// 4 bits, a scale for each 32 weights.
        Q4_0 = "q4_0" | "q4",
        /// 4 bits, a scale and an offset for each 32 weights.
        Q4_1 = "q4_1",
        /// llama.cpp's 4 bits.
        Q4K = "q4_k" | "q4_k_m" | "q4_k_s",
        /// 8 bits of bitsandbytes.
        Bnb8Bit = "bnb-8bit",
        /// 4 bits of bitsandbytes.
        Bnb4Bit = "bnb-4bit",
    }
}

impl WeightQuantization {
    /// What it is here.
    pub fn scheme(self) -> Option<Quantization> {
        match self {
            Self::None => None,
            Self::Int8 => Some(Quantization::Int8),
            Self::Q8_0 | Self::Bnb8Bit => Some(Quantization::Q8_0),
            Self::Q4_0 => Some(Quantization::Q4_0),
            Self::Q4_1 | Self::Q4K | Self::Bnb4Bit => Some(Quantization::Q4_1),
        }
    }

    /// What it is here in words, if it goes by another name.
    pub fn explain(self) -> Option<String> {
        let nearest = match self {
            Self::Bnb8Bit => "q8_0: 8 bits, a scale for each 32 weights",
            Self::Q4K | Self::Bnb4Bit => "q4_1: 4 bits, a scale and an offset for each 32 weights",
            Self::None | Self::Int8 | Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => return None,
        };
        Some(format!("quantization `{self}` is made here as {nearest}"))
    }
}

choices! {
    /// How a collector of traces is spoken to.
    OtlpProtocol {
        /// gRPC.
        Grpc = "grpc",
        /// HTTP with protobuf.
        Http = "http" | "http/protobuf",
    }
}

choices! {
    /// How log lines are written.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line, for machines.
        Json = "json",
    }
}

/// Where models run. Other devices are known by name, so that the refusal says what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The best that this build has: the CPU.
    Auto,
    /// The CPU.
    Cpu,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_lowercase();
        let kind = name.split(':').next().unwrap_or_default();
        match kind {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" | "gpu" | "metal" | "mps" | "xpu" | "npu" => Err(format!(
                "this build has no `{text}` device; it runs on `cpu` (or `auto`, which is the same here)"
            )),
            _ if kind.parse::<u32>().is_ok() => {
                Err(format!("`{text}` names a GPU, and this build has none; it runs on `cpu` (or `auto`)"))
            }
            _ => Err(format!("`{text}` is no device; this build has `auto` and `cpu`")),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
        })
    }
}

as_text!(Device);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads<T: FromStr<Err = String> + fmt::Display>(text: &str, written: &str) {
        let value: T = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(value.to_string(), written);
        assert!(written.parse::<T>().is_ok(), "{written} can be read again");
    }

    #[test]
    fn lengths_of_time_have_units() {
        reads::<Span>("300", "300s");
        reads::<Span>("5m", "300s");
        reads::<Span>("1.5 h", "5400s");
        reads::<Span>("250ms", "250ms");
        reads::<Limit>("0", "never");
        reads::<Limit>("-1", "never");
        reads::<Limit>("never", "never");
        reads::<Limit>("2m", "120s");
        assert!("5 parsecs".parse::<Span>().unwrap_err().contains("`5m`"), "the error shows what is right");
        assert!("-5s".parse::<Span>().is_err());
    }

    #[test]
    fn sizes_have_units() {
        reads::<ByteSize>("4GiB", "4GiB");
        reads::<ByteSize>("4 gib", "4GiB");
        reads::<ByteSize>("1.5GiB", "1536MiB");
        reads::<ByteSize>("1000", "1000B");
        reads::<ByteSize>("2MB", "2000000B");
        assert!("4 elephants".parse::<ByteSize>().is_err());
        assert!("-4GiB".parse::<ByteSize>().is_err());
    }

    #[test]
    fn a_device_that_is_not_here_is_refused_by_name() {
        reads::<Device>("cpu", "cpu");
        for device in ["cuda", "cuda:1", "mps", "0"] {
            let why = device.parse::<Device>().unwrap_err();
            assert!(why.contains(device) && why.contains("cpu"), "{why}");
        }
    }

    #[test]
    fn auto_is_a_word_of_its_own() {
        reads::<Auto<usize>>("auto", "auto");
        reads::<Auto<usize>>("7", "7");
        assert_eq!(
            "seven".parse::<Auto<ByteSize>>().unwrap_err(),
            "`seven` is neither `auto` nor a size, such as `512MiB` or `4GiB`"
        );
    }
}
