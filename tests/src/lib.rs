//! What the end-to-end tests stand on: a recording broker that is as strict as AWS
//! and misbehaves on request.

pub mod broker;
