//! A value of a GGUF file's metadata.

use super::reader::Reader;
use crate::LoadError;

/// What a key of the metadata is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum MetaValue {
    /// Any number; whole ones are exact up to 2⁵³.
    Number(f64),
    /// `true` or `false`.
    Flag(bool),
    /// A text.
    Text(String),
    /// A list of numbers, or of flags as 0 and 1.
    Numbers(Vec<f64>),
    /// A list of texts.
    Texts(Vec<String>),
}

/// The types that the format numbers.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Flag,
    Text,
    List,
    U64,
    I64,
    F64,
}

const KINDS: [Kind; 13] = [
    Kind::U8,
    Kind::I8,
    Kind::U16,
    Kind::I16,
    Kind::U32,
    Kind::I32,
    Kind::F32,
    Kind::Flag,
    Kind::Text,
    Kind::List,
    Kind::U64,
    Kind::I64,
    Kind::F64,
];

impl Kind {
    fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self, LoadError> {
        let id = reader.u32()?;
        let kind = KINDS.get(id as usize).copied();
        kind.ok_or_else(|| {
            reader.corrupt(format!("the value of `{key}` is of type {id}, which does not exist"))
        })
    }

    /// Fewest bytes that a value takes.
    fn bytes_min(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Flag => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
            Self::List => 12,
        }
    }
}

impl MetaValue {
    /// Reads the value of a key.
    pub(super) fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self, LoadError> {
        Ok(match Kind::read(reader, key)? {
            Kind::Text => Self::Text(reader.text()?),
            Kind::Flag => Self::Flag(reader.take::<1>()? != [0]),
            Kind::List => return Self::read_list(reader, key),
            kind => Self::Number(number(reader, kind)?),
        })
    }

    fn read_list(reader: &mut Reader<'_>, key: &str) -> Result<Self, LoadError> {
        let kind = Kind::read(reader, key)?;
        if kind == Kind::List {
            return Err(reader.corrupt(format!("`{key}` is a list of lists, which no model needs")));
        }
        let len = reader.count(kind.bytes_min(), &format!("`{key}`"))?;
        reader.spend(len, key)?;
        Ok(match kind {
            Kind::Text => Self::Texts((0..len).map(|_| reader.text()).collect::<Result<_, _>>()?),
            kind => Self::Numbers((0..len).map(|_| number(reader, kind)).collect::<Result<_, _>>()?),
        })
    }
}

fn number(reader: &mut Reader<'_>, kind: Kind) -> Result<f64, LoadError> {
    Ok(match kind {
        Kind::U8 | Kind::Flag => f64::from(reader.take::<1>()?[0]),
        Kind::I8 => f64::from(i8::from_le_bytes(reader.take()?)),
        Kind::U16 => f64::from(u16::from_le_bytes(reader.take()?)),
        Kind::I16 => f64::from(i16::from_le_bytes(reader.take()?)),
        Kind::U32 => f64::from(reader.u32()?),
        Kind::I32 => f64::from(i32::from_le_bytes(reader.take()?)),
        Kind::F32 => f64::from(f32::from_le_bytes(reader.take()?)),
        Kind::U64 => reader.u64()? as f64,
        Kind::I64 => i64::from_le_bytes(reader.take()?) as f64,
        Kind::F64 => f64::from_le_bytes(reader.take()?),
        Kind::Text | Kind::List => unreachable!("these are read elsewhere"),
    })
}
