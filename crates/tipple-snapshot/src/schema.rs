//! What a value looks like in a file, as data: so that a file of another type is told from one of this type, and so that a
//! program that does not know the type can still show the value.

use std::any::TypeId;
use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::{Reader, SnapshotError, Writer};

/// The number of a type in a [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeNumber(pub(crate) u32);

/// How many levels of nested types a fingerprint tells apart. Part of the format. Stable.
const FINGERPRINT_LEVELS: usize = 128;

/// The most types in the schema of a file: bounds what a reader allocates.
const TYPES_MAX: usize = 16_384;

/// How a type is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Unit,
    Bool,
    U8,
    I8,
    /// Varints, with the number of bits that the value may have.
    Unsigned(u8),
    Signed(u8),
    F32,
    F64,
    Char,
    Text,
    Uuid,
    Ipv4,
    Ipv6,
    Time,
    Span,
    Option(TypeNumber),
    Sequence(TypeNumber),
    /// With the seed of the hasher before its elements, or without.
    Set {
        of: TypeNumber,
        seeded: bool,
    },
    Map {
        key: TypeNumber,
        value: TypeNumber,
        seeded: bool,
    },
    Array(TypeNumber, u64),
    Tuple(Vec<TypeNumber>),
    Struct {
        name: String,
        fields: Vec<(String, TypeNumber)>,
    },
    Enum {
        name: String,
        variants: Vec<(String, Vec<(String, TypeNumber)>)>,
    },
    /// Each value says itself what it is.
    Any,
}

/// Collects the types of a value: each once, so that a type may contain itself.
#[derive(Default)]
pub struct SchemaBuilder {
    types: Vec<Shape>,
    known: std::collections::HashMap<TypeId, TypeNumber>,
}

impl SchemaBuilder {
    /// A type without a name, such as a number or a list.
    pub(crate) fn add<T: 'static>(&mut self, shape: impl FnOnce(&mut Self) -> Shape) -> TypeNumber {
        if let Some(known) = self.known.get(&TypeId::of::<T>()) {
            return *known;
        }
        let number = TypeNumber(self.types.len() as u32);
        self.known.insert(TypeId::of::<T>(), number);
        self.types.push(Shape::Unit);
        self.types[number.0 as usize] = shape(self);
        number
    }

    /// A struct: its fields are written one after the other. `fields` describes the types of the fields.
    pub fn structure<T: 'static>(
        &mut self,
        name: &str,
        fields: impl FnOnce(&mut Self) -> Vec<(&'static str, TypeNumber)>,
    ) -> TypeNumber {
        self.add::<T>(|schema| Shape::Struct {
            name: name.to_owned(),
            fields: owned(fields(schema)),
        })
    }

    /// An enum: the number of the variant ([`Writer::variant`]), then its fields.
    pub fn enumeration<T: 'static>(
        &mut self,
        name: &str,
        variants: impl FnOnce(&mut Self) -> Vec<(&'static str, Vec<(&'static str, TypeNumber)>)>,
    ) -> TypeNumber {
        self.add::<T>(|schema| Shape::Enum {
            name: name.to_owned(),
            variants: variants(schema)
                .into_iter()
                .map(|(name, fields)| (name.to_owned(), owned(fields)))
                .collect(),
        })
    }
}

