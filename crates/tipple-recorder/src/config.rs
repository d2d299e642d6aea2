//! What may change while a program runs: what is recorded, how much of it, and what is kept out of sight.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::limit::UNLIMITED;

/// How detailed a record is. What is more detailed than the configured level is not recorded at all, and takes no number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Level {
    /// Nothing is recorded.
    Off,
    /// The level of records that say nothing else.
    #[default]
    Normal,
    /// More.
    Verbose,
    /// Everything.
    Total,
}

/// What becomes of a line that is longer than the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnOverflow {
    /// It is lost, with the cause `size`.
    #[default]
    Skip,
    /// Its `m` is a string: the beginning of the JSON, and ` TRUNCATED`.
    Truncate,
}

/// Records a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRate(pub u64);

impl RecordRate {
    /// No limit. In text: `"unlimited"`.
    pub const UNLIMITED: RecordRate = RecordRate(UNLIMITED);
}

/// What is done with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redaction {
    /// `"<hidden>"` stands in its place. In text: `hide`.
    Hide,
    /// `"<hash:…>"` stands in its place: equal values of one run of the program have equal hashes. In text: `hash`.
    Hash,
    /// Of a string, so many characters and `"<truncated>"`. What is no string is hidden. In text: `truncate:16`.
    Truncate(usize),
}

impl FromStr for Redaction {
    type Err = String;

    fn from_str(text: &str) -> Result<Redaction, String> {
        match (text, text.strip_prefix("truncate:").map(str::parse)) {
            ("hide", _) => Ok(Redaction::Hide),
            ("hash", _) => Ok(Redaction::Hash),
            (_, Some(Ok(characters))) => Ok(Redaction::Truncate(characters)),
            _ => Err(format!(
                "`{text}` is no redaction: give `hide`, `hash` or `truncate:CHARACTERS`"
            )),
        }
    }
}

impl fmt::Display for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Redaction::Hide => f.write_str("hide"),
            Redaction::Hash => f.write_str("hash"),
            Redaction::Truncate(characters) => write!(f, "truncate:{characters}"),
        }
    }
}

impl Serialize for Redaction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Redaction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Redaction, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for RecordRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            RecordRate::UNLIMITED => serializer.serialize_str("unlimited"),
            RecordRate(rate) => serializer.serialize_u64(rate),
        }
    }
}

impl<'de> Deserialize<'de> for RecordRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RecordRate, D::Error> {
        deserializer
            .deserialize_any(Number::<false>)
            .map(RecordRate)
    }
}

/// A size in bytes: a number, or text such as `64KiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_any(Number::<true>).map(Bytes)
    }
}

/// A number, or the text that a rate (`false`) or a size (`true`) may be.
struct Number<const SIZE: bool>;

impl<const SIZE: bool> Visitor<'_> for Number<SIZE> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match SIZE {
            true => "bytes, as a number or as text such as \"64KiB\"",
            false => "records a second, or \"unlimited\"",
        })
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
        u64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
        if !SIZE {
            return match text {
                "unlimited" => Ok(UNLIMITED),
                _ => Err(wrong()),
            };
        }
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let factor: u64 = match &text[digits.len()..] {
            "" | "B" => 1,
            "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(factor).ok_or_else(wrong)
    }
}

/// One set of settings. What is not set comes from the next more general one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Nothing is recorded, and no number is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// The most detailed records that are recorded. Default `normal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Records a second, of each group and class; of a message: of that message within each. Default 100,000; of a
    /// message unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<RecordRate>,
    /// The share of traces that is recorded, 0 to 1: of each trace all or nothing. What has no trace is recorded. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<f64>,
    /// The longest line, in bytes, up to 64 MiB. Default 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Bytes>,
    /// What becomes of longer ones. Default `skip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_overflow: Option<OnOverflow>,
    /// What is done with fields, by their paths: `m.card.number`; `*` is any one field or element.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub redact: BTreeMap<String, Redaction>,
}

/// Settings of a group, and of its classes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupSettings {
    /// See [`Settings::disabled`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// See [`Settings::level`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// See [`Settings::rate`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<RecordRate>,
    /// See [`Settings::sample`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<f64>,
    /// See [`Settings::max_size`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Bytes>,
    /// See [`Settings::on_overflow`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_overflow: Option<OnOverflow>,
    /// See [`Settings::redact`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub redact: BTreeMap<String, Redaction>,
    /// Of one class within the group.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, Settings>,
}

