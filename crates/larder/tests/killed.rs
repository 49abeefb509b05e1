//! `kill -9` at any moment of a build, also of one that cleans up after another: the next build succeeds, with the same
//! result as ever.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crate::kitchen::Kitchen;

/// How often a build is killed and the next one is looked at.
const KILLS: u32 = 200;

#[test]
fn any_kill_is_survived() {
    let Some(kitchen) = Kitchen::new() else { return };
    let dockerfile = |round: u32| {
        format!(
            "FROM base AS a\nCOPY src /src\nRUN echo {round} > /round; for i in $(seq 20); do echo $i > /f$i; done\n\
             FROM base\nCOPY --from=a /round /src /r/\nRUN cat /r/round > /last\n"
        )
    };
    for i in 0..40 {
        kitchen.write(&format!("src/f{i}"), &"x".repeat(1000));
    }
    kitchen.write("Dockerfile", &dockerfile(0));
    let begun = Instant::now();
    kitchen.build(&["-t", "warm"]).ok();
    let whole = begun.elapsed();
    let context = kitchen.context();
    let (mut killed, mut round) = (0, 0);
    while killed < KILLS {
        round += 1;
        assert!(round < 2 * KILLS, "only {killed} of {round} builds were killed before their end");
        kitchen.write("Dockerfile", &dockerfile(round));
        let args = ["build", "-q", "-t", "app", context.to_str().unwrap()];
        let mut command = kitchen.command(&kitchen.root(), &args);
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        // Steps of the golden ratio fall all over the build's time, and never twice on one point.
        std::thread::sleep(whole.mul_f64((f64::from(round) * 0.618_034).fract()).min(Duration::from_secs(2)));
        child.kill().unwrap();
        let was_killed = child.wait().unwrap().signal() == Some(9);
        // Now and then the next one is killed as well.
        if round % 5 != 0 {
            killed += u32::from(was_killed);
            let out = kitchen.files(&[]);
            assert_eq!(std::fs::read_to_string(out.join("last")).unwrap().trim(), round.to_string());
            assert_eq!(std::fs::read_dir(out.join("r")).unwrap().count(), 41);
        }
    }
    kitchen.build(&[]).ok();
    let last = kitchen.build(&[]).ok();
    assert_eq!(last.missed(), 0, "{}", last.stderr);
}
