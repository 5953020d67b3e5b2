//! Style that matters, held by a test: file and function length, names, the direction of the crates, where the
//! runtime may appear, and what a pure core may not touch.
//!
//! Every rule is a function from one source file (or manifest) to what is wrong with it. The first half of the tests
//! applies each rule to the whole workspace; the second half shows each rule a bad snippet, which it must reject, and
//! a good one, which it must not. Rules look at the code with comments and literals blanked out, so a rule may be
//! named in prose, here for instance, without breaking it.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// A source file: its path from the workspace root, with `/`; its text; the text with comments and the contents of
/// literals replaced by spaces, line for line the same shape.
struct SourceFile {
    path: String,
    text: String,
    code: String,
}

impl SourceFile {
    fn new(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned(), code: blank_prose(text) }
    }

    fn complaint(&self, position: usize, what: &str) -> String {
        let line = self.code[..position].matches('\n').count() + 1;
        format!("{}:{line}: {what}", self.path)
    }

    /// True when the path is `place` itself, `place.rs`, or lies below `place/`.
    fn is_under(&self, place: &str) -> bool {
        match self.path.strip_prefix(place) {
            Some(rest) => rest.is_empty() || rest == ".rs" || rest.starts_with('/'),
            None => false,
        }
    }

    /// Tests, benches and command-line tools drive a crate from outside and may use what the crate may not.
    fn is_outside_driver(&self) -> bool {
        let stem = self.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        let folders = ["/tests/", "/benches/", "/examples/", "/src/bin/"];
        folders.iter().any(|folder| self.path.contains(folder))
            || stem == "tests"
            || stem.ends_with("_test")
            || stem.ends_with("_tests")
    }
}

// ---- The rules ------------------------------------------------------------------------------------------------

type Rule = fn(&SourceFile) -> Vec<String>;

fn file_length(file: &SourceFile) -> Vec<String> {
    let lines = file.text.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines; split it, at most {FILE_LINES_MAX}", file.path)]
}

fn function_length(file: &SourceFile) -> Vec<String> {
    let mut complaints = Vec::new();
    for (start, end) in functions(&file.code) {
        let lines = file.code[start..=end].matches('\n').count() + 1;
        if lines > FUNCTION_LINES_MAX {
            let name = identifier_at(&file.code, start + "fn ".len());
            let what = format!("`{name}` has {lines} lines; split it, at most {FUNCTION_LINES_MAX}");
            complaints.push(file.complaint(start, &what));
        }
    }
    complaints
}

/// `foo.rs` beside `foo/`, and names that say what is inside.
fn file_names(file: &SourceFile) -> Vec<String> {
    let stem = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    if stem == "mod" {
        return vec![format!("{}: name it after its module, beside the folder", file.path)];
    }
    let vague = ["util", "utils", "common", "manager", "helper", "helpers", "misc"];
    if stem.split('_').any(|word| vague.contains(&word)) {
        return vec![format!("{}: `{stem}` does not say what is inside", file.path)];
    }
    Vec::new()
}

/// What is left over from writing, and tests that never run.
fn leftovers(file: &SourceFile) -> Vec<String> {
    let banned = ["dbg!", "todo!", "unimplemented!", "#[ignore"];
    find_all(file, &file.code, &banned, "is not for committed code")
}

/// A file opens with its purpose: `//!` comes before anything but inner attributes. A `tests.rs` has that of the
/// module it lies beside.
fn file_purpose(file: &SourceFile) -> Vec<String> {
    if file.path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let first = file.text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if first.is_some_and(|line| line.starts_with("//!")) {
        return Vec::new();
    }
    vec![format!("{}: say what the file is for, in `//!` at its head", file.path)]
}

/// The io_uring runtime may be swapped one day, so it stays behind three doors.
fn runtime_behind_its_doors(file: &SourceFile) -> Vec<String> {
    let doors = ["engine/src/driver", "wal/src/disk", "net/src/transport", "bench/src"];
    if file.is_outside_driver() || doors.iter().any(|door| file.is_under(door)) {
        return Vec::new();
    }
    let code = without_test_modules(&file.code);
    find_all(file, &code, &["glommio"], "belongs in engine/src/driver, wal/src/disk or net/src/transport")
}

/// Pure cores are functions of (state, event): no clock, file, socket, thread or ambient randomness.
fn pure_cores(file: &SourceFile) -> Vec<String> {
    let cores = ["raft/src", "engine/src/core", "engine/src/replica", "wal/src"];
    let pure = cores.iter().any(|core| file.is_under(core)) && !file.is_under("wal/src/disk");
    if !pure || file.is_outside_driver() {
        return Vec::new();
    }
    let impure = [
        "Instant::now",
        "SystemTime",
        "UNIX_EPOCH",
        "thread::sleep",
        "thread::spawn",
        "std::thread",
        "std::fs",
        "std::net",
        "fs::File",
        "thread_rng",
        "rand::rng",
    ];
    find_all(
        file,
        &without_test_modules(&file.code),
        &impure,
        "has no place in a pure core: let the driver pass it in",
    )
}

