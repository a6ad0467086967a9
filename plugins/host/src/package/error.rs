//! What can be wrong with a pack file.

use model::id::PackKeyId;

use super::ABI;
use crate::pack::PackError;

/// Why bytes are no pack file, or not one that may be used. The text says how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// A part, or the file, is larger than is taken.
    #[error("{what} has {has} {unit}; at most {max} are taken: make it smaller")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How many it has.
        has: usize,
        /// How many it may have.
        max: usize,
        /// Of what.
        unit: &'static str,
    },
    /// Not an OCI image layout with a pack in it.
    #[error("this is not a pack file: {message}; make one with `tollgate pack build`")]
    NotAPack {
        /// What is amiss.
        message: String,
    },
    /// It differs from how its content is written.
    #[error("a byte of the pack file was changed, added or removed: build or fetch it again")]
    NotCanonical,
    /// A part's content is not what its name says.
    #[error(
        "the content of `{path}` was changed: its digest is another one; build or fetch the pack file again"
    )]
    Digest {
        /// The part.
        path: String,
    },
    /// The manifest says something that can't be.
    #[error("the manifest: {message}")]
    Manifest {
        /// What to change.
        message: String,
    },
    /// Built against an interface that isn't served.
    #[error("the manifest: `abi` is {abi:?}, which is not served; build the pack against `{ABI}`")]
    UnknownAbi {
        /// Which one.
        abi: String,
    },
    /// Built against proxy-wasm.
    #[error(
        "the manifest: `abi` is {abi:?}: proxy-wasm filters are not served; write the policy against `{ABI}` \
         (`tollgate pack new` starts one)"
    )]
    ProxyWasm {
        /// Which version of it.
        abi: String,
    },
    /// The module isn't what the manifest says.
    #[error(transparent)]
    Module(#[from] PackError),
    /// A vector is not as vectors are.
    #[error("the vector `{name}`: {message}")]
    Vector {
        /// Which one.
        name: String,
        /// What to change.
        message: String,
    },
    /// Nobody signed it.
    #[error(
        "the pack file is not signed: sign it with `tollgate pack sign`, by a key of `pack_keys`"
    )]
    Unsigned,
    /// Signed by a key that the document doesn't have.
    #[error(
        "the pack file is signed by the key `{key}`, which is not in `pack_keys`: add it there, or sign the file by a key \
         that is"
    )]
    UnknownKey {
        /// The key.
        key: PackKeyId,
    },
    /// The signature isn't one of this content by this key.
    #[error(
        "the signature does not fit the pack file and the key: sign it again with the private half of the key"
    )]
    SignatureInvalid,
    /// Not a public key.
    #[error(
        "this is not a public key: take `ed25519:` and the base64 of its 32 bytes, as `tollgate pack keygen` prints it"
    )]
    PublicKey,
    /// Not a private key.
    #[error(
        "this is not an Ed25519 private key in PEM (PKCS#8): take the file that `tollgate pack keygen` wrote"
    )]
    SigningKey,
    /// The system has no randomness.
    #[error("no key can be made: the system gives no random numbers")]
    NoRandomness,
}

impl PackageError {
    pub(super) fn no_pack(message: impl Into<String>) -> Self {
        Self::NotAPack { message: message.into() }
    }
}
