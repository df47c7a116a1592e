//! Images removed for good on other daemons: the cases 4.x of the image service, its scenarios with
//! agents, and agents that are off, killed in the middle, or behind SSH.

mod gate;
mod ssh;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kiln_testkit::images::layout::Layout;
use kiln_testkit::registry::{Access, Registry, Transport};
use kiln_testkit::tools::{self, Need};
use kiln_testkit::wait;
use serde_json::{Value, json};

use self::gate::Gate;
use crate::browsing::{kiln, printed};
use crate::routes::mirrored;
use crate::source::{self, oci};
use crate::stage::{LIMIT, Stage, code, text};

const NEEDS: &[Need] = &[tools::DOCKER_REGISTRY, tools::SKOPEO];

/// A registry that stands for the Docker Hub, and a daemon that calls others agents.
struct Fleet {
    main: Stage,
    agents: BTreeMap<String, Stage>,
    hub: Registry,
}

impl Fleet {
    /// Starts the main daemon and one for each name, all of which find the Hub's names here.
    fn start(names: &[&str]) -> Result<Self> {
        let hub = Registry::start(Access::Anonymous, Transport::Http)?;
        let main = Stage::new()?;
        let mut agents = BTreeMap::new();
        for name in names {
            let stage = Stage::with_config(&mirrored("docker.io", &hub, ""))?;
            enter(&main, name, &stage.daemon.socket())?;
            agents.insert((*name).to_owned(), stage);
        }
        Ok(Self { main, agents, hub })
    }

    fn agent(&self, name: &str) -> Result<&Stage> {
        self.agents.get(name).context("no such agent")
    }

    /// Puts images into the Hub, each with a content of its own.
    fn publish(&self, references: &[&str]) -> Result<()> {
        for (n, reference) in references.iter().enumerate() {
            let folder = self.main.path(&format!("layout-{n}"));
            let mut layout = Layout::create(folder)?;
            let image = source::small_image(&layout, reference)?;
            layout.tag("1", &image)?;
            self.hub
                .push(&oci(&layout, "1"), &format!("library/{reference}"))?;
        }
        Ok(())
    }

    /// Pulls an image of the Hub on an agent, under the name that follows from it.
    fn pull(&self, agent: &str, reference: &str) -> Result<Value> {
        let name = reference.replace(':', "-").replace("-latest", "");
        self.agent(agent)?.pull(reference, &name)
    }

    fn names_on(&self, agent: &str) -> Result<Vec<String>> {
        names(self.agent(agent)?)
    }

    fn purge(&self, params: &Value) -> Result<Value> {
        self.main.call("image.purge", params)
    }
}

fn enter(main: &Stage, name: &str, socket: &Path) -> Result<Value> {
    let address = format!("unix://{}", socket.display());
    main.call("agent.add", &json!({"name": name, "address": address}))
}