/// `raft`, `wal` and `net` know none of ours, `engine` composes them, `bench` sees the client library alone.
fn crate_direction(package: &str, manifest: &str) -> Vec<String> {
    let ours = ["raft", "wal", "net", "engine", "bench"];
    let allowed: &[&str] = match package {
        "engine" => &["raft", "wal", "net"],
        "bench" => &["net"],
        _ => &[],
    };
    let mut in_dependencies = false;
    let mut complaints = Vec::new();
    for line in manifest.lines().map(str::trim) {
        let mut named = None;
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            in_dependencies = section.ends_with("dependencies");
            named = section.split_once("dependencies.").map(|(_, name)| name);
        } else if in_dependencies {
            named = line.split(['=', '.', ' ']).next();
        }
        let Some(name) = named.map(|name| name.trim_matches('"').trim_start_matches("ringkv-")) else {
            continue;
        };
        if ours.contains(&name) && name != package && !allowed.contains(&name) {
            complaints.push(format!("{package}/Cargo.toml: `{package}` must not depend on `{name}`"));
        }
    }
    complaints
}

// ---- Reading Rust well enough ---------------------------------------------------------------------------------

/// Reports each of `words` in `code` where it stands as a word of its own.
fn find_all(file: &SourceFile, code: &str, words: &[&str], why: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for word in words {
        for (position, _) in code.match_indices(word) {
            let before = code[..position].chars().next_back();
            let after = code[position + word.len()..].chars().next();
            let starts_inside = before.is_some_and(is_identifier) && word.starts_with(is_identifier);
            let ends_inside = after.is_some_and(is_identifier) && word.ends_with(is_identifier);
            if !starts_inside && !ends_inside {
                complaints.push(file.complaint(position, &format!("`{word}` {why}")));
            }
        }
    }
    complaints
}

