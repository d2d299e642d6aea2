//! Times and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, SystemTime};

use crate::schema::Shape;
use crate::{Dumpable, Reader, SchemaBuilder, SnapshotError, TypeNumber, Writer};

const NANOS: u32 = 1_000_000_000;

fn nanos(from: &mut Reader<'_>) -> Result<u32, SnapshotError> {
    match u32::load(from)? {
        nanos if nanos < NANOS => Ok(nanos),
        nanos => Err(SnapshotError::damaged(format!(
            "{nanos} nanoseconds are more than a second"
        ))),
    }
}

impl Dumpable for Duration {
    const BYTES_MIN: usize = 2;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::Span)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.unsigned(self.as_secs())?;
        to.unsigned(self.subsec_nanos().into())
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(Duration::new(from.unsigned()?, nanos(from)?))
    }
}

impl Dumpable for SystemTime {
    const BYTES_MIN: usize = 2;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::Time)
    }

    /// Whole seconds since 1970, towards the past, and nanoseconds from there.
    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        let (seconds, nanos) = match self.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => (i128::from(since.as_secs()), since.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => (-i128::from(before.as_secs()), 0),
                    nanos => (-i128::from(before.as_secs()) - 1, NANOS - nanos),
                }
            }
        };
        let seconds = i64::try_from(seconds)
            .map_err(|_| SnapshotError::value("a time is too far from 1970 to be dumped"))?;
        to.signed(seconds)?;
        to.unsigned(nanos.into())
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let (seconds, nanos) = (from.signed()?, nanos(from)?);
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let time = match seconds {
            0.. => SystemTime::UNIX_EPOCH.checked_add(whole),
            _ => SystemTime::UNIX_EPOCH.checked_sub(whole),
        };
        time.and_then(|time| time.checked_add(Duration::from_nanos(nanos.into())))
            .ok_or_else(|| SnapshotError::damaged("a time is beyond what this system knows"))
    }
}

macro_rules! addresses {
    ($($type:ty: $shape:ident, $bytes:literal),*) => {$(
        impl Dumpable for $type {
            const BYTES_MIN: usize = $bytes;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                schema.add::<Self>(|_| Shape::$shape)
            }

            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                to.bytes(&self.octets())
            }

            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                from.array::<$bytes>().map(Self::from)
            }
        }
    )*};
}

addresses!(Ipv4Addr: Ipv4, 4, Ipv6Addr: Ipv6, 16);

/// A type as an enum of two.
macro_rules! either {
    ($type:ident: $($number:literal => $variant:ident($inner:ty)),*) => {
        impl Dumpable for $type {
            const BYTES_MIN: usize = 5;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                schema.enumeration::<Self>(stringify!($type), |schema| {
                    vec![$((stringify!($variant), vec![("0", <$inner>::describe(schema))])),*]
                })
            }

            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                match self {
                    $($type::$variant(inner) => {
                        to.variant($number)?;
                        inner.dump(to)
                    })*
                }
            }

            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                match from.variant(stringify!($type), 2)? {
                    $($number => <$inner>::load(from).map($type::$variant),)*
                    other => unreachable!("variant {other} of 2"),
                }
            }
        }
    };
}

either!(IpAddr: 0 => V4(Ipv4Addr), 1 => V6(Ipv6Addr));
either!(SocketAddr: 0 => V4(SocketAddrV4), 1 => V6(SocketAddrV6));

impl Dumpable for SocketAddrV4 {
    const BYTES_MIN: usize = 5;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.structure::<Self>("SocketAddrV4", |schema| {
            vec![
                ("ip", Ipv4Addr::describe(schema)),
                ("port", u16::describe(schema)),
            ]
        })
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        self.ip().dump(to)?;
        self.port().dump(to)
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(Self::new(Dumpable::load(from)?, Dumpable::load(from)?))
    }
}

impl Dumpable for SocketAddrV6 {
    const BYTES_MIN: usize = 19;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.structure::<Self>("SocketAddrV6", |schema| {
            let number = u32::describe(schema);
            vec![
                ("ip", Ipv6Addr::describe(schema)),
                ("port", u16::describe(schema)),
                ("flowinfo", number),
                ("scope_id", number),
            ]
        })
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        self.ip().dump(to)?;
        self.port().dump(to)?;
        self.flowinfo().dump(to)?;
        self.scope_id().dump(to)
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let (ip, port) = (Dumpable::load(from)?, Dumpable::load(from)?);
        Ok(Self::new(
            ip,
            port,
            Dumpable::load(from)?,
            Dumpable::load(from)?,
        ))
    }
}

impl<T: Dumpable> Dumpable for Range<T> {
    const BYTES_MIN: usize = 2 * T::BYTES_MIN;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        <(T, T)>::describe(schema)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        self.start.dump(to)?;
        self.end.dump(to)
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(T::load(from)?..T::load(from)?)
    }
}

impl<T: Dumpable> Dumpable for RangeInclusive<T> {
    const BYTES_MIN: usize = 2 * T::BYTES_MIN;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        <(T, T)>::describe(schema)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        self.start().dump(to)?;
        self.end().dump(to)
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(T::load(from)?..=T::load(from)?)
    }
}

#[cfg(feature = "uuid")]
impl Dumpable for uuid::Uuid {
    const BYTES_MIN: usize = 16;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::Uuid)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.bytes(self.as_bytes())
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        from.array().map(uuid::Uuid::from_bytes)
    }
}
