//! What happened, on disk: a line is there before whoever wrote it says anything to anybody, and outlives its process.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Lines in a file, of which nothing is changed.
pub(crate) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

impl Journal {
    /// The one of this file, which is made where it isn't there.
    pub(crate) fn at(path: &Path) -> Self {
        let file = File::options().create(true).append(true).open(path).unwrap();
        Self { path: path.to_owned(), file: Mutex::new(file) }
    }

    /// Adds a line. It is on disk when this returns.
    pub(crate) fn write(&self, line: &str) {
        let mut file = self.file.lock().unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
        file.sync_data().unwrap();
    }

    /// Every line so far that is whole.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.path).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }
}
