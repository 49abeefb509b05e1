//! What stays and what goes: an inventory is taken, a plan is made of it by pure rules, and a sweep acts on the plan.
