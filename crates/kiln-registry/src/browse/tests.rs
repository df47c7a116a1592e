use std::sync::Arc;

use kiln_domain::oci::Descriptor;
use kiln_domain::{Digest, Reference, RegistryName};
use serde_json::json;

use super::*;
use crate::config::Config;
use crate::routes::{Proxies, ProxyUrl};
use crate::testing::{Asked, Reply, Server, ada, impatient};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A client of `host` that speaks plain HTTP at once, through a server that answers for every
/// host.
fn through(server: &Server, host: &str) -> Registry {
    let name: RegistryName = host.parse().unwrap();
    let config = Config {
        insecure_hosts: vec![host.to_owned()],
        proxies: Proxies::always(
            ProxyUrl::parse(server.authority()).unwrap(),
            "this test".to_owned(),
        ),
        ..(*impatient()).clone()
    };
    Registry::named(&name, None, Arc::new(config)).unwrap()
}

fn names(names: &[&str]) -> String {
    json!({"repositories": names}).to_string()
}

fn error_name(error: &FetchError) -> String {
    let name = format!("{error:?}");
    let name = name.strip_prefix("Browse(").unwrap_or(&name);
    name.split([' ', '(', '{']).next().unwrap().to_owned()
}

#[tokio::test]
async fn the_catalogue_gives_exactly_what_is_in_it_for_one_request() {
    let server = Server::start(|_, _| Reply::ok(names(&["test/alpine", "test/ubuntu"]))).await;
    let registry = through(&server, "test-registry:5000");

    let page = registry.catalog(None, None).await.unwrap();

    assert_eq!(page.items, ["test/alpine", "test/ubuntu"]);
    assert_eq!(page.next, None);
    let asked = server.asked_in_all();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].method, "GET");
    assert_eq!(asked[0].target, "http://test-registry:5000/v2/_catalog");
    assert_eq!(asked[0].header("accept"), Some("application/json"));
}

#[tokio::test]
async fn a_canned_answer_stands_for_any_registry_and_an_empty_one_is_no_error() {
    let canned = Server::start(|_, _| Reply::ok(names(&["test/app"]))).await;
    let empty = Server::start(|_, _| Reply::ok(names(&[]))).await;

    let full = through(&canned, "test-registry").catalog(None, None).await;
    let none = through(&empty, "test-registry").catalog(None, None).await;

    assert_eq!(full.unwrap().items, ["test/app"]);
    assert_eq!(none.unwrap().items, Vec::<String>::new());
    let asked = canned.asked_in_all();
    assert_eq!(asked[0].target, "http://test-registry/v2/_catalog");
}

type Count = Result<usize, &'static str>;

