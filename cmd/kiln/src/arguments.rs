//! The grammar: `kiln noun verb`, short forms for daily verbs, and the flags all commands share.
//!
//! A method's name with its dot turned into a space is always a command; a test holds that. What
//! a command does stands in the module of its noun.

use std::ffi::OsString;

use clap::builder::{Resettable, Styles};
use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::colour::Colour;
use crate::failure::CommandError;
use crate::output::Format;
use crate::progress::Style;
use crate::session::Session;
use crate::surroundings::Surroundings;
use crate::time_span::TimeSpan;
use crate::{
    agent, alias, audit, checkout, copy, daemon, demo, doctor, event, export, image, import,
    instance, kernel, logs, mistakes, operation, org, outdated, pull, push, reference, register,
    registry, removal, rpc, run, stop, storage, sync, user,
};

/// Turns OCI images into bootable microVM images and looks after them.
///
/// Kiln's daemon does the work; this is its command line. Start one with `kilnd`.
#[derive(Debug, Parser)]
#[command(
    name = "kiln",
    version,
    disable_help_subcommand = true,
    infer_long_args = false,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads a command line. A variable that is set to nothing counts as not set.
    ///
    /// What is said about a [doubtful](mistakes::is_doubtful) one has no escape sequences but those in
    /// its own words.
    pub(crate) fn read(
        words: &[OsString],
        surroundings: &Surroundings,
    ) -> Result<Self, clap::Error> {
        let mut command = without_empty_variables(Self::command(), surroundings);
        if mistakes::is_doubtful(words) {
            command = command.styles(Styles::plain());
        }
        Self::from_arg_matches(&command.try_get_matches_from(words)?)
    }
}

