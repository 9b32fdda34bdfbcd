"""What people read: text, charts, the HTML report, the model card."""
