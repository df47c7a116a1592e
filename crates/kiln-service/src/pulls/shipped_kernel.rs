//! Whose kernel a pulled image gets: one that the call names, or one that comes with the source.
//!
//! Whether the source has one is only known when it was looked up, so that a call that would take
//! it is not refused before.

use kiln_api::Failure;
use kiln_domain::access::Actor;

use super::Pulls;
use super::kernel_choice::{
    ChoiceError, ChosenKernel, ClaimedChoice, DEFAULT, KernelWords, Wanted, choice_failure,
};

/// What a call says about the kernel of an image, understood.
#[derive(Debug)]
pub(super) enum PullKernel {
    /// The one that was chosen, whatever comes along.
    Named(Box<ChosenKernel>),
    /// The one that comes along, and where none does the one that was chosen, or the reason why
    /// there is none.
    Shipped(Result<Box<ChosenKernel>, Box<Failure>>),
}

/// Whether a kernel that comes along is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preference {
    /// The one that the call names.
    Named,
    /// The one that comes along.
    Shipped,
}

impl Preference {
    pub(super) fn of(prefer_shipped: bool) -> Self {
        if prefer_shipped {
            Self::Shipped
        } else {
            Self::Named
        }
    }

    /// Refuses what can be refused without looking at anything.
    pub(super) fn check(self, words: &KernelWords) -> Result<(), Failure> {
        match (self, words.check()) {
            (_, Ok(())) | (Self::Shipped, Err(ChoiceError::Required)) => Ok(()),
            (_, Err(error)) => Err(choice_failure(&error)),
        }
    }
}

impl Pulls {
    /// Takes what a call names for its kernel; nothing where it may do without and does.
    pub(super) fn claim_pull_kernel(
        &self,
        actor: &Actor,
        preference: Preference,
        words: KernelWords,
    ) -> Result<Option<ClaimedChoice>, Failure> {
        match words.check() {
            Err(ChoiceError::Required) if preference == Preference::Shipped => Ok(None),
            _ => self.claim_kernel(actor, words).map(Some),
        }
    }

    /// Chooses the kernel. What is wrong with the default one, or that there is none, only counts
    /// where none comes along.
    pub(super) async fn choose_pull_kernel(
        &self,
        preference: Preference,
        claimed: Option<ClaimedChoice>,
        wanted: Wanted,
    ) -> Result<PullKernel, Failure> {
        let Some(claimed) = claimed else {
            let required = choice_failure(&ChoiceError::Required);
            return Ok(PullKernel::Shipped(Err(Box::new(required))));
        };
        let is_default =
            matches!(&claimed, ClaimedChoice::Catalogue(name) if name.as_str() == DEFAULT);
        let chosen = self.choose_kernel(claimed, wanted).await;
        match (preference, chosen) {
            (Preference::Named, chosen) => Ok(PullKernel::Named(Box::new(chosen?))),
            (Preference::Shipped, Ok(chosen)) => Ok(PullKernel::Shipped(Ok(Box::new(chosen)))),
            (Preference::Shipped, Err(failure)) if is_default => {
                Ok(PullKernel::Shipped(Err(Box::new(failure))))
            }
            (Preference::Shipped, Err(failure)) => Err(failure),
        }
    }
}

impl PullKernel {
    /// Returns the kernel for a source with which none comes along.
    pub(super) fn without_shipped(self) -> Result<ChosenKernel, Failure> {
        match self {
            Self::Named(chosen) | Self::Shipped(Ok(chosen)) => Ok(*chosen),
            Self::Shipped(Err(failure)) => Err(*failure),
        }
    }

    /// Returns the kernel that the call insists on; nothing where the one that comes along is to
    /// be used.
    pub(super) fn unless_shipped(self) -> Option<ChosenKernel> {
        match self {
            Self::Named(chosen) => Some(*chosen),
            Self::Shipped(_) => None,
        }
    }
}
