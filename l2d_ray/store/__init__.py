"""Durable state beside the memory: interactions, catalogue edits, forgotten users, API keys, settings and the audit log."""