/// What may change while the program runs: of everything, of classes, of groups, of classes of a group, of messages; the
/// later ones win. An unknown key is an error, so that a mistyped limit is not one that is missing.
///
/// ```
/// # fn main() -> Result<(), tipple_recorder::ConfigError> {
/// let config: tipple_recorder::Config = r#"
///     rate = 50_000
///     redact = { "m.password" = "hide" }
///
///     [groups.orders]
///     max_size = "256KiB"
///
///     [groups.orders.classes.ws]
///     disabled = true
///
///     [messages."Event::Heartbeat"]
///     disabled = true
/// "#.parse()?;
/// assert_eq!(config.rate, Some(tipple_recorder::RecordRate(50_000)));
/// assert!("rate_limit = 5".parse::<tipple_recorder::Config>().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// See [`Settings::disabled`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// See [`Settings::level`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// See [`Settings::rate`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<RecordRate>,
    /// See [`Settings::sample`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<f64>,
    /// See [`Settings::max_size`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Bytes>,
    /// See [`Settings::on_overflow`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_overflow: Option<OnOverflow>,
    /// See [`Settings::redact`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub redact: BTreeMap<String, Redaction>,
    /// By class.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, Settings>,
    /// By group.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, GroupSettings>,
    /// By the message's name: `Order`, `Event::Placed`, or `protocol/Order` for one of several of that name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub messages: BTreeMap<String, Settings>,
}

/// What is wrong with a configuration. Nothing of it was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

impl FromStr for Config {
    type Err = ConfigError;

    /// From TOML.
    fn from_str(text: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            ConfigError(format!("line {line}: {}", error.message().trim_end()))
        })?;
        config.validate()?;
        Ok(config)
    }
}

/// The longest line that a configuration may allow: 64 MiB.
const MAX_SIZE_MAX: u64 = 64 << 20;
/// Shorter ones could not even say what was truncated.
const MAX_SIZE_MIN: u64 = 512;

impl Config {
    /// Whether all values are within their ranges.
    ///
    /// # Errors
    /// What is not, with its value and range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.general().validate("")?;
        for (name, settings) in &self.classes {
            settings.validate(&format!("classes.{name}."))?;
        }
        for (name, settings) in &self.groups {
            settings.general().validate(&format!("groups.{name}."))?;
            for (class, settings) in &settings.classes {
                settings.validate(&format!("groups.{name}.classes.{class}."))?;
            }
        }
        for (name, settings) in &self.messages {
            settings.validate(&format!("messages.{name}."))?;
            if settings.level.is_some() {
                return Err(ConfigError(format!(
                    "messages.{name}.level: a level is one of records of a group or class; give `disabled`"
                )));
            }
        }
        Ok(())
    }

    fn general(&self) -> Settings {
        Settings {
            disabled: self.disabled,
            level: self.level,
            rate: self.rate,
            sample: self.sample,
            max_size: self.max_size,
            on_overflow: self.on_overflow,
            redact: self.redact.clone(),
        }
    }

    /// The longest line that anything may have.
    pub(crate) fn max_size_max(&self) -> usize {
        let groups = self.groups.values();
        let own = groups.clone().map(|group| group.max_size);
        let classes = groups.flat_map(|group| group.classes.values());
        let settings = self.classes.values().chain(self.messages.values());
        let all = settings.chain(classes).map(|settings| settings.max_size);
        let largest = all
            .chain(own)
            .chain([self.max_size])
            .flatten()
            .map(|size| size.0);
        largest.fold(MAX_SIZE_DEFAULT, u64::max) as usize
    }

    /// What holds for a group and class.
    pub(crate) fn of_channel(&self, group: &str, class: &str) -> Settings {
        let group = self.groups.get(group);
        let mut settings = self.general();
        let more = [
            self.classes.get(class).cloned(),
            group.map(GroupSettings::general),
            group.and_then(|group| group.classes.get(class).cloned()),
        ];
        for layer in more.into_iter().flatten() {
            settings.overlay(layer);
        }
        settings
    }

    /// What is said of a message; `protocol/name` wins over `name`.
    pub(crate) fn of_message(&self, protocol: &str, name: &str) -> Option<Settings> {
        if self.messages.is_empty() {
            return None;
        }
        let mut found = self.messages.get(name).cloned();
        if let Some(own) = self.messages.get(&format!("{protocol}/{name}")) {
            found.get_or_insert_default().overlay(own.clone());
        }
        found
    }
}

impl GroupSettings {
    fn general(&self) -> Settings {
        Settings {
            disabled: self.disabled,
            level: self.level,
            rate: self.rate,
            sample: self.sample,
            max_size: self.max_size,
            on_overflow: self.on_overflow,
            redact: self.redact.clone(),
        }
    }
}

impl Settings {
    pub(crate) fn overlay(&mut self, over: Settings) {
        self.disabled = over.disabled.or(self.disabled);
        self.level = over.level.or(self.level);
        self.rate = over.rate.or(self.rate);
        self.sample = over.sample.or(self.sample);
        self.max_size = over.max_size.or(self.max_size);
        self.on_overflow = over.on_overflow.or(self.on_overflow);
        self.redact.extend(over.redact);
    }