fn is_identifier(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn identifier_at(code: &str, position: usize) -> &str {
    let rest = code[position..].trim_start();
    &rest[..rest.find(|character| !is_identifier(character)).unwrap_or(rest.len())]
}

/// The byte ranges of all functions with a body, from `fn` to the closing brace.
fn functions(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("fn ") {
        let inside_a_word = code[..start].chars().next_back().is_some_and(is_identifier);
        if inside_a_word || identifier_at(code, start + "fn ".len()).is_empty() {
            continue;
        }
        if let Some(end) = body_start(code, start).and_then(|open| closing_brace(code, open)) {
            found.push((start, end));
        }
    }
    found
}

/// The brace that opens the body of the item at `start`; none when the item ends with `;`.
fn body_start(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(offset),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn closing_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(offset),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The code with the items under `#[cfg(test)]` blanked out: a pure core's tests may read files.
fn without_test_modules(code: &str) -> String {
    let mut kept = code.to_owned();
    for marker in ["#[cfg(test)]", "#[cfg(all(test"] {
        while let Some(start) = kept.find(marker) {
            let after = start + marker.len();
            let body = body_start(&kept, after).and_then(|open| closing_brace(&kept, open));
            let end = body.unwrap_or(after);
            let blank: String = kept[start..=end.min(kept.len() - 1)]
                .chars()
                .map(|character| if character == '\n' { '\n' } else { ' ' })
                .collect();
            kept.replace_range(start..=end.min(kept.len() - 1), &blank);
        }
    }
    kept
}

/// Replaces comments and the contents of string and character literals by spaces, keeping every line break.
fn blank_prose(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let length = prose_length(&characters, at);
        for &character in &characters[at..at + length] {
            code.push(if character == '\n' { '\n' } else { ' ' });
        }
        if length == 0 {
            // What is not ASCII outside prose would make byte and character positions differ.
            code.push(if characters[at].is_ascii() { characters[at] } else { '_' });
            at += 1;
        }
        at += length;
    }
    code
}

/// How many characters from `at` on are one comment or literal; 0 when none starts there.
fn prose_length(characters: &[char], at: usize) -> usize {
    let rest = &characters[at..];
    let after_word = at > 0 && is_identifier(characters[at - 1]);
    match rest {
        ['/', '/', ..] => rest.iter().position(|&character| character == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment_length(rest),
        ['"', ..] => 1 + quoted_length(&rest[1..], '"'),
        ['r', '"' | '#', ..] if !after_word => raw_string_length(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !after_word => raw_string_length(rest, 2),
        ['\'', '\\', ..] => 1 + quoted_length(&rest[1..], '\''),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

/// Up to and including the closing `quote`, minding escapes.
fn quoted_length(rest: &[char], quote: char) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            character if character == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn block_comment_length(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at + 1 < rest.len() {
        match (rest[at], rest[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') if depth == 1 => return at + 2,
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r##"…"##` from its prefix on; 0 for a raw identifier such as `r#type`.
fn raw_string_length(rest: &[char], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|&&character| character == '#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&'"') {
        return 0;
    }
    for at in open + 1..rest.len() {
        let closes =
            rest[at] == '"' && rest[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
        if closes {
            return at + 1 + hashes;
        }
    }
    rest.len()
}

// ---- The workspace --------------------------------------------------------------------------------------------

fn workspace_root() -> PathBuf {
    // As it is now: what was compiled in may name another checkout that shares the target folder.
    let crate_dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it for every test");
    Path::new(&crate_dir).parent().expect("the crate lies in the workspace").to_owned()
}

/// Every source file of the workspace that people write.
fn source_files() -> Vec<SourceFile> {
    let root = workspace_root();
    let mut files = Vec::new();
    for package in ["raft", "wal", "net", "engine", "bench"] {
        collect(&root, &root.join(package), &mut files);
    }
    assert!(files.len() >= 5, "found only {} source files below {}", files.len(), root.display());
    files
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<SourceFile>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let skipped = name.starts_with('.') || name == "target" || name == "generated";
        if skipped {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).expect("a source file is UTF-8");
            let relative =
                path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
            files.push(SourceFile::new(&relative, &text));
        }
    }
}

fn assert_workspace_keeps(rule: Rule) {
    let complaints: Vec<String> = source_files().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn files_are_short() {
    assert_workspace_keeps(file_length);
}

#[test]
fn functions_are_short() {
    assert_workspace_keeps(function_length);
}

#[test]
fn files_are_named_after_what_they_hold() {
    assert_workspace_keeps(file_names);
}

#[test]
fn nothing_is_left_over() {
    assert_workspace_keeps(leftovers);
}

#[test]
fn files_open_with_their_purpose() {
    assert_workspace_keeps(file_purpose);
}

#[test]
fn the_runtime_stays_behind_its_doors() {
    assert_workspace_keeps(runtime_behind_its_doors);
}

#[test]
fn the_cores_are_pure() {
    assert_workspace_keeps(pure_cores);
}

#[test]
fn the_crates_keep_their_direction() {
    let mut complaints = Vec::new();
    for package in ["raft", "wal", "net", "engine", "bench"] {
        let path = workspace_root().join(package).join("Cargo.toml");
        let manifest = fs::read_to_string(&path).expect("every crate has a manifest");
        complaints.extend(crate_direction(package, &manifest));
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

// ---- The rules see what they are for --------------------------------------------------------------------------

fn rejects(rule: Rule, path: &str, text: &str) {
    let complaints = rule(&SourceFile::new(path, text));
    assert!(!complaints.is_empty(), "should have been rejected: {path}: {text:.200}");
}

fn accepts(rule: Rule, path: &str, text: &str) {
    let complaints = rule(&SourceFile::new(path, text));
    assert!(complaints.is_empty(), "should have been accepted: {}", complaints.join("\n"));
}

#[test]
fn file_length_counts_lines() {
    accepts(file_length, "raft/src/a.rs", &"\n".repeat(FILE_LINES_MAX));
    rejects(file_length, "raft/src/a.rs", &"\n".repeat(FILE_LINES_MAX + 1));
}

#[test]
fn function_length_counts_from_fn_to_the_closing_brace() {
    let body = |lines: usize| format!("fn f(x: [u8; 2]) -> &'static str {{\n{}}}\n", "x();\n".repeat(lines));
    accepts(function_length, "raft/src/a.rs", &body(FUNCTION_LINES_MAX - 2));
    rejects(function_length, "raft/src/a.rs", &body(FUNCTION_LINES_MAX - 1));
    // Braces in text are not braces, a pointer type is no function, a declaration has no body.
    let text =
        format!("fn f() {{ g(\"}}\", '}}', r#\"{{\"#); /* {{ */ }}\n{}", "// {\n".repeat(FUNCTION_LINES_MAX));
    accepts(function_length, "raft/src/a.rs", &text);
    let declared =
        format!("trait T {{ fn f(&self); }}\ntype F = fn (u8);\n{}", "\n".repeat(FUNCTION_LINES_MAX));
    accepts(function_length, "raft/src/a.rs", &declared);
    let nested = format!("impl T {{\n{}\n}}", body(FUNCTION_LINES_MAX));
    rejects(function_length, "raft/src/a.rs", &nested);
}

#[test]
fn file_names_reject_mod_and_vague_words() {
    accepts(file_names, "raft/src/model.rs", "");
    for path in ["raft/src/log/mod.rs", "net/src/utils.rs", "net/src/frame_helper.rs", "engine/src/common.rs"]
    {
        rejects(file_names, path, "");
    }
}

#[test]
fn leftovers_are_seen_in_code_only() {
    rejects(leftovers, "raft/src/a.rs", "fn f() { dbg!(1); }");
    rejects(leftovers, "raft/src/a.rs", "fn f() { todo!() }");
    rejects(leftovers, "raft/src/a.rs", "fn f() { std::unimplemented!() }");
    rejects(leftovers, "raft/src/a.rs", "#[ignore = \"slow\"]\nfn f() {}");
    accepts(leftovers, "raft/src/a.rs", "// dbg!(1)\nfn f() { g(\"todo!()\"); my_dbg!(1) }");
}

#[test]
fn a_file_without_a_purpose_is_seen() {
    accepts(file_purpose, "raft/src/a.rs", "//! What it is for.\n");
    accepts(file_purpose, "raft/src/a.rs", "#![deny(missing_docs)]\n\n//! What it is for.\n");
    rejects(file_purpose, "raft/src/a.rs", "use std::mem;\n//! Too late.\n");
    rejects(file_purpose, "raft/src/a.rs", "");
    accepts(file_purpose, "raft/src/a/tests.rs", "use super::A;\n");
}

#[test]
fn the_runtime_is_seen_outside_its_doors() {
    let text = "use glommio::LocalExecutor;";
    for path in ["engine/src/core.rs", "engine/src/driverless.rs", "wal/src/wal.rs", "net/src/client.rs"] {
        rejects(runtime_behind_its_doors, path, text);
    }
    for path in
        ["engine/src/driver.rs", "engine/src/driver/peers.rs", "wal/src/disk/dma.rs", "wal/benches/w.rs"]
    {
        accepts(runtime_behind_its_doors, path, text);
    }
    accepts(
        runtime_behind_its_doors,
        "net/src/client.rs",
        "// glommio is behind the transport\nstruct NotGlommio;",
    );
}

#[test]
fn impurity_is_seen_in_cores_only() {
    let impure =
        ["let t = Instant::now();", "use std::time::SystemTime;", "std::thread::sleep(d);", "use std::fs;"];
    for text in impure {
        for path in
            ["raft/src/raft/timers.rs", "engine/src/core.rs", "engine/src/replica/read.rs", "wal/src/wal.rs"]
        {
            rejects(pure_cores, path, text);
        }
        for path in [
            "engine/src/driver/disk.rs",
            "wal/src/disk/dma.rs",
            "wal/src/bin/waldump.rs",
            "raft/tests/paper.rs",
        ] {
            accepts(pure_cores, path, text);
        }
    }
    accepts(pure_cores, "raft/src/config.rs", "use std::time::Duration;");
    let tests = "fn f() {}\n#[cfg(test)]\nmod tests {\n use std::fs;\n fn g() { }\n}\n";
    accepts(pure_cores, "raft/src/log.rs", tests);
    rejects(pure_cores, "raft/src/log.rs", &format!("{tests}use std::fs;\n"));
}

#[test]
fn a_wrong_crate_direction_is_seen() {
    let seen = |package: &str, manifest: &str| !crate_direction(package, manifest).is_empty();
    assert!(seen("raft", "[dependencies]\nwal.workspace = true\n"));
    assert!(seen("raft", "[dependencies]\nringkv-engine = { path = \"../engine\" }\n"));
    assert!(seen("net", "[dev-dependencies]\nraft = { workspace = true }\n"));
    assert!(seen("wal", "[dependencies.net]\nworkspace = true\n"));
    assert!(seen("bench", "[dependencies]\nengine.workspace = true\n"));
    assert!(seen("engine", "[dependencies]\nbench = { path = \"../bench\" }\n"));
    assert!(!seen("engine", "[dependencies]\nraft.workspace = true\nnet.workspace = true\n"));
    assert!(!seen("bench", "[dependencies]\nnet.workspace = true\n"));
    assert!(!seen("raft", "[dev-dependencies]\nraft = { path = \".\", features = [\"testing\"] }\n"));
    assert!(!seen("raft", "[package]\nname = \"net\"\n[features]\nwal = []\n"));
}

#[test]
fn prose_is_blanked_and_code_is_not() {
    let text =
        "let a = 'x'; // b\nlet s: &'static str = \"c\\\"d\"; let r#type = br#\"e\"f\"#; /* g /* h */ i */ j";
    let code = blank_prose(text);
    for word in ["let a", "&'static str", "r#type", " j"] {
        assert!(code.contains(word), "{word} went missing: {code}");
    }
    for prose in ["x", "// b", "c", "d\"", "e\"", "g", "h", "i */"] {
        let outside = code.replace("static", "").replace("str", "").replace("type", "").replace("let", "");
        assert!(!outside.contains(prose), "{prose} was kept: {code}");
    }
    assert_eq!(code.lines().count(), text.lines().count());
}
