//! Placeholder until the provisioning lands.
