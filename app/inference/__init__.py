"""A trained model in use: loading, prediction, export."""
