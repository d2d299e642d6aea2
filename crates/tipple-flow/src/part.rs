//! Parts: the unit of scheduling, retry, resume and distribution.

use std::fmt;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Party, Stop};

/// The name of a part: 1 to 80 characters of `A-Z a-z 0-9 _ -`. Names sort in the source's order where it has one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartName(String);

impl PartName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PartName {
    type Err = Failure;
    fn from_str(text: &str) -> Result<Self, Failure> {
        let fits = (1..=80).contains(&text.len());
        if fits
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        {
            return Ok(Self(text.to_owned()));
        }
        Err(Failure::new(
            Party::Usage,
            format!("{text:?} is no part name: 1 to 80 characters of A-Z a-z 0-9 _ -"),
        ))
    }
}

impl TryFrom<String> for PartName {
    type Error = Failure;
    fn try_from(text: String) -> Result<Self, Failure> {
        text.parse()
    }
}

impl From<PartName> for String {
    fn from(name: PartName) -> Self {
        name.0
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a plan object holds when it is handed to the planner.
#[derive(Debug)]
pub enum PlanBody {
    /// A few bytes, such as a range as JSON.
    Bytes(Vec<u8>),
    /// A finished file in the planner's scratch folder, such as a key file. The planner takes it over.
    File(PathBuf),
}

/// A part as the source plans it. The pipeline names it and makes its plan object durable before anyone works on it.
#[derive(Debug)]
pub struct NewPart {
    /// What the part is, for whoever works on it: this process, a later one, another machine.
    pub body: PlanBody,
    /// The plan object's extension, such as `json` or `keys.zst`.
    pub extension: &'static str,
    /// Exactly how many records (written + outcomes + losses) working on it must account for, if known.
    pub records: Option<u64>,
    /// About how many raw bytes it will give, for progress.
    pub bytes_estimate: u64,
}

/// The bytes of a plan object.
pub trait PlanRead: Read + Seek + Send {}
impl<T: Read + Seek + Send> PlanRead for T {}

/// A planned part, as a worker gets it.
pub trait Part {
    /// Its name.
    fn name(&self) -> &PartName;
    /// Opens its plan object.
    ///
    /// # Errors
    /// [`Stop`] when the store fails; the pipeline reports why.
    fn open(&self) -> Result<Box<dyn PlanRead>, Stop>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_paths() {
        for good in ["0", "p7f3a-00000042", &"x".repeat(80)] {
            assert_eq!(good.parse::<PartName>().unwrap().as_str(), good);
        }
        for bad in ["", "a/b", "..", "a.b", "a b", "ä", &"x".repeat(81)] {
            assert!(bad.parse::<PartName>().is_err(), "{bad}");
        }
    }
}
