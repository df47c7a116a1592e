//! The desk of agents, with stand-ins behind the seam for the daemons of other hosts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use kiln_api::agent::{AddParams, AgentParams, AgentState, ListParams};
use kiln_api::image::purge::{PurgeOutcome, PurgeParams, PurgedOnAgents};
use kiln_api::operation::AgentWork;
use kiln_api::{Failure, codes};
use kiln_domain::OperationState;
use kiln_domain::access::Actor;
use kiln_service::{Agent, AgentError, AgentPlace, Agents, ReachAgents, SeamFuture};
use kiln_store::events::{self, EventFilter};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::house::{House, eventually, root};
use crate::stand_ins::OneLayer;

/// A daemon elsewhere, with images by id.
#[derive(Debug, Default)]
struct Elsewhere {
    images: Mutex<BTreeMap<String, Value>>,
    asked: Mutex<Vec<String>>,
    /// What such calls answer first, in place of what they would.
    answers: Mutex<BTreeMap<&'static str, Vec<AgentError>>>,
    /// The token that a look gives; it serves once.
    token: Mutex<Option<String>>,
    /// What it says that a removal freed, and a prune, in place of 10 and 7.
    freed_bytes: Mutex<Option<u64>>,
    /// The calls that are never answered, and those that break this daemon's own work.
    silent_at: Mutex<Option<String>>,
    panics_at: Mutex<Option<String>>,
}

/// The ways to daemons elsewhere, by address.
#[derive(Debug)]
struct Ways {
    places: BTreeMap<String, Result<Arc<Elsewhere>, AgentError>>,
    /// A permit for each that may be reached.
    open: Semaphore,
    reaching: AtomicUsize,
    most: AtomicUsize,
}

#[derive(Debug)]
struct Connection(Arc<Elsewhere>);

fn id(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn refusal(code: kiln_api::Code) -> AgentError {
    AgentError::Refused(Box::new(Failure::new(code, "the agent says no")))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Elsewhere {
    fn with(images: &[(u32, &str, &str)]) -> Arc<Self> {
        let own = Self::default();
        for (n, name, reference) in images {
            let image = json!({
                "id": id(*n), "name": name, "architecture": "amd64", "tags": ["latest"],
                "source": {"kind": "registry", "reference": reference},
            });
            locked(&own.images).insert(id(*n), image);
        }
        Arc::new(own)
    }

    fn answers(&self, method: &'static str, errors: Vec<AgentError>) {
        locked(&self.answers).insert(method, errors);
    }

    fn asked(&self) -> Vec<String> {
        locked(&self.asked).clone()
    }

    fn answer(&self, method: &str, params: &Value) -> Result<Value, AgentError> {
        let mut word = method.to_owned();
        for flag in ["dry_run", "force", "cache"] {
            if params[flag] == true {
                word = format!("{word} {flag}");
            }
        }
        locked(&self.asked).push(word.clone());
        if let Some(errors) = locked(&self.answers).get_mut(word.as_str())
            && !errors.is_empty()
        {
            return Err(errors.remove(0));
        }
        let mut images = locked(&self.images);
        match method {
            "image.list" => Ok(json!({"items": images.values().collect::<Vec<_>>()})),
            "image.get" => {
                let named = |image: &&Value| {
                    image["name"] == params["image"]
                        || image["source"]["reference"]
                            == format!(
                                "docker.io/library/{}",
                                params["image"].as_str().unwrap_or("")
                            )
                };
                let found = images.values().find(named).cloned();
                found.ok_or_else(|| refusal(codes::image::NOT_FOUND))
            }
            "image.purge_by_id" => {
                let key = params["image_id"].as_str().unwrap_or_default().to_owned();
                if !images.contains_key(&key) {
                    return Err(refusal(codes::image::NOT_FOUND));
                }
                if params["dry_run"] == true {
                    let token = format!("token of {key}");
                    *locked(&self.token) = Some(token.clone());
                    return Ok(json!({"freed_bytes": 10, "confirm_token": token}));
                }
                let token = locked(&self.token).take();
                if params["force"] == true
                    && (token.is_none() || params["confirm_token"] != json!(token))
                {
                    return Err(refusal(codes::image::CONFIRMATION_NEEDED));
                }
                images.remove(&key);
                Ok(json!({"freed_bytes": locked(&self.freed_bytes).unwrap_or(10)}))
            }
            "storage.prune" => Ok(json!({"freed_bytes": locked(&self.freed_bytes).unwrap_or(7)})),
            _ => Err(refusal(codes::request::UNKNOWN_METHOD)),
        }
    }
}

impl Agent for Connection {
    fn call<'a>(
        &'a self,
        method: &'static str,
        params: Value,
    ) -> SeamFuture<'a, Result<Value, AgentError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let image = params["image_id"].as_str().unwrap_or_default();
            let call = format!("{method} {image}");
            let is_meant = |at: &Mutex<Option<String>>| {
                let at = locked(at);
                at.as_deref().is_some_and(|at| call.trim_end() == at)
            };
            assert!(!is_meant(&self.0.panics_at), "on purpose");
            if is_meant(&self.0.silent_at) {
                std::future::pending::<()>().await;
            }
            self.0.answer(method, &params)
        })
    }
}

