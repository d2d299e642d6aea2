//! A folder for snapshots, a source that does as it is told, and what became of both.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tipple_snapshot::{
    BoxError, Cache, CacheBuilder, Keys, SnapshotFolder, SnapshotName, SnapshotOptions, Update,
    UpdateRequest, UpdateType, Updater, ValueTimes,
};

pub(crate) type Words = Vec<String>;

pub(crate) fn words(words: &[&str]) -> Words {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Long enough that nothing happens by itself.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Place {
    root: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root().join("words")
    }

    pub(crate) fn folder(&self, options: SnapshotOptions) -> SnapshotFolder {
        self.sealed(options, Keys::none())
    }

    pub(crate) fn sealed(&self, options: SnapshotOptions, keys: Keys) -> SnapshotFolder {
        SnapshotFolder::new(self.root(), "words", options, keys).unwrap()
    }

    /// Names in the folder, in order, without the lock.
    pub(crate) fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir()) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".lock")
            .collect();
        names.sort();
        names
    }

    pub(crate) fn only(&self) -> PathBuf {
        let names = self.names();
        assert_eq!(names.len(), 1, "{names:?}");
        self.dir().join(&names[0])
    }

    /// Writes a snapshot of `value` as it was `age` ago.
    pub(crate) fn dump(&self, value: &[&str], age: Duration) -> SnapshotName {
        let options = SnapshotOptions {
            max_count: 100,
            ..SnapshotOptions::default()
        };
        let written = self
            .folder(options)
            .write(&words(value), ValueTimes::at(SystemTime::now() - age));
        written.unwrap().name
    }
}

/// What a source answers to an update.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    New(Words),
    Same,
    Fail,
    Panic,
}

/// What was asked of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) kind: UpdateType,
    pub(crate) last_update: Option<SystemTime>,
    pub(crate) now: SystemTime,
    pub(crate) has_value: bool,
}

#[derive(Default)]
struct Script {
    answers: VecDeque<Answer>,
    otherwise: Option<Answer>,
    asked: Vec<Asked>,
}

/// A source that answers what it was told to, in this order, and then always the last.
#[derive(Clone, Default)]
pub(crate) struct Source(Arc<Mutex<Script>>);

impl Source {
    pub(crate) fn always(answer: Answer) -> Self {
        let source = Self::default();
        source.0.lock().unwrap().otherwise = Some(answer);
        source
    }

    pub(crate) fn then(self, answer: Answer) -> Self {
        self.0.lock().unwrap().answers.push_back(answer);
        self
    }

    pub(crate) fn now(&self, answer: Answer) {
        self.0.lock().unwrap().otherwise = Some(answer);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.0.lock().unwrap().asked.clone()
    }

    pub(crate) fn kinds(&self) -> Vec<UpdateType> {
        self.asked().iter().map(|asked| asked.kind).collect()
    }

    pub(crate) fn cache(&self) -> CacheBuilder<Words, Self> {
        Cache::builder("words", self.clone())
    }
}

impl Updater<Words> for Source {
    fn update(&mut self, request: UpdateRequest<Words>) -> Result<Update<Words>, BoxError> {
        let answer = {
            let mut script = self.0.lock().unwrap();
            script.asked.push(Asked {
                kind: request.kind,
                last_update: request.last_update,
                now: request.now,
                has_value: request.current.is_some(),
            });
            let next = script.answers.pop_front();
            next.or_else(|| script.otherwise.clone())
                .expect("an answer")
        };
        match answer {
            Answer::New(words) => Ok(Update::New(words)),
            Answer::Same => Ok(Update::NoChange),
            Answer::Fail => Err("the source is away".into()),
            Answer::Panic => panic!("the source is a mess"),
        }
    }
}