fn without_empty_variables(command: clap::Command, surroundings: &Surroundings) -> clap::Command {
    let is_empty = |arg: &clap::Arg| {
        let name = arg.get_env().and_then(std::ffi::OsStr::to_str);
        let value = name.and_then(|name| surroundings.variable(name));
        value.is_some_and(|value| value.is_empty())
    };
    command
        .mut_args(|arg| {
            if is_empty(&arg) {
                arg.env(Resettable::Reset)
            } else {
                arg
            }
        })
        .mut_subcommands(|command| without_empty_variables(command, surroundings))
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Daemon to talk to.
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        help = "Daemon to talk to, such as unix:///run/kiln/kiln.sock [env: KILN_HOST]"
    )]
    pub(crate) host: Option<String>,
    /// How to print data
    #[arg(long, global = true, value_enum, value_name = "FORMAT", env = "KILN_FORMAT", hide_env_values = true, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Short for --format json
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How to show the progress of long work, on stderr
    #[arg(long, global = true, value_enum, value_name = "STYLE", env = "KILN_PROGRESS", hide_env_values = true, default_value_t = Style::Auto)]
    pub(crate) progress: Style,
    /// Whether to colour messages
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Colour::Auto)]
    pub(crate) color: Colour,
    /// Print ids or names only
    #[arg(short, long, global = true, action = ArgAction::SetTrue)]
    pub(crate) quiet: bool,
    /// Show every request and answer on stderr, secrets masked
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// Stop waiting after so long, such as 30s or 5m; the daemon goes on
    #[arg(long, global = true, value_name = "TIME")]
    pub(crate) timeout: Option<TimeSpan>,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a small image, run it in a virtual machine, and clean up: a first look
    Demo(demo::Arguments),
    /// Pull an OCI image and build a bootable image from it
    Pull(pull::Arguments),
    /// Send an image to a registry
    Push(push::Arguments),
    /// Copy an image from one place to another, without building
    Copy(copy::Arguments),
    /// Copy what is new in some repositories to others, by rule
    Sync(sync::Arguments),
    /// Take an existing root filesystem and a kernel into Kiln's care
    Register(register::Arguments),
    /// Run an image in a virtual machine
    Run(Box<run::Arguments>),
    /// List images
    #[command(visible_alias = "ls")]
    Images(image::ListArguments),
    /// Show, list, pull, register and forget images
    #[command(subcommand)]
    Image(image::Command),
    /// Print everything about images as JSON
    Inspect(image::ShowArguments),
    /// Make a private, writable copy of an image's root filesystem in a file
    Checkout(checkout::Arguments),
    /// Put a whole image into one file: root filesystem, kernel, initial ramdisk, modules
    Export(export::Arguments),
    /// Make an image of a file that `kiln export` made
    Import(import::Arguments),
    /// Hide images and free their names
    Forget(image::ForgetArguments),
    /// List images that have something newer at their registries
    Outdated(outdated::Arguments),
    /// Bring a forgotten or inactive image back
    Restore(removal::RestoreArguments),
    /// Remove images for good, forgotten or not
    Purge(removal::PurgeArguments),
    /// List aliases of images, add and remove them
    #[command(subcommand, alias = "aliases")]
    Alias(alias::Command),
    /// Take aliases away; their images stay
    Unalias(alias::RemoveArguments),
    /// List machines that run images
    Ps(instance::ListArguments),
    /// Stop machines
    Stop(stop::Arguments),
    /// Print what a machine wrote to its console
    Logs(logs::Arguments),
    /// List, show and remove machines that run images
    #[command(subcommand, alias = "instances")]
    Instance(instance::Command),
    /// Import, list and remove kernels
    #[command(subcommand, alias = "kernels")]
    Kernel(kernel::Command),
    /// List the tags of a repository
    Tags(registry::TagsArguments),
    /// Look around in registries
    #[command(subcommand, alias = "registries")]
    Registry(registry::Command),
    /// Log in to a registry, where docker, podman and skopeo find it too
    Login(registry::login::LoginArguments),
    /// Forget a login to a registry
    Logout(registry::logout::LogoutArguments),
    /// List, watch, wait for and cancel long work
    #[command(subcommand, visible_alias = "op", aliases = ["operations", "ops"])]
    Operation(operation::Command),
    /// List what happened, oldest first
    Events(event::ListArguments),
    /// List what happened
    #[command(subcommand, hide = true)]
    Event(event::Command),
    /// Tell what takes room on the disk, and what of it a prune would free
    Df(storage::UsageArguments),
    /// Tell what a blob, a layer, a directory or an image is, and what keeps it on the disk
    Why(storage::WhyArguments),
    /// Remove what nothing needs: of the cache, and images forgotten long enough ago
    Prune(storage::PruneArguments),
    /// Tell about what lies on the disk, and remove of it
    #[command(subcommand, hide = true)]
    Storage(storage::Command),
    /// Tell who you are to the daemon
    Whoami,
    /// List users, name them and give them roles
    #[command(subcommand, alias = "users")]
    User(user::Command),
    /// Look after organisations and who is in them
    #[command(subcommand, aliases = ["orgs", "organization", "organisation"])]
    Org(org::Command),
    /// Look after other daemons, on which images can be removed from here
    #[command(subcommand, alias = "agents")]
    Agent(agent::Command),
    /// List and export what callers changed and were refused
    #[command(subcommand)]
    Audit(audit::Command),
    /// Tell what the daemon is, where it keeps things and how it is configured
    Info(daemon::InfoArguments),
    /// Tell about the daemon
    #[command(subcommand, hide = true)]
    Daemon(daemon::Command),
    /// Print the versions of client and daemon; fails when the daemon cannot be asked
    Version,
    /// Find out what is missing or broken on this host
    Doctor,
    /// Call any method of the daemon
    Rpc(rpc::Arguments),
    /// Print a completion script
    Completion(reference::CompletionArguments),
    /// Print the manual page, or write all of them
    Man(reference::ManArguments),
    /// Explain a command, or `exit-codes`
    Help(reference::HelpArguments),
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, session: &Session) -> Result<(), CommandError> {
        match self {
            Self::Demo(arguments) => demo::run(arguments, session).await,
            Self::Pull(arguments) => pull::run(arguments, session).await,
            Self::Push(arguments) => push::run(arguments, session).await,
            Self::Copy(arguments) => copy::run(arguments, session).await,
            Self::Sync(arguments) => sync::run(arguments, session).await,
            Self::Run(arguments) => run::run(*arguments, session).await,
            Self::Register(arguments) => register::run(arguments, session).await,
            Self::Images(arguments) => image::list(arguments, session).await,
            Self::Image(command) => command.run(session).await,
            Self::Inspect(arguments) => image::inspect(arguments, session).await,
            Self::Checkout(arguments) => checkout::run(arguments, session).await,
            Self::Export(arguments) => export::run(arguments, session).await,
            Self::Import(arguments) => import::run(arguments, session).await,
            Self::Forget(arguments) => image::forget(arguments, session).await,
            Self::Outdated(arguments) => outdated::run(arguments, session).await,
            Self::Restore(arguments) => removal::restore(arguments, session).await,
            Self::Purge(arguments) => removal::purge(arguments, session).await,
            Self::Alias(command) => command.run(session).await,
            Self::Unalias(arguments) => alias::remove(arguments, session).await,
            Self::Ps(arguments) => instance::list(arguments, session).await,
            Self::Stop(arguments) => stop::run(arguments, session).await,
            Self::Logs(arguments) => logs::run(arguments, session).await,
            Self::Instance(command) => command.run(session).await,
            Self::Kernel(command) => command.run(session).await,
            Self::Tags(arguments) => registry::tags(arguments, session).await,
            Self::Registry(command) => command.run(session).await,
            Self::Login(arguments) => registry::login::login(arguments, session).await,
            Self::Logout(arguments) => registry::logout::logout(arguments, session).await,
            Self::Operation(command) => command.run(session).await,
            Self::Events(arguments) | Self::Event(event::Command::List(arguments)) => {
                event::list(arguments, session).await
            }
            Self::Df(arguments) => storage::usage(arguments, session).await,
            Self::Why(arguments) => storage::why(arguments, session).await,
            Self::Prune(arguments) => storage::prune(arguments, session).await,
            Self::Storage(command) => command.run(session).await,
            Self::Whoami => user::whoami(session).await,
            Self::User(command) => command.run(session).await,
            Self::Org(command) => command.run(session).await,
            Self::Agent(command) => command.run(session).await,
            Self::Audit(command) => command.run(session).await,
            Self::Info(arguments) | Self::Daemon(daemon::Command::Info(arguments)) => {
                daemon::info(arguments, session).await
            }
            Self::Version => daemon::version(session).await,
            Self::Doctor => doctor::run(session).await,
            Self::Rpc(arguments) => rpc::run(arguments, session).await,
            Self::Completion(arguments) => reference::completion(&arguments, session),
            Self::Man(arguments) => reference::man(&arguments, session),
            Self::Help(arguments) => reference::help(&arguments, session),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use kiln_api::{Method, daemon, event, image, instance, kernel, operation};

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Finds the command behind words that may be aliases.
    fn is_command(words: &[&str]) -> bool {
        let mut command = &Cli::command();
        for word in words {
            match command.find_subcommand(word) {
                Some(found) => command = found,
                None => return false,
            }
        }
        !command.has_subcommands()
    }

    #[test]
    fn every_method_is_a_command_with_its_dot_turned_into_a_space() {
        let methods = [
            daemon::GetInfo::NAME,
            event::List::NAME,
            image::Forget::NAME,
            image::removal::ForgetById::NAME,
            image::removal::Restore::NAME,
            image::removal::PurgeById::NAME,
            image::purge::Purge::NAME,
            kiln_api::agent::Add::NAME,
            kiln_api::agent::Get::NAME,
            kiln_api::agent::List::NAME,
            kiln_api::agent::Ping::NAME,
            kiln_api::agent::Remove::NAME,
            kiln_api::alias::Add::NAME,
            kiln_api::alias::Remove::NAME,
            kiln_api::alias::List::NAME,
            kiln_api::lease::Take::NAME,
            kiln_api::lease::Renew::NAME,
            kiln_api::lease::Release::NAME,
            image::Get::NAME,
            image::List::NAME,
            image::Open::NAME,
            image::Pull::NAME,
            image::modify::ClearLimits::NAME,
            image::modify::GetHistory::NAME,
            image::modify::GetLimits::NAME,
            image::modify::Modify::NAME,
            image::remote::Outdated::NAME,
            image::remote::Scan::NAME,
            image::remote::Untag::NAME,
            image::push::Push::NAME,
            image::Register::NAME,
            kernel::Check::NAME,
            instance::Finish::NAME,
            instance::Get::NAME,
            instance::List::NAME,
            instance::Register::NAME,
            instance::Remove::NAME,
            instance::Start::NAME,
            kernel::Get::NAME,
            kernel::GetDefault::NAME,
            kernel::SetDefault::NAME,
            kernel::Import::NAME,
            kernel::List::NAME,
            kernel::Pull::NAME,
            kernel::Remove::NAME,
            kiln_api::registry::Blob::NAME,
            kiln_api::registry::Catalog::NAME,
            kiln_api::registry::Delete::NAME,
            kiln_api::registry::Manifest::NAME,
            kiln_api::registry::Ping::NAME,
            kiln_api::registry::copy::Copy::NAME,
            kiln_api::registry::sync::Sync::NAME,
            kiln_api::registry::doctor::Doctor::NAME,
            kiln_api::registry::RateLimit::NAME,
            kiln_api::registry::Referrers::NAME,
            kiln_api::registry::Tags::NAME,
            kiln_api::registry::Untag::NAME,
            kiln_api::registry::logins::Login::NAME,
            kiln_api::registry::logins::Logins::NAME,
            kiln_api::registry::logins::Logout::NAME,
            operation::Cancel::NAME,
            operation::Get::NAME,
            operation::List::NAME,
            operation::Wait::NAME,
            operation::Watch::NAME,
            kiln_api::audit::List::NAME,
            kiln_api::org::Add::NAME,
            kiln_api::org::AddMember::NAME,
            kiln_api::org::Get::NAME,
            kiln_api::org::List::NAME,
            kiln_api::org::Remove::NAME,
            kiln_api::org::RemoveMember::NAME,
            kiln_api::storage::GetUsage::NAME,
            kiln_api::storage::GetWhy::NAME,
            kiln_api::storage::Prune::NAME,
            kiln_api::user::Add::NAME,
            kiln_api::user::Get::NAME,
            kiln_api::user::GetWhoami::NAME,
            kiln_api::user::List::NAME,
            kiln_api::user::Remove::NAME,
            kiln_api::user::Rename::NAME,
            kiln_api::user::SetRole::NAME,
        ];
        for method in methods {
            let words: Vec<&str> = method.split('.').collect();
            assert!(is_command(&words), "kiln {}", words.join(" "));
        }
    }

    #[test]
    fn short_forms_are_commands_too() {
        for words in [
            "images",
            "ls",
            "image ls",
            "image inspect",
            "ps",
            "stop",
            "logs",
            "instance ls",
            "instance show",
            "instance inspect",
            "instance rm",
            "checkout",
            "restore",
            "purge",
            "unalias",
            "alias ls",
            "alias add",
            "alias rm",
            "image purge",
            "login",
            "logout",
            "registry login",
            "registry logout",
            "registry whoami",
            "registry ls",
            "registry dev up",
            "registry dev status",
            "registry dev logs",
            "registry dev down",
            "registry dev wipe",
            "image checkout",
            "image edit",
            "outdated",
            "image rename",
            "image label",
            "image labels",
            "image keywords",
            "image clear-limits",
            "export",
            "import",
            "image export",
            "image import",
            "kernel ls",
            "kernel rm",
            "kernels ls",
            "op ls",
            "op show",
            "ops wait",
            "events",
            "event list",
            "daemon info",
            "df",
            "why",
            "prune",
            "storage df",
            "whoami",
            "user ls",
            "user show",
            "user set-role",
            "user rm",
            "org ls",
            "org show",
            "org rm",
            "org add-member",
            "org rm-member",
            "agent ls",
            "agent show",
            "agent rm",
            "agents ls",
            "audit ls",
            "audit export",
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            assert!(is_command(&words), "kiln {}", words.join(" "));
        }
    }
}
