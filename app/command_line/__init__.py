"""Commands of `python -m app` and of eval.py, and their options."""
