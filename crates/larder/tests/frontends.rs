//! Frontends in images, under real clients: a small one of our own (`examples/frontend.rs`), with the libraries that it
//! needs, in an image of the daemon's store.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::buildx::each;
use crate::kitchen::Kitchen;

/// Builds the image `mine/frontend` into the kitchen's store; `None`, and loudly, where the program was not built.
fn image(kitchen: &Kitchen) -> Option<()> {
    let program = Path::new(env!("CARGO_BIN_EXE_larder")).with_file_name("examples").join("frontend");
    if !program.exists() {
        eprintln!("SKIPPED: {} is missing: cargo build -p larder --examples", program.display());
        return None;
    }
    let listed = Command::new("ldd").arg(&program).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    let tree = kitchen.context().join("tree");
    for file in libraries {
        let to = tree.join(file.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
    std::fs::copy(program, tree.join("run")).unwrap();
    let caps = "moby.buildkit.frontend.caps=moby.buildkit.frontend.contexts,moby.buildkit.frontend.subrequests";
    kitchen.write("Dockerfile", &format!("FROM scratch\nCOPY tree /\nLABEL {caps}\n"));
    kitchen.build(&["-t", "mine/frontend:v1"]).ok();
    std::fs::remove_dir_all(tree).unwrap();
    Some(())
}

#[test]
fn an_image_answers_as_the_frontend() {
    for client in crate::buildx::clients() {
        let Some(kitchen) = Kitchen::new() else { return };
        let Some(()) = image(&kitchen) else { return };
        let daemon = crate::buildx::Daemon::start(&kitchen, &client);
        let text = "FROM base AS inner\nRUN echo inner > /which\nFROM base\nRUN echo last > /which\n";
        let out = kitchen.path("out");
        let output = format!("type=local,dest={}", out.display());
        let which = || std::fs::read_to_string(out.join("which")).unwrap();

        kitchen.write("Dockerfile", &format!("# syntax=mine/frontend:v1\n{text}"));
        let ran = daemon.build(&["-o", &output]).ok();
        assert_eq!(which(), "inner\n");
        assert!(ran.stderr.contains("the frontend speaks"), "{}", ran.stderr);

        // The argument says more than the file, and the built-in frontend is what it always was.
        kitchen.write("Dockerfile", text);
        daemon.build(&["-o", &output]).ok();
        assert_eq!(which(), "last\n");
        daemon.build(&["-o", &output, "--build-arg", "BUILDKIT_SYNTAX=mine/frontend:v1"]).ok();
        assert_eq!(which(), "inner\n");

        // Its error is the build's, and a frontend that says nothing is an error too.
        let own = ["--build-arg", "BUILDKIT_SYNTAX=mine/frontend:v1", "--build-arg"];
        let ran = daemon.build(&[&own[..], &["fail=1"]].concat());
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("the frontend does not want to"), "{}", ran.stderr);
        let ran = daemon.build(&[&own[..], &["quit=1"]].concat());
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("the frontend ended without a result"), "{}", ran.stderr);
    }
}

#[test]
fn an_image_that_is_no_frontend() {
    each(|kitchen, daemon| {
        kitchen.write("Dockerfile", "# syntax=base\nFROM scratch\n");
        let ran = daemon.build(&[]);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("\"/run\": no such file or directory"), "{}", ran.stderr);
        // The line that asks for it is shown.
        assert!(ran.stderr.contains("Dockerfile:1"), "{}", ran.stderr);
        kitchen.write("Dockerfile", "FROM base\nRUN true\n");
        daemon.build(&[]).ok();
    });
}
