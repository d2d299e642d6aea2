//! What `--help` teaches.

pub(crate) const ABOUT: &str = "\
Gets data out of live systems into verified files, and back, in memory and disk that are bounded before it starts.

A dump is a folder of .zst files with checksums. It is complete if and only if its file DONE exists. A command that \
was interrupted or killed goes on when it is run again; nothing is dumped twice or left out. What could not be read or \
applied is counted by cause, shown, and changes the exit code.";

pub(crate) const AFTER: &str = "\
Try `tipple tour` first: it shows all of it in a temporary folder, no server needed.
`tipple --help` has sources, sinks, units, settings, signals and exit codes; `tipple VERB --help` has examples.";

pub(crate) const AFTER_LONG: &str = "\
Sources and sinks:
  memcached://HOST:PORT[,HOST:PORT…]   items of memcached servers; memcacheds:// with TLS
  memcached:///PATH.sock               the same over a Unix socket
  log:FOLDER                           an embedded stream of events, which needs no server
  nats://HOST:PORT/STREAM              a stream of NATS JetStream; USER:PASSWORD@HOST logs in,
                                       and so does ?creds=FILE (of nsc) at the end
  nats://HOST:PORT/*                   every stream of its account, each in a folder of its own
  redis://HOST:PORT/KEY                a stream of Redis; /DB/KEY in another database than 0
  lines:FILE                           the lines of a file
  -                                    the lines of standard input, or to standard output
  files:FOLDER                         to load what `tipple supervise` stored

Stores:
  FOLDER, or file:FOLDER
  s3://BUCKET/PREFIX                   a bucket of S3, or of any server that speaks its protocol
  gs://BUCKET/PREFIX                   a bucket of Google Cloud Storage
  az://CONTAINER/PREFIX                a container of Azure Blob Storage

