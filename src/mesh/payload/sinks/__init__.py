"""Where payloads are brought, beyond what the instance itself has. docs/payload-sinks.md is the guide."""
