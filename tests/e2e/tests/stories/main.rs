//! Stories through the socket of a really started `kilnd`, against real registries.
//!
//! The daemon is what the environment variable `KILND` names, else what cargo built beside these
//! tests (`cargo build -p kilnd` first). A story that needs a packaged program the machine lacks
//! says so and is skipped; with `KILN_REQUIRE_TOOLS` set it fails instead.

mod agents;
mod aliases;
mod archives;
mod audit;
mod bootable;
mod bootable_pull;
mod bootable_push;
mod booting;
mod browsing;
mod cases;
mod checkout;
mod command_line;
mod common_errors;
mod container_disks;
mod correctness;
mod deleting;
mod demo;
mod descriptors;
mod devregistry;
mod documents;
mod exporting;
mod faults;
mod foreign_disks;
mod host_copies;
mod hostile;
mod image_service;
mod input;
mod instances;
mod kernels;
mod lifetime;
mod logins;
mod metadata;
mod names;
mod naming;
mod newcomer;
mod opening;
mod operations;
mod people;
mod quickstart;
mod rates;
mod reaching;
mod recovery;
mod registries;
mod remote_images;
mod removal;
mod resume;
mod routes;
mod run;
mod source;
mod space;
mod stage;
mod stopping;
mod storage;
mod syncing;
mod transcript;
mod transfers;
mod unwritable;
mod walk;
mod webhooks;
mod websocket;
mod wire;