impl ReachAgents for Ways {
    fn reach<'a>(
        &'a self,
        place: &'a AgentPlace,
    ) -> SeamFuture<'a, Result<Box<dyn Agent>, AgentError>> {
        Box::pin(async move {
            let now = self.reaching.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            if let Ok(permit) = self.open.acquire().await {
                permit.forget();
            }
            self.reaching.fetch_sub(1, Ordering::SeqCst);
            let found = self.places.get(&place.address.to_string()).cloned();
            let found = found.unwrap_or_else(|| {
                let why = "nobody is there".to_owned();
                Err(AgentError::Unreachable { why })
            })?;
            Ok(Box::new(Connection(found)) as Box<dyn Agent>)
        })
    }
}

/// A house whose daemon knows agents.
struct Town {
    house: House,
    desk: Agents,
    ways: Arc<Ways>,
}

impl Town {
    /// Enters an agent for each place, called by the last part of its address.
    async fn with(
        places: Vec<(&str, Result<Arc<Elsewhere>, AgentError>)>,
        permits: usize,
    ) -> Result<Self> {
        let names: Vec<String> = places.iter().map(|(name, _)| (*name).to_owned()).collect();
        let places = places.into_iter();
        let ways = Arc::new(Ways {
            places: places
                .map(|(name, at)| (format!("unix:///{name}"), at))
                .collect(),
            open: Semaphore::new(permits),
            reaching: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let house = House::new(OneLayer::new(&[])?)?;
        let desk = Agents::new(house.records.clone(), ways.clone());
        for name in names {
            desk.add(&root(), entry(&name)).await?;
        }
        Ok(Self { house, desk, ways })
    }

    async fn purge(&self, params: Value) -> Result<PurgedOnAgents, Failure> {
        let Ok(params) = serde_json::from_value::<PurgeParams>(params.clone()) else {
            panic!("no parameters of a purge: {params}");
        };
        match self.desk.purge(&root(), params).await? {
            PurgeOutcome::Purged(purged) => Ok(*purged),
            PurgeOutcome::Started(started) => panic!("a detached purge: {started:?}"),
        }
    }

    async fn state(&self, name: &str) -> Result<AgentState> {
        let agent = name.parse()?;
        Ok(self.desk.get(&root(), AgentParams { agent }).await?.state)
    }

    async fn events(&self) -> Result<Vec<String>> {
        let filter = EventFilter {
            kind_prefix: Some("agent.".to_owned()),
            ..EventFilter::default()
        };
        let read = self
            .house
            .store
            .read(move |tx| events::page(tx, 0, 1_000, &filter));
        let rows = read.await?.rows.into_iter();
        Ok(rows
            .map(|row| format!("{} {}", row.kind, row.object.id))
            .collect())
    }
}

fn entry(name: &str) -> AddParams {
    let (Ok(own), Ok(address)) = (name.parse(), format!("unix:///{name}").parse()) else {
        panic!("{name} names no agent");
    };
    AddParams {
        name: own,
        address,
        identity_path: None,
        known_hosts_path: None,
        timeout_seconds: None,
    }
}

/// Says what went on an agent: `item name freed`.
fn went(purged: &PurgedOnAgents, agent: &str) -> Vec<String> {
    let entries = purged.purged_images.iter();
    let own = entries.filter(|entry| entry.agent_id.as_str() == agent);
    own.flat_map(|entry| &entry.images)
        .map(|image| {
            let name = image.name.as_ref().map_or("-", |name| name.as_str());
            format!("{} {name} {}", image.item, image.freed_bytes)
        })
        .collect()
}

#[tokio::test]
async fn each_image_of_each_agent_has_its_own_end() -> Result<()> {
    let one = Elsewhere::with(&[
        (1, "app-old", "docker.io/library/app:old"),
        (2, "cache-old", "docker.io/library/cache:old-2"),
        (3, "kept", "docker.io/library/kept:new"),
    ]);
    let two = Elsewhere::with(&[(4, "app-old", "docker.io/library/app:old")]);
    two.answers("image.purge_by_id", vec![refusal(codes::image::IN_USE)]);
    let why = "switched off".to_owned();
    let down = Err(AgentError::Unreachable { why });
    let places = vec![("one", Ok(one.clone())), ("two", Ok(two)), ("down", down)];
    let town = Town::with(places, 100).await?;

    let purged = town
        .purge(json!({
            "image_names": ["app:old", "*:old-*", "cache-old", "none"],
            "agent_ids": ["one", "two", "down", "nobody"],
        }))
        .await?;

    // What a pattern chose first is not removed twice, and what is not there is no error.
    let want = ["app:old app-old 10", "*:old-* cache-old 10", "none - 0"];
    assert_eq!(went(&purged, "one"), want);
    assert_eq!(went(&purged, "two"), ["cache-old - 0", "none - 0"]);
    assert_eq!(locked(&one.images).len(), 1);
    assert_eq!((purged.purged, purged.already_purged), (2, 3));
    assert_eq!(purged.purged_images[0].pruned_bytes, Some(7));
    assert_eq!(purged.freed_bytes, 27);
    let errors: Vec<_> = purged
        .errors
        .iter()
        .map(|error| {
            (
                error.agent_id.as_str(),
                error.item.as_deref(),
                error.error.code.as_str(),
            )
        })
        .collect();
    let want = [
        ("two", Some("app:old"), "image.in_use"),
        ("down", None, "agent.unreachable"),
        ("nobody", None, "agent.not_found"),
    ];
    assert_eq!(errors, want);
    assert!(
        purged.errors[1]
            .error
            .message
            .contains("agent down at unix:///down")
    );
    assert!(purged.errors[1].error.message.contains("switched off"));
    // What is said of one image names it, and whose host a next step is for.
    let refused = &purged.errors[0].error;
    assert_eq!(
        refused.message,
        "\"app:old\" on agent two at unix:///two: the agent says no"
    );
    let hint = refused.hint.as_ref().map(|hint| hint.text.as_str());
    let hint = hint.expect("a hint");
    assert!(hint.starts_with("on the host of two: "), "{hint}");
    // A refusal is an answer: the agent is there.
    assert_eq!(town.state("two").await?, AgentState::Online);
    assert_eq!(town.state("down").await?, AgentState::Offline);
    let events = town.events().await?;
    assert!(
        events.contains(&"agent.online two".to_owned()),
        "{events:?}"
    );
    assert!(
        events.contains(&"agent.offline down".to_owned()),
        "{events:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_same_call_again_finds_everything_gone() -> Result<()> {
    let one = Elsewhere::with(&[(1, "app-old", "docker.io/library/app:old")]);
    let town = Town::with(vec![("one", Ok(one.clone()))], 100).await?;
    let call = json!({"image_names": ["app:old", "*:old"], "agent_ids": ["one"]});

    let first = town.purge(call.clone()).await?;
    let events = town.events().await?.len();
    let again = town.purge(call).await?;

    assert_eq!((first.purged, first.already_purged), (1, 0));
    assert_eq!((again.purged, again.already_purged), (0, 1));
    assert!(again.purged_images[0].images[0].already_purged);
    assert_eq!(again.errors, []);
    // Nothing went, so there is nothing to prune either.
    assert_eq!(again.purged_images[0].pruned_bytes, None);
    assert_eq!(town.events().await?.len(), events);
    Ok(())
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_noprune_leaves_the_cache() -> Result<()> {
    let one = Elsewhere::with(&[(1, "app-old", "docker.io/library/app:old")]);
    let town = Town::with(vec![("one", Ok(one.clone()))], 100).await?;
    let call = |flag: &str| {
        let mut call = json!({"image_names": ["*:old"], "agent_ids": ["one"]});
        call[flag] = json!(true);
        call
    };

    let foretold = town.purge(call("dry_run")).await?;
    assert_eq!((foretold.purged, foretold.freed_bytes), (1, 10));
    assert!(foretold.dry_run);
    assert_eq!(locked(&one.images).len(), 1);
    assert_eq!(one.asked(), ["image.list", "image.purge_by_id dry_run"]);

    let done = town.purge(call("noprune")).await?;
    assert_eq!((done.purged, done.freed_bytes), (1, 10));
    assert!(!one.asked().contains(&"storage.prune".to_owned()));
    Ok(())
}

#[tokio::test]
async fn force_looks_first_and_once_more_when_the_image_changed_in_between() -> Result<()> {
    let one = Elsewhere::with(&[(1, "app-old", "docker.io/library/app:old")]);
    let town = Town::with(vec![("one", Ok(one.clone()))], 100).await?;
    one.answers(
        "storage.prune",
        vec![refusal(codes::request::UNKNOWN_METHOD)],
    );
    let changed = refusal(codes::image::CONFIRMATION_NEEDED);
    one.answers("image.purge_by_id force", vec![changed]);

    let call = json!({"image_names": ["app-old"], "agent_ids": ["one"], "force": true});
    let purged = town.purge(call).await?;

    assert_eq!(purged.errors, []);
    assert_eq!(purged.purged_images[0].pruned_bytes, None);
    assert_eq!(
        one.asked(),
        [
            "image.get",
            "image.purge_by_id dry_run force",
            "image.purge_by_id force",
            "image.purge_by_id dry_run force",
            "image.purge_by_id force",
            "storage.prune",
        ]
    );
    Ok(())
}

#[tokio::test]
async fn eight_agents_at_a_time_and_one_that_hangs_holds_up_none() -> Result<()> {
    let names: Vec<String> = (0..20).map(|n| format!("agent-{n}")).collect();
    let places = names
        .iter()
        .map(|name| (name.as_str(), Ok(Elsewhere::with(&[(1, "app", "x/app:1")]))))
        .collect();
    let town = Arc::new(Town::with(places, 0).await?);
    let call = json!({"image_names": ["app"], "agent_ids": names});
    let caller = town.clone();
    let purging = tokio::spawn(async move { caller.purge(call).await });

    eventually("eight at a time", async || {
        Ok(town.ways.reaching.load(Ordering::SeqCst) == 8)
    })
    .await?;
    // All but one are let in; the one that is left waits by itself.
    town.ways.open.add_permits(19);
    let running = town.house.operations_in(OperationState::Running).await?;
    let running = running
        .first()
        .map(|operation| operation.id)
        .expect("one runs");
    eventually("all but one done", async || {
        let progress = town
            .house
            .board
            .find(running)
            .map(|running| running.progress());
        Ok(progress.is_some_and(|progress| progress.items_done == 19))
    })
    .await?;
    let progress = town.house.board.find(running).expect("it runs").progress();
    let states: Vec<AgentWork> = progress.agents.iter().map(|agent| agent.state).collect();
    let done = states.iter().filter(|state| **state == AgentWork::Done);
    assert_eq!(done.count(), 19);
    assert!(states.contains(&AgentWork::Reaching));
    assert_eq!(town.ways.most.load(Ordering::SeqCst), 8);

    // Cancelled, it ends at once; what is gone stays gone.
    town.house.operations.cancel(&root(), running).await?;
    let ended = purging.await?.unwrap_err();
    assert!(ended.is(codes::operation::CANCELLED), "{ended}");
    let operation = town.house.operations.get(&root(), running).await?;
    assert_eq!(operation.state, OperationState::Cancelled);
    let progress = operation.progress.expect("progress");
    assert_eq!((progress.items_done, progress.items_total), (19, Some(20)));
    Ok(())
}

#[tokio::test]
async fn numbers_that_cannot_be_are_summed_to_the_most_there_is() -> Result<()> {
    let two = &[(1, "app", "x/app:1"), (2, "web", "x/web:1")];
    let (liar, good) = (Elsewhere::with(two), Elsewhere::with(two));
    *locked(&liar.freed_bytes) = Some(u64::MAX);
    let places = vec![("liar", Ok(liar)), ("good", Ok(good))];
    let town = Town::with(places, 100).await?;

    let purged = town
        .purge(json!({"image_names": ["*:*"], "agent_ids": ["liar", "good"]}))
        .await?;

    assert_eq!(purged.errors, []);
    assert_eq!((purged.purged, purged.freed_bytes), (4, u64::MAX));
    assert_eq!(purged.purged_images[0].freed_bytes, u64::MAX);
    assert_eq!(purged.purged_images[0].pruned_bytes, Some(u64::MAX));
    assert_eq!(purged.purged_images[1].freed_bytes, 20);
    assert_eq!(purged.purged_images[1].pruned_bytes, Some(7));
    Ok(())
}

#[tokio::test]
async fn work_that_panics_on_one_agent_is_an_error_of_that_agent_alone() -> Result<()> {
    let two = &[(1, "app", "x/app:1"), (2, "web", "x/web:1")];
    let (early, late, good) = (
        Elsewhere::with(two),
        Elsewhere::with(two),
        Elsewhere::with(two),
    );
    *locked(&early.panics_at) = Some("image.list".to_owned());
    *locked(&late.panics_at) = Some("storage.prune".to_owned());
    let places = vec![("early", Ok(early)), ("late", Ok(late)), ("good", Ok(good))];
    let town = Town::with(places, 100).await?;

    let call = json!({"image_names": ["*:*"], "agent_ids": ["early", "late", "good"]});
    let purged = town.purge(call).await?;

    let gone = ["*:* app 10", "*:* web 10"];
    assert_eq!(went(&purged, "early"), Vec::<String>::new());
    assert_eq!(went(&purged, "late"), gone);
    assert_eq!(went(&purged, "good"), gone);
    assert_eq!((purged.purged, purged.freed_bytes), (4, 47));
    let errors = purged.errors.iter();
    let errors: Vec<_> = errors
        .map(|error| (error.agent_id.as_str(), error.error.code.as_str()))
        .collect();
    assert_eq!(
        errors,
        [("early", "daemon.internal"), ("late", "daemon.internal")]
    );
    Ok(())
}

#[tokio::test]
async fn a_cancelled_purge_tells_what_it_has_done() -> Result<()> {
    let two = &[(1, "app", "x/app:1"), (2, "web", "x/web:1")];
    let (done, silent) = (Elsewhere::with(two), Elsewhere::with(two));
    *locked(&silent.silent_at) = Some(format!("image.purge_by_id {}", id(2)));
    let places = vec![("done", Ok(done)), ("silent", Ok(silent.clone()))];
    let town = Town::with(places, 100).await?;
    let call = json!({
        "image_names": ["*:*"], "agent_ids": ["done", "silent"], "detach": true,
    });
    let started = match town
        .desk
        .purge(&root(), serde_json::from_value(call)?)
        .await?
    {
        PurgeOutcome::Started(started) => started.operation_id,
        PurgeOutcome::Purged(purged) => panic!("not detached: {purged:?}"),
    };
    eventually("all but one image", async || {
        let progress = town.house.board.find(started).map(|one| one.progress());
        Ok(progress.is_some_and(|progress| {
            progress.items_done == 1 && progress.agents.iter().any(|one| one.items_done == 1)
        }))
    })
    .await?;

    let cancelled = town.house.operations.cancel(&root(), started).await?;

    assert_eq!(cancelled.state, OperationState::Cancelled);
    let error = cancelled.error.as_ref().expect("an error");
    assert!(error.is(codes::operation::CANCELLED), "{error}");
    let purged = cancelled.purged.as_ref().expect("what was done");
    assert_eq!(went(purged, "done"), ["*:* app 10", "*:* web 10"]);
    assert_eq!(went(purged, "silent"), ["*:* app 10"]);
    assert_eq!((purged.purged, purged.freed_bytes), (3, 37));
    let [left] = purged.errors.as_slice() else {
        panic!("one error: {:?}", purged.errors);
    };
    assert_eq!(left.agent_id.as_str(), "silent");
    assert!(left.error.is(codes::operation::CANCELLED), "{}", left.error);
    assert!(
        left.error.message.contains("1 of 2 images"),
        "{}",
        left.error
    );
    // It is kept, and the event tells of it too.
    let shown = town.house.operations.get(&root(), started).await?;
    assert_eq!(shown.purged, cancelled.purged);
    let filter = EventFilter {
        kind_prefix: Some("image.purged_on_agents".to_owned()),
        ..EventFilter::default()
    };
    let read = town
        .house
        .store
        .read(move |tx| events::page(tx, 0, 10, &filter));
    let rows = read.await?.rows;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].data["purged"], 3);
    Ok(())
}

#[tokio::test]
async fn only_superadmins_have_agents() -> Result<()> {
    let town = Town::with(vec![("one", Ok(Elsewhere::with(&[])))], 100).await?;
    let user = Actor::from_peer(1_000, 1_000, None, 0);
    let agent = || AgentParams {
        agent: "one".parse().expect("a name"),
    };
    let call = json!({"image_names": ["app"], "agent_ids": ["one"]});
    let call = serde_json::from_value(call)?;

    let refused = [
        town.desk.add(&user, entry("two")).await.map(drop),
        town.desk.list(&user, ListParams::default()).await.map(drop),
        town.desk.get(&user, agent()).await.map(drop),
        town.desk.ping(&user, agent()).await.map(drop),
        town.desk.remove(&user, agent()).await.map(drop),
        town.desk.purge(&user, call).await.map(drop),
    ];

    for refused in refused {
        assert!(refused.unwrap_err().is(codes::request::DENIED));
    }
    assert_eq!(town.state("one").await?, AgentState::Unknown);
    Ok(())
}
