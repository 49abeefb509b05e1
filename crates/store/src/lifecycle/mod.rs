//! What stays and what goes: an inventory of the store is taken, a plan is made of it by pure rules, a sweep acts on the
//! plan. Each of the three can be looked at by itself, and every decision of a plan has its reason.

mod filter;
mod inventory;
mod leftovers;
mod plan;
mod policy;
mod sweep;

pub use filter::{Filter, parse_duration};
pub use inventory::{Disk, Inventory, Item, UsageRecord};
pub use plan::{Decision, Keep, Plan, plan};
pub use policy::{Ask, Policy, Rule, flags};
pub use sweep::{Swept, sweep};
