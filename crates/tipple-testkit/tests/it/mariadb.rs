use tipple_testkit::MariaDb;

#[test]
fn a_server_keeps_rows_and_tells_tables_apart() {
    let server = MariaDb::start(&[]);
    server.sql("create database d; create table d.t (id int primary key, s text); insert into d.t values (1, 'a')");
    server.sql(
        "create table d.same as select * from d.t; create table d.other as select 2 id, 'a' s",
    );
    assert_eq!(server.sql("select id, s from d.t"), "1\ta\n");
    let sums = server.checksums("d");
    let of = |table: &str| {
        sums.iter()
            .find(|(name, _)| name == table)
            .unwrap()
            .1
            .clone()
    };
    assert_eq!(sums.len(), 3);
    assert_eq!(of("t"), of("same"));
    assert_ne!(of("t"), of("other"));
}
