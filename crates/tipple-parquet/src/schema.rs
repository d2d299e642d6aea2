//! What a file's rows are made of.

/// How often a value is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nesting {
    /// In each row.
    Required,
    /// In each row, or null.
    Optional,
    /// Null or not, in each element of a list that each row has.
    InList,
}

impl Nesting {
    /// The highest repetition level and the highest definition level.
    pub fn levels(self) -> (u8, u8) {
        match self {
            Self::Required => (0, 0),
            Self::Optional => (0, 1),
            Self::InList => (1, 2),
        }
    }
}

/// The type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole numbers from -2^63.
    Signed,
    /// Whole numbers to 2^64 - 1, each given as the [`Value::Number`] of the same bits.
    Unsigned,
    /// Microseconds since 1970, UTC.
    Microseconds,
    /// Floating-point numbers, each given as the [`Value::Number`] of its bits.
    Double,
    /// 0 or 1.
    Bool,
    /// UTF-8.
    Text,
    /// UTF-8 that is JSON.
    Json,
    /// Any bytes.
    Bytes,
}

/// A value of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Of the kinds that are numbers.
    Number(i64),
    /// Of the others.
    Bytes(&'a [u8]),
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Where it is in the schema: a name; in a list that of the list, `list`, `element`, and its own.
    pub path: Vec<String>,
    /// How often a value is there.
    pub nesting: Nesting,
    /// The type of its values.
    pub kind: Kind,
}

impl Column {
    /// A column of values that are all there.
    pub fn required(name: &str, kind: Kind) -> Self {
        Self {
            path: vec![name.to_owned()],
            nesting: Nesting::Required,
            kind,
        }
    }

    /// A column of values that may be null.
    pub fn optional(name: &str, kind: Kind) -> Self {
        Self {
            nesting: Nesting::Optional,
            ..Self::required(name, kind)
        }
    }
}

/// The columns of a file, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
}

impl Schema {
    /// Rows that are called `name` and have these columns. Those in a list stand side by side; there is one list at most.
    ///
    /// # Panics
    /// If a path is none of those that [`Column::path`] tells of.
    pub fn new(name: &str, columns: Vec<Column>) -> Self {
        for Column { path, nesting, .. } in &columns {
            let is_in_list = path.len() == 4 && path[1] == "list" && path[2] == "element";
            assert!(
                match nesting {
                    Nesting::InList => is_in_list,
                    _ => path.len() == 1,
                },
                "a column's path is {path:?}"
            );
        }
        Self {
            name: name.to_owned(),
            columns,
        }
    }

    /// Its columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }
}
