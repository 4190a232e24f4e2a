//! Sources of settings, and reading them while recording every mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::Secret;
use super::unknown::unknown;
use crate::bom::without_bom;

/// Where a value came from; later origins win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// `skytrail.toml`.
    File,
    /// `.env` in the working directory.
    DotEnv,
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "skytrail.toml",
            Self::DotEnv => ".env",
            Self::Environment => "environment",
            Self::Flag => "command line",
        })
    }
}

/// A setting that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The setting.
    pub name: String,
    /// Its value, `***` for a secret; `None` if the name itself is wrong.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: Origin,
    /// Where it came from, by name.
    pub place: String,
    /// What is wrong, or what is accepted.
    pub fault: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(value) = &self.value {
            write!(f, " = {value:?}")?;
        }
        write!(f, " (from {}): {}", self.place, self.fault)
    }
}

/// Values by name, with their origins.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    values: BTreeMap<String, BTreeMap<Origin, String>>,
    /// The name of the settings file, if one was read.
    file: Option<String>,
    /// Environment variables that are not valid UTF-8.
    garbled: BTreeSet<String>,
}

impl Sources {
    /// Adds values. If a name has several, the one from the latest origin counts. Empty values
    /// count as not set, as in v1.
    #[must_use]
    pub fn with(
        mut self,
        origin: Origin,
        values: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        for (name, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
            self.values.entry(name).or_default().insert(origin, value);
        }
        self
    }

    /// Adds the variables of the environment, which also contains those of other programs.
    #[must_use]
    pub fn with_environment(
        mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let mut values = Vec::new();
        for (name, value) in variables {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => values.push((name, value)),
                (Ok(name), Err(_)) => {
                    self.garbled.insert(name);
                }
                (Err(_), _) => {}
            }
        }
        self.with(Origin::Environment, values)
    }

    /// Adds the settings of a TOML file: one table, names in lower case. `file` is its name for
    /// people.
    ///
    /// # Errors
    /// Not TOML, or a value that is not a string, an integer or a boolean.
    pub fn with_toml(mut self, file: &str, text: &str) -> Result<Self, String> {
        let text = without_bom(text);
        let table = text.parse();
        let table: toml::Table = table.map_err(|error| not_toml((file, text), &error))?;
        let mut values = Vec::new();
        for (name, value) in table {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(value) => value.to_string(),
                _ => {
                    return Err(format!(
                        "{file}: {name}: expected text, a whole number or true/false"
                    ));
                }
            };
            values.push((name.to_uppercase(), text));
        }
        self.file = Some(file.to_owned());
        Ok(self.with(Origin::File, values))
    }

    /// Adds the settings of a `.env` file: `NAME=value` lines, optional quotes, `#` comments, also
    /// after a value.
    #[must_use]
    pub fn with_dot_env(self, text: &str) -> Self {
        let parse = |line: &str| {
            let line = line.trim().trim_start_matches("export ");
            let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
            let value = quoted(value.trim()).unwrap_or_else(|| without_comment(value));
            Some((name.trim().to_owned(), value.to_owned()))
        };
        let values: Vec<_> = without_bom(text).lines().filter_map(parse).collect();
        self.with(Origin::DotEnv, values)
    }

    /// Returns a value and its origin.
    pub fn get(&self, name: &str) -> Option<(Origin, &str)> {
        let (origin, value) = self.values.get(name)?.last_key_value()?;
        Some((*origin, value.as_str()))
    }

    /// Returns the name of an origin for people: for the settings file, that of the file itself.
    pub(super) fn place_of(&self, origin: Origin) -> String {
        let file = self.file.as_ref().filter(|_| origin == Origin::File);
        file.cloned().unwrap_or_else(|| origin.to_string())
    }

    /// Returns every name with each origin that gives it a value.
    pub(super) fn given(&self) -> impl Iterator<Item = (&str, Origin)> {
        let names = self.values.iter();
        names.flat_map(|(name, from)| from.keys().map(move |origin| (name.as_str(), *origin)))
    }
}

/// Returns a message that says where a file is not TOML. It leaves out the line itself, which may
/// contain a secret.
fn not_toml((file, text): (&str, &str), error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.unwrap_or_default().matches('\n').count() + 1;
    let message = error.message().trim().replace('\n', ", ");
    format!(
        "{file}, line {line}: {message} (values are true, false, whole numbers, or text in quotes)"
    )
}

