"""Models from the Hugging Face hub: only when a person asks, in the supervisor's process, without pickle files."""
