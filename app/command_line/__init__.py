"""Options and commands of `python -m app` and eval.py."""