/// Returns the text between the quotes around a value. A comment may follow.
fn quoted(value: &str) -> Option<&str> {
    let quote = value
        .chars()
        .next()
        .filter(|first| ['"', '\''].contains(first))?;
    let inner = value.strip_prefix(quote)?;
    let mut ends = inner.match_indices(quote);
    let (end, _) = ends.find(|(end, _)| {
        let rest = inner.get(end + 1..).unwrap_or_default().trim_start();
        rest.is_empty() || rest.starts_with('#')
    })?;
    inner.get(..end)
}

fn without_comment(value: &str) -> &str {
    let mut comments = value
        .match_indices([' ', '\t'])
        .map(|(at, _)| value.split_at(at));
    let found = comments.find(|(_, rest)| rest.trim_start().starts_with('#'));
    found.map_or(value, |(value, _)| value).trim()
}

/// A setting with its effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name.
    pub name: String,
    /// The value; `***` for a secret, empty if not set.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// Where it came from, by name.
    pub place: String,
}

/// Masks the part between `://` and `@` in an address.
pub(super) fn without_sign_in(address: &str) -> String {
    let parts = address.split_once("://");
    let sign_in = parts.and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)));
    sign_in.map_or_else(
        || address.to_owned(),
        |(scheme, place)| format!("{scheme}://***@{place}"),
    )
}

