"""What lies on the disk: models, LoRAs, upscalers, told apart by their files alone. No torch, no loading of weights."""