/// Lists the images of a daemon, forgotten ones too.
fn names(stage: &Stage) -> Result<Vec<String>> {
    let listed = stage.call("image.list", &json!({"all": true}))?;
    let items = listed["items"].as_array().context("no items")?;
    let names = items.iter().filter_map(|image| image["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn short(images: &[&str], agents: &[&str]) -> Value {
    json!({"image_names": images, "agent_ids": agents})
}

/// Lists `item` or `item!` where it was gone already, by agent.
fn went(purged: &Value) -> Result<BTreeMap<String, Vec<String>>> {
    let entries = purged["purged_images"].as_array().context("no entries")?;
    let entries = entries.iter().map(|entry| {
        let images = entry["images"].as_array().context("no images")?;
        let images = images.iter().map(|image| {
            let mark = if image["already_purged"] == true {
                "!"
            } else {
                ""
            };
            Ok(format!("{}{mark}", text(image, "item")?))
        });
        Ok((text(entry, "agent_id")?, images.collect::<Result<_>>()?))
    });
    entries.collect()
}

/// Lists `agent item code` of what went wrong.
fn errors(purged: &Value) -> Result<Vec<String>> {
    let errors = purged["errors"].as_array().context("no errors")?;
    let errors = errors.iter().map(|error| {
        let item = error["item"].as_str().unwrap_or("-");
        let code = text(&error["error"], "code")?;
        Ok(format!("{} {item} {code}", text(error, "agent_id")?))
    });
    errors.collect()
}

fn map(want: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let all = want.iter();
    all.map(|(agent, items)| ((*agent).to_owned(), owned(items)))
        .collect()
}

#[test]
fn agents_are_entered_listed_asked_and_struck_off() -> Result<()> {
    let (main, other) = (Stage::new()?, Stage::new()?);
    let socket = other.daemon.socket();
    let added = enter(&main, "agent-1", &socket)?;
    assert_eq!(added["state"], "unknown");
    assert_eq!(added["timeout_seconds"], 30);

    let pong = main.call("agent.ping", &json!({"agent": "agent-1"}))?;
    assert_eq!(pong["role"], "superadmin");
    assert_eq!(pong["uid"], rustix::process::geteuid().as_raw());
    assert_eq!(pong["agent"]["state"], "online");
    let said = printed(&main, &["agent", "ping"])?;
    assert!(said.starts_with("agent-1: kilnd "), "{said}");
    assert!(printed(&main, &["agent", "ls"])?.contains("online"));

    let address = format!("unix://{}", socket.display());
    let again = json!({"name": "agent-1", "address": address});
    let taken = main.refused("agent.add", &again)?;
    assert_eq!(code(&taken), "agent.already_exists");
    for (params, want) in [
        (
            json!({"name": "x", "address": "ssh://-oProxyCommand=id"}),
            "request.invalid_params",
        ),
        (
            json!({"name": "x", "address": "https://node"}),
            "request.invalid_params",
        ),
        (
            json!({"name": "x", "address": "unix:///"}),
            "request.invalid_params",
        ),
        (
            json!({"name": "x", "address": address, "identity_path": "/root/id"}),
            "request.invalid_params",
        ),
        (
            json!({"name": "x", "address": "ssh://node", "identity_path": "id"}),
            "request.invalid_params",
        ),
        (
            json!({"name": "x", "address": address, "timeout_seconds": 0}),
            "request.invalid_params",
        ),
    ] {
        let refused = main.refused("agent.add", &params)?;
        assert_eq!(code(&refused), want, "{params}: {refused}");
    }

    drop(other);
    let gone = main.refused("agent.ping", &json!({"agent_id": "agent-1"}))?;
    assert_eq!(code(&gone), "agent.unreachable", "{gone}");
    assert!(gone.message.contains("agent agent-1 at unix:///"), "{gone}");
    let shown = main.call("agent.get", &json!({"agent": "agent-1"}))?;
    assert_eq!(shown["state"], "offline");
    assert_eq!(shown["last_error"]["code"], "agent.unreachable");
    let events = main.call("event.list", &json!({"kind": "agent."}))?;
    let events = events["items"].as_array().context("no events")?;
    let kinds: Vec<&str> = events
        .iter()
        .filter_map(|event| event["kind"].as_str())
        .collect();
    assert_eq!(kinds, ["agent.added", "agent.online", "agent.offline"]);

    printed(&main, &["agent", "rm", "agent-1"])?;
    let missing = main.refused("agent.get", &json!({"agent": "agent-1"}))?;
    assert_eq!(code(&missing), "agent.not_found");
    for n in 0..256 {
        enter(&main, &format!("agent-{n}"), &socket)?;
    }
    let address = json!({"name": "one-more", "address": address});
    let refused = main.refused("agent.add", &address)?;
    assert_eq!(code(&refused), "agent.too_many");
    Ok(())
}

#[test]
fn case_4_1_each_image_has_a_result() -> Result<()> {
    if tools::must_skip("case_4_1_each_image_has_a_result", NEEDS)? {
        return Ok(());
    }
    let fleet = Fleet::start(&["agent-1"])?;
    fleet.publish(&["ubuntu:20.04", "python:3.9"])?;
    let ubuntu = fleet.pull("agent-1", "ubuntu:20.04")?;
    fleet.pull("agent-1", "python:3.9")?;
    let lease = json!({"image": "python:3.9", "purpose": "in use", "ttl_seconds": 600});
    fleet.agent("agent-1")?.call("image.lease", &lease)?;

    let keys = json!({"keys": [{"agent_id": "agent-1", "images": [
        {"name": "ubuntu:20.04", "architecture": "x86_64"}, {"name": "python:3.9"},
    ]}]});
    let purged = fleet.purge(&keys)?;

    assert_eq!(went(&purged)?, map(&[("agent-1", &["ubuntu:20.04"])]));
    assert_eq!(errors(&purged)?, ["agent-1 python:3.9 image.in_use"]);
    assert_eq!(
        purged["purged_images"][0]["images"][0]["image_id"],
        ubuntu["id"]
    );
    assert!(purged["freed_bytes"].as_u64() > Some(0), "{purged}");
    assert_eq!(fleet.names_on("agent-1")?, ["python-3.9"]);

    let mut forced = short(&["ubuntu:20.04", "python:3.9"], &["agent-1"]);
    forced["force"] = json!(true);
    let again = fleet.purge(&forced)?;
    let want = map(&[("agent-1", &["ubuntu:20.04!", "python:3.9"])]);
    assert_eq!(went(&again)?, want);
    assert_eq!(fleet.names_on("agent-1")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn case_4_2_one_image_goes_on_three_agents() -> Result<()> {
    if tools::must_skip("case_4_2_one_image_goes_on_three_agents", NEEDS)? {
        return Ok(());
    }
    let names = ["agent-1", "agent-2", "agent-3"];
    let fleet = Fleet::start(&names)?;
    fleet.publish(&["tensorflow:latest"])?;
    for name in names {
        fleet.pull(name, "tensorflow:latest")?;
    }

    let purged = fleet.purge(&short(&["tensorflow:latest"], &names))?;

    let one: &[&str] = &["tensorflow:latest"];
    assert_eq!(went(&purged)?, map(&names.map(|name| (name, one))));
    assert_eq!(
        (&purged["purged"], &purged["errors"]),
        (&json!(3), &json!([]))
    );
    for name in names {
        assert_eq!(fleet.names_on(name)?, Vec::<String>::new(), "{name}");
    }
    Ok(())
}

#[test]
fn case_4_3_an_agent_that_is_off_is_told_apart_and_not_waited_for() -> Result<()> {
    if tools::must_skip("case_4_3_an_agent_that_is_off", NEEDS)? {
        return Ok(());
    }
    let fleet = Fleet::start(&["agent-1"])?;
    fleet.publish(&["pytorch:latest"])?;
    fleet.pull("agent-1", "pytorch:latest")?;
    enter(
        &fleet.main,
        "offline-agent",
        &fleet.main.path("nobody.sock"),
    )?;
    // One that takes the connection and never says a word.
    let silent = fleet.main.path("silent.sock");
    let _silent = UnixListener::bind(&silent)?;
    let address = format!("unix://{}", silent.display());
    let patience = json!({"name": "silent-agent", "address": address, "timeout_seconds": 2});
    fleet.main.call("agent.add", &patience)?;

    let begun = Instant::now();
    let agents = ["agent-1", "offline-agent", "silent-agent", "unknown-agent"];
    let purged = fleet.purge(&short(&["pytorch:latest"], &agents))?;
    let took = begun.elapsed();

    assert_eq!(went(&purged)?, map(&[("agent-1", &["pytorch:latest"])]));
    let want = [
        "offline-agent - agent.unreachable",
        "silent-agent - agent.unreachable",
        "unknown-agent - agent.not_found",
    ];
    assert_eq!(errors(&purged)?, want);
    let said = purged["errors"][0]["error"]["message"].to_string();
    assert!(
        said.contains("offline-agent") && said.contains("No such file"),
        "{said}"
    );
    let said = purged["errors"][1]["error"]["message"].to_string();
    assert!(said.contains("within 2 seconds"), "{said}");
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    let listed = fleet.main.call("agent.list", &json!({}))?;
    let listed = listed["items"].as_array().context("no agents")?;
    let states: Vec<_> = listed.iter().map(|agent| agent["state"].as_str()).collect();
    assert_eq!(states, [Some("online"), Some("offline"), Some("offline")]);

    // A part that failed is exit 9, and both are told.
    let words = [
        "purge",
        "pytorch:latest",
        "--agent",
        "agent-1",
        "--agent",
        "offline-agent",
    ];
    let output = kiln(&fleet.main, &words)?;
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    let (stdout, stderr) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    );
    assert!(
        stdout.contains("agent-1  pytorch:latest  was not there"),
        "{stdout}"
    );
    assert!(
        stderr.contains("agent offline-agent at unix://"),
        "{stderr}"
    );
    Ok(())
}

#[test]
fn case_ce_2_an_agent_that_cannot_be_reached_is_a_connection_error() -> Result<()> {
    if tools::must_skip("case_ce_2_an_agent_that_cannot_be_reached", NEEDS)? {
        return Ok(());
    }
    let fleet = Fleet::start(&[])?;
    let nobody = fleet.main.path("nobody.sock");
    enter(&fleet.main, "offline-agent", &nobody)?;

    let purged = fleet.purge(&short(&["*:old-*"], &["offline-agent"]))?;

    assert_eq!(went(&purged)?, map(&[]));
    assert_eq!(errors(&purged)?, ["offline-agent - agent.unreachable"]);
    assert_eq!(purged["errors"][0]["error"]["retryable"], true);
    let words = ["purge", "*:old-*", "--agent", "offline-agent"];
    let output = kiln(&fleet.main, &words)?;
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    Ok(())
}

/// Answers everybody who comes to a socket with the same words, and hangs up.
fn stranger(socket: &Path, words: &'static [u8]) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = [0; 4096];
            // Who hangs up early has nothing to be told.
            drop(stream.read(&mut asked));
            drop(stream.write_all(words));
        }
    });
    Ok(())
}