/// Reads settings, and records their values and mistakes.
pub(super) struct Reader<'a> {
    sources: &'a Sources,
    /// Every name that was read.
    known: BTreeSet<String>,
    mistakes: Vec<Mistake>,
    settings: Vec<Setting>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        Self {
            sources,
            known: BTreeSet::new(),
            mistakes: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// Returns the settings, and the names in `.env` that are not settings.
    pub(super) fn finish(mut self) -> Result<(Vec<Setting>, Vec<Mistake>), Vec<Mistake>> {
        for name in self.sources.garbled.intersection(&self.known) {
            self.mistakes.push(Mistake {
                name: name.clone(),
                value: None,
                origin: Origin::Environment,
                place: Origin::Environment.to_string(),
                fault: "expected text in UTF-8".to_owned(),
            });
        }
        // Other programs may read the same `.env`; the other sources belong to the server alone.
        let (tolerated, refused): (Vec<_>, _) = unknown(self.sources, &self.known)
            .into_iter()
            .partition(|mistake| mistake.origin == Origin::DotEnv);
        self.mistakes.extend(refused);
        if self.mistakes.is_empty() {
            Ok((self.settings, tolerated))
        } else {
            Err(self.mistakes)
        }
    }

    pub(super) fn refuse(&mut self, name: &str, value: &str, expected: &str) {
        let origin = self
            .sources
            .get(name)
            .map_or(Origin::Default, |(origin, _)| origin);
        self.mistakes.push(Mistake {
            name: name.to_owned(),
            value: Some(without_sign_in(value)),
            origin,
            place: self.sources.place_of(origin),
            fault: format!("expected {expected}"),
        });
    }

    fn find(&mut self, name: &str) -> Option<(Origin, &'a str)> {
        self.known.insert(name.to_owned());
        self.sources.get(name)
    }

    pub(super) fn optional(&mut self, name: &str) -> Option<String> {
        self.find(name).map(|(_, value)| value.to_owned())
    }

    /// Returns the names of the settings that begin with `prefix`.
    pub(super) fn names_with(&self, prefix: &str) -> Vec<String> {
        let names = self.sources.values.keys();
        names
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Returns a value as a string, and records it with its origin. Credentials in an address are
    /// masked in the record.
    pub(super) fn text(&mut self, name: &str, default: &str) -> String {
        let (origin, value) = self.find(name).unwrap_or((Origin::Default, default));
        self.settings.push(Setting {
            name: name.to_owned(),
            value: without_sign_in(value),
            origin,
            place: self.sources.place_of(origin),
        });
        value.to_owned()
    }

    /// Returns the spelling of a setting whose value counts: the one from the later origin, or else
    /// the first one.
    pub(super) fn spelled(&mut self, first: &str, second: &str) -> String {
        let [one, other] = [first, second].map(|name| self.find(name).map(|(origin, _)| origin));
        if other > one { second } else { first }.to_owned()
    }

    /// Reads a secret, either directly or from the file whose path is in the setting with the
    /// suffix `_FILE`.
    pub(super) fn secret(&mut self, name: &str) -> Option<Secret> {
        let plain = self
            .find(name)
            .map(|(origin, text)| (origin, text.to_owned()));
        let file = format!("{name}_FILE");
        let found = match self.find(&file) {
            Some((origin, path)) if plain.as_ref().is_none_or(|(plain, _)| *plain < origin) => {
                self.text_in(&file, path).map(|text| (origin, text))
            }
            _ => plain,
        };
        let (origin, shown) = match &found {
            Some((origin, _)) => (*origin, "***"),
            None => (Origin::Default, ""),
        };
        self.settings.push(Setting {
            name: name.to_owned(),
            value: shown.to_owned(),
            origin,
            place: self.sources.place_of(origin),
        });
        found.map(|(_, text)| Secret::new(text))
    }

    /// As [`Reader::secret`], for a key that is sent in a header: whatever a header cannot hold, or
    /// loses, would never match.
    pub(super) fn header_secret(&mut self, name: &str) -> Option<Secret> {
        let found = self.secret(name)?;
        let text = found.reveal();
        let is_held = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_held || text.starts_with(' ') || text.ends_with(' ') {
            let origin = self.settings.last().map(|setting| setting.origin);
            let origin = origin.unwrap_or(Origin::Default);
            self.mistakes.push(Mistake {
                name: name.to_owned(),
                value: Some("***".to_owned()),
                origin,
                place: self.sources.place_of(origin),
                fault: "expected a key that a header can hold: visible ASCII characters, and no \
                        space at the beginning or end"
                    .to_owned(),
            });
        }
        Some(found)
    }

    fn text_in(&mut self, name: &str, path: &str) -> Option<String> {
        let read = std::fs::read_to_string(path);
        let expected = match read.as_deref().map(without_bom) {
            Ok(text) if text.trim().is_empty() => {
                "a file that holds the secret: this one is empty".to_owned()
            }
            Ok(text) => return Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => format!("a file that can be read ({error})"),
        };
        self.refuse(name, path, &expected);
        None
    }

    /// Sets what people are shown for the value that was read last.
    pub(super) fn show(&mut self, value: &str) {
        if let Some(setting) = self.settings.last_mut() {
            value.clone_into(&mut setting.value);
        }
    }

    pub(super) fn choice(&mut self, name: &str, default: &str, choices: &[&str]) -> String {
        let value = self.text(name, default);
        if choices.contains(&value.as_str()) {
            return value;
        }
        self.refuse(name, &value, &format!("one of {}", choices.join(", ")));
        default.to_owned()
    }

    pub(super) fn boolean(&mut self, name: &str, default: bool) -> bool {
        let value = self.text(name, if default { "YES" } else { "NO" });
        match value.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "y" | "yes" | "on" => true,
            "0" | "f" | "false" | "n" | "no" | "off" => false,
            _ => {
                self.refuse(name, &value, "YES or NO");
                default
            }
        }
    }

    pub(super) fn number<T>(&mut self, name: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let value = self.text(name, &default.to_string());
        match value.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                self.refuse(name, &value, &expected);
                default
            }
        }
    }

    /// Reads a number for which 0 means none; a negative number does, too, as in v1.
    pub(super) fn count<T>(&mut self, name: &str, max: T) -> T
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display + Default,
    {
        let value = self.text(name, "0");
        let number = value.parse().map(|number: i64| T::try_from(number.max(0)));
        match number {
            Ok(Ok(number)) if number <= max => number,
            _ => {
                self.refuse(name, &value, &format!("a whole number up to {max}"));
                T::default()
            }
        }
    }

    /// Reads a list of strings separated by commas; spaces around them are ignored.
    pub(super) fn list(&mut self, name: &str) -> Vec<String> {
        let value = self.text(name, "");
        let items = value.split(',').map(str::trim);
        items
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Reads a number of seconds; 0 means without limit.
    pub(super) fn seconds(&mut self, name: &str, default: u64) -> Option<Duration> {
        let seconds = self.number(name, default, 0..=3_153_600_000);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}
