//! From sources to a module: cargo for a crate, clang or Zig for C.
//!
//! Invariant: a compiler's own messages go to standard error as they are; what is missing is told with how to install it.

use super::new::SDK_FOLDER;
use anyhow::{Context as _, bail};
use model::units::Size;
use serde::Deserialize;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "wasm32-unknown-unknown";
/// Where a pack's C sources lie.
const SOURCES: &str = "src";
/// Where the SDK's C header lies.
const SDK_C: &str = "sdk/c";
/// What every C compiler is told: no library, no start, nothing exported but what says so.
const C_FLAGS: &[&str] = &[
    "-std=c11",
    "-O2",
    "-Wall",
    "-mbulk-memory",
    "-ffreestanding",
    "-nostdlib",
    "-fvisibility=hidden",
    "-Wl,--no-entry",
    "-Wl,--strip-all",
];
/// clang for WebAssembly. The stack lies below the data, so that an overflow traps; Zig does this by itself.
const CLANG: &[&str] = &["--target=wasm32", "-Wl,--stack-first"];
/// Zig, as its Python package brings it.
const ZIG: &[&str] = &["-m", "ziglang", "cc", "-target", "wasm32-freestanding"];
/// The feature under which a crate exports the schema of its settings and nothing else.
const SCHEMA_FEATURE: &str = "tollgate-pack/schema";
/// How cargo is told what the linker is told.
const RUSTFLAGS: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS";
/// What would take its place: flags that are meant for this machine.
const FLAGS_FOR_HERE: &[&str] = &["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"];

/// What compilers made of a folder.
pub(super) struct Compiled {
    /// A core module.
    pub(super) module: Vec<u8>,
    /// The module that tells the schema of the settings, of a crate.
    pub(super) schema: Option<Vec<u8>>,
}

/// Compiles a pack's folder, with a stack of this many bytes.
pub(super) fn compile(folder: &Path, stack: Size) -> anyhow::Result<Compiled> {
    let manifest = folder.join("Cargo.toml");
    if manifest.exists() {
        require_target()?;
        // Both are written to the same place: this one is read before the other is made.
        let schema = of_crate(&manifest, stack, &["--features", SCHEMA_FEATURE])?;
        return Ok(Compiled { module: of_crate(&manifest, stack, &[])?, schema: Some(schema) });
    }
    let mut sources = c_sources(folder)?;
    sources.extend(c_sources(&folder.join(SOURCES))?);
    if sources.is_empty() {
        bail!(
            "there is nothing to compile in {}: neither a Cargo.toml nor a .c file, in it or in {SOURCES}/",
            folder.display()
        );
    }
    Ok(Compiled { module: of_c(folder, stack, &sources)?, schema: None })
}

/// The module that cargo makes of a crate.
fn of_crate(manifest: &Path, stack: Size, features: &[&str]) -> anyhow::Result<Vec<u8>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for variable in FLAGS_FOR_HERE {
        cargo.env_remove(variable);
    }
    let built = cargo
        .args(["build", "--release", "--lib", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics", "--manifest-path"])
        .arg(manifest)
        .args(features)
        .env(RUSTFLAGS, format!("-Clink-arg=-zstack-size={}", stack.0))
        .stderr(Stdio::inherit())
        .output()
        .context("cargo can't be run: install Rust with rustup")?;
    if !built.status.success() {
        bail!("{} did not compile", manifest.display());
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    let made = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter_map(|message: Message| message.filenames)
        .flatten()
        .rfind(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    let made = made.with_context(|| {
        format!(
            "{} made no module: it needs `crate-type = [\"cdylib\"]` under [lib]",
            manifest.display()
        )
    })?;
    fs::read(&made).with_context(|| format!("{} can't be read", made.display()))
}

/// What cargo says of something that it made; what stands for the crate itself comes last.
#[derive(Deserialize)]
struct Message {
    filenames: Option<Vec<PathBuf>>,
}

/// Says how to install Rust's WebAssembly target where it isn't.
fn require_target() -> anyhow::Result<()> {
    match rustc(&["--print", "target-libdir", "--target", TARGET]) {
        Some(folder) if Path::new(&folder).is_dir() => Ok(()),
        Some(_) => {
            bail!("Rust's target {TARGET} is not installed: run `rustup target add {TARGET}`")
        }
        None => bail!("rustc can't be run: install Rust with rustup"),
    }
}

/// What rustc prints.
fn rustc(arguments: &[&str]) -> Option<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(rustc).args(arguments).stderr(Stdio::null()).output().ok()?;
    told.status.success().then(|| String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

fn c_sources(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut sources = Vec::new();
    for entry in entries {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "c") {
            sources.push(file);
        }
    }
    sources.sort();
    Ok(sources)
}

fn of_c(folder: &Path, stack: Size, sources: &[PathBuf]) -> anyhow::Result<Vec<u8>> {
    let made = tempfile::Builder::new().suffix(".wasm").tempfile()?;
    let compiler = c_compiler()?;
    let built = compiler
        .command()
        .args(C_FLAGS)
        .arg(format!("-Wl,-z,stack-size={}", stack.0))
        .arg("-I")
        .arg(folder.join(SDK_FOLDER).join(SDK_C))
        .args(sources)
        .arg("-o")
        .arg(made.path())
        .status()
        .with_context(|| format!("{} can't be run", compiler.program.display()))?;
    if !built.success() {
        bail!("{} did not compile", folder.display());
    }
    Ok(fs::read(made.path())?)
}

/// A C compiler for WebAssembly, and what it is told first.
struct CCompiler {
    program: OsString,
    arguments: Vec<OsString>,
}

impl CCompiler {
    fn new(program: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(OsString::from).collect();
        Self { program: program.into(), arguments }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }

    /// Whether it is there, and links: a clang without lld does not.
    fn works(&self) -> bool {
        let Ok(made) = tempfile::NamedTempFile::new() else { return false };
        let tried = self
            .command()
            .args(["-nostdlib", "-Wl,--no-entry", "-x", "c", "/dev/null", "-o"])
            .arg(made.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|tried| tried.success())
    }
}

/// The first that works: clang with its own linker, clang with the one that Rust brings along, Zig from its Python package.
fn c_compiler() -> anyhow::Result<CCompiler> {
    let clang = CCompiler::new("clang", CLANG);
    if clang.works() {
        return Ok(clang);
    }
    if let Some(linker) = rusts_linker() {
        let mut clang = clang;
        clang.arguments.push(format!("-fuse-ld={linker}").into());
        if clang.works() {
            return Ok(clang);
        }
    }
    let zig = CCompiler::new("python3", ZIG);
    if zig.works() {
        return Ok(zig);
    }
    bail!(
        "there is no C compiler for WebAssembly: install clang and lld (on Debian and Ubuntu: apt-get install clang lld), or Zig as a Python package (pip install ziglang)"
    )
}

fn rusts_linker() -> Option<String> {
    let sysroot = rustc(&["--print", "sysroot"])?;
    let version = rustc(&["--version", "--verbose"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "))?;
    let linker = Path::new(&sysroot).join("lib/rustlib").join(host).join("bin/gcc-ld/wasm-ld");
    linker.is_file().then(|| linker.display().to_string())
}
