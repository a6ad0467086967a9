//! docs/packs.md, as a stranger follows it: every command that the page shows is typed in an empty folder, beside a demo of
//! its own, and must print what the page says.

use crate::harness::process::Shell;
use crate::harness::{Demo, PATIENCE};
use std::path::Path;
use std::time::{Duration, Instant};

/// What the page starts first; the harness does it, on free ports.
const DEMO: &str = "tollgate demo --data demo";
/// Stands for what differs from run to run: alone on a line for any lines, within one for any text.
const ANYTHING: &str = "…";
/// What only asks, and may be asked again until the answer is the page's: some things take a moment to be known.
const ASKS: &[&str] =
    &["tollgate pack status", "tollgate pack diff", "tollgate pack list", "curl -s \""];
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// One command of the page, and what it prints there.
struct Step {
    line: usize,
    command: String,
    prints: Vec<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut console = false;
    for (index, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            console = line == "```console";
        } else if !console {
            continue;
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { line: index + 1, command: command.to_owned(), prints: Vec::new() });
        } else {
            steps.last_mut().unwrap().prints.push(line.to_owned());
        }
    }
    steps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_guide_does_what_it_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/packs.md");
    let page = std::fs::read_to_string(page).unwrap();
    let steps = steps(&page);
    assert!(steps.len() > 30, "the page has commands");
    assert_eq!(steps[0].command, DEMO);
    let demo = Demo::start().await;
    let mut shell = Shell::in_folder(demo.folder());
    // Of `make packs`, what the page uses.
    let cel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/cel");
    let (printed, status) =
        shell.run(&format!("tollgate pack build {} --out packs", cel.display()));
    assert_eq!(status, 0, "{printed}");
    for (index, step) in steps.iter().enumerate().skip(1) {
        // A command that fails is followed by one that shows how it ended.
        let shown = steps.get(index + 1).is_some_and(|next| next.command == "echo $?");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (printed, status) = shell.run(&step.command);
            let printed: Vec<&str> = printed.lines().collect();
            let prints: Vec<&str> = step.prints.iter().map(String::as_str).collect();
            let as_shown = prints.is_empty() || fits(&prints, &printed);
            if as_shown && (status == 0 || shown) {
                break;
            }
            let asks = ASKS.iter().any(|ask| step.command.starts_with(ask));
            assert!(
                asks && Instant::now() < deadline,
                "docs/packs.md:{}: $ {}\nended with {status} and printed\n{}\nwhere the page has\n{}",
                step.line,
                step.command,
                printed.join("\n"),
                prints.join("\n")
            );
            // Something is on its way from a node to the store.
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether the lines are those of the page.
fn fits(page: &[&str], printed: &[&str]) -> bool {
    match page.split_first() {
        None => printed.is_empty(),
        Some((&ANYTHING, rest)) => {
            (0..=printed.len()).any(|skipped| fits(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, others)| is_like(line, first) && fits(rest, others)),
    }
}

/// Whether a line is that of the page; columns are as wide as they are.
fn is_like(page: &str, printed: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (page, printed) = (words(page), words(printed));
    let Some((first, rest)) = page.split_once(ANYTHING) else { return page == printed };
    let (between, last) = rest.rsplit_once(ANYTHING).map_or((None, rest), |(a, b)| (Some(a), b));
    let within = printed.strip_prefix(first).and_then(|left| left.strip_suffix(last));
    let Some(mut left) = within else { return false };
    between.into_iter().flat_map(|between| between.split(ANYTHING)).all(|part| {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
        true
    })
}

#[test]
fn a_line_of_the_page_stands_for_what_it_shows() {
    for (page, printed, alike) in [
        ("ok", "ok", true),
        ("ok", "okay", false),
        ("a …", "a b c", true),
        ("a … c", "a b c", true),
        ("a … d", "a b c", false),
        ("… b … d …", "a b c d e", true),
        ("… d … b …", "a b c d e", false),
        ("a  b", "a b", true),
    ] {
        assert_eq!(is_like(page, printed), alike, "{page} | {printed}");
    }
    assert!(fits(&["a", "…", "d"], &["a", "b", "c", "d"]));
    assert!(fits(&["…", "d"], &["d"]));
    assert!(!fits(&["a", "…"], &["b", "c"]));
}
