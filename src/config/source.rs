//! Where settings come from, and reading them with every mistake noted.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Secret;

/// Where a value came from; later ones win.
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} = {value:?} (from {origin}): expected {expected}")]
pub struct Mistake {
    /// The setting.
    pub name: String,
    /// Its value; `***` for a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
    /// What is accepted.
    pub expected: String,
}

/// Values by name, with where they came from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    values: BTreeMap<String, (Origin, String)>,
}

impl Sources {
    /// Adds values; one from a later origin replaces one from an earlier. Empty values count as
    /// not set, as in v1.
    #[must_use]
    pub fn with(
        mut self,
        origin: Origin,
        values: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        for (name, value) in values {
            let is_newer = self
                .values
                .get(&name)
                .is_none_or(|(known, _)| *known <= origin);
            if is_newer && !value.is_empty() {
                self.values.insert(name, (origin, value));
            }
        }
        self
    }

    /// Adds the settings of a TOML file: one table, names in lower case.
    ///
    /// # Errors
    /// Not TOML, or a value that is neither text, number nor truth value.
    pub fn with_toml(self, text: &str) -> Result<Self, String> {
        let table: toml::Table = text
            .parse()
            .map_err(|error| format!("skytrail.toml: {error}"))?;
        let mut values = Vec::new();
        for (name, value) in table {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(value) => value.to_string(),
                _ => {
                    return Err(format!(
                        "skytrail.toml: {name}: expected text, a whole number or true/false"
                    ));
                }
            };
            values.push((name.to_uppercase(), text));
        }
        Ok(self.with(Origin::File, values))
    }

    /// Adds the settings of a `.env` file: `NAME=value` lines, quotes optional, `#` comments.
    #[must_use]
    pub fn with_dot_env(self, text: &str) -> Self {
        let parse = |line: &str| {
            let line = line.trim().trim_start_matches("export ");
            let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
            let value = value.trim().trim_matches(['"', '\'']);
            Some((name.trim().to_owned(), value.to_owned()))
        };
        let values: Vec<_> = text.lines().filter_map(parse).collect();
        self.with(Origin::DotEnv, values)
    }

    /// Returns a value and where it came from.
    pub fn get(&self, name: &str) -> Option<(Origin, &str)> {
        self.values
            .get(name)
            .map(|(origin, value)| (*origin, value.as_str()))
    }
}

/// A setting as it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name.
    pub name: String,
    /// The value; `***` for a secret, empty for one that is not set.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Masks what stands between `://` and `@` in an address.
fn without_sign_in(address: &str) -> String {
    let parts = address.split_once("://");
    let sign_in = parts.and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)));
    sign_in.map_or_else(
        || address.to_owned(),
        |(scheme, place)| format!("{scheme}://***@{place}"),
    )
}

/// Reads settings, and notes what came out and what is wrong.
pub(super) struct Reader<'a> {
    sources: &'a Sources,
    mistakes: Vec<Mistake>,
    settings: Vec<Setting>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        Self {
            sources,
            mistakes: Vec::new(),
            settings: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> Result<Vec<Setting>, Vec<Mistake>> {
        if self.mistakes.is_empty() {
            Ok(self.settings)
        } else {
            Err(self.mistakes)
        }
    }

    pub(super) fn refuse(&mut self, name: &str, value: &str, expected: &str) {
        let origin = self
            .sources
            .get(name)
            .map_or(Origin::Default, |(origin, _)| origin);
        let (name, value, expected) = (name.to_owned(), value.to_owned(), expected.to_owned());
        self.mistakes.push(Mistake {
            name,
            value,
            origin,
            expected,
        });
    }

    pub(super) fn optional(&self, name: &str) -> Option<String> {
        self.sources.get(name).map(|(_, value)| value.to_owned())
    }

    /// Returns the names of the settings that begin with `prefix`.
    pub(super) fn names_with(&self, prefix: &str) -> Vec<String> {
        let names = self.sources.values.keys();
        names
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Returns a value as text, noted with where it came from.
    pub(super) fn text(&mut self, name: &str, default: &str) -> String {
        let (origin, value) = self.sources.get(name).unwrap_or((Origin::Default, default));
        let value = value.to_owned();
        self.settings.push(Setting {
            name: name.to_owned(),
            value: value.clone(),
            origin,
        });
        value
    }

    /// As [`Reader::text`], for a setting with several spellings.
    pub(super) fn first_text(&mut self, names: &[&str], default: &str) -> String {
        let set = names.iter().find(|name| self.sources.get(name).is_some());
        match set.or(names.first()) {
            Some(name) => self.text(name, default),
            None => default.to_owned(),
        }
    }

    /// Reads a secret; with `_FILE` behind its name, from the file of that path.
    pub(super) fn secret(&mut self, name: &str) -> Option<Secret> {
        let in_file = self.secret_in_file(name);
        let found = self.sources.get(name);
        let found = match &in_file {
            Some((origin, text)) if found.is_none_or(|(_, text)| text.is_empty()) => {
                Some((*origin, text.as_str()))
            }
            _ => found,
        };
        let (origin, value) = found.unwrap_or((Origin::Default, ""));
        let shown = if value.is_empty() { "" } else { "***" };
        self.settings.push(Setting {
            name: name.to_owned(),
            value: shown.to_owned(),
            origin,
        });
        found.map(|(_, value)| Secret::new(value))
    }

    fn secret_in_file(&mut self, name: &str) -> Option<(Origin, String)> {
        let name = format!("{name}_FILE");
        let (origin, path) = self.sources.get(&name)?;
        let path = path.to_owned();
        match std::fs::read_to_string(&path) {
            _ if path.is_empty() => None,
            Ok(text) => Some((origin, text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => {
                self.refuse(&name, &path, &format!("a file that can be read ({error})"));
                None
            }
        }
    }

    /// As [`Reader::text`], for an address: who may sign in there is not shown.
    pub(super) fn address(&mut self, name: &str, default: &str) -> String {
        let value = self.text(name, default);
        self.show(&without_sign_in(&value));
        value
    }

    /// Says what people are shown of the value that was read last.
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

    pub(super) fn number(&mut self, name: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
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

    /// Reads a number of which 0 means none; so does a negative one, as in v1.
    pub(super) fn count(&mut self, name: &str, max: u64) -> u64 {
        let value = self.text(name, "0");
        match value
            .parse::<i64>()
            .map(|number| u64::try_from(number.max(0)))
        {
            Ok(Ok(number)) if number <= max => number,
            _ => {
                self.refuse(name, &value, &format!("a whole number up to {max}"));
                0
            }
        }
    }

    /// Reads a list of texts, separated by commas; spaces around them do not count.
    pub(super) fn list(&mut self, name: &str) -> Vec<String> {
        let value = self.text(name, "");
        let items = value.split(',').map(str::trim);
        items
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Reads seconds; 0 means without limit.
    pub(super) fn seconds(&mut self, name: &str, default: u64) -> Option<Duration> {
        let seconds = self.number(name, default, 0..=3_153_600_000);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}
