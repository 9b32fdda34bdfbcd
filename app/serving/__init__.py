"""Serve a trained model: a page for people and an API for programs, in one process."""
