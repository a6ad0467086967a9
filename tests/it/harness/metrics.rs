//! What `/metrics` says, as numbers.

/// A reading of every sample.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Vec<(String, f64)>);

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let read = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        Self(samples.map(read).collect())
    }

    /// The sum of the samples of this metric that have all of these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let fits = |sample: &str| {
            let (found, rest) = sample.split_once('{').unwrap_or((sample, ""));
            let has = |wanted: &String| {
                rest.trim_end_matches('}').split(',').any(|label| label == wanted)
            };
            found == name && wanted.iter().all(has)
        };
        self.0.iter().filter(|(sample, _)| fits(sample)).fold(0.0, |sum, (_, value)| sum + value)
    }

    /// How many exchanges have ended.
    pub(crate) fn requests(&self) -> u64 {
        whole(self.sum("tollgate_requests_total", &[]))
    }

    /// The number of the revision in this state.
    pub(crate) fn revision(&self, state: &str) -> u64 {
        whole(self.sum("tollgate_config_revision", &[("state", state)]))
    }

    /// How many metrics have names that start so.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.0.iter().map(|(sample, _)| sample.split('{').next().unwrap_or_default()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are small and positive"
)]
fn whole(value: f64) -> u64 {
    value as u64
}
