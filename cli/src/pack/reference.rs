//! `NAME@VERSION`, as documents write it.

use model::id::is_id;
use std::fmt;
use std::str::FromStr;

/// One version of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) version: String,
}

/// A pack, or one version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) version: Option<String>,
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse()? {
            Named { name, version: Some(version) } => Ok(Self { name, version }),
            Named { name, version: None } => Err(format!("say which version: {name}@VERSION")),
        }
    }
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) =
            text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
        if !is_id(name) || !version.is_none_or(is_version) {
            return Err("write NAME@VERSION, like page-limit@1.0.0".to_owned());
        }
        Ok(Self { name: name.to_owned(), version: version.map(str::to_owned) })
    }
}

impl Reference {
    /// Its path in the admin API.
    pub(super) fn path(&self) -> String {
        format!("/v1/packs/{}/versions/{}", self.name, self.version)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// Three numbers, as documents ask.
fn is_version(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.split('.').count() == 3 && text.split('.').all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_a_name_and_a_version() {
        let read = "page-limit@1.10.0".parse::<Reference>().unwrap();
        assert_eq!(read.to_string(), "page-limit@1.10.0");
        assert_eq!("page-limit".parse::<Named>().unwrap().version, None);
        for text in
            ["", "@1.0.0", "a@", "a", "a@1", "a@1.0.0@2", "a/b@1.0.0", "a b@1.0.0", "a@../1"]
        {
            text.parse::<Reference>().unwrap_err();
        }
    }
}
