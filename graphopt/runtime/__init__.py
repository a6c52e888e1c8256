"""Running models: providers, sessions, comparing, scoring, timing."""
