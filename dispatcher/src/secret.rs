//! Secrets of the document, on the node that uses them.
//!
//! Invariant: no error says anything of a secret, nor what stands where a reference belongs: it may be the secret.

use model::document::Secret;
use std::io::Read as _;
use store::seal::{MasterKeys, SealError};

/// The most that a file with a secret may hold.
const FILE_BYTES: u64 = 64 << 10;

/// Reveals secrets by environment, file or master key.
#[derive(Clone, Debug)]
pub(crate) struct Secrets(MasterKeys);

/// Why a secret can't be had here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// The variable is not there.
    #[error("its variable is not set in this node's environment")]
    NotSet,
    /// The file can't be read.
    #[error("its file can't be read: {0}")]
    File(#[source] std::io::Error),
    /// The file is too large to be one.
    #[error("its file is larger than {FILE_BYTES} bytes")]
    TooLarge,
    /// No key opens it.
    #[error("it can't be opened here: {0}; give the value to the API again, or add its key")]
    Sealed(#[from] SealError),
    /// There is no reference.
    #[error("it names no secret")]
    Nothing,
}

impl Secrets {
    /// Those that these keys open.
    pub(crate) const fn new(keys: MasterKeys) -> Self {
        Self(keys)
    }

    /// The secret itself. A file is read each time, without white space at its end; it may block.
    pub(crate) fn reveal(&self, secret: &Secret) -> Result<Vec<u8>, SecretError> {
        if let Some(sealed) = &secret.sealed {
            return Ok(self.0.open(sealed)?);
        }
        match (&secret.env, &secret.file) {
            (Some(name), _) => {
                std::env::var(name).map(String::into_bytes).map_err(|_| SecretError::NotSet)
            }
            (None, Some(file)) => {
                let mut bytes = Vec::new();
                std::fs::File::open(file)
                    .and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut bytes))
                    .map_err(SecretError::File)?;
                match bytes.len() as u64 > FILE_BYTES {
                    true => Err(SecretError::TooLarge),
                    false => Ok(bytes.trim_ascii_end().to_vec()),
                }
            }
            (None, None) => Err(SecretError::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Secret {
        Secret { env: None, file: None, sealed: None }
    }

    #[test]
    fn a_file_is_read_anew_each_time_and_without_its_last_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let secret = Secret { file: Some(file.display().to_string()), ..nothing() };
        let secrets = Secrets::new(MasterKeys::default());
        for (text, told) in [("one\n", "one"), ("two\r\n", "two"), (" three ", " three")] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(secrets.reveal(&secret).unwrap(), told.as_bytes());
        }
        std::fs::write(&file, vec![b'x'; 70_000]).unwrap();
        assert!(matches!(secrets.reveal(&secret), Err(SecretError::TooLarge)));
    }

    #[test]
    fn no_error_repeats_what_stands_there() {
        let secrets = Secrets::new(MasterKeys::default());
        let hunter = || Some("TOLLGATE_SECRET_hunter2".to_owned());
        for secret in [
            Secret { env: hunter(), ..nothing() },
            Secret { file: hunter(), ..nothing() },
            Secret { sealed: hunter(), ..nothing() },
        ] {
            let error = secrets.reveal(&secret).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
