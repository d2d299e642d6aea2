//! Which server owns a key, the way EVCache clients and cachemover decide it where hosts are IP addresses. Other clients
//! name the points otherwise (spymemcached's own `ip:port-j`, libmemcached's `host-j` at port 11211), so their keys have
//! other owners.
//!
//! Every host gets `bucket` points on a ring of 2³²: for `j` in `0..bucket / 4`, the MD5 of `host/host:port-j` gives
//! four, little-endian, at its bytes 0, 4, 8 and 12. A key belongs to the first point at or after the first four bytes
//! of its own MD5, else to the first point of all. Where two hosts have the same point, the later one has it.

use md5::{Digest as _, Md5};
use tipple_flow::{Failure, Party};

/// Points per host unless something else is asked for: what spymemcached has.
pub const BUCKET_DEFAULT: usize = 160;
/// The most points per host.
const BUCKET_MAX: usize = 1 << 16;
/// The most hosts on a ring.
const HOSTS_MAX: usize = 1 << 12;

/// A ring of hosts.
#[derive(Clone, Debug)]
pub struct Ring {
    hosts: Vec<String>,
    bucket: usize,
    // Sorted by point, each point once.
    points: Vec<(u32, u32)>,
}

impl Ring {
    /// The ring of `hosts`, each `host:port`, with `bucket` points each (4 to 65,536, a multiple of 4).
    ///
    /// # Errors
    /// [`Party::Usage`], naming the value: no host, one that is no `host:port`, one twice, or a bucket out of range.
    pub fn new<S: AsRef<str>>(hosts: &[S], bucket: usize) -> Result<Self, Failure> {
        if !(4..=BUCKET_MAX).contains(&bucket) || !bucket.is_multiple_of(4) {
            return Err(usage(format!(
                "a ring bucket of {bucket} points: give --ring-buckets a multiple of 4 from 4 to {BUCKET_MAX}"
            )));
        }
        if !(1..=HOSTS_MAX).contains(&hosts.len()) {
            return Err(usage(format!(
                "a ring of {} hosts: give 1 to {HOSTS_MAX}",
                hosts.len()
            )));
        }
        let hosts: Vec<String> = hosts.iter().map(|host| host.as_ref().to_owned()).collect();
        let mut points = Vec::with_capacity(hosts.len() * bucket);
        for (n, host) in hosts.iter().enumerate() {
            let name = host_name(host)?;
            if hosts[..n].contains(host) {
                return Err(usage(format!("{host:?} is in the ring twice")));
            }
            for j in 0..bucket / 4 {
                let digest = Md5::digest(format!("{name}/{host}-{j}").as_bytes());
                for four in digest.chunks_exact(4) {
                    let point = u32::from_le_bytes(four.try_into().expect("4 bytes"));
                    points.push((point, n as u32));
                }
            }
        }
        // The highest host number comes first among equal points, and the first is kept: the later host has it.
        points.sort_unstable_by_key(|&(point, host)| (point, std::cmp::Reverse(host)));
        points.dedup_by_key(|&mut (point, _)| point);
        Ok(Self {
            hosts,
            bucket,
            points,
        })
    }

    /// The number of the host that owns `key`, in the order they were given.
    #[inline]
    pub fn owner(&self, key: &[u8]) -> usize {
        if self.hosts.len() == 1 {
            return 0;
        }
        let hash = hash(key);
        let at = self.points.partition_point(|&(point, _)| point < hash);
        let (_, host) = self.points.get(at).unwrap_or(&self.points[0]);
        *host as usize
    }

    /// The hosts in their order.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Points per host.
    pub fn bucket(&self) -> usize {
        self.bucket
    }
}

fn hash(key: &[u8]) -> u32 {
    let digest = Md5::digest(key);
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The part of `host:port` before the port.
fn host_name(host: &str) -> Result<&str, Failure> {
    if let Some((name, port)) = host.rsplit_once(':')
        && !name.is_empty()
        && port.bytes().all(|b| b.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Ok(name);
    }
    Err(usage(format!(
        "{host:?} is no host of a ring: write it host:port, with a port from 1 to 65535"
    )))
}

fn usage(message: String) -> Failure {
    Failure::new(Party::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 5] = [
        "1.1.1.1:11211",
        "1.2.3.4:11211",
        "2.2.2.2:11211",
        "2.3.4.5:11211",
        "3.3.3.3:11211",
    ];

    #[test]
    fn places_keys_where_existing_clients_look_for_them() {
        let ring = Ring::new(&HOSTS, BUCKET_DEFAULT).unwrap();
        assert_eq!(hash(b"key0"), 4_060_279_841);
        let owners: Vec<usize> = (0..2000)
            .map(|n| ring.owner(format!("key{n}").as_bytes()))
            .collect();
        assert_eq!(owners[..8], [1, 2, 1, 4, 4, 2, 0, 0]);
        let mut counts = [0; 5];
        owners.iter().for_each(|&owner| counts[owner] += 1);
        assert_eq!(counts, [467, 322, 406, 420, 385]);
        assert_eq!(counts[0] + counts[2] + counts[4], 1258);
    }

    #[test]
    fn the_later_host_has_a_point_that_two_share() {
        // No two real hosts are known to collide, so the rule is checked on the points themselves.
        let mut ring = Ring::new(&HOSTS[..2], 4).unwrap();
        let mut points = vec![(7, 0), (7, 1), (3, 1), (3, 0)];
        points.sort_unstable_by_key(|&(point, host)| (point, std::cmp::Reverse(host)));
        points.dedup_by_key(|&mut (point, _)| point);
        ring.points = points;
        assert_eq!(ring.points, [(3, 1), (7, 1)]);
        // Behind the last point comes the first.
        assert!(hash(b"key0") > 7);
        assert_eq!(ring.owner(b"key0"), 1);
    }

    #[test]
    fn what_is_no_ring_is_named() {
        for (hosts, bucket, named) in [
            (vec!["a:1"], 0, "of 0 points"),
            (vec!["a:1"], 158, "of 158 points"),
            (vec![], 160, "of 0 hosts"),
            (vec!["a"], 160, "\"a\""),
            (vec![":1"], 160, "\":1\""),
            (vec!["a:0"], 160, "\"a:0\""),
            (vec!["a:+1"], 160, "\"a:+1\""),
            (vec!["a:65536"], 160, "\"a:65536\""),
            (
                vec!["a:1", "b:1", "a:1"],
                160,
                "\"a:1\" is in the ring twice",
            ),
        ] {
            let failure = Ring::new(&hosts, bucket).unwrap_err();
            assert_eq!(failure.party(), Party::Usage);
            assert!(failure.to_string().contains(named), "{failure}");
        }
        assert!(Ring::new(&["[::1]:11211"], 160).is_ok());
    }
}
