//! What may change while the program runs, and fields that are not for recordings.

use std::fs;

use serde::Serialize;
use tempfile::TempDir;
use tipple_recorder::{Config, Level, Profile, Recorder, Why};
use tipple_testkit::wait_for;

use crate::support::{LONG, audit, files, lines, options, order, records, text};

#[test]
fn a_watched_file_is_taken_when_it_changes_and_kept_when_it_is_wrong() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("recording.toml");
    fs::write(&file, "rate = \"unlimited\"").unwrap();
    let mut options = options(&folder.path().join("recording"));
    options.config_file = Some(file.clone());
    let recorder = Recorder::start(options.clone()).unwrap();
    let stream = recorder.stream("orders");
    assert!(stream.is_enabled());
    fs::write(&file, "[groups.orders]\ndisabled = true").unwrap();
    wait_for("it is disabled", || !stream.is_enabled());
    stream.sent(&order(1));
    fs::write(&file, "[groups.orders]\nrate_limit = 5").unwrap();
    wait_for("the error is told", || {
        let error = recorder.report().unwrap().last_error;
        error.is_some_and(|error| error.contains("line 2: unknown field `rate_limit`"))
    });
    assert!(!stream.is_enabled());
    fs::write(&file, "level = \"verbose\"").unwrap();
    wait_for("it is enabled", || stream.is_enabled());
    stream.sent(&order(2));
    stream.clone().level(Level::Verbose).sent(&order(3));
    stream.clone().level(Level::Total).sent(&order(4));
    let report = recorder.shutdown(LONG);
    assert_eq!((report.attempted, report.written), (2, 2));
    fs::write(&file, "what = 1").unwrap();
    assert!(Recorder::start(options).is_err());
}

#[test]
fn settings_hold_for_their_group_class_and_message() {
    let folder = TempDir::new().unwrap();
    let mut options = options(folder.path());
    options.config = r#"
        rate = "unlimited"
        [classes.noise]
        disabled = true
        [groups.quiet]
        rate = 0
        [messages.Ping]
        disabled = true
        [messages."Event::Tick"]
        rate = 3
        [messages."other/Pong"]
        disabled = true
    "#
    .parse()
    .unwrap();
    #[derive(Serialize)]
    struct Ping;
    #[derive(Serialize)]
    struct Pong;
    #[derive(Serialize)]
    enum Event {
        Tick,
        Tock,
    }
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for _ in 0..10 {
        stream.sent(&Ping);
        stream.sent(&Pong);
        stream.clone().protocol("other").sent(&Pong);
        stream.sent(&Event::Tick);
        stream.sent(&Event::Tock);
        stream.clone().class("noise").sent(&order(1));
        recorder.stream("quiet").sent(&order(1));
    }
    let report = recorder.shutdown(LONG);
    let lines = lines(folder.path());
    audit(&lines, &report);
    let count = |name: &str| {
        records(&lines)
            .iter()
            .filter(|line| line["mn"] == name)
            .count()
    };
    assert_eq!(
        (
            count("Ping"),
            count("Pong"),
            count("Event::Tick"),
            count("Event::Tock"),
            count("Order")
        ),
        (0, 10, 3, 10, 0)
    );
    assert_eq!(report.lost_for(Why::Rate), 7 + 10);
}

#[test]
fn configurations_that_change_under_load_lose_nothing_that_is_not_told() {
    let folder = TempDir::new().unwrap();
    let recorder = Recorder::start(options(folder.path())).unwrap();
    let stream = recorder.stream("orders");
    let configs: Vec<Config> = [
        "rate = 10",
        "disabled = true",
        "rate = \"unlimited\"",
        "sample = 0.3\n[messages.Order]\nmax_size = 600",
    ]
    .map(|text| text.parse().unwrap())
    .to_vec();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let stream = stream.clone().trace(thread + 1);
            scope.spawn(move || (0..30_000).for_each(|id| stream.sent(&order(id))));
        }
        for round in 0..200 {
            recorder
                .configure(configs[round % configs.len()].clone())
                .unwrap();
        }
    });
    let report = recorder.shutdown(LONG);
    audit(&lines(folder.path()), &report);
}

#[derive(Serialize)]
struct Login {
    user: String,
    #[serde(serialize_with = "tipple_recorder::hide")]
    password: String,
    #[serde(serialize_with = "tipple_recorder::hash")]
    card: u64,
    #[serde(serialize_with = "tipple_recorder::truncate::<3, _, _>")]
    note: String,
    token: String,
}