fn owned(fields: Vec<(&'static str, TypeNumber)>) -> Vec<(String, TypeNumber)> {
    fields
        .into_iter()
        .map(|(name, of)| (name.to_owned(), of))
        .collect()
}

/// The types of a value, the value's own first.
#[derive(Clone, PartialEq, Eq)]
pub struct Schema {
    types: Vec<Shape>,
}

impl Schema {
    /// The schema of `T`.
    pub fn of<T: crate::Dumpable>() -> Schema {
        let mut builder = SchemaBuilder::default();
        let root = T::describe(&mut builder);
        // A type that describes itself as another one has that one's number, which is the first, too.
        assert_eq!(root.0, 0, "the first type that is described is the value's");
        Schema {
            types: builder.types,
        }
    }

    pub(crate) fn root(&self) -> TypeNumber {
        TypeNumber(0)
    }

    pub(crate) fn shape(&self, of: TypeNumber) -> &Shape {
        &self.types[of.0 as usize]
    }

    /// What tells this schema from every other one: all but the names of the types. Two types that are written in the same way
    /// are the same here, however many there are.
    pub fn fingerprint(&self) -> u64 {
        // Each round sees one level deeper, so that types that contain themselves need no end.
        let mut prints = vec![0u64; self.types.len()];
        for _ in 0..FINGERPRINT_LEVELS {
            prints = self
                .types
                .iter()
                .map(|shape| shape.fingerprint(&prints))
                .collect();
        }
        prints[0]
    }

    pub(crate) fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.unsigned(self.types.len() as u64)?;
        let fields = |fields: &[(String, TypeNumber)], to: &mut Writer<'_>| {
            to.unsigned(fields.len() as u64)?;
            for (name, of) in fields {
                to.text(name)?;
                to.unsigned(of.0.into())?;
            }
            Ok::<_, SnapshotError>(())
        };
        for shape in &self.types {
            to.byte(shape.tag())?;
            match shape {
                Shape::Unsigned(bits) | Shape::Signed(bits) => to.byte(*bits)?,
                Shape::Option(of) | Shape::Sequence(of) => to.unsigned(of.0.into())?,
                Shape::Set { of, seeded } => {
                    to.unsigned(of.0.into())?;
                    to.byte((*seeded).into())?;
                }
                Shape::Map { key, value, seeded } => {
                    to.unsigned(key.0.into())?;
                    to.unsigned(value.0.into())?;
                    to.byte((*seeded).into())?;
                }
                Shape::Array(of, len) => {
                    to.unsigned(of.0.into())?;
                    to.unsigned(*len)?;
                }
                Shape::Tuple(of) => {
                    to.unsigned(of.len() as u64)?;
                    for of in of {
                        to.unsigned(of.0.into())?;
                    }
                }
                Shape::Struct { name, fields: of } => {
                    to.text(name)?;
                    fields(of, to)?;
                }
                Shape::Enum { name, variants } => {
                    to.text(name)?;
                    to.unsigned(variants.len() as u64)?;
                    for (name, of) in variants {
                        to.text(name)?;
                        fields(of, to)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn load(from: &mut Reader<'_>) -> Result<Schema, SnapshotError> {
        let count = from.count(1)?;
        if count == 0 || count > TYPES_MAX {
            return Err(SnapshotError::damaged(format!(
                "a schema of {count} types, but 1 to {TYPES_MAX} are possible"
            )));
        }
        let mut types = Vec::with_capacity(count);
        let number = |from: &mut Reader<'_>| match from.unsigned()? {
            number if number < count as u64 => Ok(TypeNumber(number as u32)),
            number => Err(SnapshotError::damaged(format!(
                "the schema has no type {number}"
            ))),
        };
        let fields = |from: &mut Reader<'_>| {
            let count = from.count(2)?;
            let mut fields = Vec::with_capacity(count);
            for _ in 0..count {
                fields.push((from.text()?, number(from)?));
            }
            Ok::<_, SnapshotError>(fields)
        };
        for _ in 0..count {
            types.push(match from.byte()? {
                0 => Shape::Unit,
                1 => Shape::Bool,
                2 => Shape::U8,
                3 => Shape::I8,
                4 => Shape::Unsigned(bits(from)?),
                5 => Shape::Signed(bits(from)?),
                6 => Shape::F32,
                7 => Shape::F64,
                8 => Shape::Char,
                9 => Shape::Text,
                10 => Shape::Uuid,
                11 => Shape::Ipv4,
                12 => Shape::Ipv6,
                13 => Shape::Time,
                14 => Shape::Span,
                15 => Shape::Option(number(from)?),
                16 => Shape::Sequence(number(from)?),
                17 => Shape::Set {
                    of: number(from)?,
                    seeded: from.flag()?,
                },
                18 => Shape::Map {
                    key: number(from)?,
                    value: number(from)?,
                    seeded: from.flag()?,
                },
                19 => Shape::Array(number(from)?, from.unsigned()?),
                20 => {
                    let count = from.count(1)?;
                    Shape::Tuple((0..count).map(|_| number(from)).collect::<Result<_, _>>()?)
                }
                21 => Shape::Struct {
                    name: from.text()?,
                    fields: fields(from)?,
                },
                22 => {
                    let name = from.text()?;
                    let count = from.count(2)?;
                    let mut variants = Vec::with_capacity(count);
                    for _ in 0..count {
                        variants.push((from.text()?, fields(from)?));
                    }
                    Shape::Enum { name, variants }
                }
                23 => Shape::Any,
                other => {
                    return Err(SnapshotError::damaged(format!(
                        "the schema has a type of the unknown kind {other}"
                    )));
                }
            });
        }
        Ok(Schema { types })
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, of: TypeNumber, depth: u32) -> fmt::Result {
        // A type that contains itself ends here.
        if depth > 16 {
            return f.write_str("…");
        }
        let list = |f: &mut fmt::Formatter<'_>, fields: &[(String, TypeNumber)]| {
            for (n, (name, of)) in fields.iter().enumerate() {
                let comma = if n > 0 { ", " } else { "" };
                write!(f, "{comma}{name}: ")?;
                self.write(f, *of, depth + 1)?;
            }
            Ok(())
        };
        match self.shape(of) {
            Shape::Unit => f.write_str("()"),
            Shape::Bool => f.write_str("bool"),
            Shape::U8 => f.write_str("u8"),
            Shape::I8 => f.write_str("i8"),
            Shape::Unsigned(bits) => write!(f, "u{bits}"),
            Shape::Signed(bits) => write!(f, "i{bits}"),
            Shape::F32 => f.write_str("f32"),
            Shape::F64 => f.write_str("f64"),
            Shape::Char => f.write_str("char"),
            Shape::Text => f.write_str("text"),
            Shape::Uuid => f.write_str("uuid"),
            Shape::Ipv4 => f.write_str("ipv4"),
            Shape::Ipv6 => f.write_str("ipv6"),
            Shape::Time => f.write_str("time"),
            Shape::Span => f.write_str("duration"),
            Shape::Any => f.write_str("any"),
            Shape::Option(of) => {
                f.write_str("option<")?;
                self.write(f, *of, depth + 1)?;
                f.write_str(">")
            }
            Shape::Sequence(of) => {
                f.write_str("[")?;
                self.write(f, *of, depth + 1)?;
                f.write_str("]")
            }
            Shape::Set { of, .. } => {
                f.write_str("set<")?;
                self.write(f, *of, depth + 1)?;
                f.write_str(">")
            }
            Shape::Map { key, value, .. } => {
                f.write_str("map<")?;
                self.write(f, *key, depth + 1)?;
                f.write_str(", ")?;
                self.write(f, *value, depth + 1)?;
                f.write_str(">")
            }
            Shape::Array(of, len) => {
                f.write_str("[")?;
                self.write(f, *of, depth + 1)?;
                write!(f, "; {len}]")
            }
            Shape::Tuple(of) => {
                f.write_str("(")?;
                for (n, of) in of.iter().enumerate() {
                    f.write_str(if n > 0 { ", " } else { "" })?;
                    self.write(f, *of, depth + 1)?;
                }
                f.write_str(")")
            }
            Shape::Struct { name, fields } => {
                write!(f, "{name} {{ ")?;
                list(f, fields)?;
                f.write_str(" }")
            }
            Shape::Enum { name, variants } => {
                write!(f, "{name} ")?;
                for (n, (name, fields)) in variants.iter().enumerate() {
                    f.write_str(if n > 0 { " | " } else { "< " })?;
                    f.write_str(name)?;
                    if !fields.is_empty() {
                        f.write_str("(")?;
                        list(f, fields)?;
                        f.write_str(")")?;
                    }
                }
                f.write_str(" >")
            }
        }
    }
}

fn bits(from: &mut Reader<'_>) -> Result<u8, SnapshotError> {
    match from.byte()? {
        bits @ (16 | 32 | 64 | 128) => Ok(bits),
        bits => Err(SnapshotError::damaged(format!(
            "the schema has an integer of {bits} bits"
        ))),
    }
}

impl Shape {
    /// Of this type, whose parts have the fingerprints `of`. Stable.
    fn fingerprint(&self, of: &[u64]) -> u64 {
        let mut bytes = vec![self.tag()];
        let number = |bytes: &mut Vec<u8>, number: u64| bytes.extend(number.to_le_bytes());
        let part = |bytes: &mut Vec<u8>, part: &TypeNumber| number(bytes, of[part.0 as usize]);
        let fields = |bytes: &mut Vec<u8>, fields: &[(String, TypeNumber)]| {
            number(bytes, fields.len() as u64);
            for (name, field) in fields {
                number(bytes, xxh3_64(name.as_bytes()));
                part(bytes, field);
            }
        };
        match self {
            Shape::Unsigned(bits) | Shape::Signed(bits) => bytes.push(*bits),
            Shape::Option(of) | Shape::Sequence(of) => part(&mut bytes, of),
            Shape::Set { of, seeded } => {
                part(&mut bytes, of);
                bytes.push((*seeded).into());
            }
            Shape::Map { key, value, seeded } => {
                part(&mut bytes, key);
                part(&mut bytes, value);
                bytes.push((*seeded).into());
            }
            Shape::Array(of, len) => {
                part(&mut bytes, of);
                number(&mut bytes, *len);
            }
            Shape::Tuple(of) => {
                number(&mut bytes, of.len() as u64);
                of.iter().for_each(|of| part(&mut bytes, of));
            }
            Shape::Struct { fields: of, .. } => fields(&mut bytes, of),
            Shape::Enum { variants, .. } => {
                number(&mut bytes, variants.len() as u64);
                for (name, of) in variants {
                    number(&mut bytes, xxh3_64(name.as_bytes()));
                    fields(&mut bytes, of);
                }
            }
            _ => {}
        }
        xxh3_64(&bytes)
    }

    /// Stable.
    fn tag(&self) -> u8 {
        match self {
            Shape::Unit => 0,
            Shape::Bool => 1,
            Shape::U8 => 2,
            Shape::I8 => 3,
            Shape::Unsigned(_) => 4,
            Shape::Signed(_) => 5,
            Shape::F32 => 6,
            Shape::F64 => 7,
            Shape::Char => 8,
            Shape::Text => 9,
            Shape::Uuid => 10,
            Shape::Ipv4 => 11,
            Shape::Ipv6 => 12,
            Shape::Time => 13,
            Shape::Span => 14,
            Shape::Option(_) => 15,
            Shape::Sequence(_) => 16,
            Shape::Set { .. } => 17,
            Shape::Map { .. } => 18,
            Shape::Array(..) => 19,
            Shape::Tuple(_) => 20,
            Shape::Struct { .. } => 21,
            Shape::Enum { .. } => 22,
            Shape::Any => 23,
        }
    }
}

/// For people: `map<text, Price { cents: u64 }>`. Not stable.
impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, self.root(), 0)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({self})")
    }
}
