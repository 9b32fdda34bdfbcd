"""The trained model as a page for people and an API for programs, in one process."""