Variables of s3:// stores, as other tools have them:
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
                                       credentials; without them a profile (AWS_PROFILE), single
                                       sign-on, a process, web identity, the role of a container
                                       or a machine
  AWS_REGION, AWS_DEFAULT_REGION       the region [default: the profile's, or us-east-1]
  AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL
                                       another server than AWS: https://HOST, http://HOST:PORT
  AWS_ENDPOINT_URL_SQS                 the same for sqs:// queues that are given by name
  AWS_VIRTUAL_HOSTED_STYLE_REQUEST     true: the bucket is part of the host [default: at AWS]
  AWS_SKIP_SIGNATURE                   true: read a public bucket without credentials
  AWS_ALLOW_HTTP                       false: refuse an endpoint that is not encrypted
  AWS_CA_BUNDLE                        a PEM file of certificates to trust, not the system's
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY    proxies
Of gs:// stores: GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT and their kind.
Of az:// stores: AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY and their kind.

Units:
  SIZE      65536, 64KiB, 8MiB, 1GiB (powers of 1024), 64KB, 8MB, 1GB (powers of 1000)
  RATE      60MiB/s (raw bytes), 5000/s (records)
  DURATION  500ms, 30s, 10m, 2h, 7d

Settings:
  Every flag has a variable, which `tipple VERB --help` names: TIPPLE_CHUNK_SIZE for --chunk-size.
  A settings file (TOML) has the flags' names as keys, for all verbs or in a table for one:
    threads = 4
    [dump]
    compress = \"zstd:9\"
    [snapshot.cat]
    limit = 10
  A flag wins over a variable, a variable over the file, the file over the default.

Signals:
  Ctrl-C or SIGTERM ends a job so that the same command goes on; a second one ends it at once.
  SIGUSR1 pauses a job (and the command that is supervised), SIGUSR2 lets it go on.

Exit codes:
  0    done
  1    unexpected
  2    usage
  3    done, but some records could not be read or applied, or notifications not delivered
  4    verification failed: a dump is damaged
  10   a source or a sink failed
  11   a store failed
  12   a budget or the disk is too small
  13   another format version, or a wrong key
  130  interrupted; the same command goes on

Standard output has data and answers only: records, JSON, lists, estimates.
Everything else is on standard error.
Try `tipple tour` first: it shows all of it in a temporary folder, no server needed.";

pub(crate) const DUMP: &str = "\
Reads all records of SOURCE into a dump in the folder STORE: .zst files of checksummed frames, a record of every part, \
and DONE, written last. The memory is allocated at the start and printed. If it is interrupted, killed, or fails, run \
the same command again: committed parts stay, the rest is done. A finished dump is never changed. \
With --notify, queues and webhooks are told of each chunk once it is in every store; what cannot be delivered is counted, makes \
the exit code 3, and is sent by the same command, run again. \
Records that could not be read are counted by cause, and make the exit code 3.";

pub(crate) const DUMP_EXAMPLES: &str = "\
Examples:
  tipple dump memcached://cache1:11211,cache2:11211 /backup/cache
  tipple dump memcached:///run/memcached.sock /backup/users --key-prefix user: --min-ttl 10m
  tipple dump lines:/var/log/access.log /backup/access --compress zstd:9 --rate 60MiB/s
  zcat old.gz | tipple dump - /backup/old
  tipple dump memcached://cache1 /backup/secret --encrypt-key my.key
  tipple dump memcached://cache1 /backup/cm --layout cachemover
  tipple dump memcached://cache1 /backup/cache --dry-run
  tipple dump memcached://cache1 s3://backups/cache/2026-11-21
  tipple dump memcached://old s3://backups/cache --notify sqs://warm   tells a queue of each chunk
  tipple dump log:./orders s3://lake/orders --format parquet --path 'dt={time:%Y-%m-%d}'   for queries
Then:
  tipple verify /backup/cache
  cd /backup/cache && sha256sum -c SHA256SUMS";

pub(crate) const LOAD: &str = "\
Brings the records of the dump in STORE back into SINK. Every frame's checksum is verified before anything of it is \
applied. Lines come in their order, items in any order, with their flags and the rest of their lives; items that have expired \
meanwhile are counted. With several memcached servers, each key goes to the one that owns it on the ketama ring of all, where EVCache \
clients look for it if the hosts are IP addresses. \
With --from-queue, chunks are applied as a queue tells of them, by any number of loaders at once, until the dump is done and the queue is empty. \
Records that were not applied are counted by cause, and losses make the exit code 3.";

pub(crate) const LOAD_EXAMPLES: &str = "\
Examples:
  tipple load /backup/cache memcached://new1:11211,new2:11211 --threads 4
  tipple load /backup/cache memcached://new1 --mode add --rate 5000/s
  tipple load /backup/cache memcached://new1 --state /var/tmp/load   goes on after a kill
  tipple load s3://backups/cache memcached://new1 --from-queue sqs://warm   while it is dumped
  tipple load /backup/access lines:/tmp/access.log
  tipple load /backup/access - | grep ' 500 '
  tipple load /backup/cm memcached://new1                            a cachemover folder
  tipple load /backup/shop files:./shop                              what tipple supervise stored";

pub(crate) const COPY: &str = "\
Moves records straight from SOURCE into SINK, through buffers in memory. Nothing is kept: a copy that was broken off \
begins anew. The connection flags hold for both sides; filters choose what is read.";

pub(crate) const COPY_EXAMPLES: &str = "\
Examples:
  tipple copy memcached://old:11211 memcached://new1:11211,new2:11211
  tipple copy memcached://old memcached://new --ring a:1,b:2 --own b:2
  tipple copy /backup/cm memcached://new                             a cachemover folder";

pub(crate) const VERIFY: &str = "\
Reads all of the dump in STORE and compares: the SHA-256 of every chunk, the checksum of every frame, every record's \
layout, every count, the plan, the list of parts, SHA256SUMS and DONE. It names everything that is not as it should be, and then \
exits with 4. It needs nothing but the dump, and the key of a sealed one.";

pub(crate) const VERIFY_EXAMPLES: &str = "\
Examples:
  tipple verify /backup/cache
  tipple verify /backup/cache --quick      checksums only, without decoding
  tipple verify /backup/cache --partial    while it is still being dumped";

pub(crate) const LIST: &str = "\
Shows what is in the dump in STORE, finished or not: where it came from, how many records, parts and bytes, and what was \
lost. It reads names and counts, and verifies nothing. A sealed dump is listed without its key; with it, what the dump \
says of itself is authenticated.";

pub(crate) const LIST_EXAMPLES: &str = "\
Examples:
  tipple list /backup/cache
  tipple list /backup/cache --parts
  tipple list /backup/cache --json | jq .parts[].records";

pub(crate) const CAT: &str = "\
Prints the records of the dump in STORE on standard output, one JSON object a line: items as key, value, flags, exptime \
and more, lines as line. Bytes that are not UTF-8 appear as {\"base64\":\"…\"}. Every frame's checksum is verified first.";

pub(crate) const CAT_EXAMPLES: &str = "\
Examples:
  tipple cat /backup/cache | jq -r .key
  tipple cat /backup/cache --limit 10
  tipple cat /backup/access --raw --parts 0..1 | less";

pub(crate) const PRUNE: &str = "\
Shows what unfinished attempts left in the dump in STORE and nothing needs, and deletes it with --yes. A finished dump keeps \
every byte that it needs. An unfinished one is left alone unless --force is given, since its writer may be at work.";

pub(crate) const PRUNE_EXAMPLES: &str = "\
Examples:
  tipple prune /backup/cache
  tipple prune /backup/cache --yes
  tipple prune s3://backups/cache/2026-11-21
  tipple prune /backup/broken --force --older-than 1d --yes";

pub(crate) const KEYGEN: &str = "\
Makes a key of the system's random bytes and writes it into the new file FILE, which only its owner may read: a line with the \
key's name and its 32 bytes in base64. With it, `tipple dump --encrypt-key FILE` seals a dump; without it, nobody \
reads that dump again. Keep a copy of the file somewhere else. A key file may have several lines: the first key seals, \
all of them open.";

pub(crate) const KEYGEN_EXAMPLES: &str = "\
Examples:
  tipple keygen /etc/tipple/backup.key
  tipple dump memcached://cache1 /backup/cache --encrypt-key /etc/tipple/backup.key
  tipple load /backup/cache memcached://new1 --encrypt-key /etc/tipple/backup.key
To change the key, and still read what the old one has sealed:
  tipple keygen new.key && cat new.key old.key > both.key && chmod 600 both.key";

pub(crate) const SNAPSHOT: &str = "\
Looks at the snapshots that services write with the library tipple-snapshot: what is in them, whether they are whole, what \
differs. A snapshot says what type its value has, so it can be printed without the service. What is sealed needs its keys: \
--secrets takes the service's own file of secrets, --encrypt-key a key file of `tipple keygen`.";

pub(crate) const SNAPSHOT_EXAMPLES: &str = "\
Examples:
  tipple snapshot inspect /var/lib/app/prices
  tipple snapshot verify /var/lib/app/prices --json
  tipple snapshot cat /var/lib/app/prices/2026-01-09T174608.907090Z-v0 --limit 10
  tipple snapshot diff OLD NEW
  tipple snapshot prune /var/lib/app/prices --max-count 3 --max-age 7d --yes
  tipple snapshot rekey /var/lib/app/prices --secrets /etc/app/secrets.json";
pub(crate) const RECORD: &str = "\
Reads what programs with tipple-recorder (or elfo's dumper) have recorded: files that end with .ndjson or .ndjson.zst, folders \
of them, or s3://BUCKET/PREFIX, gs://…, az://…. Where a recording has an index beside it, what cannot match is not read.";

pub(crate) const RECORD_EXAMPLES: &str = "\
Examples:
  tipple record search /var/lib/app/recording --trace 4618619813630050305
  tipple record search recording --name Order --field m.symbol=BTCUSDT --from 2026-11-20T15:00:00Z
  tipple record gaps recording
  tipple record pair recording --group orders
  tipple record diff monday tuesday --ignore m.time";

pub(crate) const SUPERVISE: &str = "\
Runs COMMAND, which writes files into the folder DIR, and stores each file in STORE as soon as every process has closed it; \
only then is it deleted. When the folder nears its limit, the command with all its processes is stopped (SIGSTOP) until \
there is room again, and never for longer than its connections can take. What counts are bytes: of each file its length \
or the room on the disk, whichever is more.

It is complete if and only if DONE is in STORE, which is written only after the command has ended with exit code 0 and \
everything is stored. If the command fails, its exit code is in the report, and tipple's own is 10. Killed and given \
again, the same command ends what still runs of the first one. If that had ended well, its files are stored; otherwise \
it starts over, and nothing of two runs is mixed. Only its program's name is kept in STORE: arguments may hold secrets.";

pub(crate) const SUPERVISE_EXAMPLES: &str = "\
Examples:
  tipple supervise --dir /var/tmp/shop --limit 1GiB /backup/shop -- mydumper -B shop -F 32 -o {dir}
  tipple supervise --dir /var/tmp/shop --limit 1GiB /backup/shop --mysql-host db1 --mysql-user backup
  tipple supervise --dir ./out --limit 100MiB /backup/frames -- ffmpeg -i in.mp4 {dir}/%06d.png
Then:
  tipple verify /backup/shop
  tipple load /backup/shop files:./shop && myloader -d ./shop";

pub(crate) const APPEND: &str = "\
Appends events to the embedded stream in a folder: every line of standard input is one. The folder is made if it is not \
there. What has come is on the disk a moment later; when the command \
ends with 0, all of it is. One program appends at a time; any number may read meanwhile.";

pub(crate) const APPEND_EXAMPLES: &str = "\
Examples:
  journalctl -f -o json | tipple append log:./journal
  tipple cat /backup/orders | tipple append log:./orders --format ndjson
Then:
  tipple cat log:./journal --limit 10
  tipple dump log:./journal /backup/journal";

pub(crate) const DOCTOR: &str = "\
Reaches a store or a source and says what it can do: whether a store refuses to overwrite, whether it is durable, and its free room; \
a server's version, how its keys can be listed, and its limits. A folder that does not exist is not made.";

pub(crate) const DOCTOR_EXAMPLES: &str = "\
Examples:
  tipple doctor /backup
  tipple doctor s3://backups
  tipple doctor memcached://cache1:11211";

pub(crate) const TOUR: &str = "\
Makes a temporary folder with a file of a million lines and runs the commands on it, each shown before it runs: dump, verify, \
list, cat, load, compare, kill in the middle and go on. Where a memcached is installed, the same with servers of its own. \
It ends with what was proven, and with exit code 1 if anything differs.";

pub(crate) const TOUR_EXAMPLES: &str = "\
Examples:
  tipple tour
  tipple tour --keep";

pub(crate) const COMPLETIONS: &str = "\
Prints a script that completes verbs and flags in a shell.";

pub(crate) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  tipple completions bash > ~/.local/share/bash-completion/completions/tipple
  tipple completions zsh > ~/.zfunc/_tipple";

pub(crate) const MAN: &str = "\
Prints a manual page, of tipple itself or of one of its verbs.";

pub(crate) const MAN_EXAMPLES: &str = "\
Examples:
  tipple man | man -l -
  tipple man dump | man -l -
  tipple man --dir /usr/local/share/man/man1";
