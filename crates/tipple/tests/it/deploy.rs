//! What is deployed: the files parse, hang together, and name no setting that does not exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use yaml_rust2::{Yaml, YamlLoader};

use crate::support::Place;

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The variables of `tipple supervise`, as its help names them.
fn known() -> BTreeSet<String> {
    let help = Place::new().run(&["supervise", "--help"]).ok().stdout;
    let mut known = variables(&help);
    // Read by what stores in buckets.
    known.extend(["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(str::to_owned));
    // Not a flag's own, but in its text; and that of the positional argument, which help shows nowhere.
    known.insert("TIPPLE_STORE".to_owned());
    known
}

fn variables(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("TIPPLE_") || word.starts_with("AWS_"))
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn assert_known(text: &str) -> BTreeSet<String> {
    let named = variables(text);
    let known = known();
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    named
}

/// Instructions with their continuation lines joined, comments left out.
fn instructions(dockerfile: &str) -> Vec<(String, String)> {
    let mut text = String::new();
    for line in dockerfile
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        match line.strip_suffix('\\') {
            Some(line) => text.push_str(line),
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    let split = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), rest.trim().to_owned())
    };
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(split)
        .collect()
}

#[test]
fn the_dockerfile_has_stages_and_a_user_who_is_not_root() {
    let text = read("deploy/Dockerfile");
    let all = instructions(&text);
    let known = [
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "VOLUME",
        "ENV",
        "ENTRYPOINT",
    ];
    for (name, rest) in &all {
        assert!(
            known.contains(&name.as_str()) && !rest.is_empty(),
            "{name} {rest}"
        );
    }
    let of = |wanted: &'static str| {
        all.iter()
            .filter(move |(name, _)| name == wanted)
            .map(|(_, rest)| rest.as_str())
    };
    let stages: Vec<&str> = of("FROM").collect();
    assert_eq!(stages.len(), 2);
    assert_eq!(all[0].0, "FROM");
    // Tags, so that a build of next year is the same.
    assert!(
        stages
            .iter()
            .all(|stage| stage.split(' ').next().unwrap().contains(':'))
    );
    let build = stages[0].rsplit_once(" AS ").expect("a named stage").1;
    assert!(of("COPY").any(|copy| copy.starts_with(&format!("--from={build} "))));
    let user = of("USER").next_back().expect("a user");
    assert!(user.parse::<u32>().is_ok_and(|uid| uid > 0), "{user}");
    assert!(of("RUN").any(|run| run.contains(&format!("--uid {user} "))));
    let entry: Vec<String> = serde_json::from_str(of("ENTRYPOINT").next_back().unwrap()).unwrap();
    assert_eq!(entry[1..], ["supervise"]);
    assert!(of("COPY").any(|copy| copy.ends_with(&entry[0])));
    // The version of Rust that the workspace asks for.
    let version = read("Cargo.toml")
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = ").map(str::to_owned));
    assert!(stages[0].starts_with(&format!("rust:{}-", version.unwrap().trim_matches('"'))));
    assert!(assert_known(&text).len() >= 3);
}

#[test]
fn the_job_hangs_together() {
    let text = read("deploy/job.yaml");
    let documents = YamlLoader::load_from_str(&text).unwrap();
    let [claim, job] = &documents[..] else {
        panic!("{} documents", documents.len());
    };
    assert_eq!(claim["kind"].as_str(), Some("PersistentVolumeClaim"));
    assert_eq!(claim["apiVersion"].as_str(), Some("v1"));
    assert_eq!(
        (job["apiVersion"].as_str(), job["kind"].as_str()),
        (Some("batch/v1"), Some("Job"))
    );
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["restartPolicy"].as_str(), Some("OnFailure"));
    assert_eq!(pod["securityContext"]["runAsNonRoot"].as_bool(), Some(true));
    let uid = instructions(&read("deploy/Dockerfile"))
        .into_iter()
        .rfind(|(name, _)| name == "USER")
        .unwrap()
        .1;
    assert_eq!(
        pod["securityContext"]["runAsUser"]
            .as_i64()
            .unwrap()
            .to_string(),
        uid
    );
    let container = &pod["containers"][0];
    assert_eq!(
        container["securityContext"]["allowPrivilegeEscalation"].as_bool(),
        Some(false)
    );
    let list = |yaml: &Yaml| yaml.as_vec().expect("a list").clone();
    let name = |yaml: &Yaml| yaml["name"].as_str().expect("a name").to_owned();
    // Mounts name volumes, the volume names the claim, and the folder is on it.
    let volumes: Vec<String> = list(&pod["volumes"]).iter().map(name).collect();
    let mounts = list(&container["volumeMounts"]);
    assert!(mounts.iter().all(|mount| volumes.contains(&name(mount))));
    assert_eq!(
        pod["volumes"][0]["persistentVolumeClaim"]["claimName"].as_str(),
        claim["metadata"]["name"].as_str()
    );
    let mut named = BTreeSet::new();
    for variable in list(&container["env"]) {
        let text = variable["value"].as_str();
        let secret = &variable["valueFrom"]["secretKeyRef"];
        // Every value is text (YAML has numbers, and Kubernetes refuses those), and every secret a reference.
        assert!(
            text.is_some() != secret["key"].as_str().is_some(),
            "{variable:?}"
        );
        let variable = name(&variable);
        let is_secret = variable.contains("PASSWORD") || variable.contains("KEY");
        assert_eq!(is_secret, text.is_none(), "{variable}");
        if variable == "TIPPLE_SUPERVISE_DIR" {
            let mounted = mounts[0]["mountPath"].as_str().unwrap();
            assert!(text.unwrap().starts_with(&format!("{mounted}/")));
        }
        assert!(named.insert(variable.clone()), "{variable} twice");
    }
    assert!(named.is_subset(&known()), "{named:?}");
    assert_known(&text);
    // What the flags take, they take.
    let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap();
    assert!(grace > 10);
}

