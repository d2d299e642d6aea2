//! Dumps in buckets: the whole way, and the lines that say why not.

use std::fmt::Write;

use insta::assert_snapshot;
use tipple_testkit::{Fault, FaultProxy, MiniStack, Operation, RawS3, Refusal, Rule, wait_for};

use crate::support::{Place, Ran};

/// A folder, a fresh bucket, and a proxy before its server.
struct Cloud {
    place: Place,
    bucket: RawS3,
    proxy: FaultProxy,
}

impl Cloud {
    fn new() -> Self {
        let place = Place::new();
        let lines: String = (0..200_000).map(|n| format!("line {n}\n")).collect();
        place.write("in.txt", lines);
        Self {
            place,
            bucket: MiniStack::shared().fresh_bucket(),
            proxy: FaultProxy::start(MiniStack::shared().account(), []),
        }
    }

    /// Runs with the account's variables, and with those given.
    fn run_with(&self, args: &[&str], more: &[(&str, &str)]) -> Ran {
        let env = self.proxy.account().env();
        let mut variables: Vec<(&str, &str)> =
            env.iter().map(|(name, value)| (*name, &**value)).collect();
        variables.extend_from_slice(more);
        let ran = self.place.run_with(args, &variables);
        let secret = &self.proxy.account().secret_key;
        assert!(!ran.stderr.contains(secret) && !ran.stdout.contains(secret));
        ran
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[])
    }

    fn url(&self) -> String {
        self.bucket.url("dumps/1")
    }

    fn told(&self, ran: &Ran) -> String {
        format!("{}[exit {}]\n", ran.stderr, ran.exit.unwrap())
            .replace(&self.proxy.account().endpoint, "SERVER")
            .replace(self.bucket.bucket(), "BUCKET")
    }
}

#[test]
fn a_dump_goes_into_a_bucket_and_comes_back() {
    let cloud = Cloud::new();
    let url = cloud.url();
    // Chunks larger than a part: uploads in parts.
    let dump = ["dump", "lines:in.txt", &url, "--upload-part-size", "5MiB"];
    let shape = ["--compress", "none", "--chunk-size", "8MiB"];
    let lines: String = (0..1_500_000).map(|n| format!("line {n}\n")).collect();
    cloud.place.write("in.txt", &lines);
    let ran = cloud.run(&[&dump[..], &shape[..]].concat());
    assert_eq!(ran.exit, Some(0), "{}", ran.stderr);
    assert!(cloud.proxy.requests(Operation::UploadPart) > 0);
    assert_eq!(cloud.bucket.uploads(""), []);
    let keys = cloud.bucket.keys("");
    assert!(
        keys.iter().all(|key| key.starts_with("dumps/1/")),
        "{keys:?}"
    );
    assert!(keys.contains(&"dumps/1/DONE".to_owned()));

    for verb in ["verify", "list", "prune"] {
        let ran = cloud.run(&[verb, &url]);
        assert_eq!(ran.exit, Some(0), "{verb}: {}", ran.stderr);
    }
    assert!(cloud.run(&["cat", &url, "--raw"]).stdout == lines);
    assert_eq!(cloud.run(&["load", &url, "lines:out.txt"]).exit, Some(0));
    assert!(cloud.place.read("out.txt") == lines.as_bytes());
    let again = cloud.run(&dump);
    assert_eq!(again.exit, Some(2), "{}", again.stderr);
}

#[test]
fn faults_on_the_way_change_nothing() {
    let cloud = Cloud::new();
    let rules = [
        ("/HEAD.json", Operation::PutObject, Fault::LoseAnswer),
        ("/chunks/", Operation::PutObject, Fault::LoseAnswer),
        (
            "/parts/",
            Operation::PutObject,
            Fault::Refuse(Refusal::SLOW_DOWN),
        ),
        ("/DONE", Operation::PutObject, Fault::Reset),
        ("", Operation::ListObjects, Fault::Reset),
    ]
    .map(|(path, operation, fault)| {
        let rule = Rule::on(operation, 1..=1, fault).with_path(path);
        cloud.proxy.add(rule)
    });
    let ran = cloud.run(&["dump", "lines:in.txt", &cloud.url()]);
    assert_eq!(ran.exit, Some(0), "{}", ran.stderr);
    assert_eq!(rules.map(|rule| cloud.proxy.hits(rule)), [1; 5]);
    let cut = Rule::on(Operation::GetObject, 1..=3, Fault::ResetAnswer(10));
    let cut = cloud.proxy.add(cut);
    let ran = cloud.run(&["verify", &cloud.url()]);
    assert_eq!(ran.exit, Some(0), "{}", ran.stderr);
    assert_eq!(cloud.proxy.hits(cut), 3);
}