    fn validate(&self, place: &str) -> Result<(), ConfigError> {
        if let Some(sample) = self.sample
            && !(0.0..=1.0).contains(&sample)
        {
            return Err(ConfigError(format!(
                "{place}sample: {sample} is no share: give 0 to 1"
            )));
        }
        if let Some(Bytes(bytes)) = self.max_size
            && !(MAX_SIZE_MIN..=MAX_SIZE_MAX).contains(&bytes)
        {
            return Err(ConfigError(format!(
                "{place}max_size: {bytes} is out of range: give {MAX_SIZE_MIN} to {MAX_SIZE_MAX} bytes"
            )));
        }
        for path in self.redact.keys() {
            let fields = path.strip_prefix("m.").unwrap_or_default();
            if fields.is_empty() || fields.split('.').any(str::is_empty) {
                return Err(ConfigError(format!(
                    "{place}redact: `{path}` is no path: give one such as `m.card.number`"
                )));
            }
        }
        Ok(())
    }

    pub(crate) fn rate_or_default(&self) -> u64 {
        self.rate.map_or(RATE_DEFAULT, |rate| rate.0)
    }

    /// The level up to which is recorded.
    pub(crate) fn level_or_default(&self) -> Level {
        match self.disabled {
            Some(true) => Level::Off,
            _ => self.level.unwrap_or_default(),
        }
    }

    pub(crate) fn max_size_or_default(&self) -> usize {
        self.max_size.map_or(MAX_SIZE_DEFAULT, |size| size.0) as usize
    }

    /// Traces whose hash is at most so much are recorded.
    pub(crate) fn sample_threshold(&self) -> u64 {
        match self.sample {
            None => u64::MAX,
            Some(share) if share >= 1.0 => u64::MAX,
            Some(share) => (share * u64::MAX as f64) as u64,
        }
    }
}

/// Records a second of a group and class.
pub(crate) const RATE_DEFAULT: u64 = 100_000;
/// The longest line: 64 KiB.
const MAX_SIZE_DEFAULT: u64 = 64 << 10;

/// Whether a trace is among those that are sampled: by a hash, since ids of traces have times and counters in them.
pub(crate) fn is_sampled(trace: u64, threshold: u64) -> bool {
    let mut hash = trace.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    trace == 0 || hash ^ (hash >> 31) <= threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<Config>().unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, told) in [
            (
                "rate_limit = 5",
                "line 1: unknown field `rate_limit`, expected one of `disabled`, `level`, `rate`, `sample`, `max_size`, `on_overflow`, `redact`, `classes`, `groups`, `messages`",
            ),
            (
                "\n[groups.a]\nsize = 1",
                "line 3: unknown field `size`, expected one of `disabled`, `level`, `rate`, `sample`, `max_size`, `on_overflow`, `redact`, `classes`",
            ),
            ("sample = 2.0", "sample: 2 is no share: give 0 to 1"),
            (
                "[classes.x]\nmax_size = 1",
                "classes.x.max_size: 1 is out of range: give 512 to 67108864 bytes",
            ),
            (
                "redact = { \"password\" = \"hide\" }",
                "redact: `password` is no path: give one such as `m.card.number`",
            ),
            (
                "rate = -1",
                "line 1: invalid value: integer `-1`, expected records a second, or \"unlimited\"",
            ),
            (
                "[messages.A]\nlevel = \"total\"",
                "messages.A.level: a level is one of records of a group or class; give `disabled`",
            ),
        ] {
            assert_eq!(refused(text), told);
        }
        assert!(refused("redact = { \"m.a\" = \"erase\" }").contains("`erase` is no redaction"));
    }

    #[test]
    fn later_layers_win_one_value_at_a_time() {
        let config: Config = r#"
            rate = 1
            sample = 0.5
            redact = { "m.a" = "hide" }
            [classes.c]
            rate = 2
            max_size = "2KiB"
            [groups.g]
            rate = 3
            [groups.g.classes.c]
            rate = "unlimited"
            redact = { "m.b" = "truncate:3" }
        "#
        .parse()
        .unwrap();
        assert_eq!(config.of_channel("x", "x").rate_or_default(), 1);
        assert_eq!(config.of_channel("x", "c").rate_or_default(), 2);
        assert_eq!(config.of_channel("g", "x").rate_or_default(), 3);
        let all = config.of_channel("g", "c");
        assert_eq!(all.rate_or_default(), UNLIMITED);
        assert_eq!(all.max_size_or_default(), 2048);
        assert_eq!(all.sample, Some(0.5));
        assert_eq!(all.redact.len(), 2);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(text.parse::<Config>().unwrap(), config);
    }

    #[test]
    fn a_share_of_traces_is_sampled() {
        let threshold = Settings {
            sample: Some(0.25),
            ..Settings::default()
        }
        .sample_threshold();
        let sampled = (1..=10_000)
            .filter(|&trace| is_sampled(trace, threshold))
            .count();
        assert!((2300..2700).contains(&sampled), "{sampled}");
        assert!(is_sampled(0, 0));
    }
}