#[test]
fn the_table_of_settings_names_all_and_nothing_else() {
    let text = read("docs/supervise.md");
    let named = assert_known(&text);
    let help = Place::new().run(&["supervise", "--help"]).ok().stdout;
    for heading in [
        "Folder:",
        "Stopping the command:",
        "Uploads:",
        "mydumper, where no COMMAND is given:",
    ] {
        let (_, section) = help
            .split_once(heading)
            .unwrap_or_else(|| panic!("{heading}"));
        // Up to the next heading, which is a line that is not indented.
        let section = section
            .split("\n\n")
            .take_while(|part| part.starts_with([' ', '\n']) || part.is_empty());
        let section: String = section.collect();
        let variables = variables(&section);
        assert!(variables.len() > 1, "{heading} {section}");
        for variable in variables {
            assert!(
                named.contains(&variable),
                "{variable} is not in docs/supervise.md"
            );
        }
    }
}

/// The settings of the job, on this machine: its values are ones that the binary takes.
#[test]
fn the_values_of_the_job_are_taken() {
    let job = &YamlLoader::load_from_str(&read("deploy/job.yaml")).unwrap()[1];
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let place = Place::new();
    let mut command = place.command(&["supervise"]);
    for variable in container["env"].as_vec().unwrap() {
        let value = variable["value"].as_str().unwrap_or("secret");
        command.env(variable["name"].as_str().unwrap(), value);
    }
    // A folder of this machine, and a store that is refused after all flags were understood.
    command
        .env("TIPPLE_SUPERVISE_DIR", "out")
        .env("TIPPLE_STORE", "out/inside");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("are in one another"), "{said}");
}

/// vector itself checks more, but is not to be had as a package: here that the file is YAML, that every setting is one
/// that vector has there, and that it takes whole files and gives their lines, unchanged, to the table.
#[test]
fn vector_ships_whole_files_line_by_line() {
    let text = read("deploy/recording/vector.yaml");
    let documents = YamlLoader::load_from_str(&text).unwrap();
    let [config] = &documents[..] else {
        panic!("{} documents", documents.len())
    };
    let keys = |yaml: &Yaml| -> Vec<String> {
        let all = yaml.as_hash().expect("settings").keys();
        all.map(|key| key.as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(keys(config), ["data_dir", "sources", "sinks"]);
    let source = &config["sources"]["recording"];
    assert_eq!(
        keys(source),
        ["type", "include", "read_from", "max_line_bytes"]
    );
    assert_eq!(source["type"].as_str(), Some("file"));
    assert_eq!(source["read_from"].as_str(), Some("beginning"));
    let include = source["include"][0].as_str().unwrap();
    assert!(include.ends_with("/*.ndjson"), "{include}");
    // What a recorder lets a line be.
    assert_eq!(source["max_line_bytes"].as_i64(), Some(64 << 20));
    let sink = &config["sinks"]["clickhouse"];
    assert_eq!(
        keys(sink),
        [
            "type", "inputs", "uri", "method", "encoding", "framing", "buffer"
        ]
    );
    assert_eq!(sink["type"].as_str(), Some("http"));
    assert_eq!(sink["inputs"][0].as_str(), Some("recording"));
    assert_eq!(sink["encoding"]["codec"].as_str(), Some("text"));
    assert_eq!(
        sink["framing"]["method"].as_str(),
        Some("newline_delimited")
    );
    assert_eq!(keys(&sink["buffer"]), ["type", "max_size", "when_full"]);
    // Less than this, a buffer on disk is refused.
    assert!(sink["buffer"]["max_size"].as_i64() >= Some(256 << 20));
    let (_, query) = sink["uri"].as_str().unwrap().split_once("/?").unwrap();
    let mut parts = query.split('&');
    assert_eq!(
        parts.next(),
        Some("query=INSERT%20INTO%20recording%20FORMAT%20JSONEachRow")
    );
    let table = read("deploy/recording/clickhouse.sql");
    assert!(table.contains("CREATE TABLE recording\n"));
    for setting in parts {
        assert!(setting.starts_with("input_format_") && setting.ends_with("=1"));
    }
}
