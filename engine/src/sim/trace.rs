//! What happened, in order: a hash of everything, the last notes for a failure, all of them printed on request.
//!
//! It belongs to the thread, so that a panic anywhere below the simulator can be reported with its seed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;

use super::rng::mix;

/// Notes kept for a failure.
const NOTES_MAX: usize = 160;

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// True time, in nanoseconds.
    pub at: u64,
    /// The node, 0 for the world.
    pub node: u64,
    /// Its core.
    pub core: u32,
    /// What.
    pub what: &'static str,
    /// Its particulars.
    pub numbers: [(&'static str, u64); 4],
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.at / 1_000_000_000, self.at % 1_000_000_000);
        write!(f, "{seconds:>5}.{nanos:09} n{}.{} {}", self.node, self.core, self.what)?;
        for (name, value) in self.numbers.iter().filter(|(name, _)| !name.is_empty()) {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Trace {
    seed: Option<u64>,
    rerun: String,
    hash: u64,
    notes: VecDeque<Note>,
    print: bool,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// A world begins in this thread. `rerun` is the command that runs it again.
pub fn begin(seed: u64, rerun: String, print: bool) {
    TRACE.with_borrow_mut(|trace| {
        *trace = Trace { seed: Some(seed), rerun, hash: mix(seed), print, ..Trace::default() };
    });
}

/// The world of this thread has ended; the hash of all that happened in it.
pub fn end() -> u64 {
    TRACE.with_borrow_mut(|trace| {
        trace.seed = None;
        trace.hash
    })
}

/// Takes note of something.
pub fn note(note: Note) {
    TRACE.with_borrow_mut(|trace| {
        let mut hash = trace.hash ^ note.at;
        let place = note.node << 32 | u64::from(note.core);
        for number in [place, note.numbers[0].1, note.numbers[1].1, note.numbers[2].1, note.numbers[3].1] {
            hash = (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        }
        trace.hash = hash ^ u64::from(note.what.as_bytes()[0]);
        if trace.notes.len() == NOTES_MAX {
            trace.notes.pop_front();
        }
        trace.notes.push_back(note);
        if trace.print {
            eprintln!("{note}");
        }
    });
}

/// Whether a world runs in this thread.
pub fn is_running() -> bool {
    TRACE.with_borrow(|trace| trace.seed.is_some())
}

/// What to print of the world of this thread when it failed for `reason`; `None` if none runs.
pub fn report(reason: &str) -> Option<String> {
    TRACE.with_borrow(|trace| {
        let seed = trace.seed?;
        let mut text = format!("seed {seed} FAILED: {reason}\nlast events:\n");
        for note in &trace.notes {
            text.push_str(&format!("  {note}\n"));
        }
        text.push_str(&format!("seed {seed} FAILED: {reason}\nrun it again: {}", trace.rerun));
        Some(text)
    })
}

/// A note, short to write: `note!(world, node.core, "what", name = number, …)`.
#[macro_export]
#[doc(hidden)]
macro_rules! sim_note {
    ($at:expr, $node:expr, $core:expr, $what:expr $(, $name:ident = $value:expr)* $(,)?) => {{
        let numbers: &[(&'static str, u64)] = &[$((stringify!($name), u64::from($value))),*];
        let mut all = [("", 0u64); 4];
        all[..numbers.len()].copy_from_slice(numbers);
        $crate::sim::trace::note($crate::sim::trace::Note {
            at: $at, node: $node, core: $core, what: $what, numbers: all,
        });
    }};
}

pub(crate) use sim_note as note;
