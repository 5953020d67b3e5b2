//! Random histories of an engine, beside a plain map.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Model, Open, Write, apply, contents, put, scratch};

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(u8, Option<u16>)>),
    RemoveRange(u8, u8),
    Flush,
    Reopen,
    Checkpoint,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..12_u8, proptest::option::weighted(0.7, 0..3000_u16));
    let step = prop_oneof![
        8 => proptest::collection::vec(write, 0..8).prop_map(Step::Apply),
        1 => (0..12_u8, 0..12_u8).prop_map(|(start, end)| Step::RemoveRange(start, end)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Checkpoint),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Random histories with flushes, checkpoints and restarts, beside a plain map.
pub fn any_history_matches_the_model(open: Open) {
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            run_history(open, &steps);
            Ok(())
        })
        .expect("every history");
}

fn run_history(open: Open, steps: &[Step]) {
    let folder = scratch();
    let path = folder.path().join("engine");
    let mut engine = open(&path);
    // The state after each position, so that a reopened engine can be found among them.
    let mut states = vec![Model::new()];
    for step in steps {
        match step {
            Step::Apply(changes) => {
                let mut state = states.last().expect("there is a first").clone();
                let index = u64::try_from(states.len()).expect("a short history");
                let changes: Vec<_> = changes
                    .iter()
                    .map(|(key, len)| (vec![1, *key], len.map(|len| vec![*key; usize::from(len)])))
                    .collect();
                let mut writes = Vec::new();
                for (key, value) in &changes {
                    match value {
                        Some(value) => {
                            writes.push(put(key, value));
                            state.insert(key.clone(), value.clone());
                        }
                        None => {
                            writes.push(Write::Delete { key });
                            state.remove(key);
                        }
                    }
                }
                apply(engine.as_ref(), index, &writes);
                states.push(state);
            }
            Step::RemoveRange(start, end) => {
                let mut state = states.last().expect("there is a first").clone();
                let index = u64::try_from(states.len()).expect("a short history");
                let (start, end) = (vec![1, *start], vec![1, *end]);
                apply(engine.as_ref(), index, &[Write::DeleteRange { start: &start, end: &end }]);
                state.retain(|key, _| *key < start || *key >= end);
                states.push(state);
            }
            Step::Flush => engine.flush().expect("flush"),
            Step::Reopen => {
                let durable = engine.applied_durable().expect("durable").index;
                drop(engine);
                engine = open(&path);
                let applied = engine.applied().expect("applied").index;
                assert!(applied >= durable);
                states.truncate(usize::try_from(applied).expect("a short history") + 1);
            }
            Step::Checkpoint => {
                let copy = folder.path().join("copy");
                engine.create_checkpoint(&copy).expect("checkpoint");
                engine.install_checkpoint(&copy).expect("install");
            }
        }
        assert_eq!(&contents(engine.as_ref()), states.last().expect("there is a first"));
    }
}
