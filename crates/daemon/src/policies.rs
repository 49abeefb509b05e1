//! Source policies of clients, in the builder's words. A rule that can't be read is refused: one that were ignored would be
//! worse than none.

use builder::policy::{Action, Condition, Constraint, Match, Policy, Rule, Selector, Update};
use proto::policy;
use tonic::Status;

/// Policies of a message.
pub fn read(policies: &[policy::Policy]) -> Result<Vec<Policy>, Status> {
    let one = |policy: &policy::Policy| {
        let rules = policy.rules.iter().map(rule).collect::<Result<_, _>>()?;
        Ok(Policy { version: policy.version, rules })
    };
    policies.iter().map(one).collect()
}

fn unknown(what: &str, number: i32) -> Status {
    Status::invalid_argument(format!("the source policy has {what} of an unknown type: {number}"))
}

fn rule(rule: &policy::Rule) -> Result<Rule, Status> {
    let action = match policy::PolicyAction::try_from(rule.action) {
        Ok(policy::PolicyAction::Allow) => Action::Allow,
        Ok(policy::PolicyAction::Deny) => Action::Deny,
        Ok(policy::PolicyAction::Convert) => Action::Convert,
        Err(_) => return Err(unknown("an action", rule.action)),
    };
    let selector = rule.selector.as_ref();
    let selector = selector.ok_or_else(|| Status::invalid_argument("invalid nil selector in policy"))?;
    let match_type = match policy::MatchType::try_from(selector.match_type) {
        Ok(policy::MatchType::Wildcard) => Match::Wildcard,
        Ok(policy::MatchType::Exact) => Match::Exact,
        Ok(policy::MatchType::Regex) => Match::Regex,
        Err(_) => return Err(unknown("a match type", selector.match_type)),
    };
    let selector = Selector {
        identifier: selector.identifier.clone(),
        match_type,
        constraints: selector.constraints.iter().map(constraint).collect::<Result<_, _>>()?,
    };
    let update = |update: &policy::Update| Update {
        identifier: update.identifier.clone(),
        attrs: update.attrs.clone().into_iter().collect(),
    };
    Ok(Rule { action, selector, updates: rule.updates.as_ref().map(update) })
}

fn constraint(constraint: &policy::AttrConstraint) -> Result<Constraint, Status> {
    let condition = match policy::AttrMatch::try_from(constraint.condition) {
        Ok(policy::AttrMatch::Equal) => Condition::Equal,
        Ok(policy::AttrMatch::Notequal) => Condition::NotEqual,
        Ok(policy::AttrMatch::Matches) => Condition::Matches,
        Err(_) => return Err(unknown("a condition", constraint.condition)),
    };
    Ok(Constraint { key: constraint.key.clone(), value: constraint.value.clone(), condition })
}

/// The same, for a daemon.
pub fn message(policies: &[Policy]) -> Option<policy::Policy> {
    let rules: Vec<_> = policies.iter().flat_map(|policy| &policy.rules).map(message_of).collect();
    let version = policies.iter().map(|policy| policy.version).max()?;
    Some(policy::Policy { version, rules })
}

fn message_of(rule: &Rule) -> policy::Rule {
    let action = match rule.action {
        Action::Allow => policy::PolicyAction::Allow,
        Action::Deny => policy::PolicyAction::Deny,
        Action::Convert => policy::PolicyAction::Convert,
    };
    let match_type = match rule.selector.match_type {
        Match::Wildcard => policy::MatchType::Wildcard,
        Match::Exact => policy::MatchType::Exact,
        Match::Regex => policy::MatchType::Regex,
    };
    let constraint = |constraint: &Constraint| policy::AttrConstraint {
        key: constraint.key.clone(),
        value: constraint.value.clone(),
        condition: match constraint.condition {
            Condition::Equal => policy::AttrMatch::Equal,
            Condition::NotEqual => policy::AttrMatch::Notequal,
            Condition::Matches => policy::AttrMatch::Matches,
        } as i32,
    };
    let selector = policy::Selector {
        identifier: rule.selector.identifier.clone(),
        match_type: match_type as i32,
        constraints: rule.selector.constraints.iter().map(constraint).collect(),
    };
    let update = |update: &Update| policy::Update {
        identifier: update.identifier.clone(),
        attrs: update.attrs.clone().into_iter().collect(),
    };
    policy::Rule { action: action as i32, selector: Some(selector), updates: rule.updates.as_ref().map(update) }
}