#[test]
fn what_answers_and_is_no_daemon_is_told_from_an_agent_that_is_off() -> Result<()> {
    let main = Stage::new()?;
    let words: [(&str, &[u8]); 2] = [
        (
            "web",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        ),
        ("other", b"SSH-2.0-OpenSSH_9.2\r\n"),
    ];
    for (name, words) in words {
        let socket = main.path(&format!("{name}.sock"));
        stranger(&socket, words)?;
        enter(&main, name, &socket)?;

        let pinged = main.refused("agent.ping", &json!({"agent": name}))?;
        let purged = main.call("image.purge", &short(&["*:old-*"], &[name]))?;

        assert_eq!(code(&pinged), "agent.incompatible", "{pinged}");
        let want = format!("{name} - agent.incompatible");
        assert_eq!(errors(&purged)?, [want]);
    }
    Ok(())
}

#[test]
fn case_4_4_a_pattern_chooses_by_name_and_tag_of_what_is_visible() -> Result<()> {
    if tools::must_skip("case_4_4_a_pattern_chooses", NEEDS)? {
        return Ok(());
    }
    let fleet = Fleet::start(&["agent-1"])?;
    fleet.publish(&["app:old-1", "app:old-2", "db:old-1", "app:new-1"])?;
    for reference in ["app:old-1", "app:old-2", "db:old-1", "app:new-1"] {
        fleet.pull("agent-1", reference)?;
    }
    let agent = fleet.agent("agent-1")?;
    agent.call("image.forget", &json!({"image": "db-old-1"}))?;
    let call = |pattern: &str, dry_run: bool| {
        let mut call = short(&[pattern], &["agent-1"]);
        call["dry_run"] = json!(dry_run);
        fleet.purge(&call)
    };
    let three: &[&str] = &["*:old-*"; 3];

    let foretold = call("*:old-*", true)?;
    assert_eq!(went(&foretold)?, map(&[("agent-1", three)]));
    assert_eq!(foretold["dry_run"], true);
    assert_eq!(fleet.names_on("agent-1")?.len(), 4);

    let none = call("*:ancient-*", false)?;
    assert_eq!(went(&none)?, map(&[("agent-1", &[])]));
    assert_eq!((&none["purged"], &none["errors"]), (&json!(0), &json!([])));

    let narrow = call("app:old-?", false)?;
    assert_eq!(narrow["purged"], 2, "{narrow}");
    let rest = call("*:old-*", false)?;
    assert_eq!(rest["purged"], 1, "{rest}");
    assert_eq!(rest["purged_images"][0]["images"][0]["name"], "db-old-1");
    assert_eq!(fleet.names_on("agent-1")?, ["app-new-1"]);
    // What was foretold is what came.
    let images = |told: &Value| told["purged_images"][0]["freed_bytes"].as_u64();
    let (all, two, one) = (images(&foretold), images(&narrow), images(&rest));
    assert_eq!(all, two.zip(one).map(|(two, one)| two + one));
    Ok(())
}

