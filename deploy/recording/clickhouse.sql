-- Recordings in ClickHouse, a row for each line. By hand, the lines need no change:
--
--     clickhouse-client --query 'INSERT INTO recording FORMAT JSONEachRow' < default.20261120T150858Z.0a1b2c3d-0001.ndjson
--
-- All messages of a trace, whichever groups they went through:
--
--     SELECT time, g, d, mn, m FROM recording WHERE t = 4618619813630050305 ORDER BY ts
--
-- What is missing, and why:
--
--     SELECT g, cl, why, sum(count) FROM recording WHERE mk = 'Loss' GROUP BY g, cl, why
CREATE TABLE recording
(
    ts      UInt64 CODEC(Delta, ZSTD),
    time    DateTime64(9, 'UTC') MATERIALIZED fromUnixTimestamp64Nano(toInt64(ts), 'UTC'),
    g       LowCardinality(String),
    k       String CODEC(ZSTD),
    n       UInt16,
    s       UInt64 CODEC(Delta, ZSTD),
    t       UInt64 CODEC(ZSTD),
    th      UInt32,
    d       LowCardinality(String),
    cl      LowCardinality(String),
    mn      LowCardinality(String),
    mp      LowCardinality(String),
    mk      LowCardinality(String),
    m       String CODEC(ZSTD(3)),
    c       UInt64 CODEC(ZSTD),
    h       UInt8,
    -- Of lines that are no messages: `Open`, `Close`, `Loss`.
    run     LowCardinality(String),
    file    UInt32,
    `from`  UInt64,
    `to`    UInt64,
    count   UInt64,
    why     LowCardinality(String),
    numbers String,
    INDEX trace t TYPE bloom_filter GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(time)
ORDER BY (g, mn, ts);
