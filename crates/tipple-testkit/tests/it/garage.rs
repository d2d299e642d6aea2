use tipple_testkit::{Garage, is_long};

#[test]
fn objects_come_back_in_a_long_run() {
    if !is_long() {
        return;
    }
    let bucket = Garage::shared().fresh_bucket();
    bucket.put("a/b", b"one");
    bucket.put("a/b", b"two");
    assert_eq!(bucket.get("a/b"), Some(b"two".to_vec()));
    let upload = bucket.create_upload("m");
    assert_eq!(bucket.uploads(""), std::slice::from_ref(&upload));
    let etag = bucket.put_part(&upload, 1, b"part");
    assert_eq!(bucket.complete_upload(&upload, &[etag]).status, 200);
    assert_eq!(bucket.keys(""), ["a/b", "m"]);
}