#[tokio::test]
async fn null_is_an_empty_list_and_what_is_no_list_is_an_error() {
    let malformed = Err("AnswerMalformed");
    let cases: [(&str, Count, Count); 10] = [
        (r#"{"repositories":null,"tags":null}"#, Ok(0), Ok(0)),
        (r#"{"name":"app"}"#, Ok(0), Ok(0)),
        (r#"{"repositories":["a"],"tags":["1","2"]}"#, Ok(1), Ok(2)),
        (r#"{"repositories":["a"]}"#, Ok(1), malformed),
        ("{}", malformed, malformed),
        ("[]", malformed, malformed),
        ("<html>", malformed, malformed),
        ("", malformed, malformed),
        (r#"{"tags":"1","repositories":7}"#, malformed, malformed),
        (r#"{"tags":[1],"repositories":[[]]}"#, malformed, malformed),
    ];
    for (body, repositories, tags) in cases {
        let server = Server::start(move |_, _| Reply::ok(body)).await;
        let (registry, reference) = (server.registry(None), server.reference());
        let count = |listed: Result<Page<String>, FetchError>| {
            let counted = listed.map(|page| page.items.len());
            counted.map_err(|error| error_name(&error))
        };

        let catalog = count(registry.catalog(None, None).await);
        let listed = count(registry.tags(&reference, None, None).await);

        assert_eq!(catalog, repositories.map_err(str::to_owned), "{body}");
        assert_eq!(listed, tags.map_err(str::to_owned), "{body}");
    }
}

#[tokio::test]
async fn a_name_longer_than_any_is_refused() {
    let body = json!({"name": "app", "tags": ["x".repeat(513)]}).to_string();
    let server = Server::start(move |_, _| Reply::ok(body.clone())).await;

    let (registry, reference) = (server.registry(None), server.reference());

    let error = registry.tags(&reference, None, None).await.unwrap_err();

    assert_eq!(error_name(&error), "AnswerMalformed");
}

/// Gives five tags, two in a page, with the kind of link that `link` makes of a query.
async fn paged(link: impl Fn(&Asked, &str) -> String + Send + Sync + 'static) -> Server {
    Server::start(move |asked, _| {
        let (tags, next) = match asked.target.split_once('?').map(|(_, query)| query) {
            Some("n=2") => (vec!["a", "b"], Some("last=b&n=2")),
            Some("last=b&n=2") => (vec!["c", "d"], Some("last=d&n=2")),
            Some("last=d&n=2") => (vec!["e"], None),
            _ => return Reply::status(404),
        };
        let reply = Reply::ok(json!({"name": "app", "tags": tags}).to_string());
        match next {
            Some(query) => reply.with("link", &format!("<{}>; rel=\"next\"", link(asked, query))),
            None => reply,
        }
    })
    .await
}

async fn all_tags(server: &Server, limit: u32) -> Result<Vec<Vec<String>>, FetchError> {
    let registry = server.registry(None);
    let reference = server.reference();
    let (mut pages, mut after) = (Vec::new(), None::<Cursor>);
    loop {
        // As it travels.
        let cursor = after.map(|cursor| cursor.to_string().parse().unwrap());
        let page = registry
            .tags(&reference, Some(limit), cursor.as_ref())
            .await?;
        pages.push(page.items);
        after = page.next;
        if after.is_none() || pages.len() > 9 {
            return Ok(pages);
        }
    }
}

#[tokio::test]
async fn pages_are_followed_by_links_of_every_form() {
    let absolute = |asked: &Asked, query: &str| {
        let host = asked.header("host").unwrap();
        format!("http://{host}/v2/app/tags/list?{query}")
    };
    let servers = [
        paged(|_, query| format!("/v2/app/tags/list?{query}")).await,
        paged(absolute).await,
        paged(|_, query| format!("?{query}")).await,
        // A registry behind a proxy that changes paths: the query counts.
        paged(|_, query| format!("/artifactory/app/tags/list?{query}")).await,
    ];
    for server in servers {
        let pages = all_tags(&server, 2).await.unwrap();

        assert_eq!(pages, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
        let targets = server.targets();
        let is_own = |target: &String| target.starts_with("/v2/app/tags/list?");
        assert!(targets.iter().all(is_own), "{targets:?}");
    }
}

#[tokio::test]
async fn links_that_lead_away_or_nowhere_are_refused() {
    let other = |_: &Asked, query: &str| format!("http://192.0.2.1/v2/app/tags/list?{query}");
    let other_port =
        |_: &Asked, query: &str| format!("http://127.0.0.1:1/v2/app/tags/list?{query}");
    let secure = |asked: &Asked, query: &str| {
        let host = asked.header("host").unwrap();
        format!("https://{host}/v2/app/tags/list?{query}")
    };
    let servers = [
        paged(other).await,
        paged(other_port).await,
        paged(secure).await,
        paged(|_, _| "//".to_owned()).await,
        paged(|_, _| "/v2/app/tags/list".to_owned()).await,
        paged(|_, _| "?n=2".to_owned()).await,
        paged(|_, _| format!("?last={}", "x".repeat(2048))).await,
    ];
    for (number, server) in servers.iter().enumerate() {
        let error = all_tags(server, 2).await.unwrap_err();

        assert_eq!(error_name(&error), "PageRefused", "case {number}");
        assert_eq!(server.asked().len(), 1, "case {number}");
    }
}

#[tokio::test]
async fn a_registry_that_knows_no_pages_is_cut_into_some() {
    let server = Server::start(|_, before| {
        // In another order each time, as the list of a directory may be.
        let mut tags = vec!["a", "b", "c", "d", "e"];
        tags.rotate_left(before % 5);
        Reply::ok(json!({"name": "app", "tags": tags}).to_string())
    })
    .await;

    let pages = all_tags(&server, 2).await.unwrap();

    assert_eq!(pages, [vec!["a", "b"], vec!["c", "d"], vec!["e"]]);
}

#[test]
fn only_cursors_are_cursors() {
    for text in ["0;", "2;last=a%2Fb&n=2", "7;n=1"] {
        let cursor: Cursor = text.parse().unwrap();
        assert_eq!(cursor.to_string(), text);
    }
    let long = format!("0;{}", "x".repeat(2049));
    for text in ["", "0", "x;n=1", "-1;", "0;a b", "0;a#b", "0;é", &long] {
        assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
    }
}

#[tokio::test]
async fn no_catalogue_is_told_from_no_repository() {
    let refusing = |status: u16| {
        Server::start(move |asked, _| match asked.target.as_str() {
            "/v2/" => Reply::ok("{}"),
            _ => Reply::status(status),
        })
    };
    for (status, catalog, tags) in [
        (404, "NotOffered", "ReferenceNotFound"),
        (405, "NotOffered", "NotOffered"),
        (403, "Denied", "Denied"),
        (400, "UnexpectedStatus", "UnexpectedStatus"),
    ] {
        let server = refusing(status).await;
        let registry = server.registry(None);
        let reference = server.reference();

        let no_catalog = registry.catalog(None, None).await.unwrap_err();
        let no_tags = registry.tags(&reference, None, None).await.unwrap_err();

        let got = [error_name(&no_catalog), error_name(&no_tags)];
        assert_eq!(got, [catalog, tags], "{status}");
    }
    let demanding = Server::start(|_, _| Reply::demand(r#"Basic realm="x""#)).await;
    for (credentials, want) in [(None, "AuthRequired"), (Some(ada()), "AuthFailed")] {
        let registry = demanding.registry(credentials);
        let error = registry.catalog(None, None).await.unwrap_err();
        assert_eq!(error_name(&error), want);
    }
}

#[tokio::test]
async fn the_catalogue_needs_a_token_of_its_own_scope() {
    let server = Server::start(|asked, _| {
        let host = asked.header("host").unwrap();
        match asked.header("authorization") {
            _ if asked.target.starts_with("/token") => Reply::ok(r#"{"token":"t"}"#),
            Some("Bearer t") => Reply::ok(names(&["a"])),
            _ => Reply::demand(&format!(r#"Bearer realm="http://{host}/token""#)),
        }
    })
    .await;

    let page = server.registry(None).catalog(None, None).await.unwrap();

    assert_eq!(page.items, ["a"]);
    let token = &server.targets()[1];
    assert_eq!(token, "/token?scope=registry%3Acatalog%3A*");
}

fn referrer(kind: &str, text: &str) -> Descriptor {
    Descriptor {
        artifact_type: Some(kind.to_owned()),
        ..crate::testing::descriptor(text.as_bytes())
    }
}

fn index_of(manifests: &[Descriptor]) -> String {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string()
}

fn kinds(referrers: &Referrers) -> Vec<&str> {
    let items = referrers.page.items.iter();
    items
        .map(|item| item.artifact_type.as_deref().unwrap_or_default())
        .collect()
}

#[tokio::test]
async fn referrers_are_filtered_by_the_registry_or_by_us() {
    let subject = Digest::of(b"subject");
    for filters in [true, false] {
        let server = Server::start(move |asked, _| {
            let all = [referrer("sig", "1"), referrer("a/b+c", "2")];
            let wants = asked.target.ends_with("?artifactType=a%2Fb%2Bc");
            let reply =
                |shown: &[Descriptor]| Reply::ok(index_of(shown)).with("content-type", INDEX);
            match (filters, wants) {
                (true, true) => reply(&all[1..]).with("oci-filters-applied", "other, artifactType"),
                _ => reply(&all),
            }
        })
        .await;
        let registry = server.registry(None);
        let reference = server.reference();

        let all = registry.referrers(&reference, &subject, None, None, None);
        let all = all.await.unwrap();
        let some = registry.referrers(&reference, &subject, Some("a/b+c"), None, None);
        let some = some.await.unwrap();

        assert_eq!(kinds(&all), ["sig", "a/b+c"]);
        assert_eq!(kinds(&some), ["a/b+c"], "filtering registry: {filters}");
        assert_eq!(some.kept, ReferrersKept::ByRegistry);
        let asked = &server.asked()[0];
        assert_eq!(asked.target, format!("/v2/app/referrers/{subject}"));
        assert_eq!(asked.header("accept"), Some(INDEX));
    }
}

#[tokio::test]
async fn where_the_registry_knows_no_referrers_a_tag_does() {
    let subject = Digest::of(b"subject");
    let tag = format!("/v2/app/manifests/sha256-{}", subject.to_hex());
    let server = Server::start(move |asked, _| match &asked.target {
        target if *target == tag => {
            Reply::ok(index_of(&[referrer("sig", "1"), referrer("sbom", "2")]))
                .with("content-type", INDEX)
        }
        _ => Reply::status(404),
    })
    .await;
    let registry = server.registry(None);
    let reference: Reference = server.reference();

    let found = registry.referrers(&reference, &subject, Some("sbom"), None, None);
    let found = found.await.unwrap();
    let unknown = Digest::of(b"other");
    let none = registry.referrers(&reference, &unknown, None, None, None);
    let none = none.await.unwrap();

    assert_eq!(kinds(&found), ["sbom"]);
    assert_eq!(found.kept, ReferrersKept::UnderTag);
    assert_eq!(none.page.items, []);
}

#[tokio::test]
async fn a_limit_is_asked_for_without_reading_an_image_and_told_even_when_used_up() {
    for (status, remaining) in [(200, "76"), (429, "0")] {
        let server = Server::start(move |_, _| {
            Reply::status(status)
                .with("ratelimit-limit", "100;w=21600")
                .with("ratelimit-remaining", remaining)
        })
        .await;

        let (registry, reference) = (server.registry(None), server.reference());

        let told = registry.rate_limits(Some(&reference)).await.unwrap();

        assert_eq!(told.limits[0].limit, Some(100));
        assert_eq!(told.limits[0].remaining, remaining.parse().ok());
        let asked = server.asked();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].method, "HEAD");
        assert_eq!(asked[0].target, "/v2/app/manifests/1");
    }
}

#[tokio::test]
async fn a_list_without_end_is_given_up() {
    // Two empty pages that name each other.
    let server = Server::start(|asked, _| {
        let other = if asked.target.ends_with("last=a") {
            "b"
        } else {
            "a"
        };
        Reply::ok(r#"{"name":"app","tags":[]}"#).with(
            "link",
            &format!("</v2/app/tags/list?last={other}>; rel=\"next\""),
        )
    })
    .await;
    let registry = server.registry(None);

    let found = registry
        .tags_of(&server.reference(), &Digest::of(b"x"))
        .await;

    assert_eq!(error_name(&found.unwrap_err()), "EndlessList");
    assert_eq!(server.asked().len(), 3, "{:?}", server.targets());
}

#[tokio::test]
async fn a_list_has_so_many_pages_and_no_more() {
    let server = Server::start(|_, _| Reply::ok("{}")).await;
    let mut turning = server.registry(None).turning();
    let page = |number: usize| Some(format!("0;last={number}").parse().unwrap());

    for number in 1..10_000 {
        assert_eq!(turning.on(page(number)).unwrap(), page(number));
    }

    turning.on(page(10_000)).unwrap_err();
    assert_eq!(turning.on(None).unwrap(), None);
}
