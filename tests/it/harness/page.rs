//! What a page of `docs` shows in fences.

/// The blocks of a page in this language, with the lines that they begin at.
pub(crate) fn blocks(page: &str, language: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|(line, _)| *line > 0)),
            (Some(said), None) if said == language => open = Some((index + 1, String::new())),
            // Another language's, up to its end.
            (Some(_), None) => open = Some((0, String::new())),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    blocks
}
