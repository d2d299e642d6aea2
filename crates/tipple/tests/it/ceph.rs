//! What a real gateway with accounts, signatures and a clock says to a mistake, and what the binary makes of it: one line
//! with the value, the reason and the next step.

use std::fmt::Write;

use insta::assert_snapshot;
use tipple_testkit::{Account, Ceph, Garage, is_long};

use crate::support::{Place, Ran};

/// The library that makes a process of several threads see another time of day.
fn faketime() -> String {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let library = libraries.find(|library| library.exists());
    let library = library.expect("run: apt-get install -y --no-install-recommends faketime");
    library.into_os_string().into_string().unwrap()
}

fn run(place: &Place, account: &Account, args: &[&str], more: &[(&str, &str)]) -> Ran {
    let env = account.env();
    let mut env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    env.extend_from_slice(more);
    let ran = place.run_with(args, &env);
    for secret in [&*account.secret_key, "hunter2"] {
        assert!(!ran.stderr.contains(secret) && !ran.stdout.contains(secret));
    }
    ran
}

#[test]
fn mistakes_are_one_line() {
    let (server, bucket) = (Ceph::shared(), Ceph::shared().fresh_bucket());
    let owner = server.account();
    let place = Place::new();
    place.write("in.txt", "a\nb\n");
    let url = bucket.url("dumps/1");
    let dump = ["dump", "lines:in.txt", &url];
    let mut text = String::new();
    let mut tell = |what: &str, ran: Ran| {
        let told = format!("{}[exit {}]\n", ran.stderr, ran.exit.unwrap())
            .replace(&owner.endpoint, "SERVER")
            .replace(bucket.bucket(), "BUCKET");
        let errors = told.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{what}: {told}");
        writeln!(
            text,
            "{what}: {}",
            told.lines().collect::<Vec<_>>().join(" ")
        )
        .unwrap();
    };
    let wrong_secret = Account {
        secret_key: "hunter2hunter2".to_owned(),
        ..owner.clone()
    };
    tell("wrong secret", run(&place, &wrong_secret, &dump, &[]));
    let unknown = Account {
        access_key: "nobodys-key".to_owned(),
        ..owner.clone()
    };
    tell("unknown key", run(&place, &unknown, &dump, &[]));
    let stranger = server.create_user("passer-by");
    tell("no permission", run(&place, &stranger, &dump, &[]));
    tell(
        "no permission to read",
        run(&place, &stranger, &["list", &url], &[]),
    );
    let missing = ["dump", "lines:in.txt", "s3://no-such-bucket/x"];
    tell("missing bucket", run(&place, owner, &missing, &[]));
    let library = faketime();
    for skew in ["-3h", "+3h"] {
        let clock = [
            ("LD_PRELOAD", &*library),
            ("FAKETIME", skew),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        tell(&format!("clock {skew}"), run(&place, owner, &dump, &clock));
    }
    let user = server.create_user("leaver");
    server.suspend_user("leaver");
    tell("suspended", run(&place, &user, &dump, &[]));
    assert_snapshot!(text, @"
wrong secret: error: cannot open s3://BUCKET/dumps/1: access denied (SignatureDoesNotMatch); check the credentials and what they allow (region us-east-1 at SERVER) [exit 11]
unknown key: error: cannot open s3://BUCKET/dumps/1: access denied (InvalidAccessKeyId); check the credentials and what they allow (region us-east-1 at SERVER) [exit 11]
no permission: error: cannot open s3://BUCKET/dumps/1: access denied (AccessDenied); check the credentials and what they allow (region us-east-1 at SERVER) [exit 11]
no permission to read: error: cannot open s3://BUCKET/dumps/1: access denied (AccessDenied); check the credentials and what they allow (region us-east-1 at SERVER) [exit 11]
missing bucket: error: cannot open s3://no-such-bucket/x: there is no such bucket; make it, or check its name and where it is looked for: region us-east-1 at SERVER [exit 11]
clock -3h: error: cannot open s3://BUCKET/dumps/1: this machine's clock is 3 hours behind the server's, 2 times; set the clock, then run the same command again [exit 11]
clock +3h: error: cannot open s3://BUCKET/dumps/1: this machine's clock is 3 hours ahead of the server's, 2 times; set the clock, then run the same command again [exit 11]
suspended: error: cannot open s3://BUCKET/dumps/1: access denied (UserSuspended); check the credentials and what they allow (region us-east-1 at SERVER) [exit 11]
");
    assert_eq!(bucket.keys(""), [""; 0]);
}

/// Ceph takes any region for its own; Garage does not. Nor does Garage care for conditions.
#[test]
fn mistakes_at_garage_are_one_line_in_a_long_run() {
    if !is_long() {
        return;
    }
    let (server, bucket) = (Garage::shared(), Garage::shared().fresh_bucket());
    let place = Place::new();
    place.write("in.txt", "a\nb\n");
    let url = bucket.url("dumps/1");
    let dump = ["dump", "lines:in.txt", &url];
    let told = |ran: &Ran| {
        let lines = ran
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "));
        format!(
            "{} [exit {}]",
            lines.collect::<Vec<_>>().join("\n"),
            ran.exit.unwrap()
        )
        .replace(&server.account().endpoint, "SERVER")
        .replace(bucket.bucket(), "BUCKET")
    };
    let elsewhere = [("AWS_REGION", "eu-central-1")];
    let region = told(&run(&place, server.account(), &dump, &elsewhere));
    assert_snapshot!(region, @"error: cannot open s3://BUCKET/dumps/1: the bucket is in the region garage; set AWS_REGION=garage [exit 11]");
    let conditions = told(&run(&place, server.account(), &dump, &[]));
    assert_snapshot!(conditions, @"error: cannot open s3://BUCKET/dumps/1: the server ignores the condition of conditional puts, so two writers could overwrite each other's objects; if nobody else writes there, give --single-writer [exit 2]");
    assert_eq!(bucket.keys(""), [""; 0]);
    let single = [&dump[..], &["--single-writer"]].concat();
    run(&place, server.account(), &single, &[]).ok();
    run(&place, server.account(), &["verify", &url], &[]).ok();
    let back = run(&place, server.account(), &["cat", &url, "--raw"], &[]).ok();
    assert_eq!(back.stdout, "a\nb\n");
}
