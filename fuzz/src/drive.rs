//! Runs the targets on a stable toolchain, without a fuzzer: seeds are mutated by a simple generator, each target for its share
//! of the time. What panics is left in `artifacts/NAME/`; a file there is run again by `drive --replay NAME FILE`.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use larder_fuzz::targets::{self, Target};

/// Splitmix64: the same inputs for the same seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }
}

fn mutate(pool: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = pool[chance.next(pool.len())].clone();
    for _ in 0..=chance.next(8) {
        let at = chance.next(bytes.len() + 1);
        let end = (at + chance.next(24)).min(bytes.len());
        match chance.next(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.next(8),
            1 if at < bytes.len() => bytes[at] = [0, 0xff, 0x7f, b'/', b'.', b'"', b'\\', b'$'][chance.next(8)],
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let other = &pool[chance.next(pool.len())];
                let from = chance.next(other.len() + 1);
                let piece = other[from..(from + chance.next(64)).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.insert(at, chance.next(256) as u8),
        }
        bytes.truncate(1 << 16);
    }
    bytes
}

/// Runs one target; says how often, and how many inputs ended it.
fn drive(target: &Target, time: Duration) -> (u64, u64) {
    let (mut pool, mut chance) = ((target.seeds)(), Chance(target.name.len() as u64));
    let (begun, mut runs, mut failed) = (Instant::now(), 0, 0);
    while begun.elapsed() < time {
        let bytes = mutate(&pool, &mut chance);
        runs += 1;
        if std::panic::catch_unwind(|| (target.run)(&bytes)).is_err() {
            failed += 1;
            let folder = Path::new("artifacts").join(target.name);
            let kept =
                std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join(format!("{runs}")), &bytes));
            kept.expect("the input can be kept");
        }
        // What was changed once is changed again, so that inputs wander off.
        if pool.len() < 512 {
            pool.push(bytes);
        } else if chance.next(4) == 0 {
            let at = chance.next(pool.len());
            pool[at] = bytes;
        }
    }
    (runs, failed)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let find = |name: &str| targets::ALL.iter().find(|target| target.name == name).expect("a target's name");
    if let [flag, name, file] = args.as_slice()
        && flag == "--replay"
    {
        return targets::replay(find(name), Path::new(file)).expect("the file can be read");
    }
    let seconds: u64 = args.first().and_then(|text| text.parse().ok()).expect("usage: drive SECONDS [NAME…]");
    let chosen: Vec<&Target> =
        if args.len() > 1 { args[1..].iter().map(|name| find(name)).collect() } else { targets::ALL.iter().collect() };
    let share = Duration::from_secs(seconds) / chosen.len() as u32;
    let mut all = 0;
    for target in chosen {
        let (runs, failed) = drive(target, share);
        writeln!(std::io::stdout(), "{}: {runs} runs, {failed} panics", target.name).expect("standard output");
        all += failed;
    }
    assert_eq!(all, 0, "inputs that ended a target are in artifacts/");
}
