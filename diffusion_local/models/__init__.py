"""Models, LoRAs, upscalers on disk, identified from their files. No torch, no loading of weights."""