#[test]
fn fields_are_redacted_in_recordings_and_nowhere_else() {
    let login = Login {
        user: "ann".into(),
        password: "hunter2".into(),
        card: 4242,
        note: "Käsekuchen".into(),
        token: "hunter3".into(),
    };
    let plain =
        r#"{"user":"ann","password":"hunter2","card":4242,"note":"Käsekuchen","token":"hunter3"}"#;
    for profile in [Profile::Elfo, Profile::Marked] {
        let folder = TempDir::new().unwrap();
        let mut options = options(folder.path());
        options.profile = profile;
        options.config =
            "rate = \"unlimited\"\nredact = { \"m.token\" = \"hide\", \"m.*.token\" = \"hide\" }"
                .parse()
                .unwrap();
        let recorder = Recorder::start(options).unwrap();
        let stream = recorder.stream("logins");
        stream.sent(&login);
        // In the midst of a recording and out of it, after a panic, and within another message.
        assert_eq!(serde_json::to_string(&login).unwrap(), plain);
        struct Panics<'a>(&'a Login);
        impl Serialize for Panics<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let _ = self.0.serialize(serializer);
                panic!("as it should");
            }
        }
        assert!(std::panic::catch_unwind(|| stream.sent(&Panics(&login))).is_err());
        assert!(!tipple_recorder::is_recording());
        assert_eq!(serde_json::to_string(&login).unwrap(), plain);
        stream.sent(&vec![&login]);
        stream.sent(&order(1));
        recorder.shutdown(LONG);
        let text = text(&files(folder.path(), ".ndjson")[0]);
        assert!(
            !text.contains("hunter") && !text.contains("4242") && !text.contains("Käsekuchen"),
            "{text}"
        );
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("\"mk\":\"Regular\""))
            .collect();
        assert!(lines[0].contains(r#""m":{"user":"ann","password":"<hidden>","card":"<hash:"#));
        assert!(lines[0].contains(r#"","note":"Käs<truncated>","token":"<hidden>"}"#));
        let marked = profile == Profile::Marked;
        assert_eq!(
            lines
                .iter()
                .map(|line| line.ends_with(",\"h\":1}"))
                .collect::<Vec<_>>(),
            [marked, marked, false]
        );
    }
}

/// Records something itself while it is recorded.
struct Telling(tipple_recorder::Stream);

impl Serialize for Telling {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.sent(&order(7));
        serializer.serialize_str("told")
    }
}

#[derive(Serialize)]
struct Nested {
    #[serde(serialize_with = "tipple_recorder::hide")]
    password: &'static str,
    telling: Telling,
}

#[test]
fn a_message_that_records_another_one_is_marked_as_redacted_all_the_same() {
    let folder = TempDir::new().unwrap();
    let mut options = options(folder.path());
    options.profile = Profile::Marked;
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("logins");
    stream.sent(&Nested {
        password: "hunter2",
        telling: Telling(stream.clone()),
    });
    recorder.shutdown(LONG);
    let text = text(&files(folder.path(), ".ndjson")[0]);
    assert!(!text.contains("hunter"), "{text}");
    for (name, marked) in [("Nested", true), ("Order", false)] {
        let of_name = format!("\"mn\":\"{name}\"");
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.contains(&of_name))
            .collect();
        let [line] = lines[..] else {
            panic!("{name}: {text}");
        };
        assert_eq!(line.ends_with(",\"h\":1}"), marked, "{line}");
    }
}

#[derive(serde::Serialize)]
struct Credentials {
    #[serde(serialize_with = "tipple_recorder::unrecorded")]
    user: &'static str,
    password: &'static str,
}

#[derive(serde::Serialize)]
enum Session {
    Opened {
        id: u64,
    },
    #[serde(serialize_with = "tipple_recorder::unrecorded")]
    Token(&'static str),
}

#[test]
fn a_message_that_is_not_for_recordings_leaves_its_number_only() {
    let folder = TempDir::new().unwrap();
    let recorder = crate::support::start(folder.path());
    let stream = recorder.stream("sessions");
    let credentials = Credentials {
        user: "alice",
        password: "secret",
    };
    stream.sent(&Session::Opened { id: 1 });
    stream.received(&credentials);
    stream.received(&credentials);
    stream.sent(&Session::Token("secret"));
    stream.sent(&Session::Opened { id: 2 });
    let report = recorder.shutdown(LONG);
    let lines = lines(folder.path());
    audit(&lines, &report);
    assert_eq!((report.written, report.lost_for(Why::Disabled)), (2, 3));
    // It is no error, and nothing of it is anywhere.
    assert_eq!(report.last_error, None);
    let text = serde_json::to_string(&lines).unwrap();
    assert!(
        !text.contains("secret") && !text.contains("alice"),
        "{text}"
    );
    // To others they are themselves.
    assert_eq!(
        serde_json::to_string(&(credentials, Session::Token("secret"))).unwrap(),
        r#"[{"user":"alice","password":"secret"},{"Token":"secret"}]"#
    );
}
