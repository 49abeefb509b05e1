//! `docker compose build` with larder behind buildx: several services at once, in a real Docker engine and into a registry.
//! Compose hands the work to a builder that buildx knows; nothing of it is larder's.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::buildx::{self, Daemon};
use crate::docker::Engine;
use crate::kitchen::{Kitchen, Ran};

/// A compose of the same age as the client, and that client as its plugin.
struct Compose<'a> {
    kitchen: &'a Kitchen,
    program: PathBuf,
    engine: Engine,
}

impl<'a> Compose<'a> {
    fn new(kitchen: &'a Kitchen, client: &str) -> Option<Compose<'a>> {
        let program = PathBuf::from(client.replace("/buildx-", "/compose-")).with_file_name("docker-compose");
        if !program.exists() {
            eprintln!("SKIPPED: {} is missing (ci/buildx brings it)", program.display());
            return None;
        }
        let engine = Engine::start(kitchen)?;
        let plugins = kitchen.path("home/.docker/cli-plugins");
        std::fs::create_dir_all(&plugins).unwrap();
        std::os::unix::fs::symlink(client, plugins.join("docker-buildx")).unwrap();
        Some(Compose { kitchen, program, engine })
    }

    fn run(&self, args: &[&str], env: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(&self.program);
        command.args(["--progress", "plain"]).args(args).current_dir(self.kitchen.context()).stdin(Stdio::null());
        command.env("HOME", self.kitchen.path("home")).env("BUILDX_CONFIG", self.kitchen.path("buildx"));
        command.env("DOCKER_HOST", &self.engine.socket).env_remove("SOURCE_DATE_EPOCH").envs(env.iter().copied());
        Ran::of(command.output().unwrap())
    }
}

/// Two services with everything that a build section may say.
fn write(kitchen: &Kitchen, host: &str) {
    let cache = kitchen.path("cache").display().to_string();
    let text = format!(
        r#"
services:
  web:
    image: {host}/web:1
    build:
      context: app
      target: last
      args: {{ WHO: world }}
      secrets: [tok]
      additional_contexts: {{ more: ./more }}
      cache_from: ["type=local,src={cache}"]
      cache_to: ["type=local,dest={cache}"]
      labels: {{ from: compose }}
  inline:
    image: {host}/inline:1
    build:
      context: app
      dockerfile_inline: |
        FROM base
        RUN echo inline > /inline
secrets:
  tok: {{ file: ./tok }}
"#
    );
    kitchen.write("compose.yaml", &text);
    kitchen.write("tok", "hush");
    kitchen.write("more/m", "named context");
    kitchen.write(
        "app/Dockerfile",
        "FROM base AS first\nCOPY --from=more m /m\nARG WHO\n\
         RUN --mount=type=secret,id=tok test \"$(cat /run/secrets/tok)\" = hush\nRUN echo hello $WHO > /hello\n\
         FROM first AS last\nRUN cat /hello /m\nFROM first AS broken\nRUN exit 7\n",
    );
}

#[test]
fn services_are_built_and_loaded() {
    for client in buildx::clients() {
        let Some(kitchen) = Kitchen::new() else { return };
        let daemon = Daemon::start(&kitchen, &client);
        let Some(compose) = Compose::new(&kitchen, &client) else { continue };
        let Some(registry) = testkit::registry::start() else { return };
        write(&kitchen, &registry.host);
        let first = compose.run(&["build", "--builder", "l"], &[]).ok();
        let all = format!("{}{}", first.stdout, first.stderr);
        assert!(all.contains("hello world") && all.contains("named context"), "{all}");
        let format = "{{json .Config.Labels}} {{len .RootFS.Layers}}";
        let web = format!("{}/web:1", registry.host);
        let shown = compose.engine.docker(&["image", "inspect", &web, "--format", format]).ok().stdout;
        assert!(shown.contains("\"from\":\"compose\""), "{shown}");
        compose.engine.docker(&["image", "inspect", &format!("{}/inline:1", registry.host)]).ok();
        assert!(kitchen.path("cache/index.json").exists());
        // Again, and by bake: everything is there.
        let again = compose.run(&["build"], &[("BUILDX_BUILDER", "l"), ("COMPOSE_BAKE", "true")]).ok();
        let all = format!("{}{}", again.stdout, again.stderr);
        assert!(!all.contains("because") && all.contains("CACHED"), "{all}");
        // An older compose pushes what is in the engine.
        if !daemon.is_old() {
            compose.run(&["build", "--push", "--builder", "l"], &[]).ok();
            daemon.buildx(&["imagetools", "inspect", &web]).ok();
        }
        let text = std::fs::read_to_string(kitchen.context().join("compose.yaml")).unwrap();
        kitchen.write("compose.yaml", &text.replace("target: last", "target: broken"));
        let failed = compose.run(&["build", "--builder", "l"], &[]);
        let all = format!("{}{}", failed.stdout, failed.stderr);
        assert!(failed.code != 0 && all.contains("did not complete successfully: exit code: 7"), "{all}");
    }
}
