"""Dangerous doors, visible in the import path; a reviewer greps one word. Nothing in Holdfast comes through here."""
