"""The page for people, built with gradio."""
