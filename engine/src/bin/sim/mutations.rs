//! The proof that the checkers can fail: every deliberate bug is run through seeds until it is found.
//!
//! A bug may end the process by an assertion, so each runs in processes of its own, one after the other, each going on
//! behind the seed at which the one before ended.

use std::io;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use raft::mutation::ALL;

/// How one bug fared.
#[derive(Clone, Debug)]
struct Row {
    name: &'static str,
    /// The first seed that found it, and by what.
    first: Option<(u64, String)>,
    found: u64,
    run: u64,
}

/// What a process that ran seeds with a bug came to.
enum Ended {
    /// All seeds ran; none found anything.
    Unnoticed,
    /// This one did, by this property or assertion.
    Found(u64, String),
}

/// What to prove, and how hard to try.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seeds for each bug.
    pub seeds: u64,
    /// Seeds after which one that was never found has survived.
    pub seeds_max: u64,
    /// The first seed.
    pub from: u64,
    /// Bugs looked for at a time.
    pub jobs: usize,
}

/// Bugs that whole clusters hide, and where they are found instead.
const ELSEWHERE: &[(&str, &str)] = &[(
    "conf-change-before-commit",
    "found by raft/tests/properties; here a follower logs the change and the commit index it needs in one turn, and a \
     crash seldom parts them",
)];

/// Looks for every bug, prints the table, and fails if one survives.
pub fn prove(effort: Effort, only: Option<&str>) -> ExitCode {
    let chosen: Vec<&'static str> = ALL
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| only.map_or(!is_elsewhere(name), |only| only == *name))
        .collect();
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..effort.jobs {
            scope.spawn(|| {
                while let Some(name) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = look_for(name, effort).unwrap_or_else(|error| panic!("{name}: {error}"));
                    eprintln!("{}", line(&row));
                    rows.lock().expect("no thread panics and lives").push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("all threads have ended");
    rows.sort_by_key(|row| chosen.iter().position(|name| *name == row.name));
    println!("| mutation | found by seed | share of seeds | found by |\n|---|---|---|---|");
    rows.iter().for_each(|row| println!("{}", line(row)));
    ELSEWHERE.iter().for_each(|(name, place)| println!("| {name} | – | – | {place} |"));
    let survivors: Vec<&str> = rows.iter().filter(|row| row.first.is_none()).map(|row| row.name).collect();
    if survivors.is_empty() {
        println!("all {} mutations were found", rows.len());
        return ExitCode::SUCCESS;
    }
    println!("SURVIVED: {}", survivors.join(", "));
    ExitCode::FAILURE
}

fn is_elsewhere(name: &str) -> bool {
    ELSEWHERE.iter().any(|(elsewhere, _)| *elsewhere == name)
}

fn line(row: &Row) -> String {
    match &row.first {
        Some((seed, by)) => format!("| {} | {seed} | {} of {} | {by} |", row.name, row.found, row.run),
        None => format!("| {} | not in {} seeds | – | – |", row.name, row.run),
    }
}

fn look_for(name: &'static str, effort: Effort) -> io::Result<Row> {
    let mut row = Row { name, first: None, found: 0, run: 0 };
    let (mut seed, mut end) = (effort.from, effort.from + effort.seeds);
    while seed < end {
        match run(Some(name), seed, end - seed)? {
            Ended::Unnoticed => seed = end,
            Ended::Found(at, by) => {
                // What the seed finds without the bug proves nothing about it.
                if let Ended::Found(..) = run(None, at, 1)? {
                    return Err(io::Error::other(format!("seed {at} fails without any mutation")));
                }
                row.found += 1;
                row.first.get_or_insert((at, by));
                seed = at + 1;
            }
        }
        if seed == end && row.first.is_none() && end < effort.from + effort.seeds_max {
            end += effort.seeds.min(effort.from + effort.seeds_max - end);
        }
    }
    row.run = end - effort.from;
    Ok(row)
}

/// Runs seeds with one bug, or without, in a process of its own, up to the first that finds something.
fn run(name: Option<&str>, from: u64, seeds: u64) -> io::Result<Ended> {
    let mutate = name.map(|name| ["--mutate", name]);
    let output = Command::new(std::env::current_exe()?)
        .args(mutate.iter().flatten())
        .args(["--jobs", "1", "--seed-from", &from.to_string(), "--seeds", &seeds.to_string()])
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(Ended::Unnoticed);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let mut lines = text.lines().skip_while(|line| !line.starts_with("seed "));
    let headline = lines.next().unwrap_or_default();
    let seed = headline.split(' ').nth(1).and_then(|seed| seed.parse().ok());
    let Some(seed) = seed else {
        return Err(io::Error::other(format!("ended without naming a seed:\n{text}")));
    };
    // An assertion says where it stands and, in the next line, what it is.
    let what = headline.split_once("FAILED: ").map_or("", |(_, what)| what);
    let by = match what.split_once("panicked at ") {
        Some((_, place)) => format!("assertion at {}", place.rsplitn(3, ':').last().unwrap_or(place)),
        None => what.split(": ").next().unwrap_or(what).to_owned(),
    };
    Ok(Ended::Found(seed, by))
}