#[test]
fn scenario_1_an_unused_image_goes_for_good() -> Result<()> {
    if tools::must_skip("scenario_1_an_unused_image_goes_for_good", NEEDS)? {
        return Ok(());
    }
    let fleet = Fleet::start(&["agent-1"])?;
    fleet.publish(&["old-app:v1.0"])?;
    fleet.pull("agent-1", "old-app:v1.0")?;
    let layout = source::small(&fleet.main.path("own"))?;
    let own = fleet.main.pull(&oci(&layout, "1"), "old-app")?;

    let forget = json!({"reference": "old-app:v1.0.0", "architecture": "x86_64"});
    let forgotten = fleet.main.call("image.forget", &forget)?;
    assert_eq!(forgotten["image"]["is_active"], false);
    let keys = json!({
        "keys": [{"agent_id": "agent-1", "images": [
            {"name": "old-app:v1.0", "architecture": "x86_64"},
        ]}],
        "force": true, "noprune": false,
    });
    let purged = fleet.purge(&keys)?;
    assert_eq!(went(&purged)?, map(&[("agent-1", &["old-app:v1.0"])]));
    assert_eq!(errors(&purged)?, Vec::<String>::new());
    fleet
        .main
        .call("image.purge_by_id", &json!({"image_id": own["id"]}))?;

    assert_eq!(fleet.names_on("agent-1")?, Vec::<String>::new());
    assert_eq!(names(&fleet.main)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn scenario_4_several_agents_are_cleaned_up_side_by_side() -> Result<()> {
    if tools::must_skip("scenario_4_several_agents_are_cleaned_up", NEEDS)? {
        return Ok(());
    }
    let fleet = Fleet::start(&["agent-1", "agent-2"])?;
    fleet.publish(&["app:old", "cache:old"])?;
    for (agent, reference) in [
        ("agent-1", "app:old"),
        ("agent-1", "cache:old"),
        ("agent-2", "app:old"),
    ] {
        fleet.pull(agent, reference)?;
    }
    let keys = json!({
        "keys": [
            {"agent_id": "agent-1", "images": [{"name": "app:old"}, {"name": "cache:old"}]},
            {"agent_id": "agent-2", "images": [{"name": "app:old"}]},
        ],
        "force": true,
    });
    let purged = fleet.purge(&keys)?;
    let want = map(&[
        ("agent-1", &["app:old", "cache:old"]),
        ("agent-2", &["app:old"]),
    ]);
    assert_eq!(went(&purged)?, want);
    assert_eq!(errors(&purged)?, Vec::<String>::new());
    let operation = fleet.main.last_operation()?;
    assert_eq!(operation["kind"], "image.purge");
    assert_eq!(operation["purged"]["purged"], 3);
    let states = [
        &operation["progress"]["agents"][0],
        &operation["progress"]["agents"][1],
    ];
    for (agent, items) in states.into_iter().zip([2, 1]) {
        assert_eq!(
            (&agent["state"], &agent["items_done"]),
            (&json!("done"), &json!(items))
        );
    }

    // The same from the command line tells how many went where.
    for (agent, reference) in [("agent-1", "app:old"), ("agent-2", "app:old")] {
        fleet.pull(agent, reference)?;
    }
    let words = [
        "image", "purge", "app:old", "--agent", "agent-1", "--agent", "agent-2", "--force",
    ];
    let said = printed(&fleet.main, &words)?;
    assert!(
        said.contains("2 gone") && said.contains("(agent-1: 1, agent-2: 1)"),
        "{said}"
    );
    Ok(())
}

#[test]
fn an_agent_that_is_killed_in_the_middle_leaves_the_rest_to_the_next_try() -> Result<()> {
    if tools::must_skip("an_agent_that_is_killed_in_the_middle", NEEDS)? {
        return Ok(());
    }
    let mut fleet = Fleet::start(&["agent-1", "agent-2", "agent-3"])?;
    fleet.publish(&["app:old", "cache:old"])?;
    for agent in ["agent-1", "agent-2", "agent-3"] {
        for reference in ["app:old", "cache:old"] {
            fleet.pull(agent, reference)?;
        }
    }
    // The second removal on agent-2 is held up on its way.
    let gate = Gate::start(
        &fleet.main.path("gate.sock"),
        &fleet.agent("agent-2")?.daemon.socket(),
        ("image.purge_by_id", 2),
    )?;
    fleet
        .main
        .call("agent.remove", &json!({"agent": "agent-2"}))?;
    enter(&fleet.main, "agent-2", gate.socket())?;
    let agents = ["agent-1", "agent-2", "agent-3"];
    let mut call = short(&["app:old", "cache:old"], &agents);
    call["detach"] = json!(true);
    let started = fleet.purge(&call)?;
    let id = text(&started, "operation_id")?;
    gate.wait_until_held()?;
    let progress = wait::until("the others' end", LIMIT, || {
        let shown = fleet
            .main
            .call("operation.get", &json!({"operation_id": id}))?;
        let progress = shown["progress"].clone();
        let agent = &progress["agents"][1];
        let is_so = progress["items_done"] == 2 && agent["items_done"] == 1;
        Ok(is_so.then_some(progress))
    })?;
    assert_eq!(progress["agents"][1]["state"], "purging", "{progress}");
    assert_eq!(progress["agents"][1]["items_total"], 2);

    fleet
        .agents
        .get_mut("agent-2")
        .context("no agent")?
        .daemon
        .kill()?;
    let ended = fleet
        .main
        .call("operation.wait", &json!({"operation_id": id}))?;

    assert_eq!(ended["state"], "succeeded", "{ended}");
    let purged = &ended["purged"];
    assert_eq!(purged["purged"], 5, "{purged}");
    assert_eq!(errors(purged)?.len(), 1, "{purged}");
    let error = &purged["errors"][0];
    assert_eq!(error["agent_id"], "agent-2");
    assert_eq!(error["error"]["code"], "agent.unreachable");
    let left = text(error, "item")?;

    gate.open();
    fleet
        .agents
        .get_mut("agent-2")
        .context("no agent")?
        .daemon
        .start_again()?;
    let again = fleet.purge(&short(&["app:old", "cache:old"], &agents))?;
    assert_eq!(
        (&again["purged"], &again["already_purged"]),
        (&json!(1), &json!(5))
    );
    assert_eq!(errors(&again)?, Vec::<String>::new());
    let second = &went(&again)?["agent-2"];
    assert!(second.contains(&left), "{left} {second:?}");
    for agent in agents {
        assert_eq!(fleet.names_on(agent)?, Vec::<String>::new(), "{agent}");
    }
    Ok(())
}

#[test]
fn a_cancelled_purge_ends_at_once_and_can_be_done_again() -> Result<()> {
    if tools::must_skip("a_cancelled_purge_ends_at_once", NEEDS)? {
        return Ok(());
    }
    let fleet = Fleet::start(&["agent-1"])?;
    fleet.publish(&["app:old", "cache:old"])?;
    fleet.pull("agent-1", "app:old")?;
    fleet.pull("agent-1", "cache:old")?;
    let socket = fleet.agent("agent-1")?.daemon.socket();
    let gate = Gate::start(
        &fleet.main.path("gate.sock"),
        &socket,
        ("image.purge_by_id", 2),
    )?;
    enter(&fleet.main, "gated", gate.socket())?;
    let words = ["purge", "*:old", "--agent", "gated", "--progress", "none"];
    let (cancelled, output) = thread::scope(|scope| {
        let caller = scope.spawn(|| kiln(&fleet.main, &words));
        gate.wait_until_held()?;
        wait::until("the first image's end", LIMIT, || {
            Ok((fleet.names_on("agent-1")?.len() == 1).then_some(()))
        })?;
        let running = json!({"state": "running"});
        let running = fleet.main.call("operation.list", &running)?;
        let id = json!({"operation_id": running["items"][0]["id"]});
        // What the gate lets pass is answered: only then is the first image told as gone.
        wait::until("the first answer", LIMIT, || {
            let shown = fleet.main.call("operation.get", &id)?;
            let done = &shown["progress"]["agents"][0]["items_done"];
            Ok((*done == 1).then_some(()))
        })?;
        let cancelled = fleet.main.call("operation.cancel", &id)?;
        let Ok(output) = caller.join() else {
            anyhow::bail!("the client's thread panicked");
        };
        Ok((cancelled, output?))
    })?;
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(cancelled["error"]["code"], "operation.cancelled");
    // What was removed is told to whoever cancelled it, to its caller, and later.
    let purged = &cancelled["purged"];
    assert_eq!(went(purged)?, map(&[("gated", &["*:old"])]));
    assert_eq!(errors(purged)?, ["gated - operation.cancelled"]);
    let name = text(&purged["purged_images"][0]["images"][0], "name")?;
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let (stdout, stderr) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    );
    let line = format!("gated  {name}  gone, ");
    assert!(stdout.contains(&line), "{stdout}");
    assert!(
        stderr.contains("before the end of 1 of 2 images"),
        "{stderr}"
    );
    assert!(stderr.contains("the operation was cancelled"), "{stderr}");
    let id = text(&cancelled, "id")?;
    let shown = printed(&fleet.main, &["op", "show", &id])?;
    assert!(shown.contains(&line), "{shown}");
    gate.open();
    let again = fleet.purge(&short(&["*:old"], &["agent-1"]))?;
    assert_eq!(errors(&again)?, Vec::<String>::new());
    assert_eq!(fleet.names_on("agent-1")?, Vec::<String>::new());
    let running = fleet.main.call("daemon.info", &json!({}))?;
    assert_eq!(running["counts"]["running_operations"], 0);
    Ok(())
}

/// Counts the blobs, packs and links of a daemon's cache.
fn cached(stage: &Stage) -> Result<Vec<(String, u64)>> {
    let usage = stage.call("storage.usage", &json!({}))?;
    let kinds = usage["kinds"].as_array().context("no kinds")?;
    let kinds = kinds.iter().map(|kind| {
        let count = kind["count"].as_u64().context("no count")?;
        Ok((text(kind, "kind")?, count))
    });
    let kinds: Vec<_> = kinds.collect::<Result<_>>()?;
    let is_cache = |(kind, _): &(String, u64)| ["blob", "pack", "link"].contains(&kind.as_str());
    Ok(kinds.into_iter().filter(is_cache).collect())
}

#[test]
fn what_images_that_stay_were_made_of_stays_in_the_agents_cache() -> Result<()> {
    if tools::must_skip("what_images_that_stay_were_made_of", NEEDS)? {
        return Ok(());
    }
    let fleet = Fleet::start(&["agent-1"])?;
    fleet.publish(&["app:new", "app:old"])?;
    fleet.pull("agent-1", "app:new")?;
    let before = cached(fleet.agent("agent-1")?)?;
    assert!(before.iter().all(|(_, count)| *count > 0), "{before:?}");
    fleet.pull("agent-1", "app:old")?;
    assert_ne!(cached(fleet.agent("agent-1")?)?, before);

    let purged = fleet.purge(&short(&["app:old"], &["agent-1"]))?;

    assert_eq!(errors(&purged)?, Vec::<String>::new());
    let pruned = purged["purged_images"][0]["pruned_bytes"].as_u64();
    assert!(pruned > Some(0), "{purged}");
    assert_eq!(cached(fleet.agent("agent-1")?)?, before);
    Ok(())
}

#[test]
fn agents_are_asked_side_by_side_and_told_in_the_order_of_their_names() -> Result<()> {
    let (main, other) = (Stage::new()?, Stage::new()?);
    enter(&main, "z-last", &other.daemon.socket())?;
    enter(&main, "a-first", &other.daemon.socket())?;
    let silent = main.path("silent.sock");
    let _silent = UnixListener::bind(&silent)?;
    let address = format!("unix://{}", silent.display());
    for n in 0..6 {
        let patience = json!({"name": format!("m-{n}"), "address": address, "timeout_seconds": 3});
        main.call("agent.add", &patience)?;
    }

    let begun = Instant::now();
    let output = kiln(&main, &["agent", "ping"])?;
    let took = begun.elapsed();

    // One after the other they take six time-outs of three seconds.
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    let stdout = String::from_utf8(output.stdout)?;
    let names = stdout.lines().filter_map(|line| line.split(':').next());
    let names: Vec<_> = names.collect();
    assert_eq!(names, ["a-first", "z-last"], "{stdout}");
    let stderr = String::from_utf8(output.stderr)?;
    let silent = stderr.lines().filter(|line| line.contains("agent m-"));
    let places = silent.filter_map(|line| line.find("m-").map(|at| &line[at..at + 3]));
    let places: Vec<_> = places.collect();
    assert_eq!(
        places,
        ["m-0", "m-1", "m-2", "m-3", "m-4", "m-5"],
        "{stderr}"
    );
    Ok(())
}

#[test]
fn words_that_mean_nothing_or_two_things_remove_nothing() -> Result<()> {
    let main = Stage::new()?;
    enter(&main, "agent-1", &main.daemon.socket())?;
    let key = json!({"agent_id": "agent-1", "images": [{"name": "x"}]});
    for params in [
        json!({}),
        json!({"image_names": ["x"]}),
        json!({"keys": [key], "image_names": ["y"], "agent_ids": ["agent-1"]}),
        json!({"image_names": ["x"], "agent_ids": ["Not a name"]}),
    ] {
        let refused = main.refused("image.purge", &params)?;
        assert_eq!(code(&refused), "request.invalid_params", "{params}");
    }
    let both = json!({"keys": [key], "image_names": ["x"], "agent_ids": ["agent-1"]});
    let same = main.call("image.purge", &both)?;
    assert_eq!(same["already_purged"], 1);
    fs::metadata(main.root().join("agents"))?;
    Ok(())
}
