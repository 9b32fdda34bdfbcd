"""Which parts of the picture and the text an answer comes from."""