#[test]
fn orphaned_uploads_are_shown_and_removed() {
    let cloud = Cloud::new();
    assert_eq!(
        cloud.run(&["dump", "lines:in.txt", &cloud.url()]).exit,
        Some(0)
    );
    let orphan = cloud.bucket.create_upload("dumps/1/chunks/x");
    cloud.bucket.put_part(&orphan, 1, &[7; 2048]);
    let foreign = cloud.bucket.create_upload("dumps/1/other/x");
    let shown = cloud.run(&["prune", &cloud.url()]);
    let shown = shown.stdout.replace(&orphan.id, "ID");
    assert_snapshot!(shown, @"chunks/x?uploadId=ID  2 KiB  an upload that was begun and not finished");
    assert_eq!(cloud.bucket.uploads("").len(), 2);
    assert_eq!(cloud.run(&["prune", &cloud.url(), "--yes"]).exit, Some(0));
    assert_eq!(cloud.bucket.uploads(""), [foreign]);
    assert_eq!(cloud.run(&["verify", &cloud.url()]).exit, Some(0));
}

#[test]
fn doctor_says_what_was_tried() {
    let cloud = Cloud::new();
    let ran = cloud.run(&["doctor", &cloud.url()]);
    let answer = format!("{}{}", ran.stdout, cloud.told(&ran));
    let answer = answer
        .replace(&cloud.proxy.account().endpoint, "SERVER")
        .replace(cloud.bucket.bucket(), "BUCKET");
    assert_snapshot!(answer, @"
store       s3://BUCKET/dumps/1
is          a bucket (region us-east-1 at SERVER); each put has a CRC64NVME that the server checks
writable    yes
conditions  an object is never overwritten: tried, and refused
durable     yes
free        no limit known
checksums   the server checks a CRC64NVME of each put: tried with a wrong one
lock        none: writers are kept apart by the conditions alone
[exit 0]
");
    assert_eq!(cloud.bucket.keys(""), [""; 0]);
    // The object of the trial is stored, and the condition is not known.
    let refused = Rule::on(
        Operation::PutObject,
        1..=1,
        Fault::Refuse(Refusal::NOT_IMPLEMENTED),
    );
    cloud.proxy.add(refused);
    let ran = cloud.run(&["doctor", &cloud.url(), "--json"]);
    assert_eq!(ran.exit, Some(11), "{}", ran.stdout);
    assert!(
        ran.stdout.contains(r#""put_if_absent":"refused""#),
        "{}",
        ran.stdout
    );
}

#[test]
fn what_is_wrong_is_one_line() {
    let cloud = Cloud::new();
    let (url, mut text) = (cloud.url(), String::new());
    let dump = ["dump", "lines:in.txt", &url];
    let mut tell = |what: &str, ran: Ran| {
        let told = cloud.told(&ran);
        let errors = told.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{told}");
        let line = told
            .lines()
            .filter(|line| line.starts_with("error: ") || line.starts_with('['));
        writeln!(text, "{what}: {}", line.collect::<Vec<_>>().join(" ")).unwrap();
    };
    for (what, refusal) in [
        ("denied", Refusal::ACCESS_DENIED),
        ("expired", Refusal::EXPIRED_TOKEN),
        ("skewed", Refusal::REQUEST_TIME_TOO_SKEWED),
        ("region", Refusal::WRONG_REGION),
        ("bucket", Refusal::NO_SUCH_BUCKET),
        ("conditions", Refusal::NOT_IMPLEMENTED),
    ] {
        cloud.proxy.heal();
        let times = if what == "conditions" {
            1..=1
        } else {
            1..=u64::MAX
        };
        cloud.proxy.add(Rule::on(
            Operation::PutObject,
            times,
            Fault::Refuse(refusal),
        ));
        tell(what, cloud.run(&dump));
        assert_eq!(cloud.bucket.keys(""), [""; 0], "{what}");
    }
    cloud.proxy.heal();
    tell("no dump", cloud.run(&["verify", &url]));
    tell("no bucket", cloud.run(&["list", "s3://no-such-bucket/x"]));
    let none = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
    tell("no credentials", cloud.run_with(&["list", &url], &none));
    let half = [("AWS_SECRET_ACCESS_KEY", "")];
    tell("half", cloud.run_with(&["list", &url], &half));
    let odd = [("AWS_ENDPOINT_URL", "s3.example.com")];
    tell("endpoint", cloud.run_with(&["list", &url], &odd));
    let nobody = [("AWS_ENDPOINT_URL", "http://127.0.0.1:1")];
    tell("nobody", cloud.run_with(&["list", &url], &nobody));
    tell(
        "part size",
        cloud.run(&["dump", "lines:in.txt", &url, "--upload-part-size", "1MiB"]),
    );
    tell(
        "folder",
        cloud.run(&["dump", "lines:in.txt", "d", "--single-writer"]),
    );
    tell("secret", cloud.run(&["list", "s3://id:hunter2@bucket/x"]));
    assert_snapshot!(text, @"
denied: error: cannot open s3://BUCKET/dumps/1: access denied (AccessDenied: Access Denied); check the credentials and what they allow (region us-east-1 at SERVER) [exit 11]
expired: error: cannot open s3://BUCKET/dumps/1: the credentials have expired (ExpiredToken: The provided token has expired), 2 times; set new credentials, then run the same command again [exit 11]
skewed: error: cannot open s3://BUCKET/dumps/1: this machine's clock and the server's differ too much (RequestTimeTooSkewed: The difference between the request time and the current time is too large), 2 times; set the clock, then run the same command again [exit 11]
region: error: cannot open s3://BUCKET/dumps/1: the bucket is in the region eu-central-1; set AWS_REGION=eu-central-1 [exit 11]
bucket: error: cannot open s3://BUCKET/dumps/1: there is no such bucket; make it, or check its name and where it is looked for: region us-east-1 at SERVER [exit 11]
conditions: error: cannot open s3://BUCKET/dumps/1: the server refuses conditional puts, so two writers could overwrite each other's objects; if nobody else writes there, give --single-writer [exit 2]
no dump: error: s3://BUCKET/dumps/1 is no dump: it has no HEAD.json [exit 2]
no bucket: error: cannot open s3://no-such-bucket/x: there is no such bucket; make it, or check its name and where it is looked for: region us-east-1 at SERVER [exit 11]
no credentials: error: cannot open s3://BUCKET/dumps/1: no credentials were found (no variables, no profile, no single sign-on, no process, no container, no instance); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE [exit 11]
half: error: cannot open s3://BUCKET/dumps/1: AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not; set both, or neither [exit 2]
endpoint: error: cannot open s3://BUCKET/dumps/1: AWS_ENDPOINT_URL is no http:// or https:// URL; give it like https://s3.example.com [exit 2]
nobody: error: cannot open s3://BUCKET/dumps/1: no connection: Connection refused, 5 times; check the network and the endpoint (region us-east-1 at http://127.0.0.1:1) [exit 11]
part size: error: --upload-part-size 1MiB: give 5MiB to 5GiB [exit 2]
folder: error: --single-writer is for s3://, gs:// and az:// stores, and d is none: leave it out [exit 2]
secret: error: cannot use s3://… as a store: credentials do not belong into a URL: they come from variables or profiles; give s3://BUCKET or s3://BUCKET/PREFIX [exit 2]
");
}

#[test]
fn killed_in_the_middle_of_a_request_the_same_command_goes_on() {
    let cloud = Cloud::new();
    let lines: String = (0..1_000_000).map(|n| format!("line {n}\n")).collect();
    cloud.place.write("in.txt", &lines);
    for (number, (operation, path, fault)) in [
        (Operation::PutObject, "/HEAD.json", Fault::HoldAnswer),
        (Operation::PutObject, "/PLANNED", Fault::StallRequest(1)),
        (Operation::CreateMultipartUpload, "", Fault::HoldAnswer),
        (Operation::UploadPart, "", Fault::StallRequest(1 << 20)),
        (Operation::UploadPart, "", Fault::HoldAnswer),
        (
            Operation::CompleteMultipartUpload,
            "",
            Fault::StallRequest(1),
        ),
        (Operation::CompleteMultipartUpload, "", Fault::HoldAnswer),
        (Operation::PutObject, "/parts/", Fault::StallRequest(1)),
        (Operation::PutObject, "/parts/", Fault::HoldAnswer),
        (Operation::PutObject, "/DONE", Fault::StallRequest(1)),
    ]
    .into_iter()
    .enumerate()
    {
        let url = cloud.bucket.url(&format!("killed/{number}"));
        let shape = [
            "--upload-part-size",
            "5MiB",
            "--compress",
            "none",
            "--chunk-size",
            "8MiB",
        ];
        let dump = [
            &["dump", "lines:in.txt", &url, "--threads", "1"][..],
            &shape,
        ]
        .concat();
        let rule = Rule::on(operation, 1..=1, fault.clone()).with_path(path);
        let proxy = FaultProxy::start(MiniStack::shared().account(), [rule]);
        let mut command = cloud.place.command(&dump);
        command.envs(proxy.account().env());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        wait_for(&format!("{operation:?} {path} to stand still"), || {
            proxy.stalled() > 0
        });
        child.kill().unwrap();
        child.wait().unwrap();
        drop(proxy);

        // The request that stood still may have come through after all.
        let keys = cloud.bucket.keys(&format!("killed/{number}/"));
        if !keys.iter().any(|key| key.ends_with("/DONE")) {
            let ran = cloud.run(&dump);
            assert_eq!(
                ran.exit,
                Some(0),
                "{operation:?} {path} {fault:?}: {}",
                ran.stderr
            );
        }
        assert_eq!(
            cloud.bucket.uploads(""),
            [],
            "{operation:?} {path} {fault:?}"
        );
        let ran = cloud.run(&["verify", &url]);
        assert_eq!(ran.exit, Some(0), "{}", ran.stderr);
        assert!(cloud.run(&["cat", &url, "--raw"]).stdout == lines);
        for key in cloud.bucket.keys(&format!("killed/{number}/")) {
            cloud.bucket.delete(&key);
        }
    }
}

/// Small files and one that is uploaded in parts; it waits before it ends if it is told to.
const WRITER: &str = "cd \"$1\"; mkdir sub
    for n in 1 2 3 4 5 6 7 8; do echo \"small $n\" > \"sub/$n.txt\"; done
    head -c 7000000 /dev/zero | tr '\\0' x > large
    while [ -e \"$2\" ]; do sleep 0.01; done
    echo last > last";

fn supervise<'a>(url: &'a str, wait: &'a str) -> Vec<&'a str> {
    vec![
        "supervise",
        "--dir",
        "out",
        "--limit",
        "12MiB",
        "--upload-part-size",
        "5MiB",
        url,
        "--",
        "sh",
        "-c",
        WRITER,
        "writer",
        "{dir}",
        wait,
    ]
}

fn written_files_come_back(cloud: &Cloud, url: &str) {
    let ran = cloud.run(&["verify", url]);
    assert_eq!(ran.exit, Some(0), "{}", ran.stderr);
    let ran = cloud.run(&["load", url, "files:back"]);
    assert_eq!(ran.exit, Some(0), "{}", ran.stderr);
    let mut names: Vec<_> = std::fs::read_dir(cloud.place.path("back"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["large", "last", "sub"]);
    for n in 1..=8 {
        let small = cloud.place.read(&format!("back/sub/{n}.txt"));
        assert_eq!(small, format!("small {n}\n").as_bytes());
    }
    assert!(cloud.place.read("back/large") == [b'x'; 7_000_000]);
    assert_eq!(cloud.place.read("back/last"), b"last\n");
}

#[test]
fn a_commands_files_go_into_a_bucket_and_come_back() {
    let cloud = Cloud::new();
    let url = cloud.bucket.url("files/of/shop");
    let args = supervise(&url, "nothing");
    let ran = cloud.run(&args);
    assert_eq!(ran.exit, Some(0), "{}", ran.stderr);
    assert!(cloud.proxy.requests(Operation::UploadPart) >= 2);
    let keys = cloud.bucket.keys("");
    assert!(keys.contains(&"files/of/shop/DONE".to_owned()), "{keys:?}");
    assert_eq!(cloud.bucket.uploads(""), []);
    assert_eq!(
        std::fs::read_dir(cloud.place.path("out")).unwrap().count(),
        0
    );
    written_files_come_back(&cloud, &url);
    let again = cloud.run(&args);
    assert_eq!(again.exit, Some(2), "{}", again.stderr);
}

#[test]
fn who_may_not_list_uploads_is_told_and_stores_all_the_same() {
    let cloud = Cloud::new();
    let refused = Rule::always(
        Operation::ListMultipartUploads,
        Fault::Refuse(Refusal::ACCESS_DENIED),
    );
    cloud.proxy.add(refused);
    let (dumps, files) = (cloud.bucket.url("dumps"), cloud.bucket.url("files"));
    let dump = ["dump", "lines:in.txt", &dumps];
    for (args, url) in [(&dump[..], &dumps), (&supervise(&files, "nothing"), &files)] {
        let ran = cloud.run(args);
        assert_eq!(ran.exit, Some(0), "{}", ran.stderr);
        let told = "what an attempt that ended may have left unfinished stays: cannot list";
        assert_eq!(ran.stderr.matches(told).count(), 1, "{}", ran.stderr);
        assert_eq!(cloud.run(&["verify", url]).exit, Some(0));
    }
}

#[test]
fn a_supervisor_killed_in_mid_upload_leaves_no_upload_behind() {
    let cloud = Cloud::new();
    let url = cloud.bucket.url("shop");
    // The command does not end before the upload stands still.
    cloud.place.write("wait", "");
    let wait = cloud.place.path("wait");
    let args = supervise(&url, wait.to_str().unwrap());
    let stall = Rule::on(Operation::UploadPart, 1..=1, Fault::HoldAnswer);
    let proxy = FaultProxy::start(MiniStack::shared().account(), [stall]);
    let mut command = cloud.place.command(&args);
    command.envs(proxy.account().env());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_for("an upload to stand still", || proxy.stalled() > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(proxy);
    let [orphan] = &cloud.bucket.uploads("")[..] else {
        panic!("{:?}", cloud.bucket.uploads(""));
    };
    assert_eq!(orphan.key, "shop/files/0001/large");
    // Another machine's run, whose supervisor may be alive; and one that is not under this prefix.
    let strange = cloud.bucket.create_upload("shop/files/0009/a");
    let beside = cloud.bucket.create_upload("shop2/files/0001/a");
    // Told of an unfinished place, and kept: its writer may live.
    let ran = cloud.run(&["prune", &url, "--yes"]);
    assert_eq!(ran.exit, Some(2), "{}", ran.stderr);
    assert_eq!(cloud.bucket.uploads("").len(), 3);

    std::fs::remove_file(&wait).unwrap();
    let ran = cloud.run(&args);
    assert_eq!(ran.exit, Some(0), "{}", ran.stderr);
    assert_eq!(cloud.bucket.uploads(""), [strange.clone(), beside.clone()]);
    written_files_come_back(&cloud, &url);
    let shown = cloud.run(&["prune", &url, "--yes", "--dry-run"]);
    let line = format!(
        "files/0009/a?uploadId={}  0 B  an upload that was begun and not finished",
        strange.id
    );
    assert!(
        shown.stdout.lines().any(|shown| shown == line),
        "{}",
        shown.stdout
    );
    assert_eq!(cloud.bucket.uploads("").len(), 2);
    assert_eq!(cloud.run(&["prune", &url, "--yes"]).exit, Some(0));
    assert_eq!(cloud.bucket.uploads(""), [beside]);
    written_files_come_back_again(&cloud, &url);
}

fn written_files_come_back_again(cloud: &Cloud, url: &str) {
    std::fs::remove_dir_all(cloud.place.path("back")).unwrap();
    written_files_come_back(cloud, url);
}
