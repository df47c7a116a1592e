use std::net::{Ipv4Addr, TcpStream as Connection};
use std::sync::Mutex;

use anyhow::Result;
use kiln_api::codes;
use kiln_testkit::http::{self, Message};

use super::*;

const SECRET: &str = "correct horse battery staple";

const DIGEST: &str = "sha256:fea8895f450959fa676bcc1df0611ea93823a735a01205fd8622846041d0c7cf";

/// A listener and what it took.
struct House {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Pushed>>>,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
}

impl House {
    async fn new(is_full: bool) -> Result<Self> {
        let secret = SharedSecret::new(&format!("{SECRET}\n"))?;
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), secret).await?;
        let address = listener.address();
        let taken = Arc::<Mutex<Vec<Pushed>>>::default();
        let (stop, stopped) = watch::channel(false);
        let list = taken.clone();
        let take = move |pushes: Vec<Pushed>| {
            let list = list.clone();
            async move {
                if is_full {
                    return Err(Failure::new(codes::daemon::BUSY, "too many wait"));
                }
                let accepted = pushes.len();
                list.lock().unwrap().extend(pushes);
                Ok(Taken {
                    accepted,
                    ignored: 0,
                    failed: 0,
                })
            }
        };
        let serving = tokio::spawn(listener.serve(take, stopped));
        Ok(Self {
            address,
            taken,
            stop,
            serving,
        })
    }

    async fn post(&self, fields: &[(&str, &str)], body: &str) -> Result<Message> {
        self.send("POST", "/webhooks", fields, body).await
    }

    async fn send(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Result<Message> {
        let address = self.address;
        let owned = |text: &str| text.to_owned();
        let (method, target, body) = (owned(method), owned(target), owned(body));
        let fields: Vec<(String, String)> = fields
            .iter()
            .map(|(name, value)| (owned(name), owned(value)))
            .collect();
        tokio::task::spawn_blocking(move || {
            let fields: Vec<(&str, &str)> = fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let mut stream = Connection::connect(address)?;
            let request = http::Request {
                method: &method,
                target: &target,
                fields: &fields,
                body: body.as_bytes(),
            };
            http::exchange(&mut stream, "localhost", request)
        })
        .await?
    }
}

fn body() -> String {
    json!({"events": [
        {"action": "push", "target": {"repository": "a/b", "tag": "1", "digest": DIGEST}},
        {"action": "pull", "target": {"repository": "a/b", "tag": "1", "digest": DIGEST}},
    ]})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_with_the_secret_is_taken_and_one_without_is_not() -> Result<()> {
    let house = House::new(false).await?;
    let bearer = format!("Bearer {SECRET}");

    for wrong in [
        &[][..],
        &[("authorization", "Bearer wrong horse battery staple")],
        &[("authorization", "Bearer ")],
        &[("x-token", SECRET)],
        &[("authorization", SECRET), ("authorization", "Bearer other")],
        &[("authorization", SECRET), ("authorization", SECRET)],
    ] {
        let refused = house.post(wrong, &body()).await?;
        assert_eq!(refused.status()?, 401, "{wrong:?}");
        assert!(!String::from_utf8(refused.body)?.contains(SECRET));
    }
    assert_eq!(house.taken.lock().unwrap().len(), 0);

    let small = format!("bearer {SECRET}");
    for right in [bearer.as_str(), SECRET, &small] {
        let answer = house.post(&[("authorization", right)], &body()).await?;
        assert_eq!(answer.status()?, 202);
        let counts: Value = serde_json::from_slice(&answer.body)?;
        assert_eq!(counts, json!({"accepted": 1, "ignored": 1, "failed": 0}));
    }
    assert_eq!(house.taken.lock().unwrap()[0].repository, "a/b");

    let binary = [
        ("authorization", bearer.as_str()),
        ("ce-specversion", "1.0"),
        ("ce-type", "org.example.image.pushed"),
    ];
    let data = json!({"repository": "c", "tag": "1", "digest": DIGEST});
    assert_eq!(house.post(&binary, &data.to_string()).await?.status()?, 202);
    assert_eq!(house.taken.lock().unwrap()[3].repository, "c");
    house.stop.send(true)?;
    house.serving.await?;
    let nobody = Connection::connect(house.address).unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::ConnectionRefused);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_notification_has_its_own_answer() -> Result<()> {
    let house = House::new(false).await?;
    let secret = &[("authorization", SECRET)];
    let long = format!("[{}]", " ".repeat(MAX_BODY_BYTES));

    assert_eq!(house.post(secret, "{}").await?.status()?, 400);
    assert_eq!(house.post(secret, &long).await?.status()?, 413);
    let get = house.send("GET", "/webhooks", secret, "").await?;
    assert_eq!((get.status()?, get.field("allow")), (405, Some("POST")));
    let other = house.send("POST", "/other", secret, "{}").await?;
    assert_eq!(other.status()?, 404);
    let root = house.send("POST", "/", secret, &body()).await?;
    assert_eq!(root.status()?, 202);

    let full = House::new(true).await?;
    let refused = full.post(secret, &body()).await?;
    assert_eq!(refused.status()?, 503, "the registry is to come again");
    Ok(())
}

#[test]
fn secrets_that_could_be_guessed_are_refused() {
    assert_eq!(
        SharedSecret::new("hunter2\n").unwrap_err(),
        WeakSecret { found: 7 }
    );
    let shown = format!("{:?}", SharedSecret::new(SECRET).unwrap());
    assert!(!shown.contains(SECRET), "{shown}");
}
