"""Model downloads from the Hugging Face hub: on request only, in the supervisor, without pickle files."""
