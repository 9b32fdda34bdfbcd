"""Output of an evaluation for people: text, charts, the HTML report, the model card."""
