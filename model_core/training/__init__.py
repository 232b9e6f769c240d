"""Training of what joins the open models: the four stages, on Hugging Face's Trainer."""
